"""Studies are run to their end whatever happens to the processes that run them."""

import dataclasses
import multiprocessing
import os
import random
import socket
import sys
import time
import types
from collections import Counter

import pytest

from scaled_sgd.config import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.study.execution.assignment import shares
from scaled_sgd.study.execution.schedule import _tasks, make_schedule, run_schedule
from scaled_sgd.study.execution.status import describe
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.small.attempt import DataShelf
from tests.study.standin import nothing, train

SHELF = DataShelf()


def study(tmp_path, lines):
    path = tmp_path / "s.yaml"
    path.write_text(f"base: {{model.depth: 2, model.base_width: 2, optim.steps: 3}}\naxes:\n{lines}")
    found = read_study(path)
    runs = expand(found, SHELF)
    folder = StudyFolder(tmp_path / "studies/s")
    folder.write_plan(found, runs)
    return found, runs, folder


def do(found, runs, folder, *, workers):
    plan = make_schedule(found, runs, folder, nothing)
    return run_schedule(plan, folder, train, workers=workers)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_run_is_done_once_and_never_again(tmp_path, workers):
    parts = study(tmp_path, "  - optim.lr: [1, 2, 99]\n  - run.seed: {range: [2]}\n")
    assert do(*parts, workers=workers) == Counter(finished=4, diverged=2)
    assert do(*parts, workers=workers) == Counter()
    log = (parts[2].path / "log").read_text().split()
    assert sorted(log) == sorted({run.id for run in parts[1]})


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_fails_says_why_and_the_others_go_on(tmp_path, workers, capsys):
    found, runs, folder = study(tmp_path, "  - optim.lr: [1, 13, 2]\n")
    assert do(found, runs, folder, workers=workers) == Counter(finished=2, failed=1)
    assert folder.state(runs[1].id) == State.FAILED
    assert folder.error(runs[1].id) == "ZeroDivisionError: by design"
    assert "Traceback" in (folder.run(runs[1].id) / "error.txt").read_text()
    assert "ZeroDivisionError: by design" in capsys.readouterr().err
    assert "3 runs, 2 finished, 1 failed" in describe(folder)
    # Another attempt is made the next time.
    assert do(found, runs, folder, workers=1) == Counter(failed=1)


@pytest.mark.parametrize("kind", [UserError, RuntimeError])
def test_one_of_a_stack_that_is_at_fault_fails_alone(kind, tmp_path):
    found, runs, folder = study(tmp_path, "  - optim.lr: [1, 2, 3]\n")

    def together(configs, data, folders):
        if any(config.optim.lr == 2 for config in configs):
            raise kind("by design")
        return train(configs, data, folders)

    plan = make_schedule(found, runs, folder, nothing)
    assert run_schedule(plan, folder, together, workers=1, group=True) == Counter(finished=2, failed=1)
    assert folder.error(runs[1].id).endswith("by design")


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_its_run_alone_down(tmp_path):
    found, runs, folder = study(tmp_path, "  - optim.lr: [9, 1, 2, 3, 4]\n")
    assert do(found, runs, folder, workers=2) == Counter(finished=4, failed=1)
    assert folder.error(runs[0].id) == "its process was ended by signal SIGKILL, perhaps for want of memory"


def whole(tmp_path, lines):
    do(*study(tmp_path, lines), workers=2)


def alone(tmp_path, lines):
    do(*study(tmp_path, lines), workers=1)


@pytest.mark.slow
@pytest.mark.full
def test_a_study_that_is_killed_at_any_moment_goes_on_where_it_was(tmp_path):
    lines = "  - run.seed: {range: [40]}\n"
    found, runs, folder = study(tmp_path, lines)
    last = folder.path / "hold-39"
    last.touch()
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    for _ in range(3):
        process = context.Process(target=whole, args=(tmp_path, lines))
        process.start()
        ended = sum(folder.state(run.id).ended for run in runs)
        while sum(folder.state(run.id).ended for run in runs) == ended < 39 and process.is_alive():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
    before = sum(folder.state(run.id).ended for run in runs)
    assert 0 < before < 40
    last.unlink()
    # Its workers notice.
    while State.RUNNING in map(folder.state, (run.id for run in runs)):
        time.sleep(0.01)
    before = sum(folder.state(run.id).ended for run in runs)
    assert do(found, runs, folder, workers=2) == Counter(finished=40 - before)
    assert all(folder.state(run.id) == State.FINISHED for run in runs)
    log = (folder.path / "log").read_text().split()
    # Those that were killed between their last two lines were made again.
    assert set(log) == {run.id for run in runs}
    assert len(log) <= 40 + 3 * 2


