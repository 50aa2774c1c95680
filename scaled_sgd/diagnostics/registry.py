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
            Column(
                "oscillation",
                "|⟨u_1, θ − θ̄⟩|, θ̄ the running mean of the middles of steps",
                figure=Figure(
                    title="How far does training swing along the top of the Hessian?",
                    axis="|⟨u_1, θ − θ̄⟩|",
                    meaning="Distance of the weights from their running mean along the top eigenvector of H",
                ),
            ),
        ),
        ("probe", "minibatch", "step"),
        cost=4,
        source="Gur-Ari, Roberts, Dyer, arXiv 1812.04754",
    ),
)
QUANTITIES.add(
    "neural_collapse",
    Measured(
        f"{_HERE}.labels:NeuralCollapse",
        "spread of the last features within classes over that between them",
        (
            Column(
                "neural_collapse",
                "tr(Σ_W Σ_B⁺)/C of h_{l−1}",
                figure=Figure(
                    title="Do the last features collapse to their classes?",
                    axis="tr(Σ_W Σ_B⁺)/C",
                    meaning="Neural collapse tr(Σ_W Σ_B⁺)/C of the last features on a fixed probe: 0 where "
                    "all samples of a class have the same",
                ),
            ),
        ),
        ("probe",),
        cost=0.2,
        source="Papyan, Han, Donoho, arXiv 2008.08186",
    ),
)
QUANTITIES.add(
    "label_alignment",
    Measured(
        f"{_HERE}.labels:LabelAlignment",
        "centred alignment with the labels of the tangent kernel and of the last features",
        (
            Column(
                "label_alignment.kernel",
                "that of the tangent kernel summed over outputs",
                figure=Figure(
                    title="Does the tangent kernel align with the labels?",
                    axis="alignment of the tangent kernel",
                    meaning="Centred alignment of the tangent kernel, summed over outputs, with Y Yᵀ on a "
                    "fixed probe",
                ),
            ),
            Column(
                "label_alignment.features",
                "that of the kernel of h_{l−1}",
                figure=Figure(
                    title="Do the last features align with the labels?",
                    axis="alignment of the last features",
                    meaning="Centred alignment of the kernel of the last features with Y Yᵀ on a fixed probe",
                ),
            ),
        ),
        ("probe",),
        cost=6,
        source="Baratin et al., arXiv 2008.00938",
    ),
)
QUANTITIES.add(
    "feature_kernels",
    Measured(
        f"{_HERE}.labels:FeatureKernels",
        "smallest eigenvalues of the feature kernels",
        (
            Column(
                "log_lambda_min",
                "ln λ_min of h_k h_kᵀ/m_k; null where it is 0",
                "hidden",
                Figure(
                    title="Do feature kernels stay well conditioned?",
                    axis="ln λ_min",
                    meaning="Natural logarithm of the smallest eigenvalue of h_k h_kᵀ/m_k of each hidden "
                    "layer on a fixed probe",
                ),
            ),
        ),
        ("probe",),
        cost=3,
        source="arXiv 2501.13225",
    ),
)
QUANTITIES.add(
    "from_start",
    Measured(
        f"{_HERE}.start:Start",
        "distance from the linearised network, and whether weights or features move preactivations",
        (
            Column(
                "linearisation_distance",
                "‖f − f_lin‖/‖f − f_0‖, f_lin = f_0 + J_0 (θ − θ_0)",
                figure=Figure(
                    title="How far from its linearisation does a network go?",
                    axis="‖f − f_lin‖/‖f − f_0‖",
                    meaning="Part of the change of the outputs on a fixed probe that the network linearised "
                    "at step 0, with the weights of now, does not have",
                ),
            ),
            Column("change_by_weights", "‖α_k (W_k − W_k at 0) h_{k−1}‖/‖z_k at 0‖", "all", None),
            Column("change_by_features", "‖α_k W_k at 0 (h_{k−1} − h_{k−1} at 0)‖/‖z_k at 0‖", "all", None),
        ),
        ("probe",),
        cost=3,
        source="Chizat, Oyallon, Bach, arXiv 1812.07956; Haas et al., arXiv 2505.22491",
    ),
)
