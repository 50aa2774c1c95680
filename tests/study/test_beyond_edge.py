import json
from dataclasses import asdict
from itertools import pairwise

import pytest

from scaled_sgd.parameterization import width_pattern
from scaled_sgd.study import beyond_edge
from scaled_sgd.study.beyond_edge import TABLES, Sweep, execute, matching_base_width, study
from scaled_sgd.study.engine import RunSpec

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
