"""How many directions features span, and how far their kernels move (theory §3, §7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaled_sgd.core.arguments import check_samples
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics.precision import without_autocast
from scaled_sgd.parallel import Partition, Ranks, unwrap
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.signals import forward


@dataclass(frozen=True)
class FeatureRanks:
    """Soft ranks of features H (n, m) with singular values σ: 1 when all samples are parallel.

    0-dimensional float64 tensors; nan if all features are 0 or any is not finite.

    Attributes:
        stable: ‖H‖_F² / ‖H‖_2².
        participation: (Σσ²)² / Σσ⁴.
        effective: exp of the entropy of σ² / Σσ².
    """

    stable: Tensor
    participation: Tensor
    effective: Tensor


@torch.no_grad()
@without_autocast
def gram(features: Tensor) -> Tensor:
    """K = H Hᵀ (n, n) in float32, float64 for float64 features."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return wide @ wide.T


@torch.no_grad()
@without_autocast
def feature_ranks(features: Tensor) -> FeatureRanks:
    """Ranks of features (n, m) on this process, from the smaller of their two Gram matrices.

    Raises:
        UserError: not a non-empty matrix of real numbers.
    """
    if not isinstance(features, Tensor):
        raise UserError(f"features: {type(features).__name__} does not fit; allowed: a real tensor (n, m)")
    if features.ndim != 2 or not features.numel() or not features.is_floating_point():
        raise UserError(f"features: {features.dtype} of shape {tuple(features.shape)}; allowed: real (n, m)")
    return kernel_ranks(gram(features if features.shape[0] <= features.shape[1] else features.T))


@torch.no_grad()
def kernel_ranks(K: Tensor) -> FeatureRanks:
    """Ranks from a Gram matrix K (n, n), whose eigenvalues are σ²."""
    K = K.to(torch.float64)
    # eigvalsh raises on non-finite numbers; here everything becomes nan, without a device synchronisation.
    squares = torch.linalg.eigvalsh(K.nan_to_num(0, 0, 0)).clamp(min=0) + 0 * K.sum()
    total = squares.sum()
    shares = squares / total
    return FeatureRanks(
        stable=total / squares.max(),
        participation=total**2 / squares.square().sum(),
        effective=torch.special.entr(shares).sum().exp(),
    )


@torch.no_grad()
@without_autocast
def hidden_features(model: nn.Module, x: Tensor, *, modules: Sequence[str] | None = None) -> list[Tensor]:
    """h_1..h_{l−1} of the global minibatch, each (n, m_k), on every process.

    Args:
        model: a HomogeneousMLP, possibly wrapped or sharded; any network with ``modules``.
        x: this process's samples.
        modules: names of submodules, each run once, whose outputs are the features, flattened to (n, ·). The
            network runs in its current mode.

    Raises:
        UserError: the model is no HomogeneousMLP and no modules are named, or x or a name does not fit it.
    """
    if modules is not None:
        return _outputs_of(model, x, modules)
    partition = Partition.of(model)
    check_samples(x, partition.model.widths[0], partition.device)
    samples, _ = partition.ranks.gather_samples(x.detach(), x.new_empty(len(x)))
    h, _, _ = forward(partition, samples)
    return h[1:]


