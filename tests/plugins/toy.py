"""What somebody else's package may add: a rule and an optimizer, registered when this module is imported."""

from typing import Any

import torch

from scaled_sgd.steps.optimizer import ScaledSGD
from scaled_sgd.steps.optimizers import Optimizer, register_optimizer
from scaled_sgd.steps.rules import register_rule


@register_rule("toy", formula="ω_k / 2", label="half of ω")
def toy(s: Any) -> Any:
    return s.omega / 2


class SlowingSGD(ScaledSGD):
    """Step t, from 1, has the rate η / t; t is kept as a tensor of each weight's size."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight].setdefault("visits", torch.zeros_like(weight)).add_(1)
            group["lr"] /= float(self.state[weight]["visits"].mean())
        return super().step(closure)


def adagrad(network: Any, lr: float, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Torch's own, which knows nothing of scaling."""
    return torch.optim.Adagrad(network.parameters(), lr, weight_decay=weight_decay)


register_optimizer(
    Optimizer(
        "slowing",
        "step t has the rate η / t",
        "tests.plugins.toy:SlowingSGD",
        state={"momentum": "momentum_buffer", "visits": "visits"},
        folds=True,
    )
)
register_optimizer(
    Optimizer(
        "adagrad",
        "torch.optim.Adagrad",
        "tests.plugins.toy:adagrad",
        state={"squares": "sum"},
        counts=("step",),
    )
)
