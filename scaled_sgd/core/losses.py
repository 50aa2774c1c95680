"""Losses ℓ(f, y) of one sample with their first three derivatives in f, closed form (theory §4).

Everything is per sample: f is (n, m_l), values are (n,); the caller takes the mean over the global
minibatch. ``y`` holds int64 class ids (n,) for cross-entropy, floats (n, m_l) for mean
squared error.
"""

from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from scaled_sgd.core.errors import UserError

LossName = Literal["cross_entropy", "mse"]


class Loss(Protocol):
    """A loss of the network's output f (n, m_l) with its first three derivatives."""

    name: str

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_i, shape (n,)."""
        ...

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """The residual r_i = ∂ℓ_i/∂f_i, shape (n, m_l)."""
        ...

    def value_and_gradient(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both at once, cheaper than one after the other."""
        ...

    def hessian_product(self, f: Tensor, u: Tensor) -> Tensor:
        """ℓ''(f) u, shape (n, m_l) for u of shape (n, m_l)."""
        ...

    def third(self, f: Tensor, u: Tensor) -> Tensor:
        """ℓ'''(f)(u, u, u), shape (n,)."""
        ...

    def third_product(self, f: Tensor, u: Tensor) -> Tensor:
        """ℓ'''(f)(u, u, ·), shape (n, m_l) for u of shape (n, m_l)."""
        ...


class CrossEntropy:
    """ℓ = −log softmax(f)_y."""

    name = "cross_entropy"

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_i, shape (n,)."""
        return F.cross_entropy(f, y, reduction="none")

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """Softmax(f) − onehot(y)."""
        return self.value_and_gradient(f, y)[1]

    def value_and_gradient(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one pass of exponentials."""
        logp, ids = f.log_softmax(-1), y.unsqueeze(-1)
        value = -logp.gather(-1, ids).squeeze(-1)
        return value, logp.exp_().scatter_add_(-1, ids, logp.new_full((), -1.0).expand_as(ids))

    def hessian_product(self, f: Tensor, u: Tensor) -> Tensor:
        """p∘u − p (p·u)."""
        p = f.softmax(-1)
        pu = p * u
        return pu - p * pu.sum(-1, keepdim=True)

    def third(self, f: Tensor, u: Tensor) -> Tensor:
        """Σpu³ − 3(p·u)(Σpu²) + 2(p·u)³, the third central moment of u under p."""
        p = f.softmax(-1)
        centred = u - (p * u).sum(-1, keepdim=True)
        return (p * centred**3).sum(-1)

    def third_product(self, f: Tensor, u: Tensor) -> Tensor:
        """p∘(c² − Σpc²) with c = u − p·u."""
        p = f.softmax(-1)
        square = (u - (p * u).sum(-1, keepdim=True)).square()
        return p * (square - (p * square).sum(-1, keepdim=True))


