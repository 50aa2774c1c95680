"""What somebody else's package may add: a rule and an optimizer, registered when this module is imported."""

from typing import Any

from scaled_sgd.steps.optimizer import ScaledSGD
from scaled_sgd.steps.optimizers import OPTIMIZERS, Optimizer
from scaled_sgd.steps.rules import register_rule


@register_rule("toy", formula="ω_k / 2", label="half of ω")
def toy(s: Any) -> Any:
    return s.omega / 2


class HalfSGD(ScaledSGD):
    """Steps of half the rate."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] /= 2
        return super().step(closure)


OPTIMIZERS.add(
    "half",
    Optimizer("half", "steps of half the rate", "tests.plugins.toy:HalfSGD", state=("momentum_buffer",)),
)
