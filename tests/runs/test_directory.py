import json
import math
import os

import pytest
import yaml

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.directory import RunDirectory


def test_a_run_directory_holds_configuration_and_summary(tmp_path):
    directory = RunDirectory.make(str(tmp_path), "first")
    directory.write_config({"model": {"depth": 3}, "activation": [0.6, 0.8]})
    directory.write_summary({"loss": 0.5, "missing": math.nan})
    assert yaml.safe_load((tmp_path / "first/config.yaml").read_text()) == {
        "model": {"depth": 3},
        "activation": [0.6, 0.8],
    }
    assert json.loads((tmp_path / "first/summary.json").read_text()) == {"loss": 0.5, "missing": None}
    assert sorted(os.listdir(tmp_path / "first")) == [".lock", "config.yaml", "metrics.jsonl", "summary.json"]


def test_an_existing_run_is_never_overwritten(tmp_path):
    RunDirectory.make(str(tmp_path), "run")
    with pytest.raises(UserError, match=r"run\.name: .*run' exists already"):
        RunDirectory.make(str(tmp_path), "run")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir: cannot make"):
        RunDirectory.make(str(tmp_path / "file"), "run")


def test_a_directory_in_use_is_refused_until_it_is_closed(tmp_path):
    directory = RunDirectory.make(str(tmp_path), "run")
    with pytest.raises(UserError, match=rf"^run\.name: '.*run' is in use by process {os.getpid()} on "):
        RunDirectory(tmp_path / "run")
    directory.close()
    RunDirectory(tmp_path / "run").close()


def test_metrics_are_cut_where_a_checkpoint_was_made(tmp_path):
    metrics = RunDirectory.make(str(tmp_path), "run").metrics
    metrics.write({"step": 0})
    size = metrics.size
    metrics.write({"step": 1})
    metrics.cut(size)
    metrics.write({"step": 2})
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"step":0}\n{"step":2}\n'
