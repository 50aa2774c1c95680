"""What papers claim, as numbers over the runs of a study: measures against hand-computed values."""

import math

import pandas as pd
import pytest

from scaled_sgd.config.parsing import from_dict
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import load
from scaled_sgd.planning import Workload, nominal, predict
from scaled_sgd.study.claims.cycles import first_cycle
from scaled_sgd.study.claims.memory import step_bytes
from scaled_sgd.study.claims.paper import read_claims, read_paper
from scaled_sgd.study.claims.plot import read_plot
from scaled_sgd.study.claims.quantity import MEASURES
from scaled_sgd.study.claims.verdict import Verdict, judge, verdict_of
from scaled_sgd.study.figures import draw_figures
from scaled_sgd.study.grid.figures import check_figures
from scaled_sgd.study.grid.study_file import read_study
from scaled_sgd.study.page.report import write_report
from scaled_sgd.study.tables.collect import collect
from tests.study.folders import diverged, finished, make_study

RUNS = pd.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "config.optim.lr": [0.1, 0.1, 0.2, 0.4],
        "status": ["finished", "finished", "finished", "diverged"],
        "stable": [True, True, False, False],
        "initial_loss": [2.0, 4.0, 2.0, 2.0],
        "max_loss": [3.0, 4.0, 8.0, None],
        "train_loss": [1.0, 3.0, 1.5, None],
        "accuracy": [0.9, 0.7, 0.5, None],  # medians 0.8, 0.5 by rate: 0.5 is above half
        "eval_loss": [2.0, 3.0, 4.5, None],
        "parameters": [10, 10, 30, 30],
    }
)
METRICS = pd.DataFrame(
    [
        *(("a", step, 0.1, loss, curve) for step, loss, curve in
          ((0, 2.0, 4.0), (1, 3.0, None), (2, 1.0, 8.0), (3, 1.5, 18.0), (4, 1.0, 22.0))),
        *(("b", step, 0.1, loss, curve) for step, loss, curve in
          ((0, 4.0, 6.0), (2, 5.0, 10.0), (3, 3.0, 12.0), (4, 3.0, None))),
    ],
    columns=["id", "step", "lr", "loss", "curve"],
)  # fmt: skip


JUMP = pd.DataFrame(
    {
        "id": ["a"] * 4,
        "step": [0, 10, 20, 40],
        "accuracy": [0.5, 0.5, 0.9, 1.0],
        "drift": [0.0, 0.2, 0.3, 0.4],
        "curve": [9.0, 8.0, 4.0, 2.0],
    }
)


def test_progress_before_a_jump_and_powers_of_the_step_are_computed_by_hand():
    progress, power = (load(MEASURES[name].of) for name in ("progress_at_half", "time_power"))
    assert progress(RUNS, JUMP, "drift") == pytest.approx(0.75)  # of 0.4, at step 20
    assert power(RUNS, JUMP, "curve") == pytest.approx(-1.0)  # from step 2 on: 80 / step
    assert math.isnan(progress(RUNS, METRICS, "curve"))


