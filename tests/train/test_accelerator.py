"""What is refused before a world is made, and what a launcher's own configuration files may say."""

import importlib.util
import json
from types import SimpleNamespace

import pytest

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.train.accelerator import check_deepspeed, create_accelerator
from scaled_sgd.train.strategies.launched import launched_strategy

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


def refusal(action, *arguments, **options):
    with pytest.raises(UserError) as error:
        action(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "arguments", "expected"),
    [
        (
            {"gradient_clipping": 1.0},
            [],
            "gradient_clipping 1.0; allowed: auto, or optim.clip_norm None",
        ),
        (
            {"gradient_clipping": 1.0},
            ["--optim.clip_norm=0.5"],
            "gradient_clipping 1.0; allowed: auto, or optim.clip_norm 0.5",
        ),
        ({"train_batch_size": 512}, [], "train_batch_size 512; allowed: auto, or optim.batch_size 256"),
        (
            {"gradient_accumulation_steps": 4},
            ["--optim.accumulation=2"],
            "gradient_accumulation_steps 4; allowed: auto, or optim.accumulation 2",
        ),
        (
            {"train_micro_batch_size_per_gpu": 32},
            [],
            "train_micro_batch_size_per_gpu 32; allowed: auto, or a process's share 128",
        ),
        ({"optimizer": {"type": "Adam"}}, [], "a section optimizer; allowed: none"),
        ({"scheduler": {"type": "WarmupLR"}}, [], "a section scheduler; allowed: none"),
        ({"bf16": {"enabled": True}}, [], "bf16 True; allowed: auto, or what run.precision no says"),
        (
            {"bf16": {"enabled": False}},
            ["--run.precision=bf16"],
            "bf16 False; allowed: auto, or what run.precision bf16 says",
        ),
        ({"fp16": {"enabled": True}}, [], "fp16 True; allowed: auto, or what run.precision no says"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            [],
            "offload_optimizer to cpu; allowed: none (signals, scales and weights must be on one device)",
        ),
        ({"zero_optimization": {"mics_shard_size": 2}}, [], "mics_shard_size 2; allowed: none"),
    ],
)
def test_deepspeed_may_not_do_something_else_in_silence(settings, arguments, expected):
    found = refusal(check_deepspeed, settings, parse(arguments), micro_batch=128)
    assert found == f"launch: its DeepSpeed configuration has {expected}"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_clipping": 0.0, "train_batch_size": 256, "bf16": {"enabled": False}},
        {"gradient_clipping": "auto", "train_batch_size": "auto", "bf16": {"enabled": "auto"}},
        {"gradient_accumulation_steps": 1, "train_micro_batch_size_per_gpu": 128},
    ],
)
def test_deepspeed_may_say_the_same_or_nothing(settings):
    check_deepspeed(settings, parse([]), micro_batch=128)


@needs_deepspeed
def test_a_launcher_s_deepspeed_file_is_read(monkeypatch, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    found = refusal(create_accelerator, parse([]))
    assert found == (
        "launch: its DeepSpeed configuration has gradient_clipping 1.0; "
        "allowed: auto, or optim.clip_norm None"
    )


@needs_deepspeed
def test_a_launcher_s_deepspeed_settings_are_read(monkeypatch):
    """Accelerate's own questions write 1.0."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "1.0")
    found = refusal(create_accelerator, parse([]))
    assert found == (
        "launch: its DeepSpeed configuration has gradient_clipping 1.0; "
        "allowed: auto, or optim.clip_norm None"
    )


@needs_deepspeed
def test_a_deepspeed_file_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none.json")
    found = refusal(create_accelerator, parse([]))
    assert found.startswith("launch: its DeepSpeed configuration cannot be used: ")
    assert "none.json" in found


def test_zero_needs_deepspeed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "deepspeed" else find(name, *rest)
    )
    assert refusal(create_accelerator, parse(["--sharding.strategy=zero2", "--scaling.rule=norm"])) == (
        "sharding.strategy: ZeRO needs deepspeed, which is not installed (pip install "
        "'scaled-sgd[deepspeed]'); allowed here: "
        + ", ".join(can.name for can in STRATEGIES.entries if can.zero_stage is None)
    )


def launch(kind, **plugins):
    """An accelerator as a launch of that kind gives it."""
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        state=SimpleNamespace(fsdp_plugin=plugins.get("fsdp")),
        deepspeed_plugin=plugins.get("deepspeed"),
        mixed_precision="no",
    )


def fsdp(**settings):
    defaults = {"fsdp_version": 2, "activation_checkpointing": False, "cpu_offload": None}
    return launch("FSDP", fsdp=SimpleNamespace(**(defaults | settings)))


def test_a_launch_names_its_strategy():
    assert launched_strategy(launch("MULTI_GPU")) is None
    assert launched_strategy(fsdp()) == "fsdp2"
    for stage in (1, 2, 3):
        of_stage = launch("DEEPSPEED", deepspeed=SimpleNamespace(zero_stage=stage))
        assert launched_strategy(of_stage) == f"zero{stage}"


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        (
            fsdp(fsdp_version=1),
            "launch: FSDP version 1 was launched; allowed: fsdp_version: 2, or a launch without FSDP and "
            "--sharding.strategy fsdp2",
        ),
        (
            fsdp(activation_checkpointing=True),
            "launch: fsdp_activation_checkpointing true was launched; allowed: false, and "
            "--sharding.activation_checkpointing true",
        ),
        (
            launch("DEEPSPEED", deepspeed=SimpleNamespace(zero_stage=0)),
            "launch: its DeepSpeed configuration has ZeRO stage 0; allowed: 1, 2, 3",
        ),
    ],
)
def test_launches_that_are_none_of_the_strategies_are_refused(accelerator, expected):
    assert refusal(launched_strategy, accelerator) == expected


@pytest.mark.parametrize(("version", "refused"), [("1", True), ("2", False)])
def test_fsdp_launched_without_gpus_is_still_fsdp(version, refused, monkeypatch):
    """Accelerate drops its plugin there and would train replicas."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    if refused:
        assert refusal(launched_strategy, launch("MULTI_CPU")).startswith(
            "launch: FSDP version 1 was launched"
        )
    else:
        assert launched_strategy(launch("MULTI_CPU")) == "fsdp2"


def test_a_launcher_s_precision_is_not_passed_over(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert refusal(create_accelerator, parse([])) == (
        "launch: mixed precision bf16 was launched and run.precision is no; allowed: the same"
    )
