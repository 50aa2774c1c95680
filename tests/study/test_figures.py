import math
import statistics
import warnings
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from scaled_sgd.core.errors import UserError
from scaled_sgd.study.figures import View, draw_figures
from scaled_sgd.study.figures.drawing import drawn
from scaled_sgd.study.figures.drawing.panels import MOST_PANELS, Panels
from scaled_sgd.study.figures.drawing.style import log_axis, set_mathtext
from scaled_sgd.study.figures.reading.rates import best, largest_stable
from scaled_sgd.study.figures.reading.words import balanced, number, wrapped
from scaled_sgd.study.grid.figures import all_figures
from scaled_sgd.study.tables.collect import collect
from tests.examples import examples
from tests.study.folders import diagnosed, diverged, finished, make_study

pytestmark = pytest.mark.slow

RATES = [2.0**k for k in range(-1, 5)]
GRID = {"model.base_width": [4, 8, 16], "optim.lr": RATES, "run.seed": [0, 1, 2]}


SEEDS = [1.0, 1.01, 1.05]
"""What each seed multiplies the loss with: the mean is not the median."""


def bowl(axes, best_rate, *, stable=math.inf, rows=()):
    """Loss least at ``best_rate``, different for each seed; unstable above ``stable``."""
    away = math.log2(axes["optim.lr"] / best_rate)
    loss = (1 + away**2) * SEEDS[axes.get("run.seed", 0)] / axes.get("model.base_width", 8)
    return finished(loss, max_loss=1.0 if axes["optim.lr"] <= stable else 3.0, rows=rows)


@pytest.fixture
def without_layout(monkeypatch):
    """Panels lie where they began: placing them takes longer than drawing; test_report.py places them."""
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)


@pytest.fixture
def draw(tmp_path, without_layout, monkeypatch):
    """The one named figure of a study, or None where it does not apply; no warning on the way."""
    # Tables are drawn from memory; writing them takes longer than reading the runs.
    monkeypatch.setattr("scaled_sgd.study.tables.collect.replace_file", lambda path, write: None)

    def figure(name, axes, outcome):
        collected = collect(make_study(tmp_path, axes, outcome))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figures = draw_figures(collected, [name]).figures
        return figures[0] if figures else None

    return figure


def test_the_best_rate_is_the_same_at_every_width_when_it_is(draw):
    figure = draw("best_lr_against_width", GRID, lambda a: bowl(a, 4.0))
    assert figure.sentence == "The best learning rate is 4 at every width from 4 to 16."
    assert list(figure.table["learning rate η"]) == [4.0, 4.0, 4.0]
    assert list(figure.table["seeds"]) == [3, 3, 3]
    assert not figure.notes
    assert "in steps of 2×" in figure.caption


def test_rates_in_units_of_the_edge_take_the_place_of_rates_and_say_so(draw):
    grid = {"model.base_width": [4, 8], "optim.lr_in_edges": [0.25, 0.5, 1.0, 2.0]}

    def run(axes):
        return bowl(axes | {"optim.lr": axes["optim.lr_in_edges"]}, 0.5)

    figure = draw("best_lr_against_width", grid, run)
    assert figure.sentence == "The best learning rate is 0.5 at every width from 4 to 8."
    assert any(note.startswith("Rates η are in units of 2/λ₀") for note in figure.notes)


def test_a_best_rate_that_moves_is_said_to_move(draw):
    figure = draw("best_lr_against_width", GRID, lambda a: bowl(a, 16 / a["model.base_width"]))
    assert figure.sentence == "The best learning rate moves by 4×, from 4 at width 4 to 1 at width 16."


def test_a_best_rate_that_comes_back_is_not_said_to_move(draw):
    figure = draw(
        "best_lr_against_width", GRID, lambda a: bowl(a, 2.0 if a["model.base_width"] == 8 else 1.0)
    )
    assert figure.sentence == ("The best learning rate is 1 at width 4 and 16, and 1 to 2 between them.")


def test_methods_are_lines_and_each_is_named(draw):
    axes = {"method": ["νP norm", "plain"], **GRID}
    figure = draw(
        "best_lr_against_width",
        axes,
        lambda a: bowl(a, 4.0 if a["method"] == "plain" else 16 / a["model.base_width"]),
    )
    assert figure.sentence == (
        "The best learning rate moves by 4×, from 4 at width 4 to 1 at width 16 for νP norm; "
        "is 4 at every width from 4 to 16 for plain."
    )


def test_methods_with_grids_of_their_own_have_a_panel_each_with_all_widths(draw):
    grids = {"νP norm": [2.0, 4.0, 8.0], "AdamW": [2.0**-9, 2.0**-8, 2.0**-7, 2.0**-6]}
    axes = [
        {"method": method, "optim.lr": rate, "model.base_width": width, "run.seed": 0}
        for method, rates in grids.items()
        for rate in rates
        for width in (4, 8, 16)
    ]
    rows = [diagnosed(step, preconditioned_sharpness=2.0) for step in (0, 10, 20)]

    def run(a):
        return bowl(a, 4.0 if a["method"] == "νP norm" else 2.0**-7, rows=rows)

    figure = draw("loss_against_lr", axes, run)
    shown = {
        ax.get_title(loc="left"): [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) > 2]
        for ax in figure.picture.axes
    }
    assert shown == {method: [rates] * 3 for method, rates in grids.items()}
    assert "4 at every width" in draw("best_lr_against_width", axes, run).sentence
    chosen = draw("methods", axes, run).table
    assert {row["method"]: row["learning rate η"] for _, row in chosen.iterrows()} == {
        "νP norm": 4.0,
        "AdamW": 2.0**-7,
    }
    sharp = draw("preconditioned_sharpness", axes, run).table
    assert {"νP norm", "AdamW"} == {row["panel"].split(" · ")[0] for _, row in sharp.iterrows()}


