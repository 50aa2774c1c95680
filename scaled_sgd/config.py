"""The configuration of a run: typed keys and their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scaled_sgd.checkpoint.config import CheckpointConfig
from scaled_sgd.data import DataConfig
from scaled_sgd.observation import DiagnosticsConfig
from scaled_sgd.parameterization import Parameterization
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

    @property
    def limits_gradient(self) -> bool:
        """Whether the whole gradient is clipped or normalised, so that a step needs its norm."""
        return self.normalize or self.clip_norm is not None


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


@cache
def key_types(schema: type = Config, prefix: str = "") -> Mapping[str, Any]:
    """Every dotted configuration key with its type."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            types |= key_types(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            types[f"{prefix}{name}"] = hint
    return MappingProxyType(types)


def fits(hint: Any, value: object) -> bool:
    """Whether a plain value is of a configuration type as it stands; False may also mean: look closer."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(fits(argument, value) for argument in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return hint in (int, bool, str, type(None)) and type(value) is hint


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
