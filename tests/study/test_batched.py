"""Runs trained together against the same runs one by one."""

import itertools
import json
import types
from dataclasses import replace
from functools import cache

import pytest

from scaled_sgd.config.parsing import from_dict
from scaled_sgd.data import load_data
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.rules import RULES, register_rule
from scaled_sgd.study.small import record
from scaled_sgd.study.small.batched import faster_batched, same_shape
from scaled_sgd.study.small.engine import train
from tests.study.small_runs import left_in, same

SMALL = from_dict({
    "model": {"depth": 4, "base_width": 3, "dtype": "float64"},
    "optim": {"lr": 0.5, "steps": 9, "batch_size": 400},
    "scaling": {"rule": "norm"},
    "diagnostics": {"every": 8, "samples": 20, "tolerance": 1e-3},
    "run": {"log_every": 2, "eval_every": 5, "device": "cpu"},
})  # fmt: skip


def changed(changes, config=SMALL):
    """A copy with dotted keys replaced."""
    for key, value in changes.items():
        group, _, leaf = key.rpartition(".")
        part = replace(getattr(config, group), **{leaf: value}) if group else value
        config = replace(config, **{group or leaf: part})
    return config


@cache
def data_of(seed):
    return load_data(SMALL.data, seed=seed)


SEEDS_AND_RULES = (
    {"run.seed": 0},
    {"run.seed": 1, "scaling.rule": "gain", "optim.lr": 1.5},
    {"run.seed": 1, "scaling.rule": "none", "model.parameterization": "ntp"},
    {"run.seed": 2, "scaling.rule": "kernel", "scaling.static": True, "model.parameterization": "mup"},
    {"run.seed": 0, "scaling.static": True, "optim.schedule": "cosine", "optim.warmup_steps": 3},
)
CENTERED = tuple(
    {"model.centered": True, "model.output_scale": scale, "run.seed": seed}
    for scale, seed in ((0.5, 0), (2.0, 0), (2.0, 1))
)
WITH_MOMENTUM = (
    {"optim.momentum": 0.8},
    {"optim.momentum": 0.4, "optim.weight_decay": 0.05, "optim.clip_norm": 0.02},
    {"optim.momentum": 0.9, "optim.normalize": True, "scaling.rule": "none"},
)
WITHOUT = (
    {},
    {"optim.weight_decay": 0.1, "optim.lr": 2},
    {"optim.clip_norm": 0.02, "scaling.rule": "gain"},
    {"optim.clip_norm": 0.02, "optim.clip_layers": "last"},
    {"optim.normalize": True, "optim.clip_layers": [1, 3]},
    {"optim.normalize": True, "scaling.rule": "none", "optim.accumulation": 2},
    {"optim.lr": 0},
    {"scaling.rule": "unit"},
)
WITH_MATRICES = (
    {"scaling.rule": "spectral", "optim.momentum": 0.5, "optim.lr": 0.2},
    {"scaling.rule": "spectral", "optim.momentum": 0.8, "optim.lr": 0.1, "optim.clip_norm": 0.02},
)


def compare(tmp_path, *runs):
    """Train ``runs`` both ways; their summaries."""
    configs = [changed(changes) for changes in runs]
    data = [data_of(config.run.seed) for config in configs]
    folders = [tmp_path / "together" / str(place) for place in range(len(configs))]
    summaries = train(configs, data, folders)
    for place, config in enumerate(configs):
        alone = tmp_path / "alone" / str(place)
        train([config], [data[place]], [alone])
        (rows, summary), (expected_rows, expected) = left_in(folders[place]), left_in(alone)
        assert summary == json.loads(json.dumps(summaries[place]))
        same(summary, expected)
        assert len(rows) == len(expected_rows)
        for row, expected_row in zip(rows, expected_rows, strict=True):
            same(row, expected_row)
    return summaries


@pytest.mark.parametrize("loss", [pytest.param("cross_entropy", marks=pytest.mark.slow), "mse"])
def test_runs_of_several_seeds_and_rules_have_the_numbers_of_each_alone(loss, tmp_path):
    base = {"loss": loss, "diagnostics.sharpness": loss == "cross_entropy"}
    compare(tmp_path, *({**base, **changes} for changes in SEEDS_AND_RULES))


@pytest.mark.parametrize(
    ("runs", "activation", "sharpness"),
    [
        (WITH_MOMENTUM, "gelu", True),
        (WITHOUT, (1.0, 0.3), False),
        (WITH_MATRICES, "relu", False),
        (CENTERED, "relu", True),
        (WITHOUT, "tanh", False),
        pytest.param(WITH_MOMENTUM, "abs", True, marks=pytest.mark.full),
        pytest.param(WITH_MOMENTUM, "tanh", False, marks=pytest.mark.full),
        pytest.param(WITHOUT, "gelu", True, marks=pytest.mark.full),
    ],
)
def test_runs_that_update_in_several_ways_have_the_numbers_of_each_alone(
    runs, activation, sharpness, tmp_path
):
    """Eigenvalues, whose searches take longer than the runs, are compared for one φ of each family."""
    base = {"model.activation": activation, "diagnostics.sharpness": sharpness}
    compare(tmp_path, *({**base, **changes} for changes in runs))


