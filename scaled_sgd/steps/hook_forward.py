"""The forward hook that measures a layer, and the order in which layers may run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.hook_layers import MeasuredLayer

Measuring = Callable[[Tensor, Tensor], Tensor | None]
"""The output of a layer from its input and output, with its norms measured; None: this pass is not."""


class LayerHook:
    """Measures a layer after its forward pass. Copies and pickles of a network get one that does nothing."""

    def __init__(self, layer: nn.Module, measure: Measuring) -> None:
        self._measure = measure
        self.handle = layer.register_forward_hook(self, with_kwargs=True, prepend=True)

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], z: Tensor
    ) -> Tensor | None:
        """z, measured; None if this pass is not."""
        return self._measure(args[0] if args else next(iter(kwargs.values())), z)

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return _unmeasured, (self.handle.id,)


def _unmeasured(handle: int) -> Callable[..., None]:
    """A hook that does nothing, in the place ``handle`` of a module's hooks."""
    # As torch does where it restores handles: later hooks must not get its place.
    RemovableHandle.next_id = max(RemovableHandle.next_id, handle + 1)
    return _pass


def _pass(*_arguments: object) -> None:
    """Do nothing."""


class Order:
    """Refuses layers that are applied in another order than they were registered in, or again."""

    def __init__(self, layers: Sequence[MeasuredLayer]) -> None:
        self._layers = layers
        self._next = 0

    def follow(self, k: int, h: Tensor, probes: Sequence[Tensor]) -> None:
        """Layer k runs on h.

        Args:
            k: the layer's place, from 0.
            h: its input, with the graph that it was computed by.
            probes: what the layers measured so far have in their graphs.

        Raises:
            UserError: another layer was expected.
        """
        if torch.is_grad_enabled():
            if k not in (0, self._next):
                expected = self._layers[self._next % len(self._layers)].name
                raise UserError(
                    f"model: layer {self._layers[k].name} ran where {expected} was expected; allowed: "
                    "linear layers applied once each, in registration order"
                )
            if k == 0 and h.grad_fn is not None and _computed_from(h.grad_fn, probes):
                raise UserError(
                    f"model: layer {self._layers[k].name} ran again on what it had given; allowed: "
                    "linear layers applied once each, in registration order"
                )
        self._next = k + 1


def _computed_from(node: Any, leaves: Sequence[Tensor]) -> bool:
    """Whether one of ``leaves`` is among what ``node`` of a graph was computed from."""
    own = {id(leaf) for leaf in leaves}
    waiting, found = [node], {node}
    while waiting:
        node = waiting.pop()
        if id(getattr(node, "variable", None)) in own:
            return True
        new = {before for before, _ in node.next_functions if before is not None} - found
        found |= new
        waiting.extend(new)
    return False
