import pytest

from scaled_sgd.config import Config, OptimConfig, ScalingConfig, ShardingConfig
from scaled_sgd.config.combinations import with_strategy
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import Workload
from scaled_sgd.planning.choice import World, choose, cost_of, tensor_processes
from scaled_sgd.train.main import main
from scaled_sgd.train.resolution import resolve

GIB = 2**30


def world(size=4, local_size=4, *, cuda=True, memory=GIB, launched=None):
    return World(size, local_size, cuda, memory, launched)


WORK = Workload((64, 128, 10), 32)


def cost(name, launch, work):
    return cost_of(with_strategy(asking(), name), launch, work)


def asking(strategy="auto", **options):
    """By autograd: the costs of gradients are what is chosen by."""
    optim = OptimConfig(update="autograd")
    sharding = ShardingConfig(strategy=strategy, **options)
    return Config(optim=optim, scaling=ScalingConfig(rule="norm"), sharding=sharding)


@pytest.mark.parametrize(
    ("asked", "launch", "expected"),
    [
        (
            asking("zero3"),
            world(launched="zero2"),
            "sharding.strategy: 'zero3' was asked for and 'zero2' launched; allowed: auto, zero2, or a "
            "launch without DeepSpeed and FSDP",
        ),
        (
            asking("ddp"),
            world(launched="fsdp2"),
            "sharding.strategy: 'ddp' was asked for and 'fsdp2' launched; allowed: auto, fsdp2, or a launch "
            "without DeepSpeed and FSDP",
        ),
        (
            asking("fsdp2+tensor", tensor_processes=4),
            world(size=6),
            "sharding.tensor_processes: 4 does not divide the 6 processes; allowed: 1, 2, 3, 6",
        ),
    ],
)
def test_what_a_launch_cannot_do_is_refused(asked, launch, expected):
    with pytest.raises(UserError) as error:
        choose(asked, launch, WORK)
    assert str(error.value) == expected


@pytest.mark.parametrize("name", STRATEGIES.names)
def test_a_strategy_that_is_named_is_taken(name):
    assert choose(asking(name), world(), WORK).strategy == name


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "fsdp2"])
def test_auto_takes_what_the_launcher_names(name):
    assert choose(asking(), world(launched=name), WORK).strategy == name


@pytest.mark.parametrize("memory", [1, GIB])
def test_auto_takes_replicas_on_one_process(memory):
    assert choose(asking(), world(1, 1, memory=memory), WORK).strategy == "ddp"


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Workload((784, *(4096,) * 6, 10), 65536), "ddp"),
        (Workload((784, *(4096,) * 6, 10), 8), "tensor"),
    ],
)
def test_auto_takes_the_fastest_that_fits(work, expected):
    """Large minibatches hide the traffic of gradients; small ones have less of activations."""
    launch = world(8, 8, memory=64 * GIB)
    assert choose(asking(), launch, work).strategy == expected
    costs = {name: cost(name, launch, work).seconds for name in ("ddp", "fsdp2", "tensor")}
    assert costs[expected] <= 1.1 * min(costs.values())


def test_auto_shards_what_does_not_fit_whole():
    work = Workload((784, *(4096,) * 11, 10), 65536)
    whole, parts = (cost(name, world(8, 8), work).peak_bytes for name in ("ddp", "fsdp2"))
    launch = world(8, 8, memory=int(parts / 0.85))
    assert parts < 0.9 * launch.memory < whole
    assert choose(asking(), launch, work).strategy != "ddp"


def test_auto_takes_what_needs_least_where_nothing_fits():
    work = Workload((784, *(4096,) * 6, 10), 8)
    launch = world(4, 4, memory=2**20)
    least = min(("ddp", "fsdp2", "tensor"), key=lambda name: cost(name, launch, work).peak_bytes)
    assert choose(asking(), launch, work).strategy == least


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--run.precision=fp16"], "ddp"),
        (["--sharding.tensor_processes=2"], "fsdp2+tensor"),
        (["--optim.update=fused", "--sharding.exchange=gradients"], "ddp"),
    ],
)
def test_auto_keeps_to_what_else_is_configured(options, expected):
    config = parse([*options, "--optim.steps=1"])
    work = Workload((784, *(4096,) * 6, 10), 8, precision=config.run.precision)
    assert choose(config, world(4, 4, memory=64 * GIB), work).strategy == expected


@pytest.mark.parametrize(
    ("size", "local_size", "expected"),
    [(16, 8, 8), (4, 4, 2), (8, 1, 2), (3, 3, 1), (1, 1, 1), (12, 8, 4), (9, 4, 1)],
)
def test_neighbours_on_a_machine_share_layers(size, local_size, expected):
    launch = world(size, local_size)
    chosen = choose(asking("fsdp2+tensor"), launch, WORK)
    assert (chosen.tensor_processes, tensor_processes(chosen, launch)) == (None, expected)


