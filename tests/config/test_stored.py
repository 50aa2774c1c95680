"""Configurations of earlier versions mean what those versions did."""

import pytest
import yaml

from scaled_sgd.config import as_dict
from scaled_sgd.config.comparison import changed_keys, check_changes
from scaled_sgd.config.parsing import from_dict, parse
from scaled_sgd.config.sections import OptimConfig
from scaled_sgd.config.stored import ABSENT, FORMER, RENAMED, completed
from scaled_sgd.core.errors import UserError
from scaled_sgd.study.grid.identity import run_id

LR = OptimConfig().lr


def resolved(values):
    """A configuration of images or lists without what it leaves to the data, as runs store it."""
    data = {"standardize": False, "eval_split": None} | {
        name.removeprefix("data."): value for name, value in ABSENT.items() if name.startswith("data.")
    }
    return from_dict(values | {"data": data | values.get("data", {})})


def before():
    """As written before optim.update, optim.optimizer and run.plugins were there."""
    values = as_dict(resolved({}))
    for name in ABSENT:
        group, _, leaf = name.partition(".")
        del values[group][leaf]
    values["optim"]["fused_update"] = False
    return values


@pytest.mark.parametrize(("given", "update"), [("true", "fused"), ("false", "autograd")])
def test_a_renamed_key_is_read_everywhere(given, update, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(f"optim: {{fused_update: {given}}}\n")
    assert parse([f"--optim.fused_update={given}"]).optim.update == update
    assert parse([f"--config={file}"]).optim.update == update
    assert from_dict(yaml.safe_load(file.read_text())).optim.update == update


def test_a_renamed_key_gets_one_line(monkeypatch, capsys):
    monkeypatch.setattr("scaled_sgd.config.stored._said", set())
    for _ in range(2):
        parse(["--optim.fused_update=true"])
    assert capsys.readouterr().err == "optim.fused_update: it is now optim.update, read as fused\n"


def test_a_value_that_a_renamed_key_never_had_is_refused():
    with pytest.raises(UserError) as error:
        parse(["--optim.fused_update=auto"])
    assert str(error.value) == (
        "optim.fused_update: 'auto' does not fit; allowed: true, false; it is now optim.update"
    )


def test_a_stored_configuration_means_what_its_version_did():
    found = completed(before())
    assert (found["optim.update"], found["optim.optimizer"], found["run.plugins"]) == ("autograd", "sgd", [])
    del (oldest := before())["optim"]["fused_update"]
    assert completed(oldest)["optim.update"] == "autograd"
    assert not RENAMED.keys() & found.keys()


def test_a_run_of_an_earlier_version_is_resumed(tmp_path):
    del (oldest := before())["optim"]["fused_update"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(oldest))
    assert parse([f"--run.resume={tmp_path}"]).optim.update == "auto"
    (tmp_path / "metrics.jsonl").touch()
    assert parse([f"--run.resume={tmp_path}"]).optim.update == "autograd"
    assert parse([f"--run.resume={tmp_path}", "--optim.update=fused"]).optim.update == "fused"


@pytest.mark.parametrize("parent", [(), ("--run.dir=elsewhere",)])
def test_a_named_run_keeps_the_defaults_that_it_began_with(parent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ("elsewhere" if parent else "runs") / "wide"
    folder.mkdir(parents=True)
    values = as_dict(from_dict({}))
    values["scaling"]["rule"], values["optim"]["lr"] = FORMER["scaling.rule"], FORMER["optim.lr"]
    values["diagnostics"]["samples"] = FORMER["diagnostics.samples"]
    values["model"]["depth"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    resumed = parse([*parent, "--run.name=wide", "--run.resume=auto"])
    assert (resumed.scaling.rule, resumed.optim.lr) == ("norm", 4.0)
    assert resumed.diagnostics.samples == 256 != from_dict({}).diagnostics.samples
    assert resumed.model.depth == from_dict({}).model.depth
    given = parse([*parent, "--run.name=wide", "--run.resume=auto", "--scaling.rule=unit"])
    assert (given.scaling.rule, given.optim.lr) == ("unit", 4.0)
    for other in (["--run.name=wide"], ["--run.name=new", "--run.resume=auto"]):
        assert parse([*parent, *other]).scaling == from_dict({}).scaling


def test_nothing_has_changed_since_an_earlier_version():
    assert changed_keys(before(), as_dict(resolved({}))) == []
    assert check_changes(before(), as_dict(resolved({"optim": {"update": "fused"}})), []) == []


def test_what_decides_the_weights_may_change_by_name_and_shapes_never():
    now = as_dict(resolved({"optim": {"lr": 3.0}}))
    with pytest.raises(UserError, match=rf"^optim\.lr: 3\.0 differs .* {LR}; allowed: the same, or"):
        check_changes(before(), now, [])
    assert check_changes(before(), now, ["optim"]) == [f"optim.lr {LR} → 3.0"]
    with pytest.raises(
        UserError, match=r"^model\.depth: 2 differs from the checkpoint's 6; allowed: the same$"
    ):
        check_changes(before(), as_dict(resolved({"model": {"depth": 2}})), ["model"])


def test_the_start_of_a_centred_network_does_not_change():
    saved = as_dict(resolved({"model": {"centered": True}}))
    now = as_dict(resolved({"model": {"centered": True}, "run": {"seed": 1}}))
    with pytest.raises(UserError, match=r"^run\.seed: 1 differs .* model\.centered subtracts; allowed: "):
        check_changes(saved, now, ["run.seed"])
    plain = as_dict(resolved({"run": {"seed": 1}}))
    assert check_changes(as_dict(resolved({})), plain, ["run.seed"]) == ["run.seed 0 → 1"]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"scaling": {"rule": "norm"}, "optim": {"lr": 4.0}}, "ed4f2781419e"),
        (
            {
                "optim": {"accumulation": 4, "lr": 4.0},
                "scaling": {"rule": "norm"},
                "sharding": {"strategy": "fsdp2"},
            },
            "ed4f2781419e",
        ),
        (
            {
                "model": {"activation": [1, 2]},
                "data": {"inputs": ["a", "b"], "source": "table.csv"},
                "optim": {"clip_norm": 2, "steps": 5, "lr": 4.0},
                "run": {"metrics": ["mse"], "trackers": ["x"], "seed": 3, "name": "a"},
                "scaling": {"rule": "none"},
                "checkpoint": {"keep_steps": [3, 4]},
                "diagnostics": {"every": 3},
            },
            "ceb353089493",
        ),
    ],
)
def test_runs_of_studies_keep_their_names(values, name):
    """As before optim.update, optim.optimizer and run.plugins were there."""
    probe = {"samples": FORMER["diagnostics.samples"]} | values.get("diagnostics", {})
    assert run_id(resolved(values | {"diagnostics": probe}), {"digest": "x"}) == name
