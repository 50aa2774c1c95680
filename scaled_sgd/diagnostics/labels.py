"""How features and the tangent kernel go with the labels: neural collapse, alignment (theory §7)."""

import torch
from torch import Tensor

from scaled_sgd.diagnostics.features import gram


def classes_of(y: Tensor) -> Tensor | None:
    """Class ids (n,) from ids (n,) or one-hot rows (n, C); None for other numbers."""
    if not y.is_floating_point():
        return y
    is_one_hot = y.ndim == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() & (y.sum(1) == 1).all())
    return y.argmax(1) if is_one_hot else None


def label_matrix(y: Tensor, outputs: int) -> Tensor:
    """Y (n, m_l), float64: one-hot rows of class ids, or the targets themselves."""
    if y.is_floating_point():
        return y.double()
    return torch.nn.functional.one_hot(y, outputs).double()


@torch.no_grad()
def neural_collapse(features: Tensor, classes: Tensor) -> Tensor:
    """tr(Σ_W Σ_B⁺)/C of features (n, m), 0-dimensional, float64 (Papyan, Han, Donoho 2020, NC1).

    Σ_W is the mean over samples of (h − μ_c)(h − μ_c)ᵀ, Σ_B the mean over classes of (μ_c − μ)(μ_c − μ)ᵀ with
    the mean μ over samples. With the rows μ_c − μ in M (C, m), Σ_B⁺ = C M⁺M⁺ᵀ: no matrix (m, m). nan where
    all class means are equal.

    Args:
        features: h.
        classes: ids (n,); C counts those that occur.
    """
    H = features.double()
    ids, own = torch.unique(classes, return_inverse=True)
    member = torch.nn.functional.one_hot(own, len(ids)).double()
    means = member.T @ H / member.sum(0)[:, None]
    M = means - H.mean(0)
    value = ((H - means[own]) @ torch.linalg.pinv(M)).square().sum() / len(H)
    return torch.where(M.abs().max() > 0, value, torch.nan)


@torch.no_grad()
def feature_alignment(features: Tensor, labels: Tensor) -> Tensor:
    """Centred alignment of H Hᵀ and Y Yᵀ from H (n, m) and Y (n, q), 0-dimensional, float64.

    ⟨K, L⟩/(‖K‖ ‖L‖) of K = C H Hᵀ C and L = C Y Yᵀ C, C = I − 11ᵀ/n, by the smaller Gram matrices.
    """
    H, Y = (t.double() - t.double().mean(0) for t in (features, labels))
    alignment: Tensor = (H.T @ Y).square().sum() / (_gram_norm(H) * _gram_norm(Y))
    return alignment


def _gram_norm(H: Tensor) -> Tensor:
    norm: Tensor = gram(H if H.shape[0] <= H.shape[1] else H.T).norm()
    return norm


@torch.no_grad()
def log_lambda_min(features: Tensor) -> Tensor:
    """ln λ_min of H Hᵀ/m for features H (n, m), 0-dimensional, float64; −∞ where it is 0 up to rounding.

    Rounding is n ε λ_max of the products in float64, and n ε² λ_max of the features' own ε.
    """
    n, m = features.shape
    if n > m:
        return torch.tensor(-torch.inf, dtype=torch.float64, device=features.device)
    values = torch.linalg.eigvalsh(gram(features.double()) / m)
    noise = max(torch.finfo(torch.float64).eps, torch.finfo(features.dtype).eps ** 2)
    return torch.where(values[0] > n * noise * values[-1], values[0].clamp(min=0).log(), -torch.inf)
