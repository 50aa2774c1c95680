"""Experiments, studies and launch files are found and copied, from a clone as from a wheel."""

import os
import re
from importlib.util import find_spec

import pytest

from scaled_sgd.cli import main
from tests.launching import REPOSITORY


def test_launch_files_are_those_of_the_repository(tmp_path, capsys):
    for _ in range(2):  # the second time they are there already
        assert main(["launch-files", str(tmp_path / "here")]) == 0
    copied = {
        path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file()
    }
    theirs = {
        path
        for folder in ("configs", "launch")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file()
    }
    assert copied == {path.relative_to(REPOSITORY) for path in theirs}
    for path in copied:
        assert (tmp_path / "here" / path).read_bytes() == (REPOSITORY / path).read_bytes()
    assert os.access(tmp_path / "here/launch/local.sh", os.X_OK)
    assert f"{len(theirs)} files in " in capsys.readouterr().out


def test_a_file_of_ones_own_is_not_replaced(tmp_path, capsys):
    own = tmp_path / "launch/local.sh"
    own.parent.mkdir()
    own.write_text("my own\n")
    assert main(["launch-files", str(tmp_path)]) == 2
    assert "local.sh' exists and differs, so that nothing was copied; " in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]
    assert own.read_text() == "my own\n"


@pytest.mark.parametrize("script", ["local.sh", "multinode.sh", "slurm.sbatch"])
def test_scripts_launch_modules_that_exist(script):
    text = (REPOSITORY / "launch" / script).read_text(encoding="utf-8")
    modules = re.findall(r"module=(\S+)", text)
    assert len(modules) == 2
    for module in modules:
        assert find_spec(f"{module}.__main__") is not None
