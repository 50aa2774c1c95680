import json
import math
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from scaled_sgd.parameterization import width_pattern
from scaled_sgd.study import beyond_edge
from scaled_sgd.study.beyond_edge import TABLES, Sweep, execute, matching_base_width, study
from scaled_sgd.study.digits_engine import RunSpec
from scaled_sgd.study.tables import read_rows, write_summary

TINY = RunSpec(depth=3, base_width=4, lr=0.0, steps=8, batch_size=200, measurements=1)


@pytest.mark.parametrize("table", TABLES)
def test_every_sweep_of_a_table_is_a_different_one(table):
    keys = [sweep.key for sweep in TABLES[table]()]
    assert len(keys) == len(set(keys)) > 0


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_widths_are_matched_by_the_number_of_weights(exponent):
    def weights(m, r):
        widths = width_pattern(64, 10, depth=8, base_width=m, exponent=r)
        return sum(a * b for a, b in pairwise(widths))

    m, target = matching_base_width(8, 8, exponent), weights(8, 2.0)
    for other in (m - 1, m + 1):
        assert abs(weights(m, exponent) - target) <= abs(weights(other, exponent) - target) * 1.05


def test_a_ladder_of_rates_climbs_from_below_the_edge_until_runs_fail():
    row = execute(Sweep("climb", TINY, seeds=1))
    rates = [one["lr"] for one in row["runs"]]
    assert rates[0] <= row["edge"] / 8 <= 2 * rates[0]
    assert all(b == 2 * a for a, b in pairwise(rates))


def test_a_killed_study_goes_on_where_it_was_and_writes_its_table(tmp_path, monkeypatch):
    sweeps = [Sweep("one", TINY, seeds=2, rates=(1.0, 2.0)), Sweep("two", TINY, seeds=1, rates=(1.0,))]
    monkeypatch.setitem(beyond_edge.TABLES, "rules", lambda: iter(sweeps))
    finished = {**execute(sweeps[0]), "parameters": 12345}
    (tmp_path / "rules.jsonl").write_text(json.dumps(finished) + "\n")
    study(["rules"], tmp_path, workers=1)
    rows = [json.loads(line) for line in (tmp_path / "rules.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["one", "two"]
    assert rows[0]["parameters"] == 12345
    assert rows[1]["spec"] == asdict(TINY)
    assert rows[1]["seeds"] == 1
    table = (tmp_path / "rules.md").read_text().splitlines()
    assert len(table) == 4
    assert "| one |" in "\n".join(table)


def test_a_run_that_overflowed_is_read_back_as_one(tmp_path, monkeypatch):
    spec = replace(TINY, rule="none", parameterization="sp")
    monkeypatch.setitem(
        beyond_edge.TABLES, "edge", lambda: iter([Sweep("x", spec, seeds=1, rates=(1e-3, 1e8))])
    )
    study(["edge"], tmp_path, workers=1)
    for line in (tmp_path / "edge.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
    (row,) = read_rows(tmp_path / "edge.jsonl")
    assert [math.isinf(one["max_loss"]) for one in row["runs"]] == [False, True]
    assert math.isnan(row["runs"][1]["train_loss"])


def edge_row(method, depth, outcomes):
    """A sweep of one seed with given (lr, largest loss over first, train loss)."""
    parameterization, rule = method
    spec = replace(TINY, depth=depth, parameterization=parameterization, rule=rule)
    run = {"seed": 0, "eval_loss": 1.0, "accuracy": 0.5, "sharpness": 1.0, "stable_rank": 2.0}
    runs = [
        run | {"lr": lr, "initial_loss": 1.0, "max_loss": largest, "train_loss": loss, "edge_ratios": [lr]}
        for lr, largest, loss in outcomes
    ]
    return asdict(Sweep("x", spec, seeds=1)) | {"parameters": 1, "edge": 1.0, "runs": runs}


def test_the_summary_says_how_alike_rates_are_and_who_wins(tmp_path):
    rows = [
        edge_row(("nup", "norm"), 3, [(1.0, 1.0, 0.5), (2.0, 1.5, 0.4), (4.0, 9.0, 2.0)]),
        edge_row(("nup", "norm"), 4, [(1.0, 1.0, 0.5), (2.0, 1.9, 0.6)]),
        edge_row(("nup", "none"), 3, [(1.0, 1.0, 0.3), (2.0, 3.0, 0.9), (4.0, 1.0, 0.8)]),
        edge_row(("nup", "none"), 4, [(8.0, 1.0, 0.7)]),
    ]
    (tmp_path / "edge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_summary(tmp_path)
    norm, none = (line.split(" | ") for line in (tmp_path / "summary.md").read_text().splitlines()[2:])
    assert norm[1:9] == ["νP norm", "2", "2 to 2", "1", "2", "2", "2", "1 to 2"]
    assert none[1:9] == ["νP none", "2", "1 to 8", "8", "4.5", "1", "8", "1 to 8"]
    assert norm[9:] == ["0.45", "1 |"]
    assert none[9:] == ["0.5", "1 |"]