def test_a_best_rate_at_the_end_of_the_grid_is_no_more_than_a_bound(draw):
    figure = draw(
        "best_lr_against_width", GRID, lambda a: bowl(a, 64.0 if a["model.base_width"] == 8 else 2.0)
    )
    assert figure.notes == (
        "The best learning rate is the highest of the grid for m = 8: it may lie higher.",
    )
    assert list(figure.table["end of the grid"]) == ["", "highest", ""]


def test_the_spread_of_the_best_rate_is_what_single_seeds_would_choose(draw):
    choices = {0: 1.0, 1: 2.0, 2: 8.0}
    figure = draw("best_lr_against_width", GRID, lambda a: bowl(a, choices[a["run.seed"]]))
    assert set(figure.table["lowest seed"]) == {1.0}
    assert set(figure.table["highest seed"]) == {8.0}


def test_the_cost_of_carrying_a_rate_to_another_width_is_the_ratio_of_losses(draw):
    figure = draw("loss_against_lr", GRID, lambda a: bowl(a, 4.0 if a["model.base_width"] < 16 else 2.0))
    # Of the bowl at 2, the rate 4 is one away: (1 + 1) / (1 + 0).
    assert figure.sentence == (
        "The best rate at m = 4, η = 4, carried to m = 16 ends at 2× the loss of the best rate there, η = 2."
    )
    row = figure.table.query("`base width m` == 16 and `learning rate η` == 4").iloc[0]
    losses = [2 * seed / 16 for seed in SEEDS]
    assert (row["median"], row["low"], row["high"]) == pytest.approx(
        (statistics.median(losses), min(losses), max(losses))
    )


def test_a_rate_that_diverges_when_carried_over_is_said_to(draw):
    figure = draw(
        "loss_against_lr",
        GRID,
        lambda a: diverged() if a["model.base_width"] == 16 and a["optim.lr"] > 1 else bowl(a, 4.0),
    )
    assert "carried to m = 16 diverges, unlike the best rate there, η = 1." in figure.sentence
    assert "12 of 54 runs diverged." in figure.notes
    crosses = [line for line in figure.picture.axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[2.0, 4.0, 8.0, 16.0]]


def test_the_largest_stable_rate_has_only_stable_rates_below_it(draw):
    def gap(axes):
        lr, width = axes["optim.lr"], axes["model.base_width"]
        stable = lr <= 2.0 or (width == 8 and lr == 8.0)
        return finished(0.1, max_loss=1.5 if stable else 5.0)

    figure = draw("largest_stable_lr", GRID, gap)
    assert figure.sentence == "The largest stable learning rate is 2 at every width from 4 to 16."


def test_one_unstable_seed_makes_a_rate_unstable_and_the_bar_shows_the_others(draw):
    figure = draw("largest_stable_lr", GRID, lambda a: bowl(a, 2.0, stable=8.0 / (1 + a["run.seed"])))
    assert set(figure.table["learning rate η"]) == {2.0}
    assert set(figure.table["highest seed"]) == {8.0}


def test_no_stable_rate_is_said_and_not_drawn(draw):
    figure = draw(
        "largest_stable_lr", GRID, lambda a: bowl(a, 2.0, stable=1.0 if a["model.base_width"] > 4 else 0.0)
    )
    assert "is 1, and does not exist at 1 of 3 widths" in figure.sentence
    assert "No rate of the grid will do for m = 4." in figure.notes


def test_a_stable_rate_that_is_the_last_of_the_grid_is_a_bound(draw):
    figure = draw("largest_stable_lr", GRID, lambda a: bowl(a, 2.0))
    assert any("is the highest of the grid" in note and "it may lie higher" in note for note in figure.notes)


def test_the_edge_ratio_at_the_largest_stable_rate_is_reported(draw):
    def run(axes):
        rows = [diagnosed(step, edge_ratio=axes["optim.lr"] * 0.7) for step in (0, 10, 20)]
        return bowl(axes, 2.0, stable=4.0, rows=rows)

    figure = draw("largest_stable_lr", GRID, run)
    assert figure.sentence.endswith("At that rate the edge ratio is 2.8 in the last half of a run.")


def test_any_axis_takes_the_place_of_width_where_there_is_one_network(draw):
    axes = {"optim.warmup_steps": [0, 60, 240], "optim.lr": RATES, "run.seed": [0]}
    largest = {0: 2.0, 60: 4.0, 240: 8.0}
    figure = draw("largest_stable_lr", axes, lambda a: bowl(a, 1.0, stable=largest[a["optim.warmup_steps"]]))
    assert figure.sentence == (
        "The largest stable learning rate moves by 4×, from 2 at warm-up steps 0 to 8 at warm-up steps 240."
    )
    ticks = [text.get_text() for text in figure.picture.axes[0].get_xticklabels()]
    assert ticks == ["warm-up steps 0", "warm-up steps 60", "warm-up steps 240"]
    assert "seed" not in figure.caption


def test_the_loss_is_drawn_for_every_method_at_its_best_rate(draw):
    def run(axes):
        rate = {"slow": 1.0, "fast": 4.0}[axes["method"]]
        away = 1 + abs(math.log2(axes["optim.lr"] / rate))
        rows = [diagnosed(step, loss=away * loss) for step, loss in ((10, 0.5), (20, 0.7), (30, 0.1))]
        return finished(away, rows=rows)

    axes = {"method": ["slow", "fast"], "optim.lr": RATES, "run.seed": [0, 1]}
    figure = draw("loss_against_step", axes, run)
    assert list(figure.table["learning rate η"]) == [1.0, 4.0]
    assert list(figure.table["last loss"]) == [0.1, 0.1]
    assert list(figure.table["share of rises"]) == [pytest.approx(1 / 3)] * 2
    assert "rising in 33 % of steps" in figure.sentence
    assert [list(line.get_ydata()) for line in figure.picture.axes[0].lines] == [[1.0, 0.5, 0.7, 0.1]] * 2


