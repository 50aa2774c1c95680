"""What the doctor says of machines and launches, real and made up."""

import dataclasses
import json

import pytest
from accelerate.state import AcceleratorState

from scaled_sgd.cli import main as command
from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning.doctor.command import main, options
from scaled_sgd.planning.doctor.launch import AllReduce, Launch, Member, launch_problem, launch_variables
from scaled_sgd.planning.doctor.machine import Gpu, disk, machine
from scaled_sgd.planning.doctor.network import Network, network, reaches_only_itself
from scaled_sgd.planning.doctor.report import Report
from scaled_sgd.planning.doctor.strategies import strategies
from tests.launching import CPU
from tests.programs import finished


def report(**world):
    """A report of two processes on two machines, all as asked."""
    fields = {
        "asked": 2, "started": 2, "size": 2, "seen_by_accelerate": 2, "device": "cpu", "variables": {},
        "members": (Member("a", "2.13.0", 0), Member("b", "2.13.0", 0)),
        "all_reduce": AllReduce("gloo", 100.0, 16.0, 1.0), "problem": None,
    }  # fmt: skip
    links = Network({"gloo": True}, {"lo": "127.0.0.1", "eth0": "10.0.0.3"}, {}, "10.0.0.3", None)
    return Report(machine(), links, strategies(), Launch(**fields | world), disk("."))


@pytest.mark.parametrize(
    ("missing", "unavailable"),
    [
        ((), ()),
        (("deepspeed",), ("zero1", "zero2", "zero3")),
    ],
)
def test_a_strategy_is_there_when_its_packages_are(missing, unavailable):
    found = strategies(installed=lambda package: package not in missing)
    assert tuple(strategy.name for strategy in found) == STRATEGIES.names
    assert tuple(strategy.name for strategy in found if strategy.problem) == unavailable
    for strategy in found:
        if strategy.problem is not None:
            assert strategy.problem == f"not installed: {missing[0]} (pip install 'scaled-sgd[{missing[0]}]')"


@pytest.mark.parametrize(
    ("asked", "variables", "expected"),
    [
        (None, {}, None),
        (1, {}, None),
        (2, {"WORLD_SIZE": "2"}, None),
        (None, {"WORLD_SIZE": "4", "MASTER_PORT": "29500"}, None),
        (2, {}, "2 processes asked for, 1 started"),
        (1, {"WORLD_SIZE": "2"}, "1 process asked for, 2 started"),
        (3, {"WORLD_SIZE": "2"}, "3 processes asked for, 2 started"),
        (None, {"MASTER_PORT": "29500"}, "several processes were asked for and one was started"),
        (2, {"MASTER_PORT": "29500"}, "several processes were asked for and one was started"),
    ],
)
def test_a_launch_is_wrong_when_it_started_another_number(asked, variables, expected):
    problem = launch_problem(asked, variables)
    assert problem is None if expected is None else str(problem).startswith(expected)


def test_only_variables_of_the_launch_are_shown():
    given = {"RANK": "0", "NCCL_DEBUG": "INFO", "ACCELERATE_USE_CPU": "true", "HOME": "/", "A_TOKEN": "x"}
    assert list(launch_variables(given)) == ["ACCELERATE_USE_CPU", "NCCL_DEBUG", "RANK"]


@pytest.mark.parametrize(
    ("chosen", "address", "expected"),
    [
        ({}, "127.0.1.1", True),
        ({}, "10.0.0.3", False),
        ({}, None, False),
        ({"GLOO_SOCKET_IFNAME": "eth0"}, "127.0.1.1", False),
        ({"NCCL_SOCKET_IFNAME": "eth0"}, "127.0.1.1", True),
    ],
)
def test_a_loopback_address_is_no_way_to_other_machines(chosen, address, expected):
    assert reaches_only_itself(Network({}, {}, chosen, address, None)) is expected


