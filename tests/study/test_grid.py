import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from scaled_sgd.config import as_dict
from scaled_sgd.core.errors import UserError
from scaled_sgd.study.grid import expand, find_study, read_study
from scaled_sgd.study.grid.axes import read_axes
from scaled_sgd.study.grid.matching import matching_base_width
from scaled_sgd.study.small.attempt import DataShelf
from tests.launching import REPOSITORY

SHELF = DataShelf()
BASE = {"model": {"depth": 3}, "optim.steps": 5}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def runs(study, overrides=None):
    with open("s.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(study, file, allow_unicode=True, sort_keys=False)
    return expand(read_study(Path("s.yaml"), overrides), SHELF)


def grid(*axes, **rest):
    return {"base": dict(BASE), "axes": list(axes), **rest}


def test_axes_are_crossed_in_order_and_the_last_moves_fastest():
    found = runs(grid({"model.base_width": [2, 4]}, {"run.seed": {"range": [3]}}))
    assert [(run.axes["model.base_width"], run.axes["run.seed"]) for run in found] == [
        (2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2)
    ]  # fmt: skip
    assert [run.config.model.base_width for run in found] == [2, 2, 2, 4, 4, 4]
    assert {run.config.model.depth for run in found} == {3}
    assert {run.config.optim.steps for run in found} == {5}


def test_powers_ranges_and_written_numbers_become_what_their_keys_take():
    found = runs(grid({"optim.lr": {"powers": 4, "from": -1, "to": 1}}))
    assert [run.config.optim.lr for run in found] == [0.25, 1.0, 4.0]
    found = runs(grid({"optim.lr": {"powers": 2, "from": 0, "to": 1, "step": 0.5}}))
    assert [run.config.optim.lr for run in found] == pytest.approx([1, 2**0.5, 2])
    found = runs(grid({"optim.lr": [1, "1e-1"]}, {"optim.clip_norm": [3, None]}))
    assert [run.config.optim.lr for run in found] == [1.0, 1.0, 0.1, 0.1]
    assert [run.axes["optim.lr"] for run in found] == [1.0, 1.0, 0.1, 0.1]
    assert [type(run.config.optim.clip_norm) for run in found[:2]] == [float, type(None)]


def test_zipped_keys_move_together():
    found = runs(grid({"zip": {"model.depth": [2, 3], "optim.lr": [1, 2]}}) | {"base": {"optim.steps": 5}})
    assert [(run.config.model.depth, run.config.optim.lr) for run in found] == [(2, 1.0), (3, 2.0)]
    assert [dict(run.axes) for run in found] == [
        {"model.depth": 2, "optim.lr": 1.0}, {"model.depth": 3, "optim.lr": 2.0}
    ]  # fmt: skip


def test_named_choices_set_several_keys_under_one_label():
    methods = {
        "νP norm": {"scaling.rule": "norm"},
        "plain": {"scaling": {"rule": "none"}, "model.parameterization": "ntp"},
    }
    found = runs(grid({"method": methods}))
    assert [run.axes for run in found] == [{"method": "νP norm"}, {"method": "plain"}]
    assert [(run.config.scaling.rule, run.config.model.parameterization) for run in found] == [
        ("norm", "nup"), ("none", "ntp")
    ]  # fmt: skip


def test_a_named_choice_may_have_values_of_its_own():
    rates = {"powers": 2, "from": -1, "to": 0}
    axes = read_axes(
        [{"method": {"a": {"optim.lr": rates}, "b": {"optim": {"lr": 3}, "run.seed": {"range": [2]}}}}]
    )
    assert [(dict(one.labels), dict(one.changes)) for one in axes[0]] == [
        ({"method": "a", "optim.lr": 0.5}, {"optim.lr": 0.5}),
        ({"method": "a", "optim.lr": 1.0}, {"optim.lr": 1.0}),
        ({"method": "b", "optim.lr": 3, "run.seed": 0}, {"optim.lr": 3, "run.seed": 0}),
        ({"method": "b", "optim.lr": 3, "run.seed": 1}, {"optim.lr": 3, "run.seed": 1}),
    ]
    with pytest.raises(UserError, match=r"^axes\.optim\.lr: optim\.lr is varied by axis method too"):
        read_axes([{"method": {"a": {"optim.lr": rates}}}, {"optim.lr": [1]}])


def test_a_key_of_the_command_line_replaces_an_axis_or_a_base_value():
    study = grid({"optim.lr": [1, 2]}, {"zip": {"run.seed": [0, 1], "optim.batch_size": [10, 20]}})
    found = runs(study, {"optim.lr": 7, "optim.steps": 9, "run.seed": [5, 6]})
    assert [(r.config.optim.lr, r.config.optim.steps, r.config.run.seed) for r in found] == [
        (7, 9, 5),
        (7, 9, 6),
    ]


def test_choices_are_kept_by_their_names():
    study = grid({"method": {"a": {"optim.lr": 1}, "b": {"optim.lr": 2}, "3": {"optim.lr": 3}}})
    kept = runs(study, {"method": [3, "a"]})
    assert [(run.axes["method"], run.config.optim.lr) for run in kept] == [("3", 3.0), ("a", 1.0)]
    assert [run.axes["method"] for run in runs(study, {"method": "b"})] == ["b"]
    for wrong in ("c", ["a", "a"], {"a": {}}):
        with pytest.raises(UserError, match=r"^method: .*allowed: a, b, 3"):
            runs(study, {"method": wrong})


def test_a_number_of_weights_may_be_written_with_an_exponent():
    Path("s.yaml").write_text("large_weights: 2e7\n")
    assert read_study(Path("s.yaml")).large_weights == 2e7


def test_a_plan_loads_its_data_once_whatever_the_seeds():
    shelf = DataShelf()
    study = grid({"run.seed": {"range": [5]}})
    with open("s.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(study, file)
    assert len(expand(read_study(Path("s.yaml")), shelf)) == 5
    assert len(shelf.loaded) == 1


def test_the_same_numbers_have_the_same_name_and_others_another():
    (one,) = runs(grid())
    same = [
        {"run.timeout_seconds": 9}, {"checkpoint.every_steps": 3}, {"run.device": "cpu"},
        {"sharding.strategy": "fsdp2"},
        {"optim.update": "fused"},
    ]  # fmt: skip
    for change in same:
        assert runs(grid() | {"base": BASE | change})[0].id == one.id
    for change in ({"run.seed": 1}, {"optim.lr": 3}, {"diagnostics.every": 2}, {"optim.normalize": True}):
        assert runs(grid() | {"base": BASE | change})[0].id != one.id
    # 12 epochs of 6 minibatches are 72 steps.
    by_epochs = runs({"base": {"optim.epochs": 12}})[0]
    assert by_epochs.id == runs({"base": {"optim.steps": 72}})[0].id


def count(m, exponent, depth):
    widths = [64, *(max(1, round(m * k**exponent)) for k in range(1, depth)), 10]
    return sum(a * b for a, b in itertools.pairwise(widths))


@pytest.mark.parametrize(("depth", "m"), [(4, 8), (8, 3), (12, 4), (2, 5)])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0])
def test_matched_widths_have_the_nearest_number_of_weights(depth, m, exponent):
    found = matching_base_width(64, 10, depth=depth, base_width=m, like=2.0, exponent=exponent)
    target = count(m, 2.0, depth)
    off = {
        width: abs(count(width, exponent, depth) / target - 1)
        for width in range(max(1, found - 3), found + 4)
    }
    assert off[found] <= 1.02 * min(off.values())


