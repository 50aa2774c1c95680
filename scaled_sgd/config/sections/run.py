"""The section ``run``, and all sections as the configuration of a run."""

from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Literal, get_type_hints

from scaled_sgd.config.sections.checkpoint import CheckpointConfig
from scaled_sgd.config.sections.data import DataConfig
from scaled_sgd.config.sections.diagnostics import DiagnosticsConfig
from scaled_sgd.config.sections.marks import NOTHING, RECORDS, STACKED, Count, Natural
from scaled_sgd.config.sections.model import ModelConfig
from scaled_sgd.config.sections.sharding import ShardingConfig
from scaled_sgd.config.sections.steps import OptimConfig, ScalingConfig
from scaled_sgd.config.values import Holds, Within
from scaled_sgd.core.text import is_plain_name


def _is_key(name: str) -> bool:
    """Whether ``name`` is a key, or a section with all its keys."""
    section, _, key = name.partition(".")
    hint = get_type_hints(Config).get(section)
    return hint is not None and (name == section or (is_dataclass(hint) and key in hint.__dataclass_fields__))


_PATHS = "no, auto, or the path of a run or checkpoint"
_NAME = "up to 200 letters, digits, '.', '_' and '-', the first a letter or digit"


@dataclass
class RunConfig:
    """Where, how often and on what."""

    name: Annotated[Annotated[str, Holds(is_plain_name, _NAME)] | None, NOTHING] = None
    """folder below run.dir; null: made from the data and the time"""
    dir: Annotated[
        str, Holds(lambda text: bool(text) and "\0" not in text, "the path of a folder"), NOTHING
    ] = "runs"
    """folder of all runs"""
    seed: Annotated[Natural, STACKED] = 0
    """of weights, order of samples and hold-out"""
    resume: Annotated[str, Holds(bool, _PATHS), NOTHING] = "no"
    """no; auto: from the newest intact checkpoint of run.name, if any; or the path of a run or checkpoint"""
    accept_changes: Annotated[
        list[Annotated[str, Holds(_is_key, "configuration keys or groups of them")]], NOTHING
    ] = field(default_factory=list)
    """keys, or groups of them, that may differ from those of the checkpoint, such as [optim.lr, data]"""
    accept_code: Annotated[list[str], NOTHING] = field(default_factory=list)
    """plugins and metrics that may be loaded although only the folder of a resumed run or study names them"""
    plugins: Annotated[list[str], NOTHING] = field(default_factory=list)
    """modules, or entry points of scaled_sgd.plugins, whose code runs before this configuration is checked"""
    device: Annotated[Literal["auto", "cpu", "cuda"], NOTHING] = "auto"
    """auto: CUDA where there is one"""
    processes: Annotated[Count | None, NOTHING] = None
    """scaled-sgd train starts so many; under another launcher refuse another number; null: take any"""
    precision: Literal["no", "tf32", "bf16", "fp16"] = "no"
    """mixed precision of forward and backward passes; tf32: float32 with shorter products, on a GPU"""
    cuda_graphs: Annotated[Literal["auto", "no"], NOTHING] = "auto"
    """auto: fused steps on a GPU, of one process or of replicas joined by NCCL (untested on several GPUs),
    are captured once for each shape and replayed as one graph; so are the products of a search for
    eigenvalues"""
    timeout_seconds: Annotated[float, Within(1, 1e6), NOTHING] = 600.0
    """longest wait for another process before the run is given up"""
    eval_every: Annotated[Natural | None, RECORDS] = None
    """steps between evaluations; null: once an epoch; 0: at the end only"""
    log_every: Annotated[Count, RECORDS] = 10
    """steps between lines of metrics.jsonl"""
    metrics: Annotated[list[str] | None, RECORDS] = None
    """evaluate metrics by name or local script; null: accuracy for classes, mse and r2 for numbers"""
    trackers: Annotated[list[str], NOTHING] = field(default_factory=list)
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
    diagnostics: Annotated[DiagnosticsConfig, RECORDS] = field(default_factory=DiagnosticsConfig)
    sharding: Annotated[ShardingConfig, NOTHING] = field(default_factory=ShardingConfig)
    checkpoint: Annotated[CheckpointConfig, NOTHING] = field(default_factory=CheckpointConfig)
    run: RunConfig = field(default_factory=RunConfig)