def wide(strategy, *options):
    """10 · 4096² and 4096 (64 + 10) weights, 1.3 GiB with gradients, of which a layer has 0.13."""
    return parse(
        [
            "--model.depth=12",
            "--model.base_width=4096",
            "--model.width_exponent=0",
            f"--sharding.strategy={strategy}",
            "--optim.steps=1",
            "--optim.update=autograd",
            "--scaling.rule=norm",
            *options,
        ]
    )


@pytest.fixture(scope="module")
def digits():
    return load_data(wide("ddp").data, seed=0, quiet=True)


def warnings_of(config, data, launch, capsys):
    """What resolving prints, and the strategy."""
    strategy = resolve(config, data, launch).sharding.strategy
    return capsys.readouterr().err.splitlines(), strategy


def test_a_network_for_many_is_warned_of_where_each_process_would_hold_it_whole(digits, capsys):
    launch = world(memory=int(0.9 * GIB))
    (line,), strategy = warnings_of(wide("ddp"), digits, launch, capsys)
    assert strategy == "ddp"
    assert line == (
        "warning: a step of 168,075,264 weights on 256 samples under ddp is predicted to take 1.34 GiB of "
        "each process, 829 MiB of 922 MiB are usable; what fits: --sharding.strategy fsdp2 or "
        "--optim.update fused"
    )
    assert warnings_of(wide("fsdp2"), digits, launch, capsys) == ([], "fsdp2")
    assert warnings_of(wide("auto"), digits, launch, capsys) == ([], "tensor")


def test_a_network_for_no_one_is_warned_of(digits, capsys):
    (line,), strategy = warnings_of(wide("fsdp2"), digits, world(memory=2**20), capsys)
    assert strategy == "fsdp2"
    assert line.endswith(
        "922 KiB of 1 MiB are usable; what fits: a smaller model.base_width, more processes or more memory"
    )


def test_a_gathered_layer_needs_room_too(digits, capsys):
    """A quarter of the network fits, but not beside a whole layer and its gradient."""
    launch = world(memory=int(0.4 * GIB))
    (line,), _ = warnings_of(wide("fsdp2"), digits, launch, capsys)
    assert "under fsdp2 is predicted" in line
    assert "what fits: --sharding.strategy tensor" in line
    assert warnings_of(wide("tensor"), digits, launch, capsys) == ([], "tensor")


def test_a_minibatch_that_does_not_fit_is_warned_of_with_one_that_does(digits, capsys):
    """The network fits four times over."""
    launch = world(1, 1, memory=6 * GIB)
    (line,), _ = warnings_of(wide("ddp", "--optim.batch_size=100000"), digits, launch, capsys)
    options = line.partition("what fits: ")[2].split(" or ")
    assert options == ["--optim.batch_size 12500"]
    for option in options:
        assert warnings_of(wide("ddp", *option.split()), digits, launch, capsys)[0] == []


def test_no_gradient_is_what_fits_too(digits, capsys):
    launch = world(1, 1, memory=int(1.0 * GIB))
    (line,), _ = warnings_of(wide("ddp"), digits, launch, capsys)
    option = line.partition("what fits: ")[2].split(" or ")[0]
    assert "fused" in option
    assert warnings_of(wide("ddp", *option.split()), digits, launch, capsys)[0] == []


def test_memory_that_is_not_there_ends_a_run_in_one_line(tmp_path, capsys):
    """After the warning: what is refused is the allocation, not the prediction."""
    options = ("--model.base_width=10000000", "--model.depth=6", f"--run.dir={tmp_path}", "--optim.steps=1")
    assert main(options) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: a step of 58,400,003,140,000,000 weights on 256 samples under ddp")
    assert error.startswith("error: memory: ")
    assert "allowed: smaller model.base_width or optim.batch_size" in error


def test_only_the_first_rank_warns(digits, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert warnings_of(wide("ddp"), digits, world(memory=2**20), capsys)[0] == []


def test_launched_zero_keeps_float32_masters_too():
    config = parse(["--model.dtype=float64", "--optim.steps=1"])
    data = load_data(config.data, seed=0, quiet=True)
    with pytest.raises(UserError) as error:
        resolve(config, data, world(launched="zero2"))
    assert str(error.value) == (
        "model.dtype: 'float64' is not usable; allowed: float32 with sharding.strategy zero2 "
        "(ZeRO keeps float32 masters)"
    )


def test_zero_keeps_float32_masters():
    with pytest.raises(UserError) as error:
        parse(["--sharding.strategy=zero2", "--model.dtype=float64"])
    assert str(error.value) == (
        "model.dtype: 'float64' is not usable; allowed: float32 with sharding.strategy zero2 "
        "(ZeRO keeps float32 masters)"
    )


@pytest.mark.parametrize(
    "can", [can for can in STRATEGIES.entries if "fp16" not in can.precisions], ids=lambda can: can.name
)
def test_loss_scales_are_for_replicas(can):
    with pytest.raises(UserError) as error:
        parse([f"--sharding.strategy={can.name}", "--run.precision=fp16"])
    assert str(error.value) == (
        f"run.precision: 'fp16' is not usable; allowed: {', '.join(can.precisions)} with sharding.strategy "
        f"{can.name} (loss scales are for replicas)"
    )
