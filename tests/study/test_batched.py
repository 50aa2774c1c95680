"""Runs trained together against the same runs one by one."""

import json
from pathlib import Path

import pytest

from scaled_sgd.data import load_data
from scaled_sgd.parsing import parse
from scaled_sgd.records import flat, read_metrics
from scaled_sgd.study.batched import faster_batched, same_shape, train_batch
from scaled_sgd.study.engine import train, train_small

SMALL = (
    "--model.depth=4", "--model.base_width=3", "--optim.lr=0.5", "--optim.steps=9", "--optim.batch_size=400",
    "--run.log_every=2", "--model.dtype=float64", "--diagnostics.every=4", "--diagnostics.samples=20",
    "--diagnostics.tolerance=1e-10", "--run.eval_every=5", "--run.device=cpu",
)  # fmt: skip

SEEDS_AND_RULES = (
    ("--run.seed=0",),
    ("--run.seed=1", "--scaling.rule=gain", "--optim.lr=1.5"),
    ("--run.seed=1", "--scaling.rule=none", "--model.parameterization=ntp"),
    ("--run.seed=2", "--scaling.rule=kernel", "--scaling.static=true", "--model.parameterization=mup"),
    ("--run.seed=0", "--scaling.static=true", "--optim.schedule=cosine", "--optim.warmup_steps=3"),
)
UPDATES = (
    (),
    ("--optim.momentum=0.8",),
    ("--optim.momentum=0.4", "--optim.weight_decay=0.05", "--optim.clip_norm=0.02"),
    ("--optim.normalize=true", "--scaling.rule=none", "--optim.accumulation=2"),
    ("--optim.lr=0",),
)


def left_in(folder):
    return list(read_metrics(folder / "metrics.jsonl")), json.loads((folder / "summary.json").read_text())


def same(found, expected, rel=1e-12):
    """All numbers but how long things took, and residuals, which are rounding."""
    (found, expected) = (
        {k: v for k, v in flat(row).items() if not k.startswith(("seconds", "sharpness_residuals"))}
        for row in (found, expected)
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=rel, abs=1e-15), key
        else:
            assert found[key] == value, key


def compare(tmp_path, *runs, rel=1e-12):
    """Train ``runs`` both ways; their summaries."""
    configs = [parse([*SMALL, *options]) for options in runs]
    shelf = {config.run.seed: load_data(config.data, seed=config.run.seed) for config in configs}
    data = [shelf[config.run.seed] for config in configs]
    folders = [tmp_path / "together" / str(place) for place in range(len(configs))]
    summaries = train_batch(configs, data, folders)
    for place, config in enumerate(configs):
        alone = tmp_path / "alone" / str(place)
        train_small(config, data[place], alone)
        (rows, summary), (expected_rows, expected) = left_in(folders[place]), left_in(alone)
        assert summary == json.loads(json.dumps(summaries[place]))
        same(summary, expected, rel)
        assert len(rows) == len(expected_rows)
        for row, expected_row in zip(rows, expected_rows, strict=True):
            same(row, expected_row, rel)
    return summaries


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_runs_of_several_seeds_and_rules_have_the_numbers_of_each_alone(loss, tmp_path):
    compare(tmp_path, *((*options, f"--loss={loss}") for options in SEEDS_AND_RULES))


@pytest.mark.parametrize("activation", ["abs", "[1,0.3]"])
def test_runs_that_update_in_several_ways_have_the_numbers_of_each_alone(activation, tmp_path):
    compare(tmp_path, *((*options, f"--model.activation={activation}") for options in UPDATES))


def test_weight_decay_alone(tmp_path):
    compare(tmp_path, ("--optim.weight_decay=0.1",), ("--optim.weight_decay=0", "--optim.lr=2"))


@pytest.mark.parametrize(
    "options",
    [
        ("--model.depth=1",),
        ("--model.width_exponent=0", "--optim.steps=null", "--optim.epochs=2", "--diagnostics.every=0"),
    ],
)
def test_other_shapes(options, tmp_path):
    compare(tmp_path, options, (*options, "--optim.lr=3"))


def test_runs_that_diverge_leave_the_others_as_they_are(tmp_path):
    plain = ("--scaling.rule=none",)
    found = compare(
        tmp_path,
        (*plain, "--optim.lr=1e200"),
        (*plain, "--run.seed=1"),
        (*plain, "--optim.lr=1e20"),
        (*plain, "--optim.lr=0.1", "--optim.momentum=0.9"),
        (*plain, "--optim.lr=1e40", "--run.seed=1", "--optim.schedule=constant"),
    )
    assert [summary["status"] for summary in found] == [
        "diverged", "finished", "diverged", "finished", "diverged"
    ]  # fmt: skip
    assert len({(summary["step"], summary["layer"]) for summary in found if "step" in summary}) > 1


def test_a_stack_whose_runs_all_diverge_ends(tmp_path):
    found = compare(tmp_path, *(("--scaling.rule=none", f"--optim.lr=1e{power}") for power in (120, 200)))
    assert [summary["status"] for summary in found] == ["diverged", "diverged"]


def test_a_network_has_the_shape_of_another_whatever_its_steps():
    shape = same_shape(parse(SMALL))
    for options in (*SEEDS_AND_RULES, *UPDATES, ("--run.name=x", "--checkpoint.keep=5")):
        assert same_shape(parse([*SMALL, *options])) == shape
    for option in (
        "--model.depth=5", "--optim.batch_size=100", "--model.dtype=float32", "--loss=mse", "--optim.steps=8",
        "--data.standardize=true", "--run.log_every=3", "--run.device=auto",
    ):  # fmt: skip
        assert same_shape(parse([*SMALL, option])) != shape
    with pytest.raises(ValueError, match="of several shapes"):
        train_batch([parse(SMALL), parse([*SMALL, "--model.depth=5"])], None, [Path("a"), Path("b")])


def test_train_takes_one_run_or_several(tmp_path):
    configs = [parse([*SMALL, f"--run.seed={seed}"]) for seed in (4, 5)]
    data = [load_data(config.data, seed=config.run.seed) for config in configs]
    together = train(configs, data, [tmp_path / "a", tmp_path / "b"])
    alone = [
        *train(configs[:1], data[:1], [tmp_path / "c"]),
        *train(configs[1:], data[1:], [tmp_path / "d"]),
    ]
    for a, b in zip(together, alone, strict=True):
        same(a, b)
    assert together[0]["initial_loss"] != together[1]["initial_loss"]


def test_on_a_cpu_nothing_is_tried():
    assert not faster_batched([parse(SMALL)] * 8)
    assert not faster_batched([])
