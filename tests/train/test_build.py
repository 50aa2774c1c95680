from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.train.strategies.build import fsdp_policy
from scaled_sgd.train.strategies.native import Policy

BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def accelerator(plugin=None, device="cuda"):
    return SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", device=torch.device(device)
    )


def test_fsdp2_follows_the_run_where_nothing_else_was_launched():
    assert fsdp_policy(parse([]), accelerator()) == Policy(MixedPrecisionPolicy())
    assert fsdp_policy(parse(["--run.precision=bf16"]), accelerator()) == Policy(BF16)


@pytest.mark.parametrize("reshard", [True, False])
def test_fsdp2_follows_accelerate_s_plugin_where_that_was_launched(reshard):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=reshard)
    assert fsdp_policy(parse([]), accelerator(plugin)) == Policy(MixedPrecisionPolicy(), reshard=reshard)
    assert fsdp_policy(parse(["--run.precision=bf16"]), accelerator(plugin)).precision == BF16


def test_a_precision_that_the_plugin_names_is_taken():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy="bf16")
    found = fsdp_policy(parse(["--run.precision=bf16"]), accelerator(plugin))
    assert found.precision == plugin.mixed_precision_policy


def test_a_plugin_that_the_launcher_s_variables_describe_is_read(monkeypatch):
    """As a launch of configs/accelerate/fsdp2.yaml leaves them on a machine without GPUs."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    assert not fsdp_policy(parse([]), accelerator()).reshard


def test_offloading_is_refused():
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=True)
    with pytest.raises(UserError) as error:
        fsdp_policy(parse([]), accelerator(plugin))
    assert str(error.value) == ("launch: fsdp_offload_params true was launched; allowed: false")