def test_curvatures_of_one_run_are_shown_with_the_edge_of_their_rate(draw):
    rows = [
        diagnosed(step, lr=2.0, sharpness=0.5, batch_sharpness=1.0, gauss_newton_sharpness=0.25)
        | {"preconditioned_sharpness": 0.5, "edge_ratio": 0.5, "feature_sharpness": None}
        for step in (0, 10, 20)
    ]
    figure = draw("curvatures", {"optim.lr": [2.0], "run.seed": [0]}, lambda _: finished(0.1, rows=rows))
    assert figure.sentence == (
        "In the last half of training, over the edge and in the median, they are 0.5 (λ of H), "
        "1 (batch sharpness), 0.25 (λ of G) at η = 2."
    )
    heights = [list(line.get_ydata()) for line in figure.picture.axes[0].lines]
    assert heights == [[0.5] * 3, [1.0] * 3, [0.25] * 3, [1.0] * 3]
    lacking = dict.fromkeys(("batch_sharpness", "gauss_newton_sharpness", "feature_sharpness"))
    plain = [diagnosed(step, sharpness=0.5) | lacking for step in (0, 10)]
    assert draw("curvatures", {"run.seed": [0]}, lambda _: finished(0.1, rows=plain)) is None


def test_the_dashed_edge_is_that_of_the_steps_of_each_method(draw):
    """λ of H has one with momentum, clipping and decay; scaled, AdamW's and polar steps have their own."""
    nothing = dict.fromkeys(("preconditioned_sharpness", "edge", "edge_ratio", "generalized_edge_ratio"))
    nothing |= dict.fromkeys(("adam_sharpness", "adam_edge", "adam_edge_ratio"))
    methods = {
        "momentum": {"preconditioned_sharpness": 2.0, "edge": 3.8, "edge_ratio": 0.5},
        "scaled": {"preconditioned_sharpness": 7.0, "edge": 2.0, "edge_ratio": 3.5},
        "AdamW": {"preconditioned_sharpness": 2.0, "adam_sharpness": 30.0, "adam_edge": 38.0},
        "spectral": {"generalized_sharpness": 0.8, "generalized_edge_ratio": 0.4},
        "nsgd": {"preconditioned_sharpness": 2.0},
    }

    def run(axes):
        rows = [diagnosed(s, sharpness=2.0, **nothing | methods[axes["method"]]) for s in (0, 10)]
        return finished(0.1, rows=rows)

    axes = {"method": list(methods), "run.seed": [0]}
    figure = draw("curvatures", axes, run)
    dashed = [
        [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == "--"]
        for ax in figure.picture.axes
    ]
    assert dashed == [[[3.8] * 2], [[2.0] * 2], [[38.0] * 2], [[2.0] * 2], []]
    (note,) = [note for note in figure.notes if note.startswith("No edge")]
    assert note == "No edge is drawn for nsgd: the optimizer does not step by −ηv."
    drawn = draw("sharpness", axes, run)
    assert list(drawn.table["edge ratio late, median"].dropna()) == [2.0 / 3.8]
    notes = [note for note in drawn.notes if note.startswith("No edge")]
    assert notes == [
        "No edge is drawn for scaled: scaled gradients have the edge of the preconditioned sharpness.",
        "No edge is drawn for AdamW and nsgd: the optimizer does not step by −ηv.",
        "No edge is drawn for spectral: steps are not a number times each layer's gradient.",
    ]
    assert "Not measured for spectral." in draw("preconditioned_sharpness", axes, run).notes


def test_ratios_of_one_run_are_shown_with_their_edge(draw):
    ratios = {"edge_ratio": 0.5, "directional_edge_ratio": 1.5, "critical_edge_ratio": 2.0}
    ratios |= dict.fromkeys(("generalized_edge_ratio", "adam_edge_ratio"))
    rows = [diagnosed(step, **ratios) for step in (0, 10, 20)]
    figure = draw("edge_ratios", {"optim.lr": [2.0], "run.seed": [0]}, lambda _: finished(0.1, rows=rows))
    assert figure.sentence == (
        "In the last half of training they are in the median 0.5 (edge ratio of λ), 1.5 (ρ along the step), "
        "2 (η/η_c) at η = 2."
    )
    heights = [list(line.get_ydata()) for line in figure.picture.axes[0].lines]
    assert heights == [[1.0] * 2, [0.5] * 3, [1.5] * 3, [2.0] * 3]


def test_measured_and_predicted_changes_of_sharpness_are_shown_together(draw):
    rows = [
        diagnosed(step, sharpness_change=change, predicted_sharpness_change=change)
        for step, change in ((0, None), (10, 0.5), (20, -0.25))
    ]
    axes = {"optim.lr": [2.0], "run.seed": [0]}
    figure = draw("sharpness_change", axes, lambda _: finished(0.1, rows=rows))
    heights = [list(line.get_ydata()) for line in figure.picture.axes[0].lines]
    assert heights == [[0.0] * 2, [0.5, -0.25], [0.5, -0.25]]
    assert draw("sharpness_change", axes, lambda _: finished(0.1)) is None


def test_widths_are_lines_where_each_method_has_one_rate_of_its_own(draw):
    rows = [diagnosed(step, preconditioned_sharpness=2.0) for step in (0, 10, 20)]
    axes = [
        {"method": method, "optim.lr": rate, "model.base_width": width, "run.seed": 0}
        for method, rate in (("νP", 8.0), ("NTP", 2.0))
        for width in (4, 8, 16)
    ]
    figure = draw("preconditioned_sharpness", axes, lambda _: finished(0.1, rows=rows))
    assert sorted(set(figure.table["runs at"])) == ["m = 16", "m = 4", "m = 8"]
    assert len(figure.table) == 6
    losses, sharpness = figure.picture.axes[1], figure.picture.axes[0]
    assert len(losses.lines) == 3
    assert losses.get_xlim() == sharpness.get_xlim()


