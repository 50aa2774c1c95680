"""The quantities that a run can measure, by name: the one place to add a diagnostic.

Importing it imports neither torch nor the classes that measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from scaled_sgd.core.registry import Registry

Figure = Literal["over_steps", "over_layers", "against_width"]
Need = Literal["minibatch", "probe", "step"]


@dataclass(frozen=True)
class Column:
    """One key of a row; nested keys are joined by dots.

    Attributes:
        name: its name, such as ``taylor.c1``.
        meaning: what the number is, with its unit if it has one.
        layers: whether it is one number, or a list with one per layer or hidden layer.
        figure: how it is drawn; None: in tables only.
    """

    name: str
    meaning: str
    layers: Literal["none", "all", "hidden"] = "none"
    figure: Figure | None = "over_steps"


@dataclass(frozen=True)
class Measured:
    """A quantity.

    Attributes:
        make: ``"module:Class"`` or a callable that takes the ``diagnostics.`` section and returns a
            :class:`~scaled_sgd.diagnostics.observer.Quantity`.
        label: a short description.
        columns: the columns that it adds to a row.
        needs: its inputs: the minibatch of the coming step, the fixed probe, the step itself.
        cost: approximate cost, in gradients of the minibatch or the probe.
        source: reference for the formulas.
        always: whether it is measured regardless of the switches.
    """

    make: str | Callable[..., Any]
    label: str
    columns: tuple[Column, ...]
    needs: tuple[Need, ...]
    cost: float
    source: str
    always: bool = False


QUANTITIES: Registry[Measured] = Registry("diagnostics.quantities")
"""In the order of measurement. A quantity is on if the section's key of its name is true or
``diagnostics.quantities`` lists it."""

_HERE = "scaled_sgd.diagnostics.quantities"

QUANTITIES.add(
    "taylor",
    Measured(
        f"{_HERE}.taylor:Taylor",
        "Taylor terms of the minibatch loss along the step that is taken",
        (
            *(Column(f"taylor.c{p}", f"c{p} of L(θ + ηu) = c0 + c1 η + c2 η² + c3 η³") for p in range(4)),
            Column("taylor.gauss_newton", "the part of c2 from moving outputs"),
            Column("taylor.feature", "the part of c2 from moving features"),
            Column("predicted_loss", "the polynomial at the step that is taken"),
            Column("directional_edge_ratio", "ρ = η c2/|c1|; null unless c1 < 0 < c2"),
        ),
        ("minibatch", "step"),
        cost=2.5,
        source="theory §3b, §4",
    ),
)
QUANTITIES.add(
    "sharpness",
    Measured(
        f"{_HERE}.sharpness:Sharpness",
        "largest eigenvalues of H and of Ξ^{1/2} H Ξ^{1/2}",
        (
            Column("sharpness", "largest eigenvalue of H"),
            Column("preconditioned_sharpness", "largest eigenvalue λ of Ξ^{1/2} H Ξ^{1/2}"),
            Column("edge_ratio", "η (c λ + λ_w) / (2 (1 + μ))"),
            Column("edge", "the λ whose edge ratio is 1"),
            Column("sharpness_residuals", "‖Hv − λv‖/|λ| of both", figure=None),
            Column("eigenvalues", "the k largest of H", figure=None),
            Column("preconditioned_eigenvalues", "the k largest of Ξ^{1/2} H Ξ^{1/2}", figure=None),
        ),
        ("probe", "step"),
        cost=30,
        source="theory §3b, §5",
    ),
)
QUANTITIES.add(
    "ranks",
    Measured(
        f"{_HERE}.ranks:SoftRanks",
        "soft ranks of features and gradients, and kernel drift",
        (
            Column("soft_ranks", "S_k of the gradients", "all", "over_layers"),
            Column("features.stable", "‖H‖_F²/‖H‖_2²", "hidden", "over_layers"),
            Column("features.participation", "(Σσ²)²/Σσ⁴", "hidden", "over_layers"),
            Column("features.effective", "exp of the entropy of σ²/Σσ²", "hidden", "over_layers"),
            Column("features.drift", "‖K_t − K_0‖/‖K_0‖ of Gram matrices", "hidden", "over_layers"),
        ),
        ("probe",),
        cost=2,
        source="theory §3, §7",
    ),
)
QUANTITIES.add(
    "change",
    Measured(
        f"{_HERE}.change:Change",
        "how far preactivations have moved",
        (Column("preactivation_change", "‖z_k − z_k at first‖/‖z_k at first‖", "all", "against_width"),),
        ("probe",),
        cost=1.3,
        source="Yang, Hu, arXiv 2011.14522 (coordinate checks)",
        always=True,
    ),
)
