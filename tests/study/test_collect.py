import json
import math
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from scaled_sgd.core.errors import UserError
from scaled_sgd.study.tables.collect import collect
from tests.study.folders import FIRST_LOSS, diagnosed, diverged, finished, identifier, make_study, write_run

AXES = {
    "method": ["νP norm", "plain"],
    "model.base_width": [4, 8],
    "optim.lr": [0.5, 2.0],
    "run.seed": [0, 1],
}


def outcome(axes):
    if axes["method"] == "plain" and axes["optim.lr"] == 2.0:
        return diverged(seconds=axes["run.seed"] + 1.0)
    return finished(axes["optim.lr"] / axes["model.base_width"], rows=[diagnosed(10, layers=12)])


def test_a_table_holds_what_each_run_was_and_how_it_ended(tmp_path):
    collected = collect(make_study(tmp_path, AXES, outcome))
    runs = collected.runs
    assert len(runs) == 16
    assert list(runs.columns[:5]) == ["id", "method", "model.base_width", "optim.lr", "run.seed"]
    assert runs.columns[-1] == collected.metrics.columns[-1] == "seconds"
    one = runs[(runs["method"] == "νP norm") & (runs["model.base_width"] == 8) & (runs["optim.lr"] == 2.0)]
    assert list(one["train_loss"]) == [0.25, 0.25]
    assert list(one["config.optim.lr"]) == [2.0, 2.0]
    assert set(one["versions.torch"]) == {"2.13.0"}
    assert set(one["widths"]) == {"[64, 4, 10]"}
    lost = runs[runs["status"] == "diverged"]
    assert len(lost) == 4
    assert lost["train_loss"].isna().all()
    assert list(lost["layer"]) == [2] * 4
    assert not lost["stable"].any()


def test_layers_are_counted_from_1_in_the_order_of_the_network(tmp_path):
    row = diagnosed(10, layers=12, scales=[k / 2 for k in range(1, 13)])
    metrics = collect(make_study(tmp_path, {"run.seed": [0]}, lambda _: finished(0.1, rows=[row]))).metrics
    names = [name for name in metrics if name.startswith("scales.")]
    assert names == [f"scales.{k}" for k in range(1, 13)]
    assert [metrics[name].iloc[1] for name in names] == [k / 2 for k in range(1, 13)]
    assert metrics["features.drift.11"].iloc[1] == 1.0
    assert math.isnan(metrics["scales.3"].iloc[0])


def test_the_files_hold_the_tables_and_do_not_depend_on_the_order_of_runs(tmp_path):
    first = make_study(tmp_path / "first", AXES, outcome)
    second = make_study(tmp_path / "second", AXES, outcome, reverse=True)
    collected = collect(first)
    collect(second)
    for name, table in (("runs", collected.runs), ("metrics", collected.metrics)):
        one, other = (folder / f"{name}.parquet" for folder in (first, second))
        assert one.read_bytes() == other.read_bytes()
        pd.testing.assert_frame_equal(pd.read_parquet(one), table)


def test_only_the_last_column_is_a_measurement_of_the_machine(tmp_path):
    def slower(axes):
        run = outcome(axes)
        rows = [row | {"seconds": 7.0} for row in run["rows"]]
        return {"summary": run["summary"] | {"seconds": 99.0}, "rows": rows}

    quick, slow = (
        collect(make_study(tmp_path / name, AXES, how)) for name, how in (("a", outcome), ("b", slower))
    )
    pd.testing.assert_frame_equal(quick.runs.iloc[:, :-1], slow.runs.iloc[:, :-1])
    pd.testing.assert_frame_equal(quick.metrics.iloc[:, :-1], slow.metrics.iloc[:, :-1])
    assert not quick.runs["seconds"].equals(slow.runs["seconds"])


