"""Curvature along gradients of fresh minibatches, and minibatches and probes of all samples."""

import pytest
import torch

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.diagnostics import Minibatch
from scaled_sgd.diagnostics.noise import outputs_are_stable
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.direction import Direction
from scaled_sgd.train.main import main
from tests.oracles import Problem, full_gauss_newton, full_hessian, gradients, make_problem, to_flat

ROWS = ([0, 3, 5], [1, 2, 4, 6], [7, 8, 0])
"""Samples of the minibatches that are drawn."""


def drawn(p: Problem, rows: list[int]) -> Problem:
    return Problem(p.model, p.x[rows], p.y[rows], p.loss)


BOTH = ("batch_sharpness", "gradient_noise")


def measured(
    p: Problem,
    *,
    chunk: int = 100,
    probe_is_all: bool = True,
    say: object = None,
    quantities: tuple[str, ...] = BOTH,
    taken: StepTaken | None = None,
) -> dict[str, object]:
    config = DiagnosticsConfig(
        every=1, taylor=False, sharpness=False, ranks=False, minibatches=3, chunk=chunk, tolerance=1e-9
    )
    config.quantities = [*quantities]
    observer = Observer(config, p.model, p.x, p.y, loss=p.loss, probe_is_all=probe_is_all, say=say)

    def fresh(number: int) -> Minibatch:
        part = drawn(p, ROWS[number])
        return Minibatch(part.model, part.x, part.y, loss=part.loss, chunk_size=chunk)

    taken = taken or StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.1)
    return observer.measure(Minibatch(p.model, p.x, p.y, loss=p.loss), taken, fresh)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("chunk", [2, 100])
def test_both_are_means_over_minibatches_of_dense_products(loss: str, chunk: int) -> None:
    p = make_problem(samples=9, loss=loss)
    row = measured(p, chunk=chunk)
    H, ratios, curvatures = full_hessian(p), [], []
    for rows in ROWS:
        g = to_flat(gradients(drawn(p, rows)))
        ratios.append(g @ full_hessian(drawn(p, rows)) @ g / (g @ g))
        curvatures.append(g @ H @ g)
    values, square = torch.stack(ratios), to_flat(gradients(p)).square().sum()
    assert row["batch_sharpness"] == pytest.approx(float(values.mean()), rel=1e-10)
    assert row["batch_sharpness_error"] == pytest.approx(float(values.std()) / 3**0.5, rel=1e-10)
    wanted = float(torch.stack(curvatures).mean() / square)
    assert row["gradient_noise_interaction"] == pytest.approx(wanted, rel=1e-10)


def test_the_interaction_is_null_and_said_where_the_probe_is_a_part_of_the_samples() -> None:
    said: list[str] = []
    row = measured(make_problem(samples=9), probe_is_all=False, say=said.append)
    assert row["gradient_noise_interaction"] is None
    assert any(line.startswith("gradient_noise_interaction: null") for line in said)