@pytest.mark.parametrize(
    ("name", "panels", "lines"),
    [
        ("loss_against_step", 2, 3),
        ("batch_sharpness", 2, 3),
        ("feature_ranks", 6, 2),
        ("curvatures", 6, 6),
        ("edge_ratios", 6, 5),
        ("coordinate_check", 2, 3),
    ],
)
def test_every_width_is_shown_where_each_network_of_a_method_has_its_own_rate(draw, name, panels, lines):
    """Widths are lines of a figure with one line, panels of one with several; none is taken for a seed."""
    rows = [diagnosed(step) for step in (0, 10, 20)]
    axes = [
        {"method": method, "optim.lr": rate / width, "model.base_width": width, "run.seed": 0}
        for method, rate in (("νP", 8.0), ("NTP", 2.0))
        for width in (4, 8, 16)
    ]
    figure = draw(name, axes, lambda _: finished(0.1, rows=rows))
    assert [len(ax.lines) for ax in figure.picture.axes] == [lines] * panels
    assert set(figure.table["seeds"]) == {1} if "seeds" in figure.table else True
    assert "One seed a point: there is no spread to see." in figure.notes
    assert not any("left out" in note for note in figure.notes)


def test_depth_takes_the_place_of_width_where_there_is_one_width(draw):
    axes = {"model.depth": [4, 8], "optim.lr": RATES, "run.seed": [0]}
    figure = draw("largest_stable_lr", axes, lambda a: bowl(a, 2.0, stable=4.0))
    assert figure.sentence == "The largest stable learning rate is 4 at every depth from 4 to 8."
    assert draw("best_lr_against_width", axes, lambda a: bowl(a, 2.0)) is None
    figure = draw("best_lr_against_depth", axes, lambda a: bowl(a, a["model.depth"] / 4))
    assert figure.sentence == "The best learning rate moves by 2×, from 1 at depth 4 to 2 at depth 8."


def test_the_edge_moves_with_the_rate_of_the_step(draw):
    def run(axes):
        rates = [8.0, 4.0, 2.0]
        rows = [
            diagnosed(10 * k, lr=lr, preconditioned_sharpness=0.6, edge_ratio=lr * 0.3)
            for k, lr in enumerate(rates)
        ]
        return finished(0.1, rows=rows)

    figure = draw("preconditioned_sharpness", {"run.seed": [0, 1]}, run)
    edges = [line for line in figure.picture.axes[0].lines if list(line.get_ydata()) == [0.25, 0.5, 1.0]]
    assert len(edges) == 1
    # The last half has steps 10 and 20, with ratios 4 · 0.6 / 2 and 2 · 0.6 / 2.
    assert "is 0.9 at " in figure.sentence
    assert "50 % of the measurements beyond the edge" in figure.sentence


@pytest.mark.parametrize("column", ["preconditioned_sharpness", "sharpness"])
def test_the_edge_is_that_of_the_rate_after_normalising(draw, column):
    """η = 1 that normalising made 4 of: the edge is at 0.5, and λ = 1 is twice beyond it."""
    rows = [
        diagnosed(s, lr=1.0, sharpness=1.0, preconditioned_sharpness=1.0, edge_ratio=2.0) for s in (0, 10, 20)
    ]
    figure = draw(column, {"run.seed": [0, 1]}, lambda a: finished(0.1, rows=rows))
    assert [list(line.get_ydata()) for line in figure.picture.axes[0].lines].count([0.5] * 3) == 1
    assert list(figure.table["edge ratio late, median"]) == [2.0]


def test_the_edge_knows_momentum_and_decay(draw):
    rows = [diagnosed(s, edge=3.5, preconditioned_sharpness=7.0, edge_ratio=1.9) for s in (0, 10, 20)]
    axes = {"optim.momentum": [0.9], "optim.weight_decay": [0.1], "run.seed": [0, 1]}
    figure = draw("preconditioned_sharpness", axes, lambda a: finished(0.1, rows=rows))
    lines = [list(line.get_ydata()) for line in figure.picture.axes[0].lines]
    assert sum(line == pytest.approx([3.5] * 3) for line in lines) == 1
    assert "is 2 at " in figure.sentence
    assert "the edge of stability 2(1 + μ)/η − λ_w at that step" in figure.caption


def test_late_is_the_last_half_of_the_steps_and_not_of_the_measured_ones(draw):
    """Of 60 steps, measured at 0, 20 and 40, step 40 alone: what the table of runs has, too."""
    rows = [diagnosed(s, edge_ratio=r) for s, r in ((0, 1.5), (20, 0.1), (40, 1.95))]
    rows.append({"step": 60, "eval_loss": 0.1})
    figure = draw("preconditioned_sharpness", {"run.seed": [0]}, lambda a: finished(0.1, rows=rows))
    assert figure.sentence.startswith("In the last half of training the median of η λ / 2 is 1.95 ")


def test_late_ratios_of_rates_that_decay_are_said_to_be_such(draw):
    rows = [diagnosed(s, edge_ratio=1.5, critical_edge_ratio=2.0) for s in (0, 10)]
    axes = {"optim.schedule": ["linear"], "model.base_width": [4, 8], "optim.lr": [1, 2], "run.seed": [0]}
    for name, said in (
        ("preconditioned_sharpness", "n the last half of training, while η decays to 0, the median of"),
        ("largest_stable_lr", " in the last half of a run, while η decays to 0."),
        ("edge_ratios", "In the last half of training, while η decays to 0, they are in the median"),
    ):
        assert said in draw(name, axes, lambda a: finished(0.1, rows=rows)).sentence
        constant = draw(name, axes | {"optim.schedule": ["constant"]}, lambda a: finished(0.1, rows=rows))
        assert "decays" not in constant.sentence


