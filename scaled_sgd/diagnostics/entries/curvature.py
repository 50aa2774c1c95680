"""Curvature of the loss: largest eigenvalues, and quotients along gradients."""

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.diagnostics.measured import Measured

_HERE = "scaled_sgd.diagnostics.quantities"

SHARPNESS = Measured(
    f"{_HERE}.sharpness:Sharpness",
    "largest eigenvalues of H and of Ξ^{1/2} H Ξ^{1/2}",
    (
        Column("sharpness", "largest eigenvalue of H", figure=None, label="sharpness λ"),
        Column(
            "preconditioned_sharpness",
            "largest eigenvalue λ of Ξ^{1/2} H Ξ^{1/2}",
            figure=None,
            label="preconditioned sharpness λ",
        ),
        Column("edge_ratio", "η (c λ + λ_w) / (2 (1 + μ))", figure=None),
        Column("edge", "the λ whose edge ratio is 1", figure=None, label="edge of stability"),
        Column("sharpness_residuals", "‖Hv − λv‖/|λ| of both", figure=None, label="residual ‖Hv − λv‖/|λ|"),
        Column("eigenvalues", "the k largest of H", figure=None, label="eigenvalue of H"),
        Column(
            "preconditioned_eigenvalues",
            "the k largest of Ξ^{1/2} H Ξ^{1/2}",
            figure=None,
            label="eigenvalue of ΞH",
        ),
    ),
    ("probe", "step"),
    cost=30,
    source="theory §3b, §5",
)

BATCH_SHARPNESS = Measured(
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
        Column(
            "batch_sharpness_error",
            "standard error of that mean",
            figure=None,
            label="standard error of batch sharpness",
        ),
    ),
    ("training",),
    cost=9,
    source="Andreyev, Beneventano, arXiv 2412.20553",
)

BATCH_SPECTRUM = Measured(
    f"{_HERE}.spectrum:BatchSpectrum",
    "largest eigenvalues and densities of eigenvalues of the Hessians of fresh minibatches",
    (
        Column(
            "batch_eigenvalue",
            "E_B[λ_max(H_B)] over minibatches B of a step's size",
            figure=Figure(
                title="How sharp are minibatches?",
                axis="mean largest eigenvalue of H_B",
                meaning="Mean over fresh minibatches B of the largest eigenvalue of their Hessians H_B",
            ),
        ),
        Column("batch_eigenvalue_error", "standard error of that mean", figure=None),
        Column(
            "batch_eigenvalue_excess",
            "that mean less λ_max of H of all samples",
            figure=None,
            label="E λ_max(H_B) − λ_max(H)",
        ),
        Column("batch_spectrum.nodes", "Ritz values of the minibatches, one after the other", "all", None),
        Column("batch_spectrum.weights", "shares of the spectrum at these, of sum 1", "all", None),
    ),
    ("training", "probe"),
    cost=240,
    source="Granziol, Zohren, Roberts, arXiv 2006.09092",
)

NOISE_STABILITY = Measured(
    f"{_HERE}.noise_stability:NoiseStability",
    "growth of mean square distances in a step of SGD",
    (
        Column(
            "noise_stability",
            "largest eigenvalue of E_B[(1 − ηλ_w − ηcΞ^{1/2}H_BΞ^{1/2})²]",
            figure=Figure(
                title="Do minibatches throw SGD out of the valley?",
                axis="mean square growth in a step",
                meaning="Largest eigenvalue of the mean over fresh minibatches B of (1 − ηH_B)²: at most 1 "
                "where the mean square distance of linearised SGD from the point grows in no direction",
            ),
        ),
        Column(
            "noise_stability_gauss_newton",
            "the same of the Gauss–Newton parts G_B",
            figure=None,
            label="mean square growth of the Gauss–Newton part in a step",
        ),
    ),
    ("training", "step"),
    cost=100,
    source="Wu, Ma, E, NeurIPS 2018",
)

GRADIENT_NOISE = Measured(
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
)

GAUSS_NEWTON = Measured(
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
        Column("gauss_newton_trace", "tr G", figure=None, label="tr G"),
        Column(
            "gauss_newton_share",
            "share of tr G of its k largest eigenvalues",
            figure=None,
            label="share of tr G",
        ),
        Column("gauss_newton_eigenvalues", "the k largest of G", figure=None, label="eigenvalue of G"),
        Column("feature_eigenvalues", "the k largest of H − G", figure=None, label="eigenvalue of H − G"),
    ),
    ("probe",),
    cost=30,
    source="theory §4, §5",
)

BLOCKS = Measured(
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
                meaning="Largest eigenvalue on a fixed probe of each layer's diagonal block of the Hessian",
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
    cost=8,
    source="theory §5; ours: blocks over samples and outputs",
)
