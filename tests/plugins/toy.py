"""What somebody else's package may add, registered when this module is imported."""

from typing import Any

import torch

from scaled_sgd.core.activations import ACTIVATIONS, NamedActivation
from scaled_sgd.core.parameterization import PARAMETERIZATIONS, LayerConstants, Parameterization
from scaled_sgd.core.smooth import Smooth
from scaled_sgd.data.formats import register_format
from scaled_sgd.diagnostics.registry import QUANTITIES, Column, Figure, Measured
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


class WeightNorms:
    """‖W_k‖_F, and how many times it was measured."""

    def __init__(self, config: Any) -> None:
        self.count = torch.zeros(1)

    def measure(self, context: Any) -> dict[str, Any]:
        self.count += 1
        layers = context.minibatch.partition.layers
        norms = [float(layer.weight.detach().norm()) for layer in layers]
        return {"weight_norms": norms, "times": float(self.count)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


QUANTITIES.add(
    "weight_norms",
    Measured(
        "tests.plugins.toy:WeightNorms",
        "norms of weights",
        (
            Column("weight_norms", "‖W_k‖_F", "all"),
            Column(
                "times", "measurements so far", figure=Figure("counts", "How often was it measured?", "count")
            ),
        ),
        ("minibatch",),
        cost=0,
        source="this test",
    ),
)


def read_words(path: Any, *, streaming: bool) -> dict[str, Any]:
    """Numbers between spaces, one row a line; the last is the class."""
    import datasets

    rows = [[float(word) for word in line.split()] for line in path.read_text().splitlines()]
    columns = {"x": [row[:-1] for row in rows], "label": [int(row[-1]) for row in rows]}
    return {"train": datasets.Dataset.from_dict(columns)}


register_format(".words", read_words)


def halves(fan_in: int, _fan_out: int, _is_input: bool, _is_output: bool) -> LayerConstants:
    return LayerConstants(0.5 * fan_in**-0.5, 2.0, 1.0)


PARAMETERIZATIONS.add("halves", Parameterization("halves", "halved", halves, "1/(2√m_{k−1})", "2", "1"))


def sine_derivatives(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return z.cos(), -z.sin(), -z.cos()


ACTIVATIONS.add("sine", NamedActivation("sin s", Smooth("sine", torch.sin, sine_derivatives)))