def test_what_lines_stand_for_is_said_of_many_panels(draw):
    rows = [diagnosed(s) for s in (0, 10)]
    widths = {"model.base_width": [4, 8], "model.depth": [2, 3, 4, 5, 6], "run.seed": [0]}
    figure = draw("preconditioned_sharpness", widths, lambda a: finished(0.1, rows=rows))
    assert figure.sentence.startswith("At the largest width shown, the median of η λ / 2 ")
    one = {"model.depth": [2, 3, 4, 5, 6], "run.seed": [0, 1]}
    figure = draw("preconditioned_sharpness", one, lambda a: finished(0.1, rows=rows))
    assert figure.sentence.startswith("The median of η λ / 2 ")
    figure = draw("sharpness", one, lambda a: finished(0.1, rows=rows))
    assert figure.sentence == "The sharpness at the end is 2."


def test_sharpness_is_shown_at_the_lowest_the_best_and_the_largest_stable_rate(draw):
    def run(axes):
        lr = axes["optim.lr"]
        return bowl(axes, 2.0, stable=8.0, rows=[diagnosed(s, lr=lr, sharpness=8 / lr) for s in (0, 10)])

    figure = draw("sharpness", {"optim.lr": RATES, "run.seed": [0, 1]}, run)
    assert list(figure.table["runs at"]) == ["η = 0.5", "η = 2", "η = 8"]
    assert figure.sentence == "The sharpness at the end is 16 at η = 0.5 and 1 at η = 8."


def test_ranks_are_those_of_the_best_rate_at_the_largest_width(draw):
    def run(axes):
        lr, width, seed = axes["optim.lr"], axes["model.base_width"], axes["run.seed"]
        rows = [
            diagnosed(s, features={"stable": [1.0, 1 + s * lr * width * (1 + seed) / 320]}) for s in (0, 10)
        ]
        return bowl(axes, 2.0, rows=rows)

    figure = draw("feature_ranks", GRID, run)
    # 1 + 10 · η · 16 · (1 + seed) / 320 = 1 + η (1 + seed) / 2, of which the median is at seed 1.
    assert figure.sentence == (
        "In training the stable rank of the last hidden layer goes from 1 to 3 at η = 2 (to 1.5 at η = 0.5)."
    )
    last = figure.table.iloc[-1]
    assert (last["at the end"], last["lowest seed"], last["highest seed"]) == (3.0, 2.0, 4.0)
    assert "Shown at m = 16; left out: m = 4 and m = 8." in figure.notes


def test_the_error_of_the_prediction_is_relative_to_the_change_that_came(draw):
    def run(axes):
        rows = [
            diagnosed(10, loss=1.0, loss_after=0.5, predicted_loss=0.45, edge_ratio=0.5),
            diagnosed(20, loss=1.0, loss_after=0.5, predicted_loss=1.5, edge_ratio=2.0),
        ]
        return finished(0.1, rows=rows)

    figure = draw("taylor", {"run.seed": [0, 1]}, run)
    assert figure.sentence == (
        "The prediction has the right sign in 50 % of 4 steps (median relative error 0.1 before the edge and "
        "2 beyond the edge)."
    )


def test_a_prediction_is_judged_on_stable_runs_and_this_is_said(draw):
    def run(axes):
        wild = diagnosed(10, loss=1.0, loss_after=1e9, predicted_loss=-1e9)
        calm = diagnosed(10, loss=1.0, loss_after=0.5, predicted_loss=0.5)
        return finished(
            0.1, rows=[wild if axes["run.seed"] else calm], max_loss=5.0 if axes["run.seed"] else 1.0
        )

    figure = draw("taylor", {"run.seed": [0, 1]}, run)
    assert "100 % of 1 step " in figure.sentence
    assert "Of 2 runs the 1 stable ones are shown." in figure.notes


def test_a_coordinate_check_finds_the_power_of_the_width(draw):
    def run(axes):
        m = axes["model.base_width"]
        return finished(0.1, rows=[diagnosed(10, preactivation_change=[0.3, m**-0.5, 0.1 * m**0.25])])

    figure = draw("coordinate_check", {"model.base_width": [4, 8, 16], "run.seed": [0, 1]}, run)
    assert figure.sentence == (
        "Between m = 4 and 16, the relative change of preactivations goes like mˢ with s from −0.50 "
        "(layer 2) to 0.25 (layer 3) at η = 1."
    )


def test_a_refined_coordinate_check_shows_both_parts_at_several_steps(draw):
    def run(axes):
        m = axes["model.base_width"]
        parts = {"change_by_weights": [1.0, 2.0 / m], "change_by_features": [0.0, 0.25]}
        nothing = {name: [0.0, 0.0] for name in parts}
        rows = [diagnosed(0, **nothing), *(diagnosed(step, **parts) for step in (5, 10, 15, 20, 25, 30))]
        return finished(0.1, rows=rows)

    figure = draw("refined_coordinate_check", {"model.base_width": [4, 8], "run.seed": [0, 1]}, run)
    assert list(dict.fromkeys(figure.table["panel"])) == ["step 5", "step 15", "step 20", "step 30"]
    assert figure.sentence.endswith(
        "the last layer's change goes from 0.5 to 0.25 by weights and from 0.25 to 0.25 by features at η = 1."
    )
    layers = {part: set(rows["layer"]) for part, rows in figure.table.groupby("part")}
    assert layers == {"change_by_weights": {1, 2}, "change_by_features": {2}}
    solid, _, dashed = figure.picture.axes[0].lines
    assert figure.picture.axes[0].lines[1].get_color() == dashed.get_color() != solid.get_color()


