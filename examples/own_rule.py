"""A scaling rule and a diagnostic of your own: one function, one class, everywhere available."""

import os
import tempfile
from pathlib import Path

from scaled_sgd.cli import main
from scaled_sgd.diagnostics.registry import QUANTITIES, Column, Measured
from scaled_sgd.steps.rules import register_rule

STEPS = os.environ.get("STEPS", "100")


@register_rule("softer", formula="ω_k / (2l √(F_k D_k))", label="half of norm")
def softer(s):
    return s.omega / (2 * s.depth * (s.F * s.D).sqrt())


class LargestWeights:
    """The largest |entry| of each weight."""

    def __init__(self, config): ...

    def measure(self, context):
        layers = context.minibatch.partition.layers
        return {"largest_weights": [layer.weight.detach().abs().max().item() for layer in layers]}

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


QUANTITIES.add(
    "largest_weights",
    Measured(
        LargestWeights,
        "largest entries of weights",
        (Column("largest_weights", "max |W_k|", "all"),),
        ("minibatch",),
        cost=0,
        source="—",
    ),
)

with tempfile.TemporaryDirectory() as folder:
    options = {
        "scaling.rule": "softer",
        "optim.lr": "8",
        "optim.steps": STEPS,
        "diagnostics.every": "20",
        "diagnostics.sharpness": "false",
        "diagnostics.quantities": "[largest_weights]",
        "run.dir": folder,
        "run.name": "own",
    }
    assert main(["train", *(f"--{key}={value}" for key, value in options.items())]) == 0
    print(Path(folder, "own/metrics.jsonl").read_text().splitlines()[0])