@pytest.mark.parametrize(
    ("measure", "column", "expected"),
    [
        ("first", "curve", 5.0),  # of 4 and 6
        ("last", "curve", 17.0),  # of 22 and 12
        ("largest", "curve", 17.0),
        ("rise", "curve", 3.75),  # of 5.5 and 2
        ("fall", "curve", 1.0),
        ("last_over_first", "curve", 3.75),
        ("loss_fall", "", 0.75),  # of 0.5, 0.75, 0.75, ∞
        ("late_median", "curve", 12.0),  # of 8, 18, 22, 10, 12
        ("late_edge", "curve", 0.6),  # 0.1 · 12 / 2
        ("step_above_half", "curve", 2.5),  # 13 is passed at step 3, 9 at step 2
        ("result", "parameters", 20.0),
        ("result", "nothing", math.nan),
        ("held_out_gap", "", 2.0),  # of 2, 1, 3
        ("final_loss", "", 2.25),  # of 1, 3, 1.5, ∞
        ("loss_peak", "", 2.75),  # of 1.5, 1, 4, ∞
        ("rising_steps", "", 2 / 6),  # the step from 0 to 2 is not compared
        ("best_rate", "", 0.2),  # 2 at 0.1, 1.5 at 0.2
        ("best_loss", "", 1.5),
        ("largest_stable_rate", "", 0.1),
        ("largest_trained_rate", "", 0.2),
        ("trained_rate_in_curvatures", "curve", 1.0),  # 0.2 · 5
        ("late_median", "nothing", math.nan),
    ],
)
def test_a_measure_is_the_number_computed_by_hand(measure, column, expected):
    found = load(MEASURES[measure].of)(RUNS, METRICS, column)
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_last_value_at_the_best_rate_is_of_the_runs_at_that_rate():
    best = load(MEASURES["best_last"].of)
    slower = RUNS.assign(**{"config.optim.lr": [0.1, 0.2, 0.4, 0.4]})  # losses 1, 3, 1.5
    assert best(slower, METRICS, "curve") == 22.0


def test_a_column_is_measured_at_the_steps_that_are_kept(tmp_path):
    def rows(axes):
        curve = [{"step": s, "lr": 1.0, "loss": 1.0, "curve": s * axes["optim.lr"]} for s in (1, 2, 3)]
        return finished(0.5, rows=curve)

    collected = collect(make_study(tmp_path, {"optim.lr": [1.0, 3.0]}, rows))
    claim = {"says": "It is.", "measure": "last", "column": "curve", "expect": {"from": 0}}
    claims = [claim | {"where": {"optim.lr": 3.0, "step": steps}} for steps in (2, [1, 3], 7)]
    judged = judge(read_claims(claims, collected.axes), collected)
    assert [one.value for one in judged] == pytest.approx([6.0, 9.0, math.nan], nan_ok=True)


RATES = ("best_rate", "largest_stable_rate", "largest_trained_rate")


def test_rates_of_a_study_in_units_of_the_edge_are_in_these_units():
    ratios = [0.25, 0.25, 0.5, 1.0]
    measures = [load(MEASURES[name].of) for name in (*RATES, "trained_rate_in_curvatures")]
    edges = RUNS.assign(**{"config.optim.lr": 0.5, "config.optim.lr_in_edges": ratios})
    found = [measure(edges, METRICS, "curve") for measure in measures]
    assert found == pytest.approx([0.5, 0.25, 0.5, math.nan], nan_ok=True)
    mixed = edges.assign(**{"config.optim.lr_in_edges": [None, *ratios[1:]]})
    assert all(math.isnan(measure(mixed, METRICS, "curve")) for measure in measures)
    plain = RUNS.assign(**{"config.optim.lr_in_edges": None})
    assert [measure(plain, METRICS, "curve") for measure in measures] == [0.2, 0.1, 0.2, 1.0]


GRID = {"model.base_width": [4, 8, 16], "optim.lr": [1.0, 2.0, 4.0, 8.0], "run.seed": [0, 1]}


def narrowing(axes):
    """The largest stable rate falls as 16/m: 4, 2, 1."""
    width, rate = axes["model.base_width"], axes["optim.lr"]
    if rate > 32 / width:
        return diverged()
    return finished(1 / rate, max_loss=1.0 if rate <= 16 / width else 3.0)


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("power", -1.0),
        ("ratio", 0.25),
        ("difference", -3.0),
        ("spread", 4.0),
        ("lowest", 1.0),
        ("highest", 4.0),
    ],
)
def test_a_measure_is_taken_along_an_axis(tmp_path, take, expected):
    collected = collect(make_study(tmp_path, GRID, narrowing))
    claim = {
        "says": "The rate falls like 1/m.", "measure": "largest_stable_rate", "along": "model.base_width",
        "take": take, "expect": {"from": expected - 0.01, "to": expected + 0.01},
    }  # fmt: skip
    (judged,) = judge(read_claims([claim], collected.axes), collected)
    assert judged.value == pytest.approx(expected)
    assert judged.verdict is Verdict.AGREES