def test_one_rate_serves_all_widths_of_a_coordinate_check(draw):
    def run(axes):
        width, lr = axes["model.base_width"], axes["optim.lr"]
        stable = 2.0 if width == 16 else 8.0
        return bowl(axes, 8.0, stable=stable, rows=[diagnosed(10, preactivation_change=[lr / width])])

    figure = draw("coordinate_check", GRID, run)
    assert set(figure.table["learning rate η"]) == {2.0}
    assert figure.sentence.endswith("goes like mˢ with s = −1.00 at η = 2.")


def test_kernel_drift_is_against_width_or_else_against_step(draw):
    def run(axes):
        drift = [0.1 / axes.get("model.base_width", 1), 0.2]
        return finished(0.1, rows=[diagnosed(s, features={"drift": [s * d for d in drift]}) for s in (0, 10)])

    wide = draw("kernel_drift", {"model.base_width": [4, 8], "run.seed": [0]}, run)
    assert "s from −1.00 (layer 1) to 0.00 (layer 2)" in wide.sentence
    one = draw("kernel_drift", {"run.seed": [0, 1]}, run)
    assert one.sentence == "In training the kernel drift of the last hidden layer goes from 0 to 2 at η = 1."


@pytest.mark.parametrize(("gap", "said"), [(1.5, "do not overlap"), (1.02, "overlap"), (1.0005, None)])
def test_methods_are_compared_at_their_own_best_rates(draw, gap, said):
    def run(axes):
        best_rate, level = (2.0, 1.0) if axes["method"] == "νP norm" else (8.0, gap)
        level *= SEEDS[axes["run.seed"]]
        return finished(level * (1 + abs(math.log2(axes["optim.lr"] / best_rate))))

    figure = draw("methods", {"method": ["νP norm", "plain"], "optim.lr": RATES, "run.seed": [0, 1, 2]}, run)
    expected = (
        f"νP norm ends lowest, at a median of 1.01 (η = 2), before plain at {number(1.01 * gap)} (η = 8); "
        f"their seeds {said}."
    )
    if said is None:
        expected = "νP norm = plain end alike, at a median of 1.01."
    assert figure.sentence == expected


def test_methods_are_counted_over_networks(draw):
    def run(axes):
        plain_wins = axes["model.depth"] == 8
        lower = (axes["method"] == "plain") == plain_wins
        return finished(0.1 if lower else 0.2 + 0.01 * axes["run.seed"])

    axes = {"method": ["norm", "plain"], "model.depth": [2, 4, 8], "run.seed": [0, 1]}
    figure = draw("methods", axes, run)
    assert figure.sentence == (
        "Of 3 networks the lowest median loss is that of norm in 2 and plain in 1; its seeds are all below "
        "those of the second in 3."
    )


def test_a_network_that_two_matchings_have_counts_once(draw, tmp_path):
    axes = {
        "matching": ["equal base width", "equal parameters"],
        "method": ["norm", "plain"],
        "model.width_exponent": [0.0, 2.0],
        "run.seed": [0, 1],
    }
    collected = collect(make_study(tmp_path, axes, lambda a: finished(0.1 if a["method"] == "norm" else 0.2)))
    quadratic = collected.runs["model.width_exponent"] == 2
    first = ["method", "run.seed"]
    one_id = collected.runs[quadratic].groupby(first)["id"].transform("first")
    collected.runs.loc[quadratic, "id"] = one_id
    figure = draw_figures(collected, ["methods"]).figures[0]
    assert figure.sentence.startswith("Of 3 networks the lowest median loss is that of norm in 3;")
    assert figure.table["network"].nunique() == 4


def test_seeds_of_all_that_end_alike_are_compared(draw):
    losses = {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 9.0], "c": [2.0, 2.0, 2.0]}
    axes = {"method": ["a", "b", "c"], "run.seed": [0, 1, 2]}
    figure = draw("methods", axes, lambda a: finished(losses[a["method"]][a["run.seed"]]))
    assert figure.sentence.startswith("a = b ends lowest")
    assert figure.sentence.endswith("their seeds overlap.")


def test_a_network_with_runs_of_one_method_decides_nothing(draw):
    def run(axes):
        ended = axes["method"] == "a" or axes["model.depth"] < 8
        return finished(0.1 if axes["method"] == "b" else 0.2) if ended else None

    axes = {"method": ["a", "b"], "model.depth": [2, 4, 8], "run.seed": [0]}
    assert draw("methods", axes, run).sentence.startswith(
        "Of 2 networks the lowest loss, one seed each, is that of b in 2."
    )


def test_rates_that_move_and_rates_that_are_not_there_are_told_apart(draw):
    """Of five series one stays, two move and two have no rate at one width."""

    def run(axes):
        depth, width = axes["model.depth"], axes["model.base_width"]
        if depth >= 5 and width == 8:
            return diverged()
        return bowl(axes, 16 / width if depth in (3, 4) else 2.0)

    axes = {"model.depth": [2, 3, 4, 5, 6], **GRID}
    assert draw("best_lr_against_width", axes, run).sentence.startswith(
        "The best learning rate is the same at every width in 1 of 5 series (l = 2), moves by up to 4× in 2 "
        "and does not exist at some width in 2"
    )


def test_a_study_whose_medians_are_all_infinite_has_its_figures(tmp_path, without_layout):
    axes = {"method": ["a", "b", "c", "d", "e"], "optim.lr": [1.0, 2.0], "run.seed": [0, 1]}
    folder = make_study(tmp_path, axes, lambda a: diverged() if a["run.seed"] else finished(0.1))
    figures = {figure.name: figure for figure in draw_figures(collect(folder)).figures}
    assert figures["loss_against_lr"].sentence.startswith("No rate of the grid will do")


