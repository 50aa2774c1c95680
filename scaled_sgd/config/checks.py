"""Which values of a configuration can be meant."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from scaled_sgd.config import Config, key_types
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import MAX_DEPTH, Activation
from scaled_sgd.steps.rules import RULES


def check(config: Config) -> None:
    """Refuse values that have the right type but cannot be meant.

    Raises:
        UserError: names the first such key.
    """
    for key, value, fits, allowed in _constraints(config):
        if not fits:
            raise UserError(f"{key}: {value!r} is not usable; allowed: {allowed}")
    try:
        Activation.of(config.model.activation)
    except UserError as error:
        raise UserError(f"model.{error}") from None


def _constraints(config: Config) -> Iterator[tuple[str, object, bool, str]]:
    model, optim, run, data = config.model, config.optim, config.run, config.data
    diagnostics = config.diagnostics
    positive = "integers from 1"
    for key, count in (
        ("model.depth", model.depth),
        ("model.base_width", model.base_width),
        ("optim.batch_size", optim.batch_size),
        ("optim.accumulation", optim.accumulation),
        ("run.log_every", run.log_every),
        ("data.shuffle_buffer", data.shuffle_buffer),
        ("diagnostics.samples", diagnostics.samples),
        ("diagnostics.k", diagnostics.k),
        ("diagnostics.chunk", diagnostics.chunk),
    ):
        yield key, count, count >= 1, positive
    for key, limit in (
        ("optim.steps", optim.steps),
        ("run.processes", run.processes),
        ("data.limit", data.limit),
        ("sharding.tensor_processes", config.sharding.tensor_processes),
    ):
        yield key, limit, limit is None or limit >= 1, f"{positive}, or null"
    yield (
        "run.eval_every",
        run.eval_every,
        run.eval_every is None or run.eval_every >= 0,
        "integers from 0, or null",
    )
    for key, count in (
        ("optim.warmup_steps", optim.warmup_steps),
        ("diagnostics.every", diagnostics.every),
    ):
        yield key, count, count >= 0, "integers from 0"
    for key, number in (
        ("model.width_exponent", model.width_exponent),
        ("optim.lr", optim.lr),
        ("optim.weight_decay", optim.weight_decay),
    ):
        yield key, number, 0 <= number < math.inf, "finite numbers from 0"
    yield "model.depth", model.depth, model.depth <= MAX_DEPTH, f"integers from 1 to {MAX_DEPTH}"
    for key, value in _leaves(config):
        if isinstance(value, int) and key != "run.seed":
            yield key, value, value < 2**63, "integers below 2**63"
    yield "run.seed", run.seed, 0 <= run.seed < 2**63, "integers from 0 to 2**63 − 1"
    yield "scaling.rule", config.scaling.rule, config.scaling.rule in RULES, ", ".join(RULES)
    yield (
        "run.precision",
        run.precision,
        run.precision == "no" or model.dtype == "float32",
        f"no, with model.dtype {model.dtype}",
    )
    yield (
        "sharding.offload",
        config.sharding.offload,
        not config.sharding.offload,
        "false (signals, scales and weights must be on one device)",
    )
    yield (
        "sharding.strategy",
        config.sharding.strategy,
        not config.sharding.strategy.startswith("zero") or model.dtype == "float32",
        f"auto, ddp, fsdp2, tensor, fsdp2+tensor with model.dtype {model.dtype} (ZeRO keeps float32 masters)",
    )
    yield (
        "optim.warmup_steps",
        optim.warmup_steps,
        optim.steps is None or optim.warmup_steps < optim.steps,
        f"integers below optim.steps {optim.steps}",
    )
    yield "optim.momentum", optim.momentum, 0 <= optim.momentum < 1, "numbers from 0 to below 1"
    clip_norm, epochs = optim.clip_norm, optim.epochs
    yield (
        "optim.clip_norm",
        clip_norm,
        clip_norm is None or 0 < clip_norm < math.inf,
        "finite numbers above 0, or null",
    )
    yield (
        "optim.normalize",
        optim.normalize,
        not optim.normalize or clip_norm is None,
        f"false beside optim.clip_norm {clip_norm!r}",
    )
    yield from _fused_constraints(config)
    yield "optim.epochs", epochs, epochs is None or 0 < epochs <= 1e9, "numbers above 0 up to 1e9, or null"
    yield (
        "optim.steps",
        optim.steps,
        optim.steps is None or optim.epochs is None,
        f"null beside optim.epochs {optim.epochs!r}; give one of the two",
    )
    tolerance = diagnostics.tolerance
    checkpoint = config.checkpoint
    every = checkpoint.every_steps
    yield "checkpoint.every_steps", every, every is None or every >= 1, f"{positive}, or null"
    minutes = checkpoint.every_minutes
    yield (
        "checkpoint.every_minutes",
        minutes,
        minutes is None or 0 < minutes < math.inf,
        "finite numbers above 0, or null",
    )
    yield "checkpoint.keep", checkpoint.keep, checkpoint.keep >= 1, positive
    yield (
        "checkpoint.keep_steps",
        checkpoint.keep_steps,
        all(step >= 1 for step in checkpoint.keep_steps),
        f"a list of {positive}",
    )
    known = key_types()
    for name in run.accept_changes:
        fits = any(key == name or key.startswith(f"{name}.") for key in known)
        yield "run.accept_changes", name, fits, "configuration keys or groups of them"
    yield (
        "run.resume",
        run.resume,
        run.resume != "auto" or run.name is not None,
        "auto with run.name; no; or the path of a run or checkpoint",
    )
    yield "run.resume", run.resume, run.resume != "", "no, auto, or the path of a run or checkpoint"
    timeout = run.timeout_seconds
    yield "run.timeout_seconds", timeout, 1 <= timeout <= 1e6, "numbers from 1 to 1e6"
    yield "diagnostics.tolerance", tolerance, 0 < tolerance < 1, "numbers between 0 and 1"
    yield "data.eval_fraction", data.eval_fraction, 0 < data.eval_fraction < 1, "numbers between 0 and 1"
    yield (
        "run.name",
        run.name,
        run.name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", run.name) is not None,
        "up to 200 letters, digits, '.', '_' and '-', the first a letter or digit, or null",
    )
    yield "run.dir", run.dir, bool(run.dir) and "\0" not in run.dir, "the path of a folder"


def _fused_constraints(config: Config) -> Iterator[tuple[str, object, bool, str]]:
    """What an update without gradients cannot do, and what it alone can."""
    fused, sharding = config.optim.fused_update, config.sharding
    checkpointing = sharding.activation_checkpointing
    for key, value, fits, allowed in (
        ("optim.accumulation", config.optim.accumulation, config.optim.accumulation == 1, "1"),
        ("run.precision", config.run.precision, config.run.precision in ("no", "tf32"), "no, tf32"),
        ("sharding.activation_checkpointing", checkpointing, not checkpointing, "false"),
    ):
        yield key, value, not fused or fits, f"{allowed} with optim.fused_update"
    yield (
        "sharding.strategy",
        sharding.strategy,
        not fused or not sharding.strategy.startswith("zero"),
        "auto, ddp, fsdp2, tensor, fsdp2+tensor with optim.fused_update",
    )
    yield (
        "sharding.exchange",
        sharding.exchange,
        sharding.exchange == "auto" or (fused and sharding.strategy in ("auto", "ddp")),
        "auto, or with optim.fused_update and sharding.strategy ddp factors, gradients",
    )


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys with their values."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value
