"""Depthwise gradient scaling: W_k ← W_k − η ξ_k G_k with one factor ξ_k per layer and step (theory §3).

:class:`DepthwiseScaling` measures the mean squares for the :mod:`~scaled_sgd.steps.rules` while autograd
runs and scales the gradients just before the step of any optimizer;
:class:`scaled_sgd.steps.optimizer.ScaledSGD` folds the factor into the update.
"""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import local_shard
from scaled_sgd.steps.hook_attached import AttachedHook, owners
from scaled_sgd.steps.hook_scales import MeasuredScales
from scaled_sgd.steps.polynomials import POLAR, Polar


class DepthwiseScaling(MeasuredScales):
    """Measures a step's signals and multiplies every layer's gradient by ξ_k before the optimizer steps.

    Works with any ``torch.optim`` optimizer and any training loop that averages the loss over the
    samples of the global minibatch: ``loss.backward()`` once, or once per microbatch, then
    ``optimizer.step()``. Backward passes through one forward pass count as one of the sum of their losses.
    Every backward pass adds to the sums of a layer as it adds to its gradient, and sums go with their
    gradient, whoever clears it (sharded gradients that are set to zero instead of None: by
    ``optimizer.zero_grad``). Forward passes without a backward pass, such as evaluation, have no effect.
    Over several processes gradients must be averaged, as DistributedDataParallel does, not summed.

    A step whose norms are not finite, or that a ``GradScaler`` found to overflow, changes no scale.
    A network that trains other parameters than when the hook was attached is refused at the step.
    Copies and pickles of a hooked optimizer have a hook of their own; those of a network have none.

    Order within a step: gradients are averaged over ranks, unscaled by a ``GradScaler`` and clipped, all
    before ``step()``; then multiplied by ξ; then the optimizer applies weight decay (not scaled) and
    momentum (which thus sees ξ_k G_k). Adam and Muon divide by the size of a layer's gradient, ξ included;
    ξ on their updates instead trained worse (theory §3b).

    Args:
        model: a :class:`~scaled_sgd.core.network.HomogeneousMLP` or any module whose trainable layers are
            ``nn.Linear`` applied in registration order, also inside DistributedDataParallel or
            ``torch.compile``, each once in a forward pass. A layer's means are over its own rows, such as
            all tokens before pooling and all samples after it. A bias gets its layer's scale and counts as
            one more feature of value 1 in F_k (ours). Plain ``nn.Linear`` layers have α = ω = 1.
        optimizer: attached immediately if given.
        rule: ``norm``, ``gain``, ``kernel``, ``unit``, ``spectral`` or ``none``; ``spectral`` replaces every
            gradient, which each rank must hold in full, by its polar factor. Steps of these two do not depend
            on the norm of gradients: to clip them set ``factor``.
        static: keep the scales of the first step that gives every layer one; later steps measure nothing.
        polar: how ``spectral`` equalises singular values.
        process_group: the ranks that share the global minibatch; the default group if None.
        grad_scaler: the ``torch.amp.GradScaler`` in use, if any: the norms are divided by its loss scale.

    Attributes:
        statistics: statistics of the last step; None if nothing was measured.
        factor: () or (l,), multiplies the direction of the next step, such as a clip factor; None: 1.
        squares: measures ‖G_k‖_F² (l,) at a step; by default from the gradients' shards.

    Raises:
        UserError: an unknown rule, or trainable parameters outside ``nn.Linear`` layers.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        rule: str = "norm",
        static: bool = False,
        polar: Polar = POLAR,
        process_group: dist.ProcessGroup | None = None,
        grad_scaler: "torch.amp.GradScaler | None" = None,
    ) -> None:
        self._attached: AttachedHook | None = None
        super().__init__(
            model,
            rule=rule,
            static=static,
            polar=polar,
            process_group=process_group,
            grad_scaler=grad_scaler,
        )
        if optimizer is not None:
            self.attach(optimizer)

    def attach(self, optimizer: Any) -> None:
        """Scale gradients before every step of ``optimizer``, a torch optimizer or Accelerate's wrapper.

        A hook that was attached to it before is detached, with a warning.

        Raises:
            UserError: it is not an optimizer, it trains other weights, or one is already attached.
        """
        inner = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, Optimizer):
            raise UserError(
                f"optimizer: {type(optimizer).__name__} does not fit; allowed: a torch.optim.Optimizer"
            )
        if self._attached is not None:
            raise UserError("optimizer: one is attached already; call detach() first; allowed: one")
        if isinstance(getattr(inner, "scaling", None), DepthwiseScaling):
            raise UserError(f"optimizer: {type(inner).__name__} scales its steps itself; allowed: others")
        self.belong_to(inner)
        for other in owners(inner):
            if isinstance(other, DepthwiseScaling):
                warnings.warn(
                    "optimizer: another DepthwiseScaling was attached to it and is detached", stacklevel=3
                )
                other.detach()
        self._hook(inner)
        self._measure()

    def detach(self) -> None:
        """Remove all hooks from the optimizer and the model."""
        if self._attached is not None:
            self._attached.remove()
        self._attached = self._norms.gradients = None
        self._norms.stop()

    def __getstate__(self) -> dict[str, Any]:
        if self._norms.group is not None:
            raise UserError(
                "process_group: it cannot be copied; allowed: to copy a scaling of the default group"
            )
        kept = ("rule", "static", "polar", "layers", "_model", "_scales", "_elsewhere")
        return {name: vars(self)[name] for name in kept} | {
            "optimizer": None if self._attached is None else self._attached.optimizer,
            "grad_scaler": self._norms.grad_scaler,
            "gradients": self._norms.gradients,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        optimizer, grad_scaler, gradients = (
            state.pop(name) for name in ("optimizer", "grad_scaler", "gradients")
        )
        vars(self).update(state)
        self._attached = None
        self._begin(None, grad_scaler)
        self._norms.gradients = gradients
        self._measure()
        if optimizer is not None:
            self._hook(optimizer)

    def _hook(self, optimizer: Optimizer) -> None:
        self._attached = AttachedHook(optimizer, self, scale=self._scale_gradients, reset=self.reset)

    def _scale_gradients(self) -> None:
        gradients = self._norms.gradients
        assert gradients is not None
        if self.rule == "none" and self.factor is None and not self._wanted:
            return
        layers = range(len(self.layers))
        if not any(gradients.of(k) for k in layers):
            self._norms.reset()
            return
        scales = self.update().unbind()
        held = [(local_shard(gradient), scales[k]) for k in layers for gradient in gradients.of(k)]
        torch._foreach_mul_([G for G, _ in held], [xi.to(G.device) for G, xi in held])