def test_several_axes_of_methods_are_one_list_of_names(draw):
    axes = {"scaling.rule": ["norm", "none"], "optim.clip_norm": [None, 1.0], "run.seed": [0]}
    figure = draw("methods", axes, lambda a: finished(0.1))
    assert list(figure.table["method"]) == [
        "rule norm · clip norm 1", "rule norm · clip norm none", "rule none · clip norm 1",
        "rule none · clip norm none",
    ]  # fmt: skip


def test_axes_that_move_together_are_one(tmp_path):
    axes = [
        {"model.depth": depth, "optim.steps": 25 * depth, "optim.lr": lr, "run.seed": 0}
        for depth in (4, 8)
        for lr in RATES
    ]
    assert View.of(collect(make_study(tmp_path, axes, lambda a: bowl(a, 2.0)))).varied == ("model.depth",)


def test_what_moves_together_is_seen_in_the_plan_and_not_in_the_runs_so_far(tmp_path):
    axes = {"method": ["a", "b"], "model.base_width": [4, 8], "run.seed": [0]}
    diagonal = {("a", 4), ("b", 8)}
    folder = make_study(
        tmp_path, axes, lambda a: finished(0.1) if (a["method"], a["model.base_width"]) in diagonal else None
    )
    assert View.of(collect(folder)).varied == ("method", "model.base_width")


def all_diverged(folder, widths):
    axes = {"method": ["a", "b"], "model.base_width": widths, "optim.lr": [1.0, 2.0], "run.seed": [0, 1]}
    return collect(make_study(folder, axes, lambda a: diverged() | {"rows": [diagnosed(0)]}))


def test_all_diverged_is_said_and_no_loss_is_drawn(tmp_path, without_layout):
    drawn_all_the_same = ("methods", "largest_stable_lr", "taylor")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawings = draw_figures(
            all_diverged(tmp_path, [4, 8]), [*drawn_all_the_same, "loss_against_lr", "best_lr_against_width"]
        )
    names = {figure.name: figure for figure in drawings.figures}
    assert set(names) == set(drawn_all_the_same)
    assert names["methods"].sentence.startswith("Every method diverged")
    assert "does not exist" in names["largest_stable_lr"].sentence
    assert "No run is stable: the steps of all runs are shown." in names["taylor"].notes


@pytest.mark.parametrize(
    "rendered", [False, pytest.param(True, marks=pytest.mark.full)], ids=["as it lies", "rendered"]
)
def test_every_figure_of_a_study_that_diverged_can_be_drawn(rendered, tmp_path, monkeypatch):
    """Placed and rendered in ``make full``; test_report.py renders those of another study."""
    monkeypatch.setattr(drawn, "PNG_DPI", 20)
    if not rendered:
        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw_figures(all_diverged(tmp_path, [4, 8])).figures
    assert len(figures) > 10
    assert all(figure.png() for figure in figures if rendered)


def test_a_run_that_diverged_has_no_loss_whatever_its_summary_says(draw):
    def run(axes):
        return diverged(train_loss=1e-9) if axes["optim.lr"] == 16.0 else bowl(axes, 4.0)

    assert set(draw("best_lr_against_width", GRID, run).table["learning rate η"]) == {4.0}


def test_one_seed_is_said_to_have_no_spread(draw):
    axes = {"model.base_width": [4, 8], "optim.lr": RATES, "run.seed": [0]}
    for name in ("loss_against_lr", "best_lr_against_width", "largest_stable_lr"):
        assert (
            "One seed a point: there is no spread to see." in draw(name, axes, lambda a: bowl(a, 2.0)).notes
        )


def test_points_with_fewer_seeds_are_said_to_have_fewer(draw):
    figure = draw(
        "loss_against_lr",
        GRID,
        lambda a: None if a["run.seed"] == 2 and a["optim.lr"] > 2 else bowl(a, 2.0),
    )
    assert "Points have 2 to 3 seeds." in figure.notes


def test_without_metrics_the_figures_of_steps_are_left_out_with_the_reason(tmp_path, without_layout):
    folder = make_study(tmp_path, GRID, lambda a: bowl(a, 2.0))
    drawings = draw_figures(collect(folder))
    assert {figure.name for figure in drawings.figures} == {
        "loss_against_lr", "loss_against_step", "best_lr_against_width", "largest_stable_lr",
    }  # fmt: skip
    assert ("Does training run at the edge of stability?", "preconditioned_sharpness in the metrics "
            "(diagnostics.every)") in drawings.lacking  # fmt: skip


def test_without_any_run_nothing_is_drawn(tmp_path):
    drawings = draw_figures(collect(make_study(tmp_path, GRID, lambda a: None)))
    assert drawings.figures == ()
    assert len(drawings.lacking) == len(all_figures())


def test_no_more_panels_than_one_can_read_and_what_is_left_out_is_said(tmp_path, without_layout):
    axes = {
        "loss": ["mse", "cross_entropy"], "method": ["a", "b", "c"], "model.depth": [4, 6, 8, 10],
        "model.base_width": [4, 8], "optim.lr": [1.0, 2.0], "run.seed": [0],
    }  # fmt: skip
    folder = make_study(tmp_path, axes, lambda a: bowl(a, 2.0))
    (figure,) = draw_figures(collect(folder), ["loss_against_lr"]).figures
    assert len(figure.picture.axes) == 6 <= MOST_PANELS
    assert figure.notes[0] == "Shown: l = 6 of l = 4, l = 6, l = 8 and l = 10."
    assert len(figure.table) == 2 * 3 * 4 * 2 * 2