def test_both_matchings_are_an_axis_and_agree_where_nothing_is_to_be_matched():
    both = {"by": ["equal_base_width", "equal_parameters"], "exponent": 2.0}
    study = grid({"model.width_exponent": [1, 2]}, match=both) | {"base": BASE | {"model.base_width": 8}}
    found = runs(study)
    assert [run.axes["matching"] for run in found] == ["equal base width", "equal parameters"] * 2
    assert found[0].config.model.base_width == 8 != found[1].config.model.base_width
    assert found[2].id == found[3].id
    assert abs(found[1].weights / found[2].weights - 1) < 0.1 < abs(found[0].weights / found[2].weights - 1)


MISTAKES = [
    (
        {"axis": []},
        "s.yaml: unknown key 'axis'; allowed: title, about, paper, base, axes, match, report, claims, …",
    ),
    ({"base": {"model.deph": 3}}, "base.model.deph: unknown key; did you mean model.depth?"),
    ({"base": {"model": 3}}, "base.model: unknown key; did you mean …?"),
    ({"base": {"optim.lr": "fast"}}, "base.optim.lr: 'fast' does not fit; allowed: finite numbers from 0"),
    ({"base": [1]}, "base: [1] is not a group; allowed: keys of a run's configuration"),
    (grid({"optim.lr": [-1]}), "axes.optim.lr: -1.0 is not usable; allowed: finite numbers from 0"),
    (grid({"optim.lr": []}), "axes.optim.lr: [] has no values; allowed: at least one"),
    (grid({"optim.lr": [1, 1]}), "axes.optim.lr: it has 1 twice; allowed: each value once"),
    (grid({"optim.lr": ["fast"]}), "axes.optim.lr: 'fast' does not fit; allowed: finite numbers from 0"),
    (grid({"optim.rl": [1]}), "axes.optim.rl: unknown key; …, or choices with names: …"),
    (grid({"optim.lr": 3}), "axes.optim.lr: 3 is not understood; allowed: a list such as [4, 8], …"),
    (grid({"optim.lr": {"powers": 0, "from": 1, "to": 2}}), "axes.optim.lr: … is not usable; allowed: …"),
    (grid({"run.seed": {"range": [0, 5, 0]}}), "axes.run.seed: range [0, 5, 0] is not usable; allowed: …"),
    (grid({"run.seed": {"range": "x"}}), "axes.run.seed: range 'x' is not usable; allowed: …"),
    (
        grid({"run.seed": {"range": [1000000]}}),
        "axes.run.seed: it has 1000000 values; allowed: up to 10000",
    ),
    (
        grid({"zip": {"optim.lr": [1, 2], "run.seed": [0]}}),
        "axes.zip: optim.lr has 2, run.seed has 1 values; allowed: as many each",
    ),
    (
        grid({"optim.lr": [1]}, {"method": {"a": {"optim.lr": 2}}}),
        "axes.method: optim.lr is varied by axis optim.lr too; allowed: one axis a key",
    ),
    (grid({"method": {"a": {"optim.rl": 2}}}), "axes.method.a.optim.rl: unknown key; …"),
    (grid({"optim.steps": [1]}), "base.optim.steps: it is an axis too; allowed: one of the two"),
    (
        {"base": {"model": {"depth": 3}, "model.depth": 4}},
        "model.depth: it is there twice, nested and dotted; allowed: once",
    ),
    (grid({"a": 1, "b": 2}), "axes: not a list of single entries; allowed: - model.base_width: [4, 8]"),
    (grid(match={"by": "weights"}), "match: {'by': 'weights'} is not usable; allowed: …"),
    (grid(match={"by": "equal_parameters", "expnent": 1.0}), "match: … is not usable; allowed: …"),
    (grid(report=["best_lr"]), "report: 'best_lr' is unknown; allowed: loss_against_lr, …"),
    (grid(report=[{"a": 1}]), "report.name: None is not usable; allowed: small letters, digits and _"),
    (grid(report="all"), "report: 'all' is no list; allowed: a list of loss_against_lr, …"),
    (grid(large_weights="many"), "large_weights: 'many' is not usable; allowed: numbers from 0"),
]


