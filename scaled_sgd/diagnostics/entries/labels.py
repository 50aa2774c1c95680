"""Quantities of features, labels and the start of training."""

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.diagnostics.measured import Measured

_HERE = "scaled_sgd.diagnostics.quantities"

NEURAL_COLLAPSE = Measured(
    f"{_HERE}.labels:NeuralCollapse",
    "spread of the last features within classes over that between them",
    (
        Column(
            "neural_collapse",
            "tr(Σ_W Σ_B⁺)/C of h_{l−1}",
            figure=Figure(
                title="Do the last features collapse to their classes?",
                axis="neural collapse tr(Σ_W Σ_B⁺)/C",
                meaning="Neural collapse tr(Σ_W Σ_B⁺)/C of the last features on a fixed probe: 0 where "
                "all samples of a class have the same",
            ),
        ),
    ),
    ("probe",),
    cost=0.2,
    source="Papyan, Han, Donoho, arXiv 2008.08186",
)

LABEL_ALIGNMENT = Measured(
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
)

FEATURE_KERNELS = Measured(
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
)

FROM_START = Measured(
    f"{_HERE}.start:SinceStart",
    "distance from the linearised network, and whether weights or features move preactivations",
    (
        Column(
            "linearisation_distance",
            "‖f − f_lin‖/‖f − f_0‖, f_lin = f_0 + J_0 (θ − θ_0)",
            figure=Figure(
                title="How far from its linearisation does a network go?",
                axis="linearisation distance ‖f − f_lin‖/‖f − f_0‖",
                meaning="Part of the change of the outputs on a fixed probe that the network linearised "
                "at step 0, with the weights of now, does not have",
            ),
        ),
        Column(
            "change_by_weights", "‖α_k (W_k − W_k at 0) h_{k−1}‖/‖z_k at 0‖", "all", None, "change by weights"
        ),
        Column(
            "change_by_features",
            "‖α_k W_k at 0 (h_{k−1} − h_{k−1} at 0)‖/‖z_k at 0‖",
            "all",
            None,
            "change by features",
        ),
    ),
    ("probe",),
    cost=3,
    source="Chizat, Oyallon, Bach, arXiv 1812.07956; Haas et al., arXiv 2505.22491",
)