def test_a_verdict_says_what_agrees_and_what_was_not_run(tmp_path):
    collected = collect(make_study(tmp_path, GRID, narrowing))
    claim = {"says": "It is.", "measure": "largest_stable_rate"}
    claims = [
        claim | {"where": {"model.base_width": 4}, "expect": {"from": 4}},
        claim | {"where": {"model.base_width": [8, 16]}, "expect": {"from": 2}},
        claim | {"where": {"model.base_width": 64}, "expect": {"to": 2}},
    ]
    judged = judge(read_claims(claims, collected.axes), collected)
    assert [one.value for one in judged] == pytest.approx([4.0, 1.0, math.nan], nan_ok=True)
    assert [one.verdict for one in judged] == ["agrees", "does not", "no number"]
    assert verdict_of(judged) == "partly"
    assert [verdict_of(judged[:1]), verdict_of([judged[0], judged[2]])] == ["agrees", "partly"]
    assert [verdict_of(judged[1:]), verdict_of(judged[2:])] == ["does not", "no number"]


GOOD = {"says": "It is so.", "measure": "late_edge", "column": "sharpness", "expect": {"from": 0.9}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"measure": "guess"}, "claims.1.measure"),
        ({"column": ""}, "claims.1.column"),
        ({"where": {"optim.momentum": 0.9}}, "is no axis of the study"),
        ({"measure": "best_rate", "column": "", "where": {"step": 10}}, "step needs a column"),
        ({"along": "optim.lr"}, "along and take"),
        ({"along": "optim.lr", "take": "guess"}, "claims.1.take"),
        ({"expect": {"near": 1}}, "claims.1.expect"),
        ({"expect": {"from": "1"}}, "claims.1.expect"),
        ({"says": " "}, "claims.1.says"),
        ({"verdict": "agrees"}, "claims.1.verdict"),
    ],
)
def test_a_mistake_in_a_claim_is_one_line(change, named):
    with pytest.raises(UserError, match=named) as raised:
        read_claims([GOOD | change], ["optim.lr"])
    assert "\n" not in str(raised.value)
    assert "allowed" in str(raised.value)


@pytest.mark.parametrize("found", [[], {"cite": 3}, {"arxiv": "2103.00065"}, {"cite": "A", "url": "b"}])
def test_a_paper_that_is_not_usable_is_refused(found):
    with pytest.raises(UserError, match="paper: "):
        read_paper(found)


PLOT = {
    "name": "rates", "title": "How large?", "measure": "largest_stable_rate", "along": "model.base_width",
    "levels": {"one": 1}, "powers": {"1/m": -1},
}  # fmt: skip


def test_a_described_figure_draws_the_measure_along_the_axis_with_its_guides(tmp_path):
    collected = collect(make_study(tmp_path, GRID, narrowing))
    (figure,) = draw_figures(collected, [PLOT]).figures
    assert list(figure.table["value"]) == [4.0, 2.0, 1.0]
    (ax,) = figure.picture.axes
    data, power, level = (list(line.get_ydata()) for line in ax.get_lines())
    assert data == [4.0, 2.0, 1.0]
    assert power == pytest.approx(data)
    assert level == [1.0, 1.0]
    assert {text.get_text() for text in figure.picture.legends[0].get_texts()} == {"one", "1/m"}
    assert "4 to 1" in figure.sentence


def test_a_described_figure_draws_columns_along_steps(tmp_path):
    def rows(axes):
        curve = [{"step": s, "lr": 1.0, "loss": 1.0, "curve": s * axes["optim.lr"]} for s in (1, 2)]
        return finished(0.5, rows=curve)

    collected = collect(make_study(tmp_path, {"optim.lr": [1.0, 3.0]}, rows))
    plot = {"name": "curves", "column": ["curve", "loss"], "along": "step", "lines": "optim.lr"}
    (figure,) = draw_figures(collected, [plot]).figures
    assert list(figure.table["value"]) == [2.0, 1.0, 6.0, 1.0]
    lacking = draw_figures(collected, [plot | {"column": "nothing"}])
    assert lacking.figures == ()
    assert "nothing" in lacking.lacking[0][1]