@pytest.mark.parametrize(
    "shape",
    [
        {"model.depth": 1},
        {"model.width_exponent": 0.0, "optim.steps": None, "optim.epochs": 2.0, "diagnostics.every": 0},
    ],
)
def test_other_shapes(shape, tmp_path):
    compare(tmp_path, shape, {**shape, "optim.lr": 3.0})


@pytest.mark.parametrize("activation", ["relu", "abs", [0.9, 0.3], "gelu"])
def test_runs_that_diverge_leave_the_others_as_they_are(activation, tmp_path):
    base = {"scaling.rule": "none", "model.activation": activation}
    base["diagnostics.sharpness"] = activation == "relu"
    found = compare(
        tmp_path,
        *(
            {**base, **changes}
            for changes in (
                {"optim.lr": 1e200},
                {"run.seed": 1},
                {"optim.lr": 1e120},
                {"optim.lr": 0.1, "optim.weight_decay": 0.1},
                {"optim.lr": 1e180, "run.seed": 2, "optim.schedule": "constant"},
            )
        ),
    )
    statuses = [summary["status"] for summary in found]
    assert statuses == ["diverged", "finished", "diverged", "finished", "diverged"]
    assert len({(summary["step"], summary["layer"]) for summary in found if "step" in summary}) > 1


def test_the_seconds_of_a_stack_are_shared_among_its_runs(tmp_path, monkeypatch):
    """Of a clock that shows 0 when the four begin and 100 ever after."""
    shown = itertools.chain([0.0] * 4, itertools.repeat(100.0))
    monkeypatch.setattr(record, "time", types.SimpleNamespace(monotonic=lambda: next(shown)))
    folders = [tmp_path / str(seed) for seed in range(4)]
    configs = [changed({"run.seed": seed, "diagnostics.sharpness": False}) for seed in range(4)]
    train(configs, [data_of(seed) for seed in range(4)], folders)
    for rows, summary in map(left_in, folders):
        assert summary["seconds"] == 25.0
        assert {row["seconds"] for row in rows} == {25.0}


def test_a_stack_whose_runs_all_diverge_ends(tmp_path):
    found = compare(tmp_path, *({"scaling.rule": "none", "optim.lr": lr} for lr in (1e120, 1e200)))
    assert [summary["status"] for summary in found] == ["diverged", "diverged"]


def test_a_network_has_the_shape_of_another_whatever_its_steps(tmp_path):
    shape = same_shape(SMALL)
    for changes in (*SEEDS_AND_RULES, *WITHOUT, {"run.name": "x", "checkpoint.keep": 5}):
        assert same_shape(changed(changes)) == shape
    for changes in (
        {"model.depth": 5}, {"optim.batch_size": 100}, {"model.dtype": "float32"}, {"loss": "mse"},
        {"optim.steps": 8}, {"data.standardize": True}, {"run.log_every": 3}, {"run.device": "auto"},
        {"optim.momentum": 0.5},
    ):  # fmt: skip
        assert same_shape(changed(changes)) != shape
    with pytest.raises(ValueError, match="of several shapes"):
        train([SMALL, changed({"model.depth": 5})], [data_of(0)] * 2, [tmp_path / "a", tmp_path / "b"])


def test_train_takes_one_run_or_several(tmp_path):
    configs = [changed({"run.seed": seed, "diagnostics.sharpness": False}) for seed in (4, 5)]
    data = [data_of(seed) for seed in (4, 5)]
    together = train(configs, data, [tmp_path / "a", tmp_path / "b"])
    alone = [*train(configs[:1], data[:1], [tmp_path / "c"]), *train(configs[1:], data[1:], [tmp_path / "d"])]
    for a, b in zip(together, alone, strict=True):
        same(a, b)
    assert together[0]["initial_loss"] != together[1]["initial_loss"]


def test_on_a_cpu_nothing_is_tried():
    assert not faster_batched([SMALL] * 8)
    assert not faster_batched([])


def test_runs_of_a_rule_of_matrices_are_stacked_with_their_like(tmp_path):
    @register_rule("half_polar", formula="a matrix", label="for this test", scalar=False)
    def toy(statistics):
        count = statistics.F.shape[-1]
        grams = [statistics.grams(i) for i in range(count)]
        matrices = [B / B.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] for _, B in grams]
        return Direction(statistics.omega, matrices)

    try:
        base = {"scaling.rule": "half_polar", "optim.update": "fused", "diagnostics.sharpness": False}
        assert same_shape(changed(base)) != same_shape(SMALL)
        compare(tmp_path, *({**base, "run.seed": seed, "optim.lr": 0.1 + seed} for seed in (0, 1, 2)))
    finally:
        RULES.remove("half_polar")
