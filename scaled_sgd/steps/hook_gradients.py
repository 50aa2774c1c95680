"""The gradients that an optimizer uses, layer by layer."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import is_sharded, local_shard
from scaled_sgd.parallel.layout import awaits_reduction
from scaled_sgd.steps.hook_checks import check_unchanged
from scaled_sgd.steps.hook_layers import MeasuredLayer
from scaled_sgd.steps.statistics import square_norm


class Gradients:
    """The parameters of each layer as ``optimizer`` holds them, whose ``.grad`` it will use.

    They are looked up by their places in its groups, since sharding a network puts other parameters there.

    Args:
        model: the network, unwrapped.
        layers: its layers.
        optimizer: must train all of them.

    Raises:
        UserError: it does not.
    """

    def __init__(self, model: nn.Module, layers: Sequence[MeasuredLayer], optimizer: Optimizer) -> None:
        places = {
            parameter: (g, i)
            for g, group in enumerate(optimizer.param_groups)
            for i, parameter in enumerate(group["params"])
        }
        for layer in layers:
            if not places.keys() >= set(layer.parameters):
                raise UserError(
                    f"optimizer: it does not train layer {layer.name}; allowed: all scaled layers"
                )
        self._model = model
        self._layers = layers
        self._optimizer = optimizer
        self._places = [[places[p] for p in layer.parameters] for layer in layers]

    def parameters(self, k: int) -> list[nn.Parameter]:
        """The weight and the bias, if any, of layer k."""
        groups = self._optimizer.param_groups
        return [groups[g]["params"][i] for g, i in self._places[k]]

    def of(self, k: int) -> list[Tensor]:
        """The gradients of layer k that exist."""
        return [p.grad for p in self.parameters(k) if p.grad is not None]

    def exists(self, k: int) -> bool:
        """Whether the weight of layer k has a gradient, reduced over processes or not yet."""
        weight = self.parameters(k)[0]
        if weight.grad is not None:
            return True
        return is_sharded(weight) and awaits_reduction(self._model, self._layers[k].module)

    def whole(self, k: int) -> Tensor | None:
        """The gradient of the weight of layer k; None if it is sharded.

        A process whose rows have a zero gradient does not know about those of others.
        """
        gradient = self.parameters(k)[0].grad
        return None if gradient is None or is_sharded(gradient) else gradient

    def check(self) -> None:
        """Refuse a network that trains other parameters than at first.

        Raises:
            UserError: a parameter was frozen, unfrozen, added or replaced.
        """
        check_unchanged(self._model, [p for k in range(len(self._layers)) for p in self.parameters(k)])

    @property
    def overflowed(self) -> Tensor | None:
        """What a ``GradScaler`` found, which a fused optimizer reads itself: positive if it will not step."""
        found: Tensor | None = getattr(self._optimizer, "found_inf", None)
        return found


def gradient_squares(
    layers: Sequence[Sequence[nn.Parameter]], device: torch.device, group: dist.ProcessGroup | None
) -> Tensor:
    """‖G_k‖_F² (l,), float64, of the gradients as they are. Collective where they are in parts."""
    sharded = any(is_sharded(p) for parameters in layers for p in parameters)
    copies = dist.get_world_size(group) if sharded else 1
    squares = torch.zeros(len(layers), dtype=torch.float64, device=device)
    for k, parameters in enumerate(layers):
        for p in parameters:
            if p.grad is not None:
                squares[k] += square_norm(local_shard(p.grad)) / (1 if is_sharded(p) else copies)
    if sharded:
        dist.all_reduce(squares, group=group)
    return squares