def test_a_power_law_is_drawn_where_it_holds_and_a_level_may_be_that_of_other_runs(tmp_path):
    def outcome(axes):
        width, kind = axes["model.base_width"], axes["loss"]
        return finished(1.0 if kind == "mse" else 8.0 / width**2 if width < 16 else 3.0)

    axes = {"model.base_width": [1, 2, 4, 16], "loss": ["mse", "cross_entropy"], "optim.lr": [1.0]}
    plot = {
        "name": "losses", "measure": "final_loss", "along": "model.base_width", "lines": "loss",
        "levels": {"mse at 1": {"loss": "mse", "model.base_width": 1}},
        "powers": {"m^−2": {"power": -2, "line": "cross_entropy", "to": 4}},
    }  # fmt: skip
    collected = collect(make_study(tmp_path, axes, outcome))
    (figure,) = draw_figures(collected, [plot]).figures
    *_, law, level = figure.picture.axes[0].get_lines()
    assert list(law.get_xdata()) == [1, 2, 4]
    assert list(law.get_ydata()) == pytest.approx([8.0, 2.0, 0.5])
    assert level.get_ydata()[0] == 1.0


def test_rates_over_the_sharpness_at_the_start_and_the_edge_are_drawn(tmp_path):
    def outcome(axes):
        rate = axes["optim.lr"]
        seen = {"lr": rate, "loss": 1.0, "edge": 2 / rate}
        rows = [seen | {"step": step, "sharpness": at} for step, at in ((1, 4.0), (2, 1 / rate))]
        return finished(0.5, rows=rows) if rate < 1 else diverged() | {"rows": rows[:1]}

    plot = {
        "name": "final", "measure": "last", "column": ["sharpness", "edge"], "axis": "sharpness λ",
        "along": "optim.lr", "edges": {"2/λ₀": 2, "4/λ₀": 4},
    }  # fmt: skip
    collected = collect(make_study(tmp_path, {"optim.lr": [0.25, 0.5, 1.0]}, outcome))
    (figure,) = draw_figures(collected, [plot]).figures
    (ax,) = figure.picture.axes
    last, lost, edge, *vertical = ax.get_lines()
    assert list(last.get_ydata()) == [4.0, 2.0]
    assert list(lost.get_xdata()) == [1.0]
    assert list(edge.get_ydata()) == [8.0, 4.0]
    assert [line.get_xdata()[0] for line in vertical] == [0.5, 1.0]
    assert [text.get_text() for text in ax.texts] == ["2/λ₀", "4/λ₀"]
    assert ax.get_ylabel() == "last sharpness λ"
    with pytest.raises(UserError, match=r"report\.final\.edges: they are rates"):
        read_plot(plot | {"along": "model.depth"}, None)


def test_a_described_figure_draws_points_of_two_columns(tmp_path):
    def rows(axes):
        pairs = [{"step": s, "lr": 1.0, "found": s - 2.0, "expected": 2 * s - 4.0} for s in range(1, 5)]
        return finished(0.5, rows=pairs)

    plot = {"name": "pairs", "column": "expected", "along": "metrics.found"}
    (figure,) = draw_figures(collect(make_study(tmp_path, {"optim.lr": [1.0]}, rows)), [plot]).figures
    (ax,) = figure.picture.axes
    assert list(ax.get_lines()[0].get_xdata()) == [-1.0, 0.0, 1.0, 2.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("found", "expected")
    assert figure.sentence == "The correlation is 1."


def test_two_described_figures_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"^report: two figures are called 'rates'; allowed: one$"):
        check_figures([PLOT, PLOT | {"title": "How large again?"}], ["model.base_width"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "No name"}, "report.name"),
        ({"name": "sharpness"}, "two figures are called"),
        ({"along": "model.depth"}, "report.rates.along"),
        ({"lines": "model.depth"}, "report.rates.lines"),
        ({"levels": [1]}, "report.rates.levels"),
        ({"levels": {"one": {"model.depth": 4}}}, "report.rates.levels.one"),
        ({"powers": {"1/m": {"exponent": -1}}}, "report.rates.powers.1/m"),
        ({"powers": {"1/m": {"power": -1, "to": "all"}}}, "report.rates.powers.1/m"),
        ({"colour": "red"}, "report.rates.colour"),
        ({"along": "step"}, "report.rates.measure"),
        ({"along": "step", "where": {"step": 1}}, "report.rates.where"),
    ],
)
def test_a_mistake_in_a_described_figure_is_one_line(tmp_path, change, named):
    file = tmp_path / "s.yaml"
    file.write_text(f"axes: [{{model.base_width: [4, 8]}}]\nreport: [{PLOT | change}]")
    with pytest.raises(UserError, match=named):
        read_study(file)