class SquaredError:
    """ℓ = ½‖f − y‖², summed over outputs; the batch loss is its mean over samples."""

    name = "mse"

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_i, shape (n,)."""
        return 0.5 * (f - y).square().sum(-1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """F − y."""
        return f - y

    def value_and_gradient(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """½‖r‖² and r."""
        r = f - y
        return 0.5 * r.square().sum(-1), r

    def hessian_product(self, f: Tensor, u: Tensor) -> Tensor:
        """The identity."""
        return u

    def third(self, f: Tensor, u: Tensor) -> Tensor:
        """Zero."""
        return u.new_zeros(u.shape[0])

    def third_product(self, f: Tensor, u: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(u)


class Centered:
    """ℓ(f − f_0, y), whose targets (…, n, m_l + d) hold f_0 and behind it y, class ids as numbers.

    f_0 is a constant of each sample, so that derivatives in f are those of ℓ at f − f_0; what needs them
    takes :func:`apart` first.

    Args:
        inner: ℓ.
    """

    def __init__(self, inner: Loss) -> None:
        self.inner, self.name = inner, inner.name

    def joined(self, f_0: Tensor, y: Tensor) -> Tensor:
        """Targets of samples with outputs f_0 (n, m_l) at step 0 and targets y of ℓ."""
        return torch.cat([f_0, y.to(f_0.dtype).reshape(len(f_0), -1)], dim=1)

    def apart(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """F − f_0, and the targets of ℓ."""
        return f - y[..., : f.shape[-1]], self.own(y, f.shape[-1])

    def own(self, y: Tensor, outputs: int) -> Tensor:
        """The targets of ℓ, which lie behind the ``outputs`` numbers of f_0."""
        own = y[..., outputs:]
        return own.squeeze(-1).long() if self.name == "cross_entropy" else own

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ_i, shape (n,)."""
        return self.inner.value(*self.apart(f, y))

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """The residual r_i, shape (n, m_l)."""
        return self.inner.gradient(*self.apart(f, y))

    def value_and_gradient(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both at once."""
        return self.inner.value_and_gradient(*self.apart(f, y))

    def hessian_product(self, f: Tensor, u: Tensor) -> Tensor:
        """ℓ''(f) u for f that is centred already."""
        return self.inner.hessian_product(f, u)

    def third(self, f: Tensor, u: Tensor) -> Tensor:
        """ℓ'''(f)(u, u, u) for f that is centred already."""
        return self.inner.third(f, u)

    def third_product(self, f: Tensor, u: Tensor) -> Tensor:
        """ℓ'''(f)(u, u, ·) for f that is centred already."""
        return self.inner.third_product(f, u)


def apart(loss: Loss, f: Tensor, y: Tensor) -> tuple[Loss, Tensor, Tensor]:
    """ℓ with the outputs that it sees and its targets: of :class:`Centered`, f − f_0."""
    return (loss.inner, *loss.apart(f, y)) if isinstance(loss, Centered) else (loss, f, y)


_LOSSES: dict[str, Loss] = {"cross_entropy": CrossEntropy(), "mse": SquaredError()}


def get_loss(name: str | Loss) -> Loss:
    """The loss called ``name``, or ``name`` itself if it is a loss.

    Raises:
        UserError: the name is neither ``cross_entropy`` nor ``mse``.
    """
    if isinstance(name, Centered | CrossEntropy | SquaredError):
        return name
    if not isinstance(name, str) or name not in _LOSSES:
        raise UserError(f"loss: {name!r} is unknown; allowed: {', '.join(get_args(LossName))}")
    return _LOSSES[name]


def check_targets(loss: Loss, y: Tensor, n: int, out_features: int) -> None:
    """Refuse targets whose shape or type does not fit ``n`` samples of ``out_features`` outputs.

    The range of class ids is checked only on the CPU, since on another device the check would synchronise;
    :mod:`scaled_sgd.data` checks the range once when it reads the data.

    Raises:
        UserError: wrong number of dimensions, samples or outputs, or a wrong type of number.
    """
    if not isinstance(y, Tensor):
        raise UserError(f"y: {type(y).__name__} does not fit; allowed: a tensor of {n} targets")
    if isinstance(loss, Centered):
        fits = y.ndim == 2 and len(y) == n and y.shape[1] > out_features and y.is_floating_point()
        wanted = f"f_0 and targets, shape ({n}, …)"
    elif loss.name == "cross_entropy":
        fits = y.shape == (n,) and y.dtype == torch.int64
        wanted = f"int64 class ids of shape ({n},)"
    else:
        fits = y.shape == (n, out_features) and y.is_floating_point()
        wanted = f"floating point targets of shape ({n}, {out_features})"
    if not fits:
        raise UserError(f"y: {y.dtype} of shape {tuple(y.shape)} does not fit; allowed: {wanted}")
    if isinstance(loss, CrossEntropy) and n and y.device.type == "cpu":
        first, last = int(y.min()), int(y.max())
        if first < 0 or last >= out_features:
            raise UserError(f"y: class ids from {first} to {last}; allowed: 0 to {out_features - 1}")