def test_one_study_is_run_by_one_process_at_a_time(tmp_path):
    _, _, folder = study(tmp_path, "  - run.seed: [0]\n")
    with folder.locked(), pytest.raises(UserError, match="is being run by process"), folder.locked():
        pass
    with folder.locked(by_jobs=True), folder.locked(by_jobs=True):
        assert folder.user is None
        with pytest.raises(UserError, match="is being run by process"), folder.locked():
            pass
    with folder.locked():
        assert folder.user == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(UserError, match="is being run by process"), folder.locked(by_jobs=True):
            pass


def test_a_run_that_another_process_makes_is_left_to_it(tmp_path):
    found, runs, folder = study(tmp_path, "  - run.seed: [0, 1]\n")
    with folder.hold(runs[0].id):
        (folder.run(runs[0].id) / "metrics.jsonl").write_text("theirs")
        assert folder.state(runs[0].id) == State.RUNNING
        assert do(found, runs, folder, workers=1) == Counter(finished=1, running=1)
        assert (folder.run(runs[0].id) / "metrics.jsonl").read_text() == "theirs"
    assert folder.state(runs[0].id) == State.PENDING
    assert do(found, runs, folder, workers=1) == Counter(finished=1)


@pytest.mark.slow
def test_two_jobs_with_the_same_runs_make_each_once(tmp_path):
    """As when a study is submitted twice."""
    lines = "  - run.seed: {range: [20]}\n"
    _, runs, folder = study(tmp_path, lines)
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=alone, args=(tmp_path, lines)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sorted((folder.path / "log").read_text().split()) == sorted(run.id for run in runs)


def test_what_was_left_of_a_run_is_gone_when_it_is_begun_again(tmp_path):
    _, runs, folder = study(tmp_path, "  - run.seed: [0]\n")
    place = folder.run(runs[0].id)
    (place / "checkpoints/step-1").mkdir(parents=True)
    (place / "metrics.jsonl").write_text("half a li")
    with folder.hold(runs[0].id):
        assert folder.begin(runs[0].id) == place
        assert {path.name for path in place.iterdir()} == {".running"}


def test_data_stay_loaded_while_they_fit():
    shelf = DataShelf(most=2**20)
    first = shelf(DataConfig(), 0)
    assert shelf(DataConfig(), 0) is first
    for seed in range(1, 6):
        shelf(DataConfig(), seed)
    assert 1 < len(shelf.loaded) < 6
    assert shelf(DataConfig(), 0) is not first
    small = DataShelf(most=0)
    assert small(DataConfig(), 1) is small(DataConfig(), 1)


def test_runs_of_one_shape_are_shared_out_and_the_longest_come_first(tmp_path, monkeypatch):
    """The shape is the engine's to say; here it is the width."""
    shape = types.SimpleNamespace(
        same_shape=lambda config: config.model.base_width, can_be_stacked=lambda config: True
    )
    monkeypatch.setitem(sys.modules, "scaled_sgd.study.small.batched", shape)
    _, runs, _ = study(tmp_path, "  - run.seed: {range: [6]}\n  - optim.batch_size: [4, 8]\n")
    wide = [dataclasses.replace(run, weights=30_000_000) for run in runs[:2]]
    stacks = _tasks(runs, workers=3)
    assert [len(stack) for stack in stacks] == [4, 4, 4]
    assert sorted(run.id for stack in stacks for run in stack) == sorted(run.id for run in runs)
    assert [len(stack) for stack in _tasks(wide, workers=1)] == [1, 1]
    work = [sum(run.work for run in stack) for stack in _tasks([*runs, *wide], workers=3)]
    assert work == sorted(work, reverse=True)


def test_jobs_share_all_runs_and_none_twice(tmp_path):
    _, runs, _ = study(tmp_path, "  - run.seed: {range: [11]}\n")
    parts = shares(runs, 3)
    assert sorted(name for part in parts for name in part) == sorted(run.id for run in runs)
    assert [len(part) for part in parts] == [4, 4, 3]


def test_jobs_take_about_as_long_as_each_other(tmp_path):
    """Though the lengths repeat with the number of jobs."""
    _, runs, _ = study(tmp_path, "  - run.seed: {range: [6]}\n  - optim.batch_size: [8, 64]\n")
    work_of = {run.id: run.work for run in runs}
    work = [sum(work_of[name] for name in part) for part in shares(runs, 2)]
    assert work[0] == work[1]


def test_large_networks_and_several_processes_are_launched_by_themselves(tmp_path):
    found, runs, folder = study(tmp_path, "  - run.seed: [0, 1]\n  - run.processes: [null, 2]\n")
    assert len({run.id for run in runs}) == 2
    plan = make_schedule(found, runs[::2], folder, nothing)
    assert (len(plan.small), len(plan.large)) == (2, 0)
    assert len(make_schedule(found, runs[1::2], folder, nothing).large) == 2
    unsuited = make_schedule(found, runs[::2], folder, lambda config: "it streams")
    assert (len(unsuited.small), len(unsuited.large)) == (0, 2)