@pytest.mark.parametrize(("study", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_in_a_study_file_is_one_line(study, message):
    with pytest.raises(UserError) as error:
        runs(study)
    assert re.fullmatch(re.escape(message).replace("…", ".*"), str(error.value)), str(error.value)


def test_studies_are_those_of_the_package_and_those_that_are_here(tmp_path):
    assert find_study("smoke").read_text() == (REPOSITORY / "configs/studies/smoke.yaml").read_text()
    (tmp_path / "configs/studies").mkdir(parents=True)
    for name in ("one", "smoke"):
        (tmp_path / f"configs/studies/{name}.yaml").write_text("title: x")
    assert find_study("smoke").read_text() == "title: x"
    folder = REPOSITORY / "configs/studies"
    shipped = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    with pytest.raises(UserError) as error:
        find_study("two")
    known = ", ".join(sorted([*shipped, "one"]))
    assert str(error.value) == f"study: no study 'two'; allowed: {known}, or the path of a YAML file"


def test_a_plan_is_json_that_holds_the_whole_configuration():
    (run,) = runs(grid())
    assert json.loads(json.dumps(as_dict(run.config)))["model"]["depth"] == 3


def test_the_study_file_of_the_documentation_is_one(tmp_path):
    text = (REPOSITORY / "docs/studies.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "documented.yaml").write_text(block, encoding="utf-8")
    study = read_study(tmp_path / "documented.yaml")
    found = expand(study, SHELF)
    assert len(found) == study.size == 3 * 8 * 3 * 2 * 2
    assert {(run.config.model.depth, run.config.optim.steps) for run in found} == {(4, 200), (8, 300)}
    assert {run.config.scaling.rule for run in found} == {"norm", "none"}
