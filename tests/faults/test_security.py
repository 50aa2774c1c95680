"""Names, files and packages that come from elsewhere do not get to do what they were not asked for."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from scaled_sgd.train.main import main
from tests.faults.cases import QUICK, write

ROOT = Path(__file__).resolve().parents[2]
TABLE = "a,label\n" + "".join(f"{i},{i % 2}\n" for i in range(20))


@pytest.fixture(autouse=True)
def fresh_world() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_folder_of_runs_may_be_a_link() -> None:
    Path("disk").mkdir()
    Path("runs").symlink_to("disk")
    assert main([*QUICK, "--run.name=run"]) == 0
    assert Path("disk/run/summary.json").exists()


def test_a_run_never_writes_through_a_link_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("elsewhere").mkdir()
    Path("runs").mkdir()
    Path("runs/run").symlink_to("../elsewhere")
    assert main([*QUICK, "--run.name=run"]) == 2
    assert "error: run.name: 'runs/run' exists already" in capsys.readouterr().err
    assert list(Path("elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../../up.csv", ".hidden", "-"])
def test_a_folder_named_after_the_data_stays_below_the_runs(name: str) -> None:
    write({f"inner/deep/{name}" if name.endswith("csv") else f"data/{name}.csv": TABLE})
    source = f"inner/deep/{name}" if name.endswith("csv") else f"data/{name}.csv"
    assert main([*QUICK, f"--data.source={source}"]) == 0
    (run,) = Path("runs").iterdir()
    assert (run / "summary.json").exists()


@pytest.mark.parametrize("loader", [yaml.Loader, yaml.UnsafeLoader, yaml.FullLoader])
def test_no_loader_of_python_objects_is_used(loader: type) -> None:
    for file in (ROOT / "scaled_sgd").rglob("*.py"):
        assert f"yaml.{loader.__name__}" not in file.read_text(encoding="utf-8")


def test_remote_code_is_never_trusted() -> None:
    for file in (ROOT / "scaled_sgd").rglob("*.py"):
        assert "trust_remote_code" not in file.read_text(encoding="utf-8")


def test_the_locked_versions_are_those_of_the_constraints() -> None:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    constraints, locked = (audit.pins(ROOT / name) for name in ("constraints.txt", "requirements-locked.txt"))
    assert audit.differences(constraints, locked, {}) == []
    assert audit.without_hash(ROOT / "requirements-locked.txt") == []
    wrong = audit.differences({"a": "1"}, {"a": "2"}, {"b": "3", "a": "2"})
    assert wrong == [
        "a: constraints.txt has 1, requirements-locked.txt 2",
        "b: 3 is installed, requirements-locked.txt has None",
    ]