def test_panels_of_one_long_axis_are_the_first_ones():
    runs = pd.DataFrame({"method": pd.Categorical([f"m{k:02}" for k in range(30)], ordered=True)})
    panels = Panels.of(runs, ["method"])
    assert [panel.title for panel in panels.shown] == [f"m{k:02}" for k in range(MOST_PANELS)]
    assert panels.notes == ("Shown: the first 12 of 30 panels.",)


def test_names_are_drawn_as_they_are(draw):
    names = ["<script>alert(1)</script>", "$x^{$ & {y}", "νP·ξ \\frac", "a" * 200, "two\nlines"]
    axes = {"method": names, "model.base_width": [4, 8], "optim.lr": [1.0, 2.0], "run.seed": [0]}
    figure = draw("loss_against_lr", axes, lambda a: bowl(a, 2.0))
    titles = [ax.get_title(loc="left") for ax in figure.picture.axes]
    assert titles[:3] == ["<script>alert(1)</script>", "$x^{$ & {y}", "νP·ξ \\frac"]
    assert len(titles[3]) < 60
    assert titles[4] == "two\\nlines"
    assert set(figure.table["method"]) == {name.replace("\n", "\\n") for name in names}


def test_a_figure_is_the_same_bytes_every_time_and_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "PNG_DPI", 20)
    axes = {"model.base_width": [4, 8], "optim.lr": [1.0, 2.0], "run.seed": [0, 1]}
    collected = collect(make_study(tmp_path, axes, lambda a: bowl(a, 2.0)))
    (one,), (other,) = (draw_figures(collected, ["loss_against_lr"]).figures for _ in range(2))
    assert one.svg() == other.svg()
    assert one.png() == other.png() == one.png()
    assert one.pdf() == other.pdf()
    assert b">best rate</text>" in one.svg()
    assert not _pylab_helpers.Gcf.figs


def test_an_unknown_figure_is_named_with_those_that_there_are(tmp_path):
    collected = collect(make_study(tmp_path, GRID, lambda a: None))
    with pytest.raises(UserError, match="report: 'pie' is unknown; allowed: loss_against_lr, "):
        draw_figures(collected, ["pie"])


losses = st.floats(0.01, 10) | st.just(math.inf)
tables = st.dictionaries(
    st.sampled_from(RATES), st.lists(st.tuples(losses, st.booleans()), min_size=2, max_size=2), min_size=1
)


@examples(20)
@given(tables)
def test_chosen_rates_are_those_of_a_search_by_hand(table):
    runs = pd.DataFrame(
        [
            {"optim.lr": rate, "run.seed": seed, "final": loss, "stable": stable, "status": "finished"}
            for rate, seeds in table.items()
            for seed, (loss, stable) in enumerate(seeds)
        ]
    )
    medians = {rate: (a[0] + b[0]) / 2 for rate, (a, b) in table.items()}
    least = min(medians.values())
    expected = min((r for r in medians if medians[r] == least), default=None) if least < math.inf else None
    chosen = best(runs)
    assert (chosen.rate if chosen.found else None) == expected
    climbed = None
    for rate in sorted(table):
        if not all(stable for _, stable in table[rate]):
            break
        climbed = rate
    highest = largest_stable(runs)
    assert (highest.rate if highest.found else None) == climbed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (0.25, "0.25"), (1 / 3, "0.333"), (-0.5, "−0.5"), (12345.6, "12,346"),
        (1e6, "1e6"), (1.5e-5, "1.5e−5"), (99999.9, "100,000"), (math.inf, "∞"),
        (-math.inf, "−∞"), (math.nan, "–"), (None, "–"), (0.9999, "1"), (64, "64"), (0.00123456, "0.00123"),
    ],
)  # fmt: skip
def test_numbers_read_as_people_write_them(value, text):
    assert number(value) == text


def test_numbers_keep_their_order():
    values = [0.001, 0.01, 0.5, 1, 9.99, 10, 123, 1234, 99999]
    shown = [float(number(value).replace(",", "")) for value in values]
    assert all(a < b for a, b in pairwise(shown))


def test_symbols_of_labels_are_mathematics_but_no_dollar_sign_is():
    text = Text()
    set_mathtext(text, "soft rank S_k, ‖W_k‖_F like m^s or t^−0.67 at $2")
    assert text.get_text() == r"soft rank $S_{k}$, ‖$W_{k}$$‖_{F}$ like $m^{s}$ or $t^{−0.67}$ at \$2"
    assert text.get_parse_math()


def test_long_labels_are_on_lines_of_like_length_and_names_are_not_cut():
    assert balanced("median of stable rank of layer 5 in the last half", 30).split("\n") == [
        "median of stable rank of", "layer\u00a05 in the last half",
    ]  # fmt: skip
    assert balanced("sharpness λ", 30) == "sharpness λ"
    assert wrapped("cross-entropy · νP relative spectral, momentum", 24).split("\n") == [
        "cross-entropy", "νP relative spectral,", "momentum",
    ]  # fmt: skip


def test_ticks_stand_apart_on_a_logarithmic_axis():
    ax = Figure().add_subplot()
    ax.plot([1, 32], [1, 1])
    log_axis(ax, "x", at=[1, 2, 4, 8, 8.5, 9, 16, 32], most=6)
    assert list(ax.xaxis.get_majorticklocs()) == [1, 2, 4, 8, 16, 32]


def test_no_line_joins_rates_over_one_that_diverged(draw):
    def outcome(axes):
        return diverged() if axes["optim.lr"] == 2.0 else bowl(axes, 1.0)

    figure = draw("loss_against_lr", {"optim.lr": RATES, "run.seed": [0]}, outcome)
    drawn = figure.picture.axes[0].get_lines()[0]
    assert dict(zip(*drawn.get_data(), strict=True))[2.0] != dict(zip(*drawn.get_data(), strict=True))[2.0]
