"""The loss of any network and vectors over its parameters, on one process or data-parallel replicas."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import check_targets, get_loss
from scaled_sgd.parallel import Ranks, is_sharded, unwrap


class GenericVectors:
    """Flat vectors over a network's trainable parameters, in full on every process.

    Args:
        model: any module with full parameters on every process.
        only: names of the trainable parameter tensors that vectors have; None: all.

    Raises:
        UserError: no trainable parameters, sharded ones, or other names.
    """

    identity_dual = True

    def __init__(self, model: nn.Module, *, only: Sequence[str] | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(f"model: {type(model).__name__} does not fit; allowed: a torch.nn.Module")
        self.network, self.ranks = unwrap(model), Ranks()
        name = type(self.network).__name__
        self.parameters = {key: p.detach() for key, p in self.network.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise UserError(f"model: {name} has nothing to train; allowed: trainable parameters")
        if any(is_sharded(p) or hasattr(p, "ds_id") for p in self.parameters.values()):
            raise UserError(
                f"model: sharded {name} is not available; allowed: HomogeneousMLP, or replicas of others"
            )
        if only is not None:
            if not only:
                raise UserError("groups: one has no parameters; allowed: names in each")
            self.parameters = {key: self._named(key) for key in only}
        self.shapes = [p.shape for p in self.parameters.values()]
        self.sizes = [p.numel() for p in self.parameters.values()]
        first = next(iter(self.parameters.values()))
        self.size, self.dtype, self.device = sum(self.sizes), first.dtype, first.device
        self.weight_bytes = self.size * first.element_size()

    def _named(self, key: str) -> Tensor:
        if key not in self.parameters:
            raise UserError(
                f"groups: {key!r} is no trainable parameter of {type(self.network).__name__}; allowed: "
                f"{', '.join(self.parameters)}"
            )
        return self.parameters[key]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector by the names of the parameters."""
        return dict(zip(self.parameters, self.expand(flat), strict=True))

    def flat(self, vectors: object, name: str) -> Tensor:
        """Tensors in the shapes of the parameters as one vector; ``name`` is the argument in messages.

        Raises:
            UserError: they have other shapes.
        """
        check_vectors(vectors, name)
        assert isinstance(vectors, Sequence)
        shapes = [tuple(shape) for shape in self.shapes]
        if [tuple(v.shape) for v in vectors] != shapes:
            raise UserError(
                f"{name}: shapes {[tuple(v.shape) for v in vectors]} do not fit; allowed: {shapes}"
            )
        flat = torch.cat([v.detach().reshape(-1) for v in vectors])
        return flat.to(self.device, self.dtype)

    def random(self, seed: int) -> Tensor:
        """The same as :meth:`gaussian`."""
        return self.gaussian(seed)

    def gaussian(self, seed: int) -> Tensor:
        """Standard normal numbers, the same on every process."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def dual(self, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
        """The coefficients themselves: the inner product is Euclidean."""
        return coefficients

    def sum(self, t: Tensor) -> Tensor:
        """No-op: every process holds full vectors."""
        return t

    def expand(self, flat: Tensor) -> list[Tensor]:
        """A vector in the shapes of the trainable parameters."""
        return [
            part.view(shape) for part, shape in zip(torch.split(flat, self.sizes), self.shapes, strict=True)
        ]


class GenericLoss:
    """The mean loss of all processes' samples as a function of a network's trainable parameters.

    The network runs in its current mode: call ``eval()`` first if it has dropout or batch statistics. Each
    process takes its own samples; the mean is over all samples, however unequally they are divided.

    Args:
        model: any module that maps x to outputs (n, m_l), with full parameters on every process.
        x: this process's samples.
        y: this process's targets.
        loss: ``cross_entropy`` or ``mse``.
        only: names of the parameter tensors that vary; None: all trainable ones.

    Attributes:
        vectors: vectors over these parameters.
        ell: ℓ.
        total: number of samples over all processes.

    Raises:
        UserError: sharded parameters, or invalid samples.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, loss: str, only: Sequence[str] | None = None
    ) -> None:
        self.vectors = GenericVectors(model, only=only)
        if not isinstance(x, Tensor):
            raise UserError(f"x: {type(x).__name__} does not fit; allowed: a tensor of samples")
        self.x, self._y, self.ell = x, y, get_loss(loss)
        self.total = sum(self.vectors.ranks.counts(len(x), self.vectors.device))
        if self.total == 0:
            raise UserError("x: no samples on any process; allowed: at least one")

    def outputs(self, parameters: dict[str, Tensor]) -> Tensor:
        """The network's outputs of this process's samples."""
        f: Tensor = functional_call(self.vectors.network, parameters, (self.x,))
        return f

    def share(self, parameters: dict[str, Tensor]) -> Tensor:
        """This process's part of the mean loss; the sum over processes is the mean."""
        f = self.outputs(parameters)
        check_targets(self.ell, self._y, len(self.x), f.shape[-1])
        return self.ell.value(f, self._y).sum() / self.total

    def gradient(self, share: Callable[[dict[str, Tensor]], Tensor] | None = None) -> Tensor:
        """The gradient, flat, of the mean loss, or of another sum over processes of what ``share`` gives."""
        vectors = self.vectors
        flat = torch.zeros(vectors.size, dtype=vectors.dtype, device=vectors.device)
        if len(self.x):
            found = grad(self.share if share is None else share)(vectors.parameters)
            flat = torch.cat([found[key].detach().reshape(-1) for key in vectors.parameters])
        return vectors.ranks.sum(flat)


def check_vectors(vectors: object, name: str = "vectors") -> None:
    """Refuse anything but a sequence of tensors; ``name`` is the argument in messages.

    Raises:
        UserError: it is something else.
    """
    if isinstance(vectors, Sequence):
        strange = [vector for vector in vectors if not isinstance(vector, Tensor)]
    else:
        strange = [vectors]
    if strange:
        kind = type(strange[0]).__name__
        raise UserError(f"{name}: {kind} does not fit; allowed: a list of tensors, one a layer")
