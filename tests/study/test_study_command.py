"""``scaled-sgd study`` as a person types it."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from multiprocessing import resource_tracker

import pandas as pd
import pytest
import yaml

from scaled_sgd.config.keys import KEYS
from scaled_sgd.config.stored import FORMER
from scaled_sgd.core.errors import UserError
from scaled_sgd.study import command
from scaled_sgd.study.command import main
from scaled_sgd.study.execution import run as run_module
from scaled_sgd.study.execution.estimate import duration, seconds_left
from scaled_sgd.study.execution.jobs import Job, jobs, new_folder, record
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import expand, find_study, read_study
from scaled_sgd.study.options import split_overrides
from scaled_sgd.study.small.attempt import DataShelf
from tests.copies import context, ready
from tests.launching import REPOSITORY

SMALL = ("--optim.steps=4", "--diagnostics.every=0")


@pytest.fixture(autouse=True)
def clone(tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "configs/studies", tmp_path / "configs/studies")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(clone):
    return StudyFolder(clone / "studies/smoke")


def run(*options):
    return main(["run", "smoke", "--workers=1", *SMALL, *options])


def ends(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.path.glob("runs/*/summary.json")}


def test_options_of_the_study_may_stand_anywhere():
    own, keys = split_overrides(
        ["run", "--model.depth", "4", "smoke", "--optim.lr=[1e-1, 2]", "--workers", "2", "--method", "-1"]
    )
    assert own == ["run", "smoke", "--workers", "2"]
    assert keys == {"model.depth": 4, "optim.lr": ["1e-1", 2], "method": -1}
    for wrong, message in (
        (["--optim.lr"], "optim.lr: no value given; allowed: a value or a list such as [4, 8]"),
        (["--loss=mse", "--loss", "mse"], "loss: it is given twice; allowed: once, …"),
        (["--optim.lr=[1,"], "optim.lr: '[1,' is not YAML; allowed: …"),
    ):
        with pytest.raises(UserError, match=re.escape(message).replace("…", ".*")):
            split_overrides(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "smok"], "study: no study 'smok'; allowed: …"),
        (["run", "smoke", "--model.deph=2"], "model.deph: unknown key; did you mean model.depth?"),
        (["run", "smoke", "--run.name=x"], "run.name: 'x' is not usable; allowed: nothing, …"),
        (["run", "smoke", "--report=[methods]"], "report: it stands in the study's file; allowed here: …"),
        (["run", "rules", "--methods=[x]"], "methods: unknown key; did you mean method?"),
        (["run", "smoke", "--worker=2"], "worker: unknown option; did you mean --workers?"),
        (["run", "smoke", "--workers=0"], "workers: 0 is not usable; allowed: integers from 1"),
        (["run", "smoke", "extra"], "study: unrecognized arguments: extra; allowed: …"),
        (
            ["run", "smoke", "--executor=slurm", "--slurm=x"],
            "slurm: 'x' is not usable; allowed: KEY=VALUE, …",
        ),
        (
            ["run", "smoke", "--executor=slurm", "--slurm", "nodes=2"],
            "slurm: 'nodes' is not usable: a run of a study takes one machine; allowed: …",
        ),
        (
            ["run", "smoke", "--share=0123456789ab"],
            "share: run '0123456789ab' is none of this study's, …; allowed: submit it again",
        ),
        (["status", "smoke"], "study: 'studies/smoke' has no plan; allowed: …"),
        (["fly"], "study: … invalid choice: 'fly' …"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(re.escape(f"error: {message}").replace("…", ".*"), line), line
    with pytest.raises(UserError):
        main([*arguments, "--debug"])


def test_what_is_not_installed_is_one_line(folder, monkeypatch, capsys):
    assert run("--run.seed=0", "--optim.lr=1", "--model.base_width=2") == 0
    capsys.readouterr()

    def missing(_options):
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

    monkeypatch.setattr(command, "_folder", missing)
    assert main(["collect", "smoke"]) == 2
    expected = "error: study: pandas is not installed; allowed: pip install 'scaled-sgd[study]'\n"
    assert capsys.readouterr().err == expected


def test_the_file_that_a_run_left_goes_on_where_it_was(folder, capsys):
    assert run("--run.seed=0", "--name=mine") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "done: 4 finished; scaled-sgd study report studies/mine shows it"
    for name in ("studies/mine/study.yaml", "studies/mine"):
        assert main(["run", name]) == 0
        first, last = capsys.readouterr().err.splitlines()
        assert first.startswith("mine: 4 runs, 4 ended, 0 small and 0 large to do; ")
        assert last == "done: nothing; scaled-sgd study report studies/mine shows it"


def test_a_study_of_an_earlier_version_keeps_the_defaults_that_it_meant(folder):
    """Its folder did not name them."""
    file = folder.path.parents[1] / "plain.yaml"
    file.write_text("base: {model: {depth: 2, base_width: 2}}\naxes: [{run.seed: [0]}]\n")
    now = StudyFolder(folder.path.parent / "plain")
    (run,) = expand(read_study(file), DataShelf())
    now.write_plan(read_study(file), [run])
    stored = yaml.safe_load((now.path / "study.yaml").read_text())
    assert stored["defaults"] == {key: KEYS[key].default for key in FORMER}
    assert (stored["defaults"]["scaling.rule"], run.config.scaling.rule) == ("auto", "spectral")
    assert stored["defaults"]["optim.lr"] == run.config.optim.lr
    del stored["defaults"]
    (now.path / "study.yaml").write_text(yaml.safe_dump(stored))
    (old,) = expand(read_study(now.path / "study.yaml"), DataShelf())
    assert (old.config.scaling.rule, old.config.optim.lr) == ("norm", 4.0)


def test_a_study_of_a_table_keeps_the_inputs_that_it_had(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame({"a": [1.0, 2.0, 4.0, 8.0] * 3, "b": [3.0, 1.0, 2.0, 5.0] * 3, "y": [0, 1, 1, 0] * 3})
    rows.to_csv("rows.csv", index=False)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/plan.jsonl").touch()
    text = "base: {model: {depth: 2, base_width: 2}, data: {source: rows.csv}}\naxes: [{run.seed: [0]}]\n"
    for name in ("s.yaml", "s/study.yaml"):
        (tmp_path / name).write_text(text)
    now, old = (expand(read_study(find_study(name)), DataShelf())[0].config for name in ("s.yaml", "s"))
    assert (now.data.standardize, now.data.constant) == (True, True)
    assert (old.data.standardize, old.data.constant, old.data.eval_split) == (False, False, None)


def test_a_changed_plan_says_what_is_new_and_keeps_what_was_made(folder, capsys):
    assert run("--run.seed=0") == 0
    before = ends(folder)
    assert len(before) == 4
    capsys.readouterr()
    assert run("--run.seed=[0, 1]", "--optim.lr=2") == 0
    told = capsys.readouterr().err.splitlines()
    assert (
        "plan: changed (optim.lr [2, 8] → [2]; run.seed [0] → [0, 1]); 2 of its 4 runs were in it before; "
        "2 of earlier plans stay and are not counted"
    ) in told
    after = ends(folder)
    assert len(after) == 6
    assert {run: after[run] for run in before} == before
    assert main(["status", "smoke"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "studies/smoke: 4 runs, 4 finished"
    assert run("--run.seed=[0, 1]", "--optim.lr=2") == 0
    assert "plan: changed" not in capsys.readouterr().err
    assert ends(folder) == after


def test_choices_of_a_study_are_kept_by_name(capsys):
    assert main(["run", "rules", "--dry-run", "--method", "[νP norm, SP plain]"]) == 0
    assert capsys.readouterr().err.startswith("rules: 132 runs, 0 ended, ")
    assert main(["run", "rules", "--dry-run", "--method", "magic"]) == 2
    assert "method: 'magic' is not usable; allowed: νP norm, " in capsys.readouterr().err


def test_a_study_that_is_being_run_is_left_alone(folder, capsys):
    with folder.locked():
        assert run() == 2
        assert main(["run", "smoke", "--executor=local", "--jobs=1"]) == 2
    told = f"'studies/smoke' is being run by process {os.getpid()} on "
    assert capsys.readouterr().err.count(told) == 2
    assert not (folder.path / "plan.jsonl").exists()


def test_runs_that_others_make_are_not_done(folder, capsys):
    study = read_study(find_study("smoke"), {"optim.steps": 4, "diagnostics.every": 0, "run.seed": 0})
    first, *others = expand(study, DataShelf())
    with folder.hold(first.id):
        assert run("--run.seed=0") == 4
    assert "1 runs failed or are made by others; scaled-sgd study status" in capsys.readouterr().err
    assert [folder.state(one.id) for one in others] == [State.FINISHED] * 3
    assert run("--run.seed=0") == 0


def test_a_job_does_its_share_of_what_was_submitted_and_no_more(folder, monkeypatch):
    """Though the folder has another plan by then."""
    submitted = []
    monkeypatch.setattr(run_module, "submit", lambda *given: submitted.append(given[-2:]) or ["1", "2"])
    assert main(["run", "smoke", *SMALL, "--run.seed=0", "--executor=slurm", "--jobs=2"]) == 0
    ((told, runs),) = submitted
    assert len(runs) == 4
    assert main(["run", "smoke", *SMALL, "--run.seed=7", "--optim.lr=2", "--workers=1"]) == 0
    mine = [run.id for run in runs[::2]]
    others = set(ends(folder))
    assert main(["run", *told, "--workers=1", "--share", ",".join(mine)]) == 0
    assert set(ends(folder)) == others | set(mine)


def test_local_jobs_have_a_core_each(monkeypatch):
    submitted = []
    monkeypatch.setattr(run_module, "submit", lambda *given: submitted.append(given[-2]) or ["1", "2"])
    main(["run", "smoke", *SMALL, "--executor=local", "--jobs=2"])
    assert submitted[0][-2:] == ["--workers", "1"]


def test_the_time_left_goes_by_what_was_measured(folder):
    study = read_study(find_study("smoke"), {"model.base_width": 4, "optim.lr": 2, "run.seed": [0, 1, 2]})
    runs = expand(study, DataShelf())
    assert seconds_left(folder, runs) is None
    for one in runs[:2]:
        folder.run(one.id).mkdir(parents=True)
        (folder.run(one.id) / "summary.json").write_text(json.dumps({"status": "finished", "seconds": 3.0}))
    assert seconds_left(folder, runs) == pytest.approx(3.0)
    assert seconds_left(folder, runs[:2]) == 0
    cut_short = {"status": "diverged", "seconds": 0.1}
    (folder.run(runs[1].id) / "summary.json").write_text(json.dumps(cut_short))
    assert seconds_left(folder, runs) == pytest.approx(3.0)
    assert [duration(s) for s in (0.2, 59, 61, 3600, 12_000, 300_000)] == [
        "1 s", "59 s", "1 min", "1 h", "3 h 20 min", "3 d 11 h"
    ]  # fmt: skip


def test_jobs_that_ended_badly_or_vanished_are_told(tmp_path):
    logs = tmp_path / "jobs"
    logs.mkdir()
    assert jobs(logs) == []
    mine = str(os.getpid())
    record(logs, "local", ["1000000001", "1000000002", "1000000003", "1000000004"])
    record(logs, "local", [mine])
    (logs / "1000000001_end.txt").write_text("0\n")
    (logs / "1000000002_end.txt").write_text("4\n")
    (logs / "1000000003_0_result.pkl").write_bytes(b"")
    (logs / "1000000003_0_log.err").write_text("a\nValueError: no\n\n")
    assert jobs(logs) == [
        Job("1000000001", "ended"),
        Job("1000000002", "ended with status 4"),
        Job("1000000003", "failed", "ValueError: no"),
        Job("1000000004", "gone"),
        Job(mine, "running"),
    ]


def test_jobs_are_not_said_to_be_gone_where_the_scheduler_does_not_answer(tmp_path, monkeypatch):
    record(tmp_path, "slurm", ["7_0", "7_1"])
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "7_1_end.txt").write_text("0\n")
    assert jobs(tmp_path) == [Job("7_0", "unknown, since squeue does not answer"), Job("7_1", "ended")]


def test_a_record_of_jobs_that_is_none_is_left_out(tmp_path):
    (tmp_path / "submitted.jsonl").write_text(
        '{"executor": "local", "jobs": ["../../x", "-1"]}\n{"executor": "local", "jobs": ["abc"]}\n[1]}\n'
        '{"executor": "local", "jobs": ["9999999999"]}\n{"executor": "\x1b", "jobs": ["1"]}\n{"jobs": 7}\n'
    )
    assert jobs(tmp_path) == [Job("9999999999", "gone")]


def test_jobs_of_every_submission_are_told(tmp_path):
    record(tmp_path, "local", ["1000000001"])
    record(new_folder(tmp_path), "local", ["1000000002"])
    assert [job.id for job in jobs(tmp_path)] == ["1000000001", "1000000002"]


def run_by_workers(clone, errors):
    """A study by two workers, with a tracker of semaphores of its own; ``errors`` takes what is said."""
    os.chdir(clone)
    os.dup2(errors.fileno(), 2)
    errors.close()
    resource_tracker._resource_tracker._fd = resource_tracker._resource_tracker._pid = None
    # Its workers are copies, too, of one that has imported everything.
    multiprocessing.get_context = lambda _method: context
    sys.exit(main(["run", "own.yaml", "--workers=2"]))


@pytest.mark.slow
def test_workers_leave_no_semaphores(clone):
    """Reading an own file shows a progress bar, whose lock is one."""
    (clone / "own.csv").write_text("height,weight,kind\n" + "1.5,2,cat\n3,4.5,dog\n" * 20)
    sizes = {"model.depth": 2, "model.base_width": 2, "optim.steps": 2}
    base = {"data.source": "own.csv", "data.target": "kind", **sizes}
    (clone / "own.yaml").write_text(yaml.safe_dump({"base": base, "axes": [{"run.seed": [0, 1]}]}))
    ready()
    read, write = context.Pipe(duplex=False)
    study = context.Process(target=run_by_workers, args=(clone, write))
    study.start()
    write.close()
    with open(os.dup(read.fileno()), encoding="utf-8") as stream:
        # To its end, which is that of the tracker.
        said = stream.read()
    study.join()
    assert study.exitcode == 0, said
    assert "done: 2 finished" in said
    assert "leaked" not in said


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_gives_the_tables_of_one_that_is_not(clone, folder):
    sizes = ("--optim.steps=12", "--diagnostics.every=6", "--run.seed", "{range: [0, 4]}")
    options = ["run", "smoke", "--workers=1", *sizes]
    assert main([*options, "--name=whole"]) == 0
    assert main(["collect", "whole"]) == 0
    chance, context = random.Random(3), multiprocessing.get_context("fork")
    for _ in range(3):
        process = context.Process(target=main, args=(options,))
        process.start()
        ended = len(ends(folder))
        while len(ends(folder)) == ended and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
    assert 0 < len(ends(folder)) < 16
    assert main(options) == 0
    assert main(["collect", "smoke"]) == 0
    for table in ("runs", "metrics"):
        whole, killed = (
            pd.read_parquet(clone / f"studies/{name}/{table}.parquet").drop(columns="seconds")
            for name in ("whole", "smoke")
        )
        pd.testing.assert_frame_equal(whole, killed, check_exact=True)
        assert len(whole) > 0