def test_runs_that_have_not_ended_are_counted_and_nothing_is_made_up_for_them(tmp_path):
    def some(axes):
        if axes["optim.lr"] == 2.0:
            return None
        if axes["run.seed"] == 1:
            return finished(0.1, status="interrupted", step=5)
        return outcome(axes)

    collected = collect(make_study(tmp_path, AXES, some))
    assert (collected.planned, collected.pending, collected.damaged) == (16, 12, 0)
    assert len(collected.runs) == 4
    assert set(collected.runs["run.seed"]) == {0}
    assert set(collected.metrics["id"]) == set(collected.runs["id"])
    assert collected.describe() == "16 runs: 4 finished, 0 diverged, 12 pending"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "null", '"finished"', '{"loss": 1}', '{"status": 3}', "\x00\xff", '{"a":\n\n'],
    ids=repr,
)
def test_a_damaged_summary_is_one_line_and_one_run_less(tmp_path, text):
    folder = make_study(tmp_path, AXES, outcome)
    lost = identifier({"method": "νP norm", "model.base_width": 4, "optim.lr": 0.5, "run.seed": 0})
    (folder / "runs" / lost / "summary.json").write_bytes(text.encode("latin-1"))
    collected = collect(folder)
    assert len(collected.runs) == 15
    assert lost not in set(collected.runs["id"]) | set(collected.metrics["id"])
    assert (collected.damaged, collected.pending) == (1, 0)
    (line,) = collected.warnings
    assert line.startswith(f"runs/{lost}: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    "text",
    ['{"step": 0}\n{"st\n{"step": 2}\n', '{"loss": 1.0}\n', '{"step": 0, "loss": "low"}\n', "7\n", None],
    ids=repr,
)
def test_a_run_without_readable_metrics_keeps_its_row_and_is_one_line(tmp_path, text):
    folder = make_study(tmp_path, AXES, outcome)
    hurt = identifier({"method": "νP norm", "model.base_width": 4, "optim.lr": 0.5, "run.seed": 0})
    path = folder / "runs" / hurt / "metrics.jsonl"
    path.unlink() if text is None else path.write_text(text)
    collected = collect(folder)
    assert len(collected.runs) == 16
    assert hurt not in set(collected.metrics["id"])
    (line,) = collected.warnings
    assert line.startswith(f"runs/{hurt}: metrics left out: ")
    assert "\n" not in line


def test_a_half_written_last_row_is_left_out(tmp_path):
    folder = make_study(tmp_path, {"run.seed": [0]}, lambda _: finished(0.1))
    (path,) = folder.glob("runs/*/metrics.jsonl")
    path.write_text(path.read_text() + '{"step": 1, "lo')
    collected = collect(folder)
    assert list(collected.metrics["step"]) == [0]
    assert collected.warnings == ()


@pytest.mark.parametrize(
    ("summary", "losses", "stable"),
    [
        ({"max_loss": 2 * FIRST_LOSS}, [], True),
        ({"max_loss": 2.001 * FIRST_LOSS}, [], False),
        ({"max_loss": None}, [], False),
        ({"max_loss": ...}, [1.9], True),
        ({"max_loss": ...}, [2.1, 0.3], False),
        ({"max_loss": ...}, [None], False),
        ({"max_loss": 1.0, "initial_loss": ...}, [], True),
    ],
)
def test_a_rate_is_stable_when_no_loss_exceeds_twice_the_first(tmp_path, summary, losses, stable):
    rows = [{"step": 1 + s, "lr": 1.0, "loss": loss} for s, loss in enumerate(losses)]
    run = finished(0.1, rows=rows, **summary)
    run["summary"] = {key: value for key, value in run["summary"].items() if value is not ...}
    assert list(collect(make_study(tmp_path, {"run.seed": [0]}, lambda _: run)).runs["stable"]) == [stable]


def test_without_any_loss_a_rate_is_neither_stable_nor_not(tmp_path):
    run = finished(0.1)
    del run["summary"]["max_loss"]
    runs = collect(make_study(tmp_path, {"run.seed": [0]}, lambda _: run | {"rows": []})).runs
    assert runs["stable"].isna().all()


