"""``torch.optim.Muon`` with AdamW for the ends of a network, and the type of its Newton–Schulz iteration."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.steps.closure import loss_of


class _Float32Iteration(TorchFunctionMode):
    """Gives float32 where bfloat16 is asked for, which ``torch.optim.Muon`` does for its iteration only."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.bfloat16:
            # A copy, since the iteration overwrites it.
            return args[0].to(torch.float32, copy=True)
        return function(*args, **(kwargs or {}))


_ITERATIONS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "bfloat16": nullcontext,
    "float32": _Float32Iteration,
}


class Muon(Optimizer):
    """``torch.optim.Muon`` for hidden layers and AdamW for the first and the last (Jordan et al., 2024).

    Muon's rates are adjusted to the size of AdamW's steps, so that both parts share η (arXiv 2502.16982).

    Args:
        network: the network.
        lr: η.
        weight_decay: λ of both, decoupled.
        momentum: 0, that of ``optim.momentum``; Muon's own is in ``mu``.
        mu: μ of Muon.
        adjust_lr_fn: how Muon's rates depend on shapes.
        betas: of AdamW.
        eps: of AdamW.
        ns_dtype: the type in which Muon's Newton–Schulz iteration is computed: ``bfloat16``, that of
            ``torch.optim.Muon``, or ``float32``, which is faster by far on CPUs without products in bfloat16.
        options: further arguments of ``torch.optim.Muon``.

    Raises:
        UserError: another ``ns_dtype``.
    """

    def __init__(
        self,
        network: HomogeneousMLP,
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        mu: float = 0.95,
        adjust_lr_fn: str | None = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        ns_dtype: str = "bfloat16",
        **options: Any,
    ) -> None:
        del momentum
        if ns_dtype not in _ITERATIONS:
            raise UserError(
                f"optim.options: ns_dtype {ns_dtype!r} is not usable; allowed: {', '.join(_ITERATIONS)}"
            )
        self._iteration = _ITERATIONS[ns_dtype]
        weights = [layer.weight for layer in network.scaled_layers]
        hidden, ends = weights[1:-1], [weights[0], *weights[1:][-1:]]
        ends_of = torch.optim.AdamW(ends, lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self._parts: list[Optimizer] = [ends_of]
        if hidden:
            self._parts.append(
                torch.optim.Muon(hidden, lr, weight_decay, momentum=mu, adjust_lr_fn=adjust_lr_fn, **options)
            )
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient."""
        loss = loss_of(closure)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            # A loaded state has other groups and tensors.
            part.param_groups, part.state = [group], self.state
            with self._iteration():
                part.step()
        return loss
