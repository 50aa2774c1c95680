import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from scaled_sgd import ScaledSGD
from scaled_sgd.diagnostics import sharpness
from scaled_sgd.errors import UserError
from scaled_sgd.study.digits_engine import RunSpec, build, digits, initial_edge, probe, resolve_rule, run

SMALL = RunSpec(depth=4, base_width=6, lr=3.0, steps=20, batch_size=100, measurements=2)


@pytest.mark.parametrize("changes", [{}, {"static": True}, {"rule": "kernel", "schedule": "linear"}])
def test_a_study_run_is_a_run_of_scaled_sgd(changes):
    spec = replace(SMALL, **changes)
    model = build(spec)
    optimizer = ScaledSGD(model, spec.lr, rule=spec.rule, static=spec.static)
    losses = []
    step, epoch = 0, 0
    while step < spec.steps:
        for batch in digits().train.batches(batch_size=spec.batch_size, seed=spec.seed, epoch=epoch):
            if len(batch.x) == spec.batch_size and step < spec.steps:
                rate = spec.lr * (1 - step / spec.steps) if spec.schedule == "linear" else spec.lr
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                loss = F.cross_entropy(model(batch.x), batch.y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                step += 1
        epoch += 1
    result = run(spec)
    train = F.cross_entropy(model(digits().train.x), digits().train.y).item()
    assert result.initial_loss == pytest.approx(losses[0], rel=1e-5)
    assert result.max_loss == pytest.approx(max(losses), rel=1e-3)
    assert result.train_loss == pytest.approx(train, rel=1e-3)
    assert len(result.edge_ratios) == spec.measurements
    assert 1 <= result.stable_rank <= 128


def test_the_edge_at_step_0_is_two_over_the_preconditioned_sharpness():
    spec = replace(SMALL, rule="none")
    x, y = probe(spec)
    value = sharpness(build(spec), x, y, loss="cross_entropy", tolerance=1e-4).values[0]
    assert initial_edge(spec) == pytest.approx(2 / float(value), rel=0.02)


def test_a_run_far_beyond_any_edge_ends_early_and_counts_as_unstable():
    result = run(replace(SMALL, rule="none", parameterization="sp", lr=1e6))
    assert not result.stable
    assert result.max_loss == math.inf
    assert math.isnan(result.train_loss)


def test_clipping_bounds_the_first_step():
    free, clipped = (run(replace(SMALL, rule="none", clip_norm=clip, lr=1.0)) for clip in (None, 1e-9))
    assert free.train_loss < clipped.train_loss
    assert clipped.train_loss == pytest.approx(clipped.initial_loss, rel=0.05)


def test_the_power_rule_goes_from_norm_to_gain():
    F_, D, R, omega = (torch.rand(5, dtype=torch.float64) + 0.1 for _ in range(4))
    for power, name in ((0, "norm"), (1, "gain")):
        expected = resolve_rule(name)(F_, D, R, omega, 5)
        torch.testing.assert_close(resolve_rule(f"power:{power}")(F_, D, R, omega, 5), expected)
    with pytest.raises(UserError, match="power:0 to power:1"):
        resolve_rule("power:half")
