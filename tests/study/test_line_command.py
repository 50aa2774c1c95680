"""``scaled-sgd line`` as a person types it."""

import csv
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd.cli import main
from scaled_sgd.diagnostics import sharpness
from scaled_sgd.runs.vectors import read_vectors
from scaled_sgd.train.main import main as train
from scaled_sgd.train.probed import open_probed
from tests.oracles import Problem, full_hessian, to_flat

pytestmark = pytest.mark.usefixtures("fresh_world")

SMALL = (
    "--model.depth=3", "--model.base_width=2", "--model.activation=tanh", "--model.dtype=float64",
    "--data.limit=60", "--optim.batch_size=20", "--optim.steps=4", "--optim.lr=0.5", "--run.name=run",
    "--diagnostics.every=2", "--diagnostics.samples=16", "--diagnostics.k=2",
    "--diagnostics.keep_vectors=true", "--diagnostics.ranks=false", "--diagnostics.tolerance=1e-9",
    "--checkpoint.keep_steps=[2]", "--model.parameterization=nup",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with checkpoints after two and four, and eigenvectors before steps 0 and 2."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(SMALL) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder / "runs/run"


def drawn(run: Path, *options: str) -> dict[float, tuple[float, float]]:
    """Loss and cubic by t."""
    assert main(["line", str(run), "--out", "line.svg", *options]) == 0
    assert Path("line.svg").read_text(encoding="utf-8").startswith("<?xml")
    with Path("line.csv").open(encoding="utf-8") as stream:
        return {float(t): (float(a), float(b)) for t, a, b in list(csv.reader(stream))[1:]}


@pytest.mark.slow
def test_between_two_checkpoints_it_has_the_losses_of_both_at_the_ends(run: Path) -> None:
    after = drawn(run, "--step", "2", "--along", str(run / "checkpoints/step-4"))
    back = drawn(run, "--along", str(run / "checkpoints/step-2"), "--range", "-1", "2", "--points", "31")
    assert after[1.0][0] == pytest.approx(back[0.0][0], rel=1e-12)
    assert after[0.0][0] == pytest.approx(back[1.0][0], rel=1e-12)
    assert after[0.0][0] == pytest.approx(after[0.0][1], rel=1e-12)
    assert after[-0.5][0] == pytest.approx(back[1.5][0], rel=1e-12)


def test_along_an_eigenvector_second_differences_are_its_eigenvalue(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    p = open_probed(run)
    wanted = torch.linalg.eigvalsh(full_hessian(Problem(p.network, p.x, p.y, p.loss))).flip(0)
    for index in (1, 2):
        losses = drawn(
            run, "--along=eigenvector", f"--index={index}", "--points=3", "--range", "-1e-3", "1e-3"
        )
        below, here, above = (losses[t][0] for t in (-1e-3, 0.0, 1e-3))
        assert (below + above - 2 * here) / 1e-6 == pytest.approx(float(wanted[index - 1]), rel=1e-4)
        assert f"λ = {float(wanted[index - 1]):.5g}" in capsys.readouterr().out


def test_along_the_gradient_its_first_value_returns_near_its_edge(run: Path) -> None:
    losses = drawn(run, "--along=gradient", "--points=5")
    assert sorted(losses)[1] == pytest.approx(0, abs=1e-12)
    cubic = [losses[t][1] for t in sorted(losses)]
    assert cubic[2] < cubic[1] < cubic[0]


def test_kept_eigenvectors_are_those_of_the_probe_before_the_step(run: Path) -> None:
    kept, p = read_vectors(run / "eigenvectors/step-2"), open_probed(run, step=2)
    top = sharpness(p.network, p.x, p.y, loss=p.loss, k=2, tolerance=1e-9)
    assert kept.step == 2
    assert kept.values == pytest.approx(top.values.tolist(), rel=1e-8)
    H = full_hessian(Problem(p.network, p.x, p.y, p.loss))
    for index, value in enumerate(kept.values, start=1):
        v = to_flat(kept.vector(index))
        assert float(v.norm()) == pytest.approx(1, rel=1e-9)
        torch.testing.assert_close(H @ v, value * v, rtol=0, atol=1e-7 * value)
    assert sorted(path.name for path in (run / "eigenvectors").iterdir()) == ["step-0", "step-2"]
    losses = drawn(run, "--step=2", "--along", str(run / "eigenvectors/step-2"), "--points=3")
    assert sorted(losses)[1] == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--along=sideways",), "--along: 'sideways' is no folder; allowed: eigenvector, gradient, or the"),
        (("--along=gradient", "--step=3"), "checkpoint: "),
        (("--along=gradient", "--out=a.txt"), "--out: 'a.txt' is not usable; allowed: names that end in"),
        (("--along=gradient", "--samples=0"), "--samples: '0' does not fit; allowed: integers from 1, all"),
        (("--along=gradient", "--range", "1", "0"), "--range: 1 0 is not usable; allowed: two numbers"),
        (("--along=eigenvector", "--index=0"), "--index: 0 is not usable; allowed: integers from 1"),
        ((), "the following arguments are required: --along; allowed: see scaled-sgd line --help"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, options: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["line", str(run), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_other_data_than_the_runs_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scaled_sgd.train.probed.data_facts", lambda data: {"digest": "another"})
    assert main(["line", str(run), "--along=gradient"]) == 2
    assert "error: data.source: 'digits' holds other data than" in capsys.readouterr().err
