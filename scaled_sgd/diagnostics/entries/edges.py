"""Quantities of third order, and the edges of rates."""

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.diagnostics.measured import Measured

_HERE = "scaled_sgd.diagnostics.quantities"

THIRD_ORDER = Measured(
    f"{_HERE}.third_order:ThirdOrder",
    "the gradient of the top eigenvalue λ of H: progressive sharpening, self-stabilisation",
    (
        Column(
            "progressive_sharpening",
            "α = −⟨∇L, ∇λ⟩",
            figure=Figure(
                title="Does gradient flow sharpen?",
                axis="progressive sharpening α = −⟨∇L, ∇λ⟩",
                meaning="Rate −⟨∇L, ∇λ⟩ at which gradient flow on a fixed probe changes the largest "
                "eigenvalue λ of the Hessian",
            ),
        ),
        Column(
            "self_stabilization",
            "β = ‖∇λ‖²",
            figure=Figure(title="How strongly do oscillations flatten?", axis="self-stabilisation β = ‖∇λ‖²"),
        ),
        Column(
            "progressive_sharpening_across",
            "α with ∇λ orthogonal to the eigenvector of λ",
            figure=None,
            label="α across the eigenvector of λ",
        ),
        Column(
            "self_stabilization_across",
            "β with ∇λ orthogonal to the eigenvector of λ",
            figure=None,
            label="β across the eigenvector of λ",
        ),
        Column(
            "swing",
            "|⟨u, ∇L⟩|/λ: distance along u from the valley's floor",
            figure=None,
            label="swing |⟨u, ∇L⟩|/λ",
        ),
        Column(
            "sharpness_change_of_step",
            "⟨∇λ, step⟩: the change of λ by the step, first order",
            figure=None,
            label="change of λ by the step ⟨∇λ, step⟩",
        ),
        Column(
            "sharpness_change", "λ − λ at the last measurement", figure=None, label="measured change of λ"
        ),
        Column(
            "predicted_sharpness_change",
            "½⟨∇λ + ∇λ', θ − θ'⟩ since the last",
            figure=None,
            label="predicted change of λ",
        ),
    ),
    ("probe", "minibatch", "step"),
    cost=5,
    source="Damian, Nichani, Lee, arXiv 2209.15594",
)

CRITICAL_RATE = Measured(
    f"{_HERE}.critical_rate:CriticalRate",
    "the rate at which the loss after the step is that before",
    (
        Column(
            "critical_rate",
            "η_c: the loss on the minibatch after a step of this rate is that before",
            figure=Figure(title="Which rates let the loss fall?", axis="critical rate η_c"),
        ),
        Column("critical_sharpness", "λ_c = 2/η_c", figure=None, label="critical sharpness 2/η_c"),
        Column("critical_edge_ratio", "η/η_c", figure=None, label="η/η_c"),
        Column(
            "predicted_critical_rate",
            "η_c of the polynomial c0..c3; null if it has none",
            figure=None,
            label="predicted critical rate η_c",
        ),
    ),
    ("minibatch", "step"),
    cost=10,
    source="Kalra et al., arXiv 2601.16979",
)

ADAM_SHARPNESS = Measured(
    f"{_HERE}.adam_sharpness:AdamSharpness",
    "the largest eigenvalue of P^{−1/2} H P^{−1/2} with AdamW's denominators P, and its edge",
    (
        Column(
            "adam_sharpness",
            "largest eigenvalue of P^{−1/2} cΞH P^{−1/2}; null unless adamw trains",
            figure=Figure(title="How sharp is the loss for AdamW?", axis="largest eigenvalue of P⁻¹H"),
        ),
        Column("adam_edge", "(1 + β1)(2 − ηλ_w)/((1 − β1)η)", figure=None, label="edge of AdamW"),
        Column("adam_edge_ratio", "adam_sharpness/adam_edge", figure=None, label="edge ratio of AdamW"),
    ),
    ("probe", "minibatch", "step"),
    cost=60,
    source="Cohen et al., arXiv 2207.14484",
)

GENERALIZED_SHARPNESS = Measured(
    f"{_HERE}.generalized_sharpness:GeneralizedSharpness",
    "the largest curvature among directions in the norm of the step",
    (
        Column(
            "generalized_sharpness",
            "a lower bound of max dᵀHd over ‖d‖ ≤ 1 in the norm of the step",
            figure=Figure(
                title="How sharp is the loss in the norm of the steps?",
                axis="generalised sharpness",
                meaning="A stationary value of dᵀHd over ‖d‖ ≤ 1 in the norm of the step on a fixed probe, a "
                "lower bound of the largest",
            ),
        ),
        Column(
            "generalized_sharpness_bound",
            "an upper bound; null for polar factors",
            figure=None,
            label="upper bound of generalised sharpness",
        ),
        Column(
            "generalized_edge_ratio",
            "ηc S/(2‖∇L‖_*), S the lower bound",
            figure=None,
            label="generalised edge ratio",
        ),
    ),
    ("probe", "minibatch", "step"),
    cost=100,
    source="Islamov et al., arXiv 2603.05002; ours: the bound",
)

CENTRAL_FLOW = Measured(
    f"{_HERE}.flows:Flows",
    "gradient flow and central flow beside gradient descent, from the first measurement on",
    (
        Column(
            "descent_loss",
            "mean loss of the steps since the last measurement",
            figure=None,
            label="loss of gradient descent",
        ),
        Column(
            "descent_sharpness",
            "λ at (w_{t−1} + 2w_t + w_{t+1})/4",
            figure=None,
            label="λ of gradient descent",
        ),
        *(
            Column(f"{path}_{name}", meaning.format(flow), figure=None, label=label.format(flow))
            for path, flow in (("gradient_flow", "gradient flow"), ("central_flow", "the central flow"))
            for name, label, meaning in (
                ("loss", "loss of {}", "mean loss of gradient descent over these steps as {} has it"),
                ("sharpness", "λ of {}", "λ of {}"),
                ("distance", "distance of {}", "distance of {} from that point of gradient descent"),
                ("loss_error", "relative error of the loss of {}", "relative error of that loss of {}"),
                ("sharpness_error", "relative error of the λ of {}", "relative error of that λ of {}"),
            )
        ),
    ),
    ("probe", "step"),
    cost=1000,
    source="Cohen et al., arXiv 2410.24206",
)
