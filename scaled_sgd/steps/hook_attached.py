"""The places in an optimizer where a hook acts: before its step, with its gradients, and in its copies."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class AttachedHook:
    """Calls ``scale`` before every step of an optimizer, and ``reset`` where it clears its gradients.

    Args:
        optimizer: the optimizer; a copy of one may still be without attributes.
        owner: goes with the optimizer's copies and pickles.
        scale: scales its gradients.
        reset: resets the sums that belong to them.
    """

    def __init__(
        self, optimizer: Optimizer, owner: object, *, scale: Callable[[], None], reset: Callable[[], None]
    ) -> None:
        self.optimizer = optimizer
        self.owner = owner
        self._scale = scale
        hooks = vars(optimizer).setdefault("_optimizer_step_pre_hooks", OrderedDict())
        self._handle = RemovableHandle(hooks)
        hooks[self._handle.id] = self._before_step
        zero_grad, getstate = optimizer.zero_grad, optimizer.__getstate__

        def zero_and_reset(set_to_none: bool = True) -> None:
            zero_grad(set_to_none=set_to_none)
            reset()

        vars(optimizer)["zero_grad"] = zero_and_reset
        vars(optimizer)["__getstate__"] = lambda: getstate() | {"_depthwise_scaling": owner}

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        self._handle.remove()
        for name in ("zero_grad", "__getstate__"):
            vars(self.optimizer).pop(name, None)

    def _before_step(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._scale()
            return None

        def scaled_closure() -> Any:
            loss = closure()
            self._scale()
            return loss

        if len(args) > 1:
            return (args[0], scaled_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": scaled_closure}


def owners(optimizer: Optimizer) -> list[object]:
    """Whose hooks are attached to ``optimizer``."""
    found = (getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_pre_hooks.values())
    return [hook.owner for hook in found if isinstance(hook, AttachedHook)]
