"""The configuration of a run: typed keys, their defaults, and which values can be meant."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scaled_sgd.checkpoint.config import CheckpointConfig
from scaled_sgd.data import DataConfig
from scaled_sgd.errors import UserError
from scaled_sgd.observation import DiagnosticsConfig
from scaled_sgd.parameterization import MAX_DEPTH, Activation, Parameterization
from scaled_sgd.scaling import RULES
from scaled_sgd.strategies.config import ShardingConfig


@dataclass
class ModelConfig:
    """The network."""

    depth: int = 6
    """number of weight matrices l"""
    base_width: int = 32
    """m of the hidden widths m·k^r"""
    width_exponent: float = 2.0
    """r: 0 constant, 1 linear, 2 quadratic widths"""
    activation: Literal["relu", "abs", "linear"] | tuple[float, float] = "relu"
    """a·s + b·|s|: a name, or [a, b], normalised; abs (a = 0) makes f(−x) = f(x), so it fits pixels only"""
    parameterization: Parameterization = "nup"
    """how multipliers and initial weights depend on widths"""
    dtype: Literal["float32", "float64"] = "float32"
    """of weights and inputs"""


@dataclass
class OptimConfig:
    """Steps."""

    lr: float = 4.0
    """learning rate η at its peak"""
    batch_size: int = 256
    """samples of one step over all processes"""
    steps: int | None = None
    """number of steps; null: take epochs"""
    epochs: float | None = None
    """passes over the training data; 20 when steps is null too"""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """decay of the learning rate to 0 after warm-up"""
    warmup_steps: int = 0
    """steps over which the learning rate grows linearly from 0"""
    momentum: float = 0.0
    """μ of v ← μ v + ξ G"""
    weight_decay: float = 0.0
    """λ of v ← v + λ W, not scaled by ξ"""
    accumulation: int = 1
    """microbatches a step; the step stays the same"""
    clip_norm: float | None = None
    """largest norm of the whole gradient, before scaling; null: no clipping"""
    normalize: bool = False
    """divide the whole gradient by its norm, before scaling: with scaling.rule none, normalised SGD"""
    fused_update: bool = False
    """add updates to the weights as they are computed, without autograd: no gradient is ever held"""


@dataclass
class ScalingConfig:
    """Depthwise gradient scaling."""

    rule: str = "norm"
    """how ξ_k comes from forward and backward norms: none, norm, gain or kernel"""
    static: bool = False
    """keep the scales of the first step"""


@dataclass
class RunConfig:
    """Where, how often and on what."""

    name: str | None = None
    """folder below run.dir; null: made from the data and the time"""
    dir: str = "runs"
    """folder of all runs"""
    seed: int = 0
    """of weights, order of samples and hold-out"""
    resume: str = "no"
    """no; auto: from the newest intact checkpoint of run.name, if any; or the path of a run or checkpoint"""
    accept_changes: list[str] = field(default_factory=list)
    """keys, or groups of them, that may differ from those of the checkpoint, such as [optim.lr, data]"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one"""
    processes: int | None = None
    """scaled-sgd train starts so many; under another launcher refuse another number; null: take any"""
    precision: Literal["no", "tf32", "bf16", "fp16"] = "no"
    """mixed precision of forward and backward passes; tf32: float32 with shorter products, on a GPU"""
    timeout_seconds: float = 600.0
    """longest wait for another process before the run is given up"""
    eval_every: int | None = None
    """steps between evaluations; null: once an epoch; 0: at the end only"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""
    metrics: list[str] | None = None
    """evaluate metrics by name or local script; null: accuracy for classes, mse for numbers"""
    trackers: list[str] = field(default_factory=list)
    """experiment trackers by Accelerate's names, such as [tensorboard]"""


@dataclass
class Config:
    """A run."""

    loss: Literal["auto", "cross_entropy", "mse"] = "auto"
    """auto: cross_entropy for classes, mse (½‖f − y‖²) for numbers"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: RunConfig = field(default_factory=RunConfig)


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


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, as ``config.yaml`` holds them."""
    plain: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            value = as_dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[entry.name] = value
    return plain


def key_types(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted configuration key with its type."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            types |= key_types(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            types[f"{prefix}{name}"] = hint
    return types


def describe(hint: Any) -> str:
    """What a configuration type allows, in words."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is list:
        return "a list such as [a, b]"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    return str(hint)