def test_an_interface_that_is_not_there_is_refused():
    assert network({"GLOO_SOCKET_IFNAME": "lo"}).chosen == {"GLOO_SOCKET_IFNAME": "lo"}
    with pytest.raises(UserError, match=r"^GLOO_SOCKET_IFNAME: no interface 'none0'; allowed: .*lo"):
        network({"GLOO_SOCKET_IFNAME": "none0"})


def test_a_folder_of_runs_need_not_exist_but_must_be_writable(tmp_path):
    assert disk(str(tmp_path / "new/runs")).problem is None
    assert disk("/proc/runs").problem is not None


def test_the_verdict_is_the_last_line():
    assert report().text().splitlines()[-1] == "as asked     yes: 2 processes on cpu: 1 on a, 1 on b"
    assert report(problem="two").text().splitlines()[-1] == "as asked     no: two"
    assert max(map(len, report().text().splitlines())) <= 110


def test_what_stops_some_runs_is_a_warning():
    assert report().warnings == []
    uneven = report(members=(Member("a", "2.13.0", 0), Member("b", "2.12.0", 0)))
    assert uneven.warnings == ["machines differ in torch: 2.12.0, 2.13.0"]
    alone = dataclasses.replace(report(), network=Network({}, {}, {}, "127.0.1.1", None))
    assert alone.warnings[0].startswith("this host's name leads to 127.0.1.1, which other machines")
    idle = dataclasses.replace(report(), machine=dataclasses.replace(machine(), gpus=(Gpu("H", 80.0, True),)))
    assert idle.warnings == ["not one GPU for each process (1 here): the CPU is used"]
    assert "H, 80.0 GiB, bf16" in idle.text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--processes", "two"], "argument --processes: invalid int value: 'two'; allowed: --processes N"),
        (["--processes", "0"], "processes: 0 is not usable; allowed: integers from 1"),
        (
            ["--colour"],
            "unrecognized arguments: --colour; allowed: --processes N, --run.dir FOLDER, --json",
        ),
    ],
)
@pytest.mark.parametrize("start", [main, lambda arguments: command(["doctor", *arguments])])
def test_a_mistake_is_one_line_and_status_2(start, arguments, expected, capsys):
    assert start(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: {expected}")


def test_a_machine_by_itself_is_one_process(capsys):
    assert options([]).dir == "runs"
    try:
        assert main(["--json"]) == 0
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    found = json.loads(capsys.readouterr().out)
    assert found["world"]["size"] == 1
    assert found["problems"] == []
    assert found["machine"]["packages"]["torch"]
    assert [strategy["name"] for strategy in found["strategies"]] == list(STRATEGIES)


@pytest.mark.slow
def test_the_doctor_starts_processes_and_measures_them(tmp_path):
    started = finished("-m", "scaled_sgd.cli", "doctor", "--processes=2", "--json", cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    found = json.loads(started.stdout)
    assert found["world"]["size"] == found["world"]["seen_by_accelerate"] == 2
    assert found["world"]["all_reduce"]["bandwidth_gb_s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        (("--config_file", str(CPU)), "3", "no: 3 processes asked for, 2 started"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (
                (("--config_file", str(CPU)), "2", "yes: 2 processes on cpu"),
                (("--cpu",), "2", "no: several processes were asked for and one was started"),
            )
        ),
    ],
)
def test_the_doctor_sees_through_accelerate_launch(options, asked, expected, tmp_path):
    launch = (
        "accelerate.commands.launch",
        *options,
        "--num_processes",
        "2",
        "-m",
        "scaled_sgd.planning.doctor",
    )
    started = finished("-m", *launch, "--processes", asked, cwd=tmp_path)
    assert (started.returncode == 0) is expected.startswith("yes")
    verdicts = [line for line in started.stdout.splitlines() if line.startswith("as asked")]
    assert len(verdicts) == 1
    assert verdicts[0].startswith(f"as asked     {expected}")
