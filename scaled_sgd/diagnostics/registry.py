"""The quantities that a run can measure, by name: the one place to add a diagnostic.

Importing it imports neither torch nor the classes that measure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from scaled_sgd.core.registry import Registry
from scaled_sgd.diagnostics.columns import Column, Figure

__all__ = ["QUANTITIES", "Column", "Figure", "Measured"]

Need = Literal["minibatch", "probe", "step", "training"]


@dataclass(frozen=True)
class Measured:
    """A quantity.

    Attributes:
        make: ``"module:Class"`` or a callable that takes the ``diagnostics.`` section and returns a
            :class:`~scaled_sgd.diagnostics.observer.Quantity`.
        label: a short description.
        columns: the columns that it adds to a row.
        needs: its inputs: the minibatch of the coming step, the fixed probe, the step itself, fresh
            minibatches of the training samples.
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
            *(
                Column(f"taylor.c{p}", f"c{p} of L(θ + ηu) = c0 + c1 η + c2 η² + c3 η³", figure=None)
                for p in range(4)
            ),
            Column("taylor.gauss_newton", "the part of c2 from moving outputs", figure=None),
            Column("taylor.feature", "the part of c2 from moving features", figure=None),
            Column("predicted_loss", "the polynomial at the step that is taken", figure=None),
            Column("directional_edge_ratio", "ρ = η c2/|c1|; null unless c1 < 0 < c2", figure=None),
            Column(
                "gates_flipped",
                "the share of z_k's signs that the step changes; null where φ is smooth",
                "hidden",
                Figure(
                    title="How many kinks does a step cross?",
                    axis="share of signs",
                    meaning="The share of each hidden layer's preactivations on the minibatch whose sign the "
                    "step changes: c0..c3 are those of the loss while there are none",
                ),
            ),
        ),
        ("minibatch", "step"),
        cost=3,
        source="theory §3b, §4",
    ),
)
QUANTITIES.add(
    "sharpness",
    Measured(
        f"{_HERE}.sharpness:Sharpness",
        "largest eigenvalues of H and of Ξ^{1/2} H Ξ^{1/2}",
        (
            Column("sharpness", "largest eigenvalue of H", figure=None),
            Column("preconditioned_sharpness", "largest eigenvalue λ of Ξ^{1/2} H Ξ^{1/2}", figure=None),
            Column("edge_ratio", "η (c λ + λ_w) / (2 (1 + μ))", figure=None),
            Column("edge", "the λ whose edge ratio is 1", figure=None),
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
            Column(
                "features.stable",
                "‖H‖_F²/‖H‖_2²",
                "hidden",
                Figure(
                    "feature_ranks",
                    "Do hidden features separate?",
                    "stable rank",
                    meaning="Stable rank ‖H‖²_F / ‖H‖²₂ of each hidden layer's features on a fixed probe",
                ),
            ),
            Column(
                "soft_ranks",
                "S_k of the gradients",
                "all",
                Figure(
                    "soft_ranks",
                    "How many directions does a layer's gradient see?",
                    "soft rank S_k",
                    meaning="Soft rank S_k of each layer's gradient on a fixed probe "
                    "(1: all samples pull the same way)",
                ),
            ),
            Column("features.participation", "(Σσ²)²/Σσ⁴", "hidden", None),
            Column("features.effective", "exp of the entropy of σ²/Σσ²", "hidden", None),
            Column(
                "features.drift",
                "‖K_t − K_0‖/‖K_0‖ of Gram matrices",
                "hidden",
                Figure(
                    "kernel_drift",
                    "Do wide networks still learn features?",
                    "kernel drift",
                    "the kernel drift",
                    "‖K − K at step 0‖ / ‖K at step 0‖ of every hidden layer's feature kernel on a fixed "
                    "probe",
                    "width",
                    "How far do features move?",
                ),
            ),
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
        (
            Column(
                "preactivation_change",
                "‖z_k − z_k at first‖/‖z_k at first‖",
                "all",
                Figure(
                    "coordinate_check",
                    "Do preactivations move as much at every width?",
                    "relative change",
                    "the relative change of preactivations",
                    "RMS(z_k − z_k at step 0) / RMS(z_k at step 0) of every layer on a fixed probe",
                    "width",
                ),
            ),
        ),
        ("probe",),
        cost=1.3,
        source="Yang, Hu, arXiv 2011.14522 (coordinate checks)",
        always=True,
    ),
)
QUANTITIES.add(
    "batch_sharpness",
    Measured(
        f"{_HERE}.batches:BatchSharpness",
        "curvature along the gradients of fresh minibatches",
        (
            Column(
                "batch_sharpness",
                "E_B[gᵀ H_B g/‖g‖²] over minibatches B of a step's size",
                figure=Figure(
                    title="Does minibatch SGD work at the edge of its minibatches?",
                    axis="batch sharpness",
                    meaning="Mean over fresh minibatches B of gᵀ H_B g / ‖g‖² with the gradient g of B",
                ),
            ),
            Column("batch_sharpness_error", "standard error of that mean", figure=None),
        ),
        ("training",),
        cost=9,
        source="Andreyev, Beneventano, arXiv 2412.20553",
    ),
)
QUANTITIES.add(
    "gradient_noise",
    Measured(
        f"{_HERE}.batches:GradientNoise",
        "curvature of all samples along the gradients of minibatches",
        (
            Column(
                "gradient_noise_interaction",
                "E_B[gᵀ H g]/‖∇L‖², H and ∇L of all training samples",
                figure=Figure(
                    title="How much curvature do noisy gradients meet?",
                    axis="gradient–noise interaction",
                ),
            ),
        ),
        ("training", "probe"),
        cost=6,
        source="Andreyev, Beneventano, arXiv 2412.20553",
    ),
)
QUANTITIES.add(
    "gauss_newton",
    Measured(
        f"{_HERE}.gauss_newton:GaussNewton",
        "largest eigenvalues of the two parts of H: from moving outputs, from moving features",
        (
            Column(
                "gauss_newton_sharpness",
                "largest eigenvalue of G",
                figure=Figure(
                    title="Is sharpness that of the Gauss–Newton part?",
                    axis="largest eigenvalue of G",
                    meaning="Largest eigenvalue on a fixed probe of G, the part of the Hessian from moving "
                    "outputs",
                ),
            ),
            Column(
                "feature_sharpness",
                "largest eigenvalue of H − G",
                figure=Figure(
                    title="How sharp is the part of the Hessian from moving features?",
                    axis="largest eigenvalue of H − G",
                ),
            ),
            Column("gauss_newton_trace", "tr G", figure=None),
            Column("gauss_newton_share", "share of tr G of its k largest eigenvalues", figure=None),
            Column("gauss_newton_eigenvalues", "the k largest of G", figure=None),
            Column("feature_eigenvalues", "the k largest of H − G", figure=None),
        ),
        ("probe",),
        cost=30,
        source="theory §4, §5",
    ),
)
QUANTITIES.add(
    "blocks",
    Measured(
        f"{_HERE}.blocks:Blocks",
        "sharpness of each layer, and where the top eigenvector lies",
        (
            Column(
                "block_sharpness",
                "largest eigenvalue of H_kk",
                "all",
                Figure(
                    title="Which layers are sharp?",
                    axis="largest eigenvalue of H_kk",
                    meaning="Largest eigenvalue on a fixed probe of each layer's diagonal block of the "
                    "Hessian",
                ),
            ),
            Column(
                "top_vector_shares",
                "‖u_k‖² of the top eigenvector u of H, ‖u‖ = 1",
                "all",
                Figure(
                    title="In which layers does the top eigenvector lie?",
                    axis="share of the top eigenvector",
                ),
            ),
        ),
        ("probe",),
        cost=50,
        source="theory §5; ours: blocks by Gram matrices",
    ),
)
QUANTITIES.add(
    "subspace",
    Measured(
        f"{_HERE}.subspace:Subspace",
        "the span of the k top eigenvectors of H: how it turns, what share of gradient and step it has",
        (
            Column(
                "subspace_overlap",
                "mean cos² of the angles between the span and that of the last measurement",
                figure=Figure(title="Does the top of the Hessian turn?", axis="overlap"),
            ),
            Column(
                "gradient_in_subspace",
                "share of ‖∇L‖² of the probe in the span",
                figure=Figure(
                    title="Does the gradient lie at the top of the Hessian?", axis="share of ‖∇L‖²"
                ),
            ),
            Column(
                "step_in_subspace",
                "share of ‖v‖² of the step in the span",
                figure=Figure(title="Does the step lie at the top of the Hessian?", axis="share of ‖v‖²"),
            ),
        ),
        ("probe", "minibatch", "step"),
        cost=4,
        source="Gur-Ari, Roberts, Dyer, arXiv 1812.04754",
    ),
)
QUANTITIES.add(
    "third_order",
    Measured(
        f"{_HERE}.third_order:ThirdOrder",
        "the gradient of the top eigenvalue λ of H: progressive sharpening, self-stabilisation",
        (
            Column(
                "progressive_sharpening",
                "α = −⟨∇L, ∇λ⟩",
                figure=Figure(
                    title="Does gradient flow sharpen?",
                    axis="−⟨∇L, ∇λ⟩",
                    meaning="Rate −⟨∇L, ∇λ⟩ at which gradient flow on a fixed probe changes the largest "
                    "eigenvalue λ of the Hessian",
                ),
            ),
            Column(
                "self_stabilization",
                "β = ‖∇λ‖²",
                figure=Figure(title="How strongly do oscillations flatten?", axis="‖∇λ‖²"),
            ),
            Column(
                "progressive_sharpening_across", "α with ∇λ orthogonal to the eigenvector of λ", figure=None
            ),
            Column("self_stabilization_across", "β with ∇λ orthogonal to the eigenvector of λ", figure=None),
            Column(
                "sharpness_change_of_step",
                "⟨∇λ, step⟩: the change of λ by the step, first order",
                figure=None,
            ),
            Column("sharpness_change", "λ − λ at the last measurement", figure=None),
            Column("predicted_sharpness_change", "½⟨∇λ + ∇λ', θ − θ'⟩ since the last", figure=None),
        ),
        ("probe", "minibatch", "step"),
        cost=5,
        source="Damian, Nichani, Lee, arXiv 2209.15594",
    ),
)
QUANTITIES.add(
    "critical_rate",
    Measured(
        f"{_HERE}.critical_rate:CriticalRate",
        "the rate at which the loss after the step is that before",
        (
            Column(
                "critical_rate",
                "η_c: the loss on the minibatch after a step of this rate is that before",
                figure=Figure(title="Which rates let the loss fall?", axis="critical rate η_c"),
            ),
            Column("critical_sharpness", "λ_c = 2/η_c", figure=None),
            Column("critical_edge_ratio", "η/η_c", figure=None),
            Column(
                "predicted_critical_rate", "η_c of the polynomial c0..c3; null if it has none", figure=None
            ),
        ),
        ("minibatch", "step"),
        cost=10,
        source="Kalra et al., arXiv 2601.16979",
    ),
)
QUANTITIES.add(
    "adam_sharpness",
    Measured(
        f"{_HERE}.adam_sharpness:AdamSharpness",
        "the largest eigenvalue of P^{−1/2} H P^{−1/2} with AdamW's denominators P, and its edge",
        (
            Column(
                "adam_sharpness",
                "largest eigenvalue of P^{−1/2} cΞH P^{−1/2}; null unless adamw trains",
                figure=Figure(title="How sharp is the loss for AdamW?", axis="largest eigenvalue of P⁻¹H"),
            ),
            Column("adam_edge", "(1 + β1)(2 − ηλ_w)/((1 − β1)η)", figure=None),
            Column("adam_edge_ratio", "adam_sharpness/adam_edge", figure=None),
        ),
        ("probe", "minibatch", "step"),
        cost=60,
        source="Cohen et al., arXiv 2207.14484",
    ),
)
QUANTITIES.add(
    "generalized_sharpness",
    Measured(
        f"{_HERE}.generalized_sharpness:GeneralizedSharpness",
        "the largest curvature among directions in the norm of the step",
        (
            Column(
                "generalized_sharpness",
                "a lower bound of max dᵀHd over ‖d‖ ≤ 1 in the norm of the step",
                figure=Figure(
                    title="How sharp is the loss in the norm of the steps?",
                    axis="generalised sharpness",
                    meaning="A stationary value of dᵀHd over ‖d‖ ≤ 1 in the norm of the step on a fixed "
                    "probe, a lower bound of the largest",
                ),
            ),
            Column("generalized_sharpness_bound", "an upper bound; null for polar factors", figure=None),
            Column("generalized_edge_ratio", "ηc S/(2‖∇L‖_*), S the lower bound", figure=None),
        ),
        ("probe", "minibatch", "step"),
        cost=100,
        source="Islamov et al., arXiv 2603.05002; ours: the bound",
    ),
)