@pytest.mark.parametrize(("chunk", "steps"), [(2, 24), (100, 24), (100, 3)])
def test_spectra_of_minibatches_are_those_of_dense_hessians(
    chunk: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the steps of the density are too few to find the largest eigenvalue."""
    monkeypatch.setattr("scaled_sgd.diagnostics.quantities.spectrum.STEPS", steps)
    p = make_problem(samples=9, loss="mse", activation="gelu")
    row = measured(p, chunk=chunk, quantities=("batch_spectrum",))
    tops = torch.stack([torch.linalg.eigvalsh(full_hessian(drawn(p, rows)))[-1] for rows in ROWS])
    assert row["batch_eigenvalue"] == pytest.approx(float(tops.mean()), rel=1e-9)
    assert row["batch_eigenvalue_error"] == pytest.approx(float(tops.std()) / 3**0.5, rel=1e-8)
    whole = torch.linalg.eigvalsh(full_hessian(p))[-1]
    assert row["batch_eigenvalue_excess"] == pytest.approx(float(tops.mean() - whole), rel=1e-7)
    nodes, weights = (torch.tensor(row["batch_spectrum"][name]) for name in ("nodes", "weights"))
    assert float(weights.sum()) == pytest.approx(1)
    assert float(nodes.max()) == pytest.approx(float(tops.max()), rel=1e-6 if steps == 24 else 0.2)


def test_the_mean_of_a_density_is_the_trace_over_the_number_of_weights() -> None:
    """Within five standard errors of the estimate from one Gaussian vector for each minibatch."""
    p = make_problem(samples=9)
    row = measured(p, quantities=("batch_spectrum",))
    mean = sum(n * w for n, w in zip(*row["batch_spectrum"].values(), strict=True))
    hessians = [full_hessian(drawn(p, rows)) for rows in ROWS]
    wanted = sum(float(H.trace()) for H in hessians) / 3 / len(hessians[0])
    error = sum(2 * float(H.square().sum()) for H in hessians) ** 0.5 / 3 / len(hessians[0])
    assert abs(mean - wanted) < 5 * error


def test_the_excess_is_null_where_the_probe_is_a_part_of_the_samples() -> None:
    said: list[str] = []
    row = measured(
        make_problem(samples=9), probe_is_all=False, say=said.append, quantities=("batch_spectrum",)
    )
    assert row["batch_eigenvalue_excess"] is None
    assert any(line.startswith("batch_eigenvalue_excess: null") for line in said)


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_mean_square_growth_is_that_of_dense_matrices(activation: str, chunk: int) -> None:
    """Scaled, clipped steps with weight decay: (1 − ηλ_w − ηcΞ^{1/2} C_B Ξ^{1/2})², C = H and C = G."""
    p = make_problem(samples=9, loss="mse", activation=activation)
    xi = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
    taken = StepTaken(Direction(xi), 3.0, factor=0.8, weight_decay=0.01)
    row = measured(p, chunk=chunk, quantities=("noise_stability",), taken=taken)
    for name, dense in (
        ("noise_stability", full_hessian),
        ("noise_stability_gauss_newton", full_gauss_newton),
    ):
        parts = [dense(drawn(p, rows), xi) for rows in ROWS]
        steps = [0.97 * torch.eye(len(C), dtype=C.dtype) - 3 * 0.8 * C for C in parts]
        wanted = torch.linalg.eigvalsh(sum(step @ step for step in steps) / 3)[-1]
        assert wanted > 1
        assert row[name] == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("base_width", [1, 3])
def test_of_a_stable_step_the_growth_is_that_of_what_no_minibatch_sees(base_width: int) -> None:
    """With more weights than outputs: 1. 22 weights are fewer than 30 outputs, and may all be seen."""
    p = make_problem(samples=9, base_width=base_width, loss="mse")
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.01)
    row = measured(p, quantities=("noise_stability",), taken=taken)
    parts = [full_gauss_newton(drawn(p, rows)) for rows in ROWS]
    steps = [torch.eye(len(G), dtype=G.dtype) - 0.01 * G for G in parts]
    wanted = float(torch.linalg.eigvalsh(sum(step @ step for step in steps) / 3)[-1])
    assert 0.9 < wanted < 1 + 1e-9
    assert row["noise_stability_gauss_newton"] == pytest.approx(wanted, rel=1e-6)
    batches = [Minibatch(p.model, p.x[rows], p.y[rows], loss=p.loss) for rows in ROWS]
    known = outputs_are_stable(batches, taken.direction.numbers, rate=0.01, kept=1.0)
    assert known == (base_width == 3)
    assert not outputs_are_stable(batches, taken.direction.numbers, rate=10.0, kept=1.0)


@pytest.mark.parametrize("step", [{"momentum": 0.9}, {"known": False}])
def test_mean_square_growth_is_null_and_said_of_other_steps(step: dict[str, float]) -> None:
    said: list[str] = []
    p = make_problem(samples=9)
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.1, **step)
    row = measured(p, quantities=("noise_stability",), taken=taken, say=said.append)
    assert row["noise_stability"] is row["noise_stability_gauss_newton"] is None
    assert any(line.startswith("noise_stability: null") for line in said)


SMALL = (
    "--scaling.rule=norm",
    "--model.depth=3",
    "--model.base_width=4",
    "--optim.steps=3",
    "--run.log_every=1",
    "--loss=mse",
)
QUANTITIES = "--diagnostics.quantities=[batch_sharpness, gradient_noise, batch_spectrum, noise_stability]"


def rows_of(name: str, *options: str) -> list[dict[str, object]]:
    assert main([*SMALL, "--model.dtype=float64", f"--run.name={name}", *options]) == 0
    return list(read_metrics(f"runs/{name}/metrics.jsonl"))


@pytest.mark.slow
def test_a_run_of_all_samples_measures_the_batch_of_its_steps(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One minibatch of all samples: batch sharpness is that of the gradient, and both ratios are equal."""
    monkeypatch.chdir(tmp_path)
    every = ("--optim.batch_size=all", "--diagnostics.every=2", "--diagnostics.samples=all")
    options = (*every, "--diagnostics.ranks=false", "--diagnostics.tolerance=1e-8", QUANTITIES)
    measured = [row for row in rows_of("all", *options) if "batch_sharpness" in row]
    assert [row["step"] for row in measured] == [0, 2]
    for row in measured:
        assert row["taylor"]["c0"] == pytest.approx(row["loss"], rel=1e-12)
        assert row["gradient_noise_interaction"] == pytest.approx(row["batch_sharpness"], rel=1e-10)
        assert row["batch_sharpness_error"] == pytest.approx(0, abs=1e-12)
        assert row["batch_sharpness"] <= row["sharpness"] * (1 + 1e-9)
        growth = (1 - row["lr"] * row["preconditioned_sharpness"]) ** 2
        assert row["noise_stability"] >= growth * (1 - 1e-9) > 0


def test_fresh_minibatches_do_not_change_a_run_and_are_the_same_when_it_is_repeated(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = ("--optim.batch_size=32", "--diagnostics.every=2", "--diagnostics.sharpness=false")
    without, once, again = (
        rows_of(name, *plain, *more)
        for name, more in (("without", ()), ("once", (QUANTITIES,)), ("again", (QUANTITIES,)))
    )
    assert [row.get("loss") for row in once] == [row.get("loss") for row in without]
    for name in ("batch_sharpness", "noise_stability"):
        found = [row[name] for row in once if name in row]
        assert found == [row[name] for row in again if name in row]
        assert len(set(found)) == len(found) == 2


def test_all_is_refused_where_no_data_say_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    from scaled_sgd.planning.doctor.plan import main as plan

    assert plan(["--optim.batch_size=all"]) == 2
    assert "error: optim.batch_size: 'all' is a number for a run's data only" in capsys.readouterr().err
