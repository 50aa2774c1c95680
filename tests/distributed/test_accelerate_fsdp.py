"""FSDP2 launched by Accelerate's own configuration, which it does on GPUs only: forced here on the CPU."""

from functools import cache

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.multiprocessing.spawn import ProcessException

from tests.distributed.test_one_answer import TOLERANCE, differences
from tests.training import Finished, run_all

pytestmark = pytest.mark.slow

BASE = (
    "--scaling.rule=norm",
    "--model.depth=4", "--model.base_width=5", "--optim.lr=0.3", "--optim.steps=6", "--optim.batch_size=331",
    "--optim.momentum=0.9", "--optim.clip_norm=0.01", "--optim.accumulation=3", "--run.log_every=1",
    "--run.eval_every=5", "--diagnostics.every=5", "--diagnostics.samples=23", "--diagnostics.tolerance=1e-4",
)  # fmt: skip
RUNS = ((*BASE, "--model.dtype=float64"), (*BASE, "--run.precision=bf16"))


def launch_as_fsdp(accelerator: Accelerator, version: int = 2) -> None:
    """Leave the state that Accelerate has on a GPU."""
    reshard = {"reshard_after_forward": False} if version == 2 else {}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, **reshard)
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def launch_as_fsdp1(accelerator: Accelerator) -> None:
    launch_as_fsdp(accelerator, version=1)


@cache
def launched() -> list[Finished]:
    return run_all(RUNS, 2, prepare=launch_as_fsdp)


@cache
def reference() -> list[Finished]:
    return run_all(RUNS, 1)


def test_a_launch_by_accelerate_s_fsdp_trains_as_one_process_does():
    worst = differences(launched()[0], reference()[0])
    assert {name: error for name, error in worst.items() if not error <= TOLERANCE["float64"]} == {}
    total = sum(W.numel() for W in reference()[0].weights)
    assert sum(launched()[0].held) == total
    assert max(launched()[0].held) < 0.6 * total


def test_its_mixed_precision_is_that_of_the_run():
    worst = differences(launched()[1], reference()[1])
    for name in ("loss", "weights", "scales"):
        assert 0 < worst[name] <= TOLERANCE["bf16"]
    assert all(W.dtype == torch.float32 for W in launched()[1].weights)


def test_its_version_1_is_refused():
    with pytest.raises(
        ProcessException, match="launch: FSDP version 1 was launched; allowed: fsdp_version: 2"
    ):
        run_all(RUNS[:1], 2, prepare=launch_as_fsdp1)
