"""Quantities along the step that is taken."""

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.diagnostics.measured import Measured

_HERE = "scaled_sgd.diagnostics.quantities"

TAYLOR = Measured(
    f"{_HERE}.taylor:Taylor",
    "Taylor terms of the minibatch loss along the step that is taken",
    (
        *(
            Column(
                f"taylor.c{p}", f"c{p} of L(θ + ηu) = c0 + c1 η + c2 η² + c3 η³", figure=None, label=f"c_{p}"
            )
            for p in range(4)
        ),
        Column(
            "taylor.gauss_newton",
            "the part of c2 from moving outputs",
            figure=None,
            label="Gauss–Newton part of c_2",
        ),
        Column(
            "taylor.feature", "the part of c2 from moving features", figure=None, label="feature part of c_2"
        ),
        Column(
            "predicted_loss",
            "the polynomial at the step that is taken",
            figure=None,
            label="predicted loss after the step",
        ),
        Column(
            "directional_edge_ratio",
            "ρ = η c2/|c1|; null unless c1 < 0 < c2",
            figure=None,
            label="directional edge ratio ρ",
        ),
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
)

SUBSPACE = Measured(
    f"{_HERE}.subspace:Subspace",
    "the span of the k top eigenvectors of H: how it turns, what share of gradient and step it has",
    (
        Column(
            "subspace_overlap",
            "mean cos² of the angles between the span and that of the last measurement",
            figure=Figure(title="Does the top of the Hessian turn?", axis="overlap of the top eigenvectors"),
        ),
        Column(
            "gradient_in_subspace",
            "share of ‖∇L‖² of the probe in the span",
            figure=Figure(title="Does the gradient lie at the top of the Hessian?", axis="share of ‖∇L‖²"),
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
)