@pytest.mark.slow
def test_the_page_of_a_paper_has_its_claims_with_numbers_and_verdicts(tmp_path):
    study = {
        "paper": {"cite": "A & B, On rates, 2020", "arxiv": "2001.00001", "differs": "digits."},
        "claims": [
            {
                "says": "The rate falls like 1/m.", "measure": "largest_stable_rate",
                "along": "model.base_width", "take": "power", "expect": {"from": -1.2, "to": -0.8},
            }
        ],
        "report": [PLOT],
    }  # fmt: skip
    folder = make_study(tmp_path, GRID, narrowing, study=study)
    page = write_report(folder).read_text(encoding="utf-8")
    for text in (page, (folder / "summary.md").read_text(encoding="utf-8")):
        assert "The rate falls like 1/m." in text
        assert "https://arxiv.org/abs/2001.00001" in text
        assert "−1.2 to −0.8" in text
        assert "agrees" in text
    assert (folder / "figures/rates.png").is_file()


@pytest.mark.parametrize("alpha", [0.1, -0.1])
def test_a_cycle_begins_where_sharpness_passes_the_edge_and_gradient_flow_sharpens(alpha):
    """η = 1, so that 2/η = 2; λ is linear in the step, which averaging leaves."""
    rows = pd.DataFrame(
        {
            "step": range(8),
            "lr": 1.0,
            "sharpness": [1.65 + 0.1 * step for step in range(8)],
            "swing": 1e-3,
            "progressive_sharpening_across": alpha,
            "self_stabilization_across": 1.0,
        }
    )
    found = first_cycle(rows)
    if alpha < 0:
        assert found is None
    else:
        assert (found.first, found.edge, found.complete) == (4, 2.0, False)
        assert found.predicted[:2, 0] == pytest.approx([2.05, 2.05 + 0.1 - 1e-6 / 2])
        known = rows.assign(edge=2.0, preconditioned_sharpness=rows["sharpness"], edge_ratio=1.0)
        assert first_cycle(known) is not None
        for moved in ({"edge": 3.8}, {"preconditioned_sharpness": 1.0}):
            assert first_cycle(known.assign(**moved)) is None


def test_the_memory_of_a_run_is_the_planners_for_its_configuration():
    row = pd.Series(
        {
            "config.loss": "mse",
            "config.model.depth": 3,
            "config.model.base_width": 8,
            "config.optim.batch_size": 16,
            "config.optim.optimizer": "adamw",
            "config.optim.options.betas": "[0.8, 0.9]",
            "config.optim.clip_norm": None,
            "config.data.source": "not read",
            "widths": "[5, 8, 32, 2]",
        }
    )
    optim = {"batch_size": 16, "optimizer": "adamw", "options": {"betas": [0.8, 0.9]}}
    config = from_dict({"loss": "mse", "model": {"depth": 3, "base_width": 8}, "optim": optim})
    planned = predict("ddp", Workload.of(config, 5, 2), nominal("cpu"), fused=True)
    assert step_bytes(row) == planned.peak_bytes
    row["config.model.base_width"] = 16
    assert step_bytes(row) > planned.peak_bytes
