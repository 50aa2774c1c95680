import pytest

from scaled_sgd.config import Config, OptimConfig, ShardingConfig
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import Load
from scaled_sgd.planning.choice import NATIVE, World, choose, predicted, tensor_processes
from scaled_sgd.train.resolution import resolve

GIB = 2**30


def world(size=4, local_size=4, *, cuda=True, memory=GIB, launched=None):
    return World(size, local_size, cuda, memory, launched)


LOAD = Load((64, 128, 10), 32)


def asking(strategy="auto", **options):
    """By autograd: the costs of gradients are what is chosen by."""
    optim = OptimConfig(update="autograd")
    return Config(optim=optim, sharding=ShardingConfig(strategy=strategy, **options))


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
        choose(asked, launch, LOAD)
    assert str(error.value) == expected


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_is_named_is_taken(name):
    assert choose(asking(name), world(), LOAD).strategy == name


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "fsdp2"])
def test_auto_takes_what_the_launcher_names(name):
    assert choose(asking(), world(launched=name), LOAD).strategy == name


@pytest.mark.parametrize("memory", [1, GIB])
def test_auto_takes_replicas_on_one_process(memory):
    assert choose(asking(), world(1, 1, memory=memory), LOAD).strategy == "ddp"


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load((784, *(4096,) * 6, 10), 65536), "ddp"),
        (Load((784, *(4096,) * 6, 10), 8), "tensor"),
    ],
)
def test_auto_takes_the_fastest_that_fits(load, expected):
    """Large minibatches hide the traffic of gradients; small ones have less of activations."""
    launch = world(8, 8, memory=64 * GIB)
    assert choose(asking(), launch, load).strategy == expected
    costs = {name: predicted(name, asking(), launch, load).seconds for name in NATIVE[:3]}
    assert costs[expected] <= 1.1 * min(costs.values())


def test_auto_shards_what_does_not_fit_whole():
    load = Load((784, *(4096,) * 11, 10), 65536)
    whole, parts = (predicted(name, asking(), world(8, 8), load).peak_bytes for name in ("ddp", "fsdp2"))
    launch = world(8, 8, memory=int(parts / 0.85))
    assert parts < 0.9 * launch.memory < whole
    assert choose(asking(), launch, load).strategy != "ddp"


def test_auto_takes_what_needs_least_where_nothing_fits():
    load = Load((784, *(4096,) * 6, 10), 8)
    launch = world(4, 4, memory=2**20)
    least = min(
        ("ddp", "fsdp2", "tensor"), key=lambda name: predicted(name, asking(), launch, load).peak_bytes
    )
    assert choose(asking(), launch, load).strategy == least


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
    load = Load((784, *(4096,) * 6, 10), 8, half=config.run.precision == "fp16")
    assert choose(config, world(4, 4, memory=64 * GIB), load).strategy == expected


@pytest.mark.parametrize(
    ("size", "local_size", "expected"),
    [(16, 8, 8), (4, 4, 2), (8, 1, 2), (3, 3, 1), (1, 1, 1), (12, 8, 4), (9, 4, 1)],
)
def test_neighbours_on_a_machine_share_layers(size, local_size, expected):
    launch = world(size, local_size)
    chosen = choose(asking("fsdp2+tensor"), launch, LOAD)
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
            *options,
        ]
    )


@pytest.fixture(scope="module")
def digits():
    return load_data(wide("ddp").data, seed=0, quiet=True)


def test_a_network_for_many_is_refused_where_each_process_would_hold_it_whole(digits):
    launch = world(memory=int(0.7 * GIB))
    with pytest.raises(UserError) as error:
        resolve(wide("ddp"), digits, launch)
    assert str(error.value) == (
        "model.base_width: 4096 gives 168,075,264 weights, 1.3 GiB a process in a step under ddp; "
        "allowed here: at most 0.7 GiB, or sharding.strategy fsdp2"
    )
    assert resolve(wide("fsdp2"), digits, launch).sharding.strategy == "fsdp2"
    assert resolve(wide("auto"), digits, launch).sharding.strategy == "tensor"


def test_a_network_for_no_one_is_refused(digits):
    with pytest.raises(UserError) as error:
        resolve(wide("fsdp2"), digits, world(memory=2**20))
    assert str(error.value) == (
        "model.base_width: 4096 gives 168,075,264 weights, 0.54 GiB a process in a step under fsdp2; "
        "allowed here: at most 0.00098 GiB"
    )


def test_a_gathered_layer_needs_room_too(digits):
    """A quarter of the network fits, but not beside a whole layer and its gradient."""
    launch = world(memory=int(0.4 * GIB))
    with pytest.raises(
        UserError, match=r"a process in a step under fsdp2; allowed here: at most 0\.4 GiB, or .* tensor"
    ):
        resolve(wide("fsdp2"), digits, launch)
    assert resolve(wide("tensor"), digits, launch).sharding.strategy == "tensor"


def test_a_minibatch_that_does_not_fit_is_refused_by_its_own_name(digits):
    """The network fits four times over."""
    launch = world(1, 1, memory=6 * GIB)
    with pytest.raises(
        UserError, match=r"^optim\.batch_size: 100000 takes \d+ GiB a process in a step under ddp; "
    ):
        resolve(wide("ddp", "--optim.batch_size=100000"), digits, launch)
    assert resolve(wide("ddp", "--optim.batch_size=1000"), digits, launch).sharding.strategy == "ddp"


def test_launched_zero_keeps_float32_masters_too():
    config = parse(["--model.dtype=float64", "--optim.steps=1"])
    data = load_data(config.data, seed=0, quiet=True)
    with pytest.raises(UserError) as error:
        resolve(config, data, world(launched="zero2"))
    assert str(error.value) == (
        "model.dtype: 'float64' is not usable; allowed: float32 with sharding.strategy zero2"
    )


def test_zero_keeps_float32_masters():
    with pytest.raises(UserError) as error:
        parse(["--sharding.strategy=zero2", "--model.dtype=float64"])
    assert str(error.value) == (
        "model.dtype: 'float64' is not usable; allowed: float32 with sharding.strategy zero2"
    )


@pytest.mark.parametrize("name", STRATEGIES.names[1:])
def test_loss_scales_are_for_replicas(name):
    with pytest.raises(UserError) as error:
        parse([f"--sharding.strategy={name}", "--run.precision=fp16"])
    assert str(error.value) == (
        f"run.precision: 'fp16' is not usable; allowed: no, tf32, bf16 with sharding.strategy {name}"
    )
