import dataclasses
import subprocess
import sys

import pytest
import yaml

from scaled_sgd.config import Config, as_dict, describe, key_types
from scaled_sgd.errors import UserError
from scaled_sgd.parsing import from_dict, parse


def message(*arguments):
    with pytest.raises(UserError) as error:
        parse(arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--model.deph=3", "model.deph: unknown key; did you mean model.depth?"),
        (
            "--colour=red",
            "colour: unknown key; allowed: loss, model.depth, model.base_width,",
        ),
        ("--scaling.zzz=1", "scaling.zzz: unknown key; allowed: scaling.rule, scaling.static"),
        ("digits", "argument: 'digits' is not understood; options look like --model.depth 8"),
        ("--model.depth", "model.depth: no value given; allowed: an integer"),
        ("--model.depth=deep", "model.depth: 'deep' does not fit; allowed: an integer"),
        ("--model.depth=1.5", "model.depth: '1.5' does not fit; allowed: an integer"),
        ("--model.depth=true", "model.depth: 'True' does not fit; allowed: an integer"),
        ("--model.depth=0", "model.depth: 0 is not usable; allowed: integers from 1"),
        ("--model.base_width=-4", "model.base_width: -4 is not usable; allowed: integers from 1"),
        (
            "--model.width_exponent=-1",
            "model.width_exponent: -1.0 is not usable; allowed: finite numbers from 0",
        ),
        (
            "--model.width_exponent=.inf",
            "model.width_exponent: inf is not usable; allowed: finite numbers from 0",
        ),
        (
            "--model.activation=gelu",
            "model.activation: 'gelu' does not fit; allowed: relu, abs, linear or a list of 2 numbers",
        ),
        (
            "--model.activation=[1,2,3]",
            "model.activation: '[1, 2, 3]' does not fit; allowed: relu, abs, linear or a list of 2 numbers",
        ),
        (
            "--model.activation=[0,0]",
            "model.activation: [0.0, 0.0] cannot be normalised; one of a, b must not be 0",
        ),
        (
            "--model.parameterization=ntk",
            "model.parameterization: 'ntk' does not fit; allowed: nup, ntp, sp, mup",
        ),
        ("--model.dtype=float16", "model.dtype: 'float16' does not fit; allowed: float32, float64"),
        ("--loss=hinge", "loss: 'hinge' does not fit; allowed: auto, cross_entropy, mse"),
        ("--optim.lr=fast", "optim.lr: 'fast' does not fit; allowed: a number"),
        ("--optim.lr=-1", "optim.lr: -1.0 is not usable; allowed: finite numbers from 0"),
        ("--optim.lr=.nan", "optim.lr: nan is not usable; allowed: finite numbers from 0"),
        ("--optim.batch_size=0", "optim.batch_size: 0 is not usable; allowed: integers from 1"),
        ("--optim.steps=0", "optim.steps: 0 is not usable; allowed: integers from 1, or null"),
        ("--optim.epochs=0", "optim.epochs: 0.0 is not usable; allowed: finite numbers above 0, or null"),
        ("--optim.schedule=step", "optim.schedule: 'step' does not fit; allowed: constant, linear, cosine"),
        ("--optim.warmup_steps=-1", "optim.warmup_steps: -1 is not usable; allowed: integers from 0"),
        ("--optim.momentum=1", "optim.momentum: 1.0 is not usable; allowed: numbers from 0 to below 1"),
        (
            "--optim.weight_decay=-0.1",
            "optim.weight_decay: -0.1 is not usable; allowed: finite numbers from 0",
        ),
        ("--optim.accumulation=0", "optim.accumulation: 0 is not usable; allowed: integers from 1"),
        (
            "--optim.clip_norm=0",
            "optim.clip_norm: 0.0 is not usable; allowed: finite numbers above 0, or null",
        ),
        ("--scaling.rule=nrom", "scaling.rule: 'nrom' is not usable; allowed: none, norm, gain, kernel"),
        ("--scaling.static=maybe", "scaling.static: 'maybe' does not fit; allowed: true or false"),
        ("--data.eval_fraction=1", "data.eval_fraction: 1.0 is not usable; allowed: numbers between 0 and 1"),
        ("--data.limit=0", "data.limit: 0 is not usable; allowed: integers from 1, or null"),
        (
            "--data.inputs=pixels",
            "data.inputs: 'pixels' does not fit; allowed: a list such as [a, b] or null",
        ),
        ("--run.seed=-1", "run.seed: -1 is not usable; allowed: integers from 0 to 2**63 − 1"),
        (
            "--run.seed=9223372036854775808",
            "run.seed: 9223372036854775808 is not usable; allowed: integers from 0 to 2**63 − 1",
        ),
        (
            "--data.task=ranking",
            "data.task: 'ranking' does not fit; allowed: auto, classification, regression",
        ),
        ("--diagnostics.every=-1", "diagnostics.every: -1 is not usable; allowed: integers from 0"),
        ("--diagnostics.samples=0", "diagnostics.samples: 0 is not usable; allowed: integers from 1"),
        ("--diagnostics.k=0", "diagnostics.k: 0 is not usable; allowed: integers from 1"),
        (
            "--diagnostics.tolerance=1",
            "diagnostics.tolerance: 1.0 is not usable; allowed: numbers between 0 and 1",
        ),
        ("--run.device=tpu", "run.device: 'tpu' does not fit; allowed: auto, cpu, cuda"),
        ("--run.processes=0", "run.processes: 0 is not usable; allowed: integers from 1, or null"),
        ("--run.log_every=0", "run.log_every: 0 is not usable; allowed: integers from 1"),
        ("--run.eval_every=-1", "run.eval_every: -1 is not usable; allowed: integers from 0, or null"),
        ("--run.trackers=wandb", "run.trackers: 'wandb' does not fit; allowed: a list such as [a, b]"),
        ("--run.precision=fp8", "run.precision: 'fp8' does not fit; allowed: no, bf16, fp16"),
        (
            "--run.name=../escape",
            "run.name: '../escape' is not usable; allowed: letters, digits, '.', '_' and '-', "
            "the first a letter or digit, or null",
        ),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(argument, expected):
    assert message(argument).startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--run.precision=bf16", "--model.dtype=float64"],
            "run.precision: 'bf16' is not usable; allowed: no, with model.dtype float64",
        ),
        (
            ["--optim.warmup_steps=9", "--optim.steps=9"],
            "optim.warmup_steps: 9 is not usable; allowed: integers below optim.steps 9",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(arguments, expected):
    assert message(*arguments) == expected


def test_steps_and_epochs_together_are_refused():
    assert message("--optim.steps=5", "--optim.epochs=2") == (
        "optim.steps: 5 is not usable; allowed: null beside optim.epochs 2.0; give one of the two"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {deph: 3}", "model.deph: unknown key; did you mean model.depth?"),
        ("modle: {depth: 3}", "modle: unknown key; allowed: loss, model.depth"),
        ("model: 3", "model: 3 is not a group; allowed: the keys depth, base_width,"),
        ("model: {depth: deep}", "model.depth: 'deep' does not fit; allowed: an integer"),
        ("optim: {lr: -2}", "optim.lr: -2.0 is not usable; allowed: finite numbers from 0"),
        ("[1, 2]", "--config: '{file}' holds a list; allowed: keys and values"),
        ("model: [1,\n2", "--config: '{file}' is not valid YAML: "),
        ("run: !!python/object/apply:os.system ['true']", "--config: '{file}' is not valid YAML: "),
    ],
)
def test_a_mistake_in_a_file_gets_one_line(text, expected, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert message("--config", str(file)).startswith(expected.format(file=file))


def test_a_missing_file_gets_one_line():
    assert message("--config=none.yaml") == "--config: no file 'none.yaml'; allowed: a YAML file"


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_options_win_over_the_file_wherever_it_stands(order, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {depth: 3, base_width: 5}\n")
    config = parse(["--model.depth=8", f"--config={file}"][order])
    assert (config.model.depth, config.model.base_width) == (8, 5)


def test_an_empty_file_changes_nothing(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert parse(["--config", str(file)]) == Config()


def test_a_pair_of_numbers_is_an_activation():
    assert parse(["--model.activation=[0.6,0.8]"]).model.activation == (0.6, 0.8)


def test_a_written_configuration_reads_back_the_same(tmp_path):
    config = parse(["--model.activation=[1,2]", "--optim.clip_norm=2", "--run.trackers=[tensorboard]"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(as_dict(config)))
    assert parse(["--config", str(file)]) == config
    assert from_dict(as_dict(config)) == config


@pytest.mark.parametrize(
    "values", [{"model": {"deph": 1}}, {"modle": {}}, {"optim": {"lr": -1}}, {"loss": 3}]
)
def test_a_mistake_in_a_dictionary_gets_one_line(values):
    with pytest.raises(UserError, match=r"^[\w.]+: .*(allowed|did you mean)"):
        from_dict(values)


def test_every_key_says_what_it_does():
    help_text = subprocess.run(
        [sys.executable, "-m", "scaled_sgd.train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    ).stdout
    lines = help_text.splitlines()
    for key, hint in key_types().items():
        (start,) = (i for i, line in enumerate(lines) if line.strip().startswith(f"--{key} "))
        described = " ".join(lines[start : start + 2]).split("(type:")[0]
        assert len(described.split()) >= 4, key
        assert describe(hint)


def test_the_printed_configuration_can_be_read_back(tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--model.depth=9", "--print_config"])
    assert leaving.value.code == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert parse(["--config", str(file)]) == dataclasses.replace(
        Config(), model=dataclasses.replace(Config().model, depth=9)
    )


@pytest.mark.parametrize("name", ["digits"])
def test_shipped_experiments_are_valid(name):
    assert parse(["--config", f"configs/experiments/{name}.yaml"]).data.source == "digits"
