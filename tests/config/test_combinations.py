"""Keys that do not go together, and what ``auto`` makes of them."""

import re
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scaled_sgd.config import KEYS
from scaled_sgd.config.checks import check
from scaled_sgd.config.combinations import COMBINATIONS, permits, with_update
from scaled_sgd.config.parsing import parse
from scaled_sgd.config.sections.marks import Decides
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import PARAMETERIZATIONS
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.choice import World
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.resolution import check_launched
from tests.launching import REPOSITORY

DOCUMENT = REPOSITORY / "docs/configuration.md"
NORM = "--scaling.rule=norm"
SPECTRAL = "--scaling.rule=spectral"


@pytest.mark.parametrize(
    ("options", "update"),
    [
        ((), "fused"),
        (("--run.precision=tf32",), "fused"),
        (("--run.precision=bf16",), "autograd"),
        (("--run.precision=fp16",), "autograd"),
        (("--optim.accumulation=2",), "autograd"),
        (("--sharding.activation_checkpointing=true",), "autograd"),
        (("--sharding.strategy=tensor",), "fused"),
        (("--sharding.strategy=zero1", NORM), "autograd"),
        (("--optim.clip_norm=1", "--optim.momentum=0.9", "--scaling.static=true", NORM), "fused"),
        (("--optim.update=autograd",), "autograd"),
    ],
)
def test_auto_takes_the_fused_step_where_it_is_exact(options, update):
    assert with_update(parse(options)).optim.update == update


@pytest.mark.parametrize(
    ("option", "goes"),
    [
        ("--optim.lr=1", lambda can: True),
        ("--run.precision=fp16", lambda can: "fp16" in can.precisions),
        ("--model.dtype=float64", lambda can: "float64" in can.dtypes),
        ("--optim.update=fused", lambda can: can.fused),
        ("--sharding.exchange=factors", lambda can: can.exchange),
        ("--sharding.tensor_processes=2", lambda can: can.shares_layers),
    ],
)
def test_a_configuration_says_which_strategies_it_goes_with(option, goes):
    config = parse([option, NORM])
    for can in STRATEGIES.entries:
        assert permits(config, can.name) == goes(can), can.name


STATED = [
    ("--run.precision=fp16", "run.precision: 'fp16' is not usable; allowed: no, tf32, bf16"),
    ("--model.dtype=float64", "model.dtype: 'float64' is not usable; allowed: float32"),
    ("--optim.update=fused", "optim.update: 'fused' is not usable; allowed: auto, autograd"),
    ("--sharding.exchange=factors", "sharding.exchange: 'factors' is not usable; allowed: auto"),
    ("--sharding.tensor_processes=2", "sharding.tensor_processes: 2 is not usable; allowed: null"),
]


@pytest.mark.parametrize(("option", "message"), STATED)
def test_a_strategy_is_refused_in_the_same_words_whether_given_or_launched(option, message):
    with pytest.raises(UserError) as given:
        parse([option, NORM, "--sharding.strategy=zero2"])
    with pytest.raises(UserError) as launched:
        check_launched(parse([option, NORM]), World(2, 2, False, 2**40, launched="zero2"))
    assert str(given.value) == str(launched.value)
    assert str(given.value).startswith(f"{message} with sharding.strategy zero2 (")


def test_a_fused_step_needs_weights_in_full_precision_where_they_are_gathered():
    world = World(2, 2, True, 2**40, launched="fsdp2", launched_half=True)
    check_launched(parse([NORM]), world)
    with pytest.raises(
        UserError, match=r"^optim\.update: 'fused' is not usable; allowed: auto, autograd with "
    ):
        check_launched(parse(["--optim.update=fused"]), world)


@pytest.mark.parametrize(
    "option", ["--optim.accumulation=2", "--run.precision=bf16", "--optim.optimizer=adamw"]
)
def test_matrices_by_autograd_are_of_whole_gradients(option):
    assert not permits(parse([option, SPECTRAL]), "fsdp2")
    assert permits(parse([option, SPECTRAL]), "ddp")
    assert permits(parse([option, NORM]), "fsdp2")
    line = r"^sharding\.strategy: 'fsdp2' .* with optim\.update autograd and scaling\.rule spectral \("
    with pytest.raises(UserError, match=line):
        parse([option, SPECTRAL, "--sharding.strategy=fsdp2"])


def test_a_configuration_made_by_hand_is_checked_whole():
    config = parse([])
    for wrong in (
        replace(config, model=replace(config.model, depth=0)),
        replace(config, optim=replace(config.optim, normalize=True, clip_norm=1.0)),
    ):
        with pytest.raises(UserError, match="is not usable; allowed"):
            check(wrong)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "nup_relative"),
        ([SPECTRAL], "nup_relative"),
        (["--scaling.rule=norm"], "nup"),
        (["--optim.optimizer=adamw"], "nup"),
        ([SPECTRAL, "--model.parameterization=nup"], "nup"),
        (["--scaling.rule=norm", "--model.parameterization=nup_relative"], "nup_relative"),
    ],
)
def test_the_parameterization_is_the_rules_unless_it_is_given(options, name):
    assert parse(options).model.parameterization == name


def test_every_combination_is_of_keys_and_in_the_documentation():
    text = DOCUMENT.read_text(encoding="utf-8")
    for one in COMBINATIONS:
        assert {one.key, one.given, *(one.also or ())[:1]} <= KEYS.keys()
        for key, allowed, given, reason in one.rows():
            assert f"| `{key}` | {allowed} | `{given}` | {reason} |" in text


def test_the_table_of_resuming_names_every_key():
    text = DOCUMENT.read_text(encoding="utf-8")
    for decides, start in {
        Decides.SHAPES: "| shapes of weights |",
        Decides.RECORDS: "| what is seen of a run |",
        Decides.NOTHING: "| nothing but rounding |",
    }.items():
        (row,) = (line for line in text.splitlines() if line.startswith(start))
        told = re.findall(r"`([a-z_.]+[*]?)`", row)
        of_row = {key for key in KEYS for name in told if fnmatch(key, name)}
        assert of_row == {key for key, known in KEYS.items() if known.decides is decides}


def test_the_tables_of_readme_are_those_of_the_registries():
    text = (Path(REPOSITORY) / "README.md").read_text(encoding="utf-8")
    for rule in RULES.entries:
        assert f"| `{rule.name}` | {rule.formula} | {rule.label}" in text
    for entry in PARAMETERIZATIONS.entries:
        name = f"{entry.label} `{entry.name}`" + (f" ({entry.remark})" if entry.remark else "")
        assert f"| {name} | {entry.alpha} | {entry.std} | {entry.omega} |" in text