def test_edge_ratios_of_a_run_are_the_largest_and_the_median_of_the_last_half(tmp_path):
    ratios = [5.0, 9.0, 1.0, 3.0, 2.0, 8.0]
    rows = [diagnosed(4 * k, edge_ratio=ratio) for k, ratio in enumerate(ratios)]
    run = finished(0.1)
    (row,) = collect(make_study(tmp_path, {"run.seed": [0]}, lambda _: run | {"rows": rows})).runs.to_dict(
        "records"
    )
    assert row["largest_edge_ratio"] == max(ratios)
    assert row["late_edge_ratio"] == np.median(ratios[3:])


def test_values_of_several_types_become_text_and_null_stays_missing(tmp_path):
    axes = {"optim.clip_norm": [None, 1.0], "model.activation": ["abs", [0.5, 0.5]]}
    folder = make_study(tmp_path, axes, lambda _: finished(0.1))
    runs = collect(folder).runs
    assert list(runs["optim.clip_norm"].isna()) == [True, True, False, False]
    assert list(runs["model.activation"]) == ["abs", "[0.5, 0.5]"] * 2
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "runs.parquet"), runs)


def test_one_run_that_stands_for_two_points_of_the_grid_is_two_rows_with_one_stream(tmp_path):
    folder = make_study(tmp_path, {"method": ["a", "b"]}, lambda _: finished(0.1))
    lines = [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()]
    lines[1]["id"] = lines[0]["id"]
    (folder / "plan.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collected = collect(folder)
    assert list(collected.runs["method"]) == ["a", "b"]
    assert (collected.planned, collected.ended("finished"), len(collected.metrics)) == (1, 1, 1)


@pytest.mark.parametrize("name", ["status", "stable", "config.loss", "sharpness", "seconds", "step"])
def test_an_axis_with_the_name_of_another_column_is_refused(tmp_path, name):
    row = diagnosed(10)
    with pytest.raises(UserError, match=f"axes: '{name}' .*; allowed: another name"):
        collect(make_study(tmp_path, {name: ["a", "b"]}, lambda _: finished(0.1, rows=[row])))


@pytest.mark.parametrize(
    "plan", [None, "{", '{"id": 1}\n', '{"id": "a", "axes": [1], "config": {}}\n', "3\n"]
)
def test_a_folder_without_a_readable_plan_is_no_study(tmp_path, plan):
    if plan is not None:
        (tmp_path / "plan.jsonl").write_text(plan)
    with pytest.raises(UserError, match=r"^study: .*plan\.jsonl.*; allowed: "):
        collect(tmp_path)


def test_a_study_of_which_no_run_has_ended_has_empty_tables(tmp_path):
    folder = make_study(tmp_path, AXES, lambda _: None)
    collected = collect(folder)
    assert (len(collected.runs), len(collected.metrics), collected.pending) == (0, 0, 16)
    assert {"id", "method", "status", "stable", "seconds"} <= set(pd.read_parquet(folder / "runs.parquet"))


def test_a_write_that_fails_leaves_the_old_tables(tmp_path, monkeypatch):
    folder = make_study(tmp_path, AXES, outcome)
    collect(folder)
    before = (folder / "runs.parquet").read_bytes()
    write_run(folder / "runs" / identifier({"run.seed": 9}), finished(0.5))

    def fail(self, stream, **_):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        collect(folder)
    assert (folder / "runs.parquet").read_bytes() == before
    assert not list(folder.glob(".*"))


@pytest.fixture(scope="module")
def unhurt(tmp_path_factory):
    """A study of two runs, and its tables."""
    axes = {**AXES, "method": ["νP norm"], "model.base_width": [4], "run.seed": [0]}
    folder = make_study(tmp_path_factory.mktemp("unhurt"), axes, outcome)
    return folder, collect(folder)


@pytest.mark.parametrize(
    ("summary", "row"),
    [
        ({"train_loss": "<b>"}, None),
        ({"train_loss": 10**400}, None),
        ({"other": [10**400]}, None),
        ({"steps": True}, None),
        ({"parameters": [1, 2]}, None),
        ({"widths": {"a": [1]}}, None),
        ({"versions": ["torch"]}, None),
        ({"git_revision": 7}, None),
        ({"method": "of a stranger"}, None),
        ({"optim": {"lr": 7}}, None),
        ({"id": "1"}, None),
        ({"config": {"optim": {"lr": "x"}}}, None),
        ({}, '{"step": 0, "scales": ' + "[" * 50_000 + "]" * 50_000 + "}"),
        ({}, '{"step": 0, "loss": 1' + "0" * 400 + "}"),
        ({}, '{"step": 1' + "0" * 30 + "}"),
        ({}, '{"step": true}'),
        ({}, '{"step": 0, "optim": {"lr": 7}}'),
        ({}, "\udcff"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_one_bad_run_is_one_line_and_the_others_stay(tmp_path, unhurt, summary, row):
    folder = shutil.copytree(unhurt[0], tmp_path / "s")
    whole = unhurt[1]
    hurt = identifier({"method": "νP norm", "model.base_width": 4, "optim.lr": 0.5, "run.seed": 0})
    run = finished(0.1, **summary)
    write_run(folder / "runs" / hurt, run)
    if row is not None:
        (folder / "runs" / hurt / "metrics.jsonl").write_text(row + "\n", errors="surrogateescape")
    collected = collect(folder)
    (line,) = collected.warnings
    assert line.startswith(f"runs/{hurt}: ")
    assert line.isprintable()
    for found, expected in ((collected.runs, whole.runs), (collected.metrics, whole.metrics)):
        others, same = (table[table["id"] != hurt].reset_index(drop=True) for table in (found, expected))
        pd.testing.assert_frame_equal(others[same.columns], same, check_dtype=False)


def test_texts_of_a_study_are_on_one_line(tmp_path):
    hostile, shown = "\x1b[2J\n\u202e", "\\x1b[2J\\n\\u202e"
    run = finished(0.1, note=f"{hostile}\ud800", **{hostile: 1})
    runs = collect(make_study(tmp_path, {"method": [hostile]}, lambda _: run)).runs
    assert (runs["method"].item(), runs["note"].item(), runs[shown].item()) == (shown, f"{shown}\\ud800", 1)


def test_what_would_block_a_reader_is_left_out(tmp_path):
    folder = make_study(tmp_path, AXES, outcome)
    hurt = identifier({"method": "νP norm", "model.base_width": 4, "optim.lr": 0.5, "run.seed": 0})
    path = folder / "runs" / hurt / "metrics.jsonl"
    path.unlink()
    os.mkfifo(path)
    (line,) = collect(folder).warnings
    assert "it is no regular file" in line


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "a", "axes": {"optim.lr": "fast"}, "config": {}},
        {"id": "a", "axes": {"optim.lr": 10**400}, "config": {}},
        {"id": "a", "axes": {"method": {"a": 1}}, "config": {}},
        {"id": "a", "axes": {}, "config": {"model": {"base_width": "<b>"}}},
        {"id": "a", "axes": {}, "config": {"x": 10**400}},
        {"id": "a", "axes": [], "config": {}},
        {"id": "a", "axes": {}, "config": [1]},
        [1],
    ],
)
def test_a_plan_with_a_line_that_is_no_run_is_refused(tmp_path, entry):
    folder = make_study(tmp_path, AXES, outcome)
    (folder / "plan.jsonl").write_text("\n" + json.dumps(entry) + "\n")
    with pytest.raises(UserError, match=r"^study: line 2 of '.*plan.jsonl' is damaged: "):
        collect(folder)
