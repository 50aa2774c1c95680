"""``optim.clip_layers``: clipping that looks at and acts on some layers only."""

import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd.config.network import network_of
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.losses import get_loss
from scaled_sgd.data import load_data
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = (
    "--model.depth=3", "--model.base_width=4", "--model.dtype=float64", "--model.parameterization=ntp",
    "--optim.batch_size=all", "--optim.steps=4", "--optim.schedule=constant", "--optim.lr=0.5",
    "--scaling.rule=none", "--loss=mse", "--run.log_every=1", "--diagnostics.every=1",
    "--diagnostics.ranks=false", "--diagnostics.samples=all", "--diagnostics.tolerance=1e-4",
    "--data.limit=300",
)  # fmt: skip
CASES = {
    "last": (3,),
    "[1, 3]": (1, 3),
}


def by_hand(config, layers):
    """Loss, c1 and the edge ratio's curvature along each step, by autograd."""
    data = load_data(config.data, seed=0)
    x, y = data.train.x.double(), torch.nn.functional.one_hot(data.train.y, 10).double()
    model, loss, optim = network_of(config, 64, 10, device="cpu"), get_loss("mse"), config.optim
    found = []
    for _ in range(4):
        value = loss.value(model(x), y).mean()
        gradients = torch.autograd.grad(value, list(model.parameters()))
        named = torch.cat([G.reshape(-1) for k, G in enumerate(gradients, start=1) if k in layers])
        norm = named.norm()
        c = min(1.0, float(optim.clip_norm / (norm + 1e-6))) if optim.clip_norm else float(1 / norm)
        factors = [c if k in layers else 1.0 for k in (1, 2, 3)]
        c1 = -sum(f * G.square().sum() for f, G in zip(factors, gradients, strict=True))
        found.append((float(value.detach()), float(c1), c))
        with torch.no_grad():
            for f, W, G in zip(factors, model.parameters(), gradients, strict=True):
                W.sub_(G, alpha=optim.lr * f)
    return found


@pytest.mark.parametrize("limit", ["--optim.clip_norm=0.004", "--optim.normalize=true"])
@pytest.mark.parametrize("layers", CASES)
def test_the_norm_and_the_factor_are_those_of_the_named_layers(layers, limit):
    rate = 0.05 if "normalize" in limit else 0.5
    arguments = [*SMALL, limit, f"--optim.clip_layers={layers}", f"--optim.lr={rate}"]
    wanted = by_hand(parse(arguments), CASES[layers])
    assert all(c != 1 for *_, c in wanted)
    for update in ("fused", "autograd"):
        assert main([*arguments, f"--optim.update={update}", f"--run.name={update}"]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        rows = [row for row in read_metrics(f"runs/{update}/metrics.jsonl") if "loss" in row]
        for row, (loss, c1, _) in zip(rows, wanted, strict=True):
            assert row["loss"] == pytest.approx(loss, rel=1e-10)
            assert row["taylor"]["c1"] == pytest.approx(c1, rel=1e-9)
            assert row["edge_ratio"] == pytest.approx(rate * row["preconditioned_sharpness"] / 2)
            ratio = row["directional_edge_ratio"]
            assert ratio is None or ratio <= row["edge_ratio"] * (1 + 1e-6), "a Rayleigh quotient"
