import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from scaled_sgd.data import load_data
from scaled_sgd.errors import UserError
from scaled_sgd.parsing import parse
from scaled_sgd.planning import Load, predict
from scaled_sgd.resolution import resolve
from scaled_sgd.strategies.build import build_strategy
from scaled_sgd.strategies.choice import World, choose, cluster_of, tensor_processes
from scaled_sgd.strategies.config import STRATEGIES, ShardingConfig

GIB = 2**30


def world(size=4, local_size=4, *, cuda=True, memory=GIB, launched=None):
    return World(size, local_size, cuda, memory, launched)


def sharding(strategy="auto", **options):
    return ShardingConfig(strategy=strategy, **options)


def chosen(asked, launch, **load):
    """What is chosen for a network of 128 MiB of weights, unless ``load`` says otherwise."""
    work = Load(**({"widths": (10, 4096, 4096, 4096, 10), "batch": 256} | load))
    return choose(replace(parse([]), sharding=asked), launch, work)


@pytest.mark.parametrize(
    ("asked", "launch", "expected"),
    [
        (
            sharding("zero3"),
            world(launched="zero2"),
            "sharding.strategy: 'zero3' was asked for and 'zero2' launched; allowed: auto, zero2, or a "
            "launch without DeepSpeed and FSDP",
        ),
        (
            sharding("ddp"),
            world(launched="fsdp2"),
            "sharding.strategy: 'ddp' was asked for and 'fsdp2' launched; allowed: auto, fsdp2, or a launch "
            "without DeepSpeed and FSDP",
        ),
        (
            sharding("fsdp2+tensor", tensor_processes=4),
            world(size=6),
            "sharding.tensor_processes: 4 does not divide the 6 processes; allowed: 1, 2, 3, 6",
        ),
        (
            sharding("fsdp2", tensor_processes=2),
            world(),
            "sharding.tensor_processes: 2 does not fit sharding.strategy fsdp2; allowed: null",
        ),
    ],
)
def test_what_a_launch_cannot_do_is_refused(asked, launch, expected):
    with pytest.raises(UserError) as error:
        chosen(asked, launch)
    assert str(error.value) == expected


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_is_named_is_taken(name):
    assert chosen(sharding(name), world()).strategy == name


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "fsdp2"])
def test_auto_takes_what_the_launcher_names(name):
    assert chosen(sharding(), world(launched=name)).strategy == name


def test_auto_takes_replicas_where_they_fit_and_are_fastest():
    small = {"widths": (64, 32, 128, 10), "batch": 256}
    assert chosen(sharding(), world(2, 2), **small).strategy == "ddp"
    assert chosen(sharding(), world(1, 1)).strategy == "ddp"


def test_auto_shards_what_no_process_holds_whole():
    """Weights and gradients are 256 MiB."""
    taken = chosen(sharding(), world(memory=200 * 2**20), batch=16)
    assert taken.strategy in ("fsdp2", "tensor", "fsdp2+tensor")
    whole = predict("ddp", Load((10, 4096, 4096, 4096, 10), 16), cluster_of(world(), half=False))
    assert whole.peak_bytes > 200 * 2**20


@pytest.mark.parametrize(
    ("size", "local_size", "expected"), [(16, 8, 8), (4, 4, 2), (8, 1, 2), (3, 3, 1), (1, 1, 1)]
)
def test_neighbours_on_a_machine_share_layers(size, local_size, expected):
    launch = world(size, local_size)
    taken = chosen(sharding("fsdp2+tensor"), launch)
    assert (taken.tensor_processes, tensor_processes(taken, launch)) == (None, expected)


def wide(strategy):
    """10 · 4096² and 4096 (64 + 10) weights, 1.3 GiB with gradients, of which a layer has 0.13."""
    return parse(
        [
            "--model.depth=12",
            "--model.base_width=4096",
            "--model.width_exponent=0",
            f"--sharding.strategy={strategy}",
            "--optim.steps=1",
        ]
    )


def refusal(config, launch):
    data = load_data(config.data, seed=0, quiet=True)
    with pytest.raises(UserError) as error:
        resolve(config, data, launch)
    return str(error.value)


def test_a_network_for_many_is_refused_where_each_process_would_hold_it_whole():
    message = refusal(wide("ddp"), world(memory=GIB // 2))
    gib = re.fullmatch(
        r"model\.base_width: 4096 gives 168,075,264 weights, (\S+) GiB a process in a step under ddp; "
        r"allowed here: at most 0\.5 GiB, or sharding\.strategy (fsdp2|tensor)",
        message,
    )
    assert gib is not None, message
    # Weights and gradients, then activations.
    assert 2 * 4 * 168_075_264 / GIB <= float(gib[1]) < 1.6
    data = load_data(wide("ddp").data, seed=0, quiet=True)
    assert resolve(wide("auto"), data, world(memory=GIB // 2)).sharding.strategy in ("fsdp2", "tensor")


def test_a_network_for_no_one_is_refused():
    message = refusal(wide("fsdp2"), world(memory=2**20))
    assert message.startswith("model.base_width: 4096 gives 168,075,264 weights, ")
    assert message.endswith(" GiB a process in a step under fsdp2; allowed here: at most 0.00098 GiB")


def test_a_gathered_layer_needs_room_too():
    """A quarter of the network fits, but not beside a whole layer and its gradient."""
    quarter = 2 * 4 * 168_075_264 // 4
    assert "in a step under fsdp2" in refusal(wide("fsdp2"), world(memory=quarter + 2**26))


def test_launched_zero_keeps_float32_masters_too():
    config = parse(["--model.dtype=float64", "--optim.steps=1"])
    data = load_data(config.data, seed=0, quiet=True)
    with pytest.raises(UserError) as error:
        resolve(config, data, world(launched="zero2"))
    assert str(error.value) == (
        "model.dtype: 'float64' does not fit zero2, which was launched; allowed: float32"
    )


def test_zero_keeps_float32_masters():
    with pytest.raises(UserError) as error:
        parse(["--sharding.strategy=zero2", "--model.dtype=float64"])
    assert str(error.value) == (
        "sharding.strategy: 'zero2' is not usable; allowed: auto, ddp, fsdp2, tensor, fsdp2+tensor with "
        "model.dtype float64 (ZeRO keeps float32 masters)"
    )


@pytest.mark.parametrize("name", STRATEGIES[1:])
def test_loss_scales_are_for_replicas(name):
    config = parse([f"--sharding.strategy={name}", "--run.precision=fp16"])
    accelerator = SimpleNamespace(device=torch.device("cpu"), scaler=None)
    with pytest.raises(UserError) as error:
        build_strategy(config, accelerator, 4, 2)
    assert str(error.value) == f"run.precision: 'fp16' is for ddp alone; allowed with {name}: no, tf32, bf16"