def _outputs_of(model: nn.Module, x: Tensor, names: Sequence[str]) -> list[Tensor]:
    """What submodules give on all processes' samples, each (n, ·)."""
    known, ranks = dict(unwrap(model).named_modules()), Ranks()
    for name in names:
        if name not in known:
            raise UserError(f"modules: {name!r} is unknown; allowed: {', '.join(filter(None, known))}")
    found: dict[str, list[Tensor | None]] = {name: [] for name in names}

    def keep(name: str, out: object) -> None:
        # A copy: later modules may work in place.
        found[name].append(out.clone() if isinstance(out, Tensor) and out.ndim else None)

    hooks = [
        known[name].register_forward_hook(lambda _module, _given, out, name=name: keep(name, out))
        for name in names
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    features = []
    for name in names:
        out = found[name][0] if len(found[name]) == 1 else None
        if out is None or len(out) != len(x):
            raise UserError(
                f"modules: {name!r} has no output a sample; allowed: modules that run once, on all"
            )
        features.append(ranks.gather_samples(out[:, None].flatten(1), out.new_empty(len(out)))[0])
    return features


@without_autocast
def gradient_soft_ranks(
    model: nn.Module, x: Tensor, y: Tensor, *, loss: str, chunk_size: int | None = None
) -> Tensor:
    """S_k = F_k D_k / ‖G_k‖_F², shape (l,), float64, of the global minibatch.

    1 when the samples' rank-one gradients of layer k are parallel, larger as features separate; nan where
    there is no gradient.

    Raises:
        UserError: another kind of network, or invalid x or y.
    """
    return soft_ranks_of(Minibatch(model, x, y, loss=loss, chunk_size=chunk_size))


@torch.no_grad()
def soft_ranks_of(batch: Minibatch) -> Tensor:
    """S_k of a minibatch whose signals can be shared with other diagnostics."""
    return batch.statistics.soft_ranks


@torch.no_grad()
def kernel_drift(K: Tensor, K_0: Tensor) -> Tensor:
    """‖K − K_0‖_F / ‖K_0‖_F of two Gram matrices on the same samples, 0-dimensional.

    Raises:
        UserError: unequal shapes.
    """
    _same_square(K, K_0)
    drift: Tensor = (K - K_0).norm() / K_0.norm()
    return drift


@torch.no_grad()
def feature_drift(H: Tensor, H_0: Tensor) -> Tensor:
    """:func:`kernel_drift` of K = H Hᵀ and K_0 = H_0 H_0ᵀ from features (n, m), 0-dimensional.  [ours]

    With D = H − H_0 and S = H + H_0, K − K_0 = (D Sᵀ + S Dᵀ)/2 and ‖K − K_0‖² = (tr DᵀD SᵀS + tr (SᵀD)²)/2:
    matrices (m, m), and no cancellation when features have hardly moved.

    Raises:
        UserError: unequal shapes.
    """
    if H.ndim != 2 or H.shape != H_0.shape:
        raise UserError(f"H: shapes {tuple(H.shape)} and {tuple(H_0.shape)}; allowed: two equal matrices")
    H, H_0 = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (H, H_0))
    D, S = H - H_0, H + H_0
    P = S.T @ D
    square = ((gram(D.T) * gram(S.T)).sum() + (P * P.T).sum()) / 2
    drift: Tensor = square.clamp(min=0).sqrt() / gram(H_0.T).norm()
    return drift


@torch.no_grad()
def kernel_alignment(K: Tensor, K_0: Tensor, *, centred: bool = False) -> Tensor:
    """⟨K, K_0⟩_F / (‖K‖_F ‖K_0‖_F), in [0, 1] for Gram matrices, 0-dimensional.

    ``centred`` first subtracts the samples' mean feature, K ← C K C with C = I − 11ᵀ/n: centred kernel
    alignment (CKA).

    Raises:
        UserError: unequal shapes.
    """
    _same_square(K, K_0)
    if centred:
        K, K_0 = _centre(K), _centre(K_0)
    cosine: Tensor = (K * K_0).sum() / (K.norm() * K_0.norm())
    return cosine


def _centre(K: Tensor) -> Tensor:
    rows = K - K.mean(0, keepdim=True)
    return rows - rows.mean(1, keepdim=True)


def _same_square(K: Tensor, K_0: Tensor) -> None:
    if K.ndim != 2 or K.shape[0] != K.shape[1] or K.shape != K_0.shape:
        raise UserError(f"K: shapes {tuple(K.shape)} and {tuple(K_0.shape)}; allowed: two equal squares")
