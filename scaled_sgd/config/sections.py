"""The configuration of a run: typed keys and their defaults, a section a class."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from scaled_sgd.core.parameterization import Parameterization


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
class DataConfig:
    """Where examples come from and how they become tensors.

    Args:
        source: "digits" (1,797 handwritten digits, embedded), a local parquet, CSV, JSON, JSON-lines or
            Arrow file, a folder of such files or of images, a `save_to_disk` folder, or a name on the
            Hugging Face hub such as "ylecun/mnist".
        split: Split to train on.
        eval_split: Split to evaluate on; without it a seeded part of `split` is held out.
        eval_fraction: Part of `split` that is held out where no `eval_split` is named.
        inputs: Input columns, joined in this order. Default: the image column, else the list column,
            else all numeric columns but the target.
        target: Target column. Default: the class-label column, else one called label, labels, target,
            y or class. Class labels, strings, booleans and integers without gaps from 0 or 1 are
            classes; other numbers are regression targets.
        task: What the target is: "auto" goes by the rule above; "classification" takes any integers for
            classes, "regression" any numbers for numbers.
        standardize: Give every feature zero mean and unit variance over the training examples, before
            every example is scaled to norm √m_0.
        streaming: Read while training, for data larger than memory. Needs `eval_split`.
        shuffle_buffer: Examples among which a stream is shuffled.
        limit: Train on this many examples only, chosen by seed.
    """

    source: str = "digits"
    split: str = "train"
    eval_split: str | None = None
    eval_fraction: float = 0.2
    inputs: list[str] | None = None
    target: str | None = None
    task: Literal["auto", "classification", "regression"] = "auto"
    standardize: bool = False
    streaming: bool = False
    shuffle_buffer: int = 10_000
    limit: int | None = None


@dataclass
class DiagnosticsConfig:
    """What is measured along the way, and how often."""

    every: int = 0
    """steps between measurements; 0: none"""
    samples: int = 256
    """size of the fixed probe on which curvature and ranks are measured"""
    taylor: bool = True
    """Taylor coefficients of the step's own minibatch along its update, and the loss they predict"""
    sharpness: bool = True
    """largest eigenvalues of H and of Ξ^{1/2} H Ξ^{1/2} on the probe"""
    ranks: bool = True
    """soft ranks of features and gradients, and kernel drift, on the probe"""
    quantities: list[str] = field(default_factory=list)
    """names of further quantities, those of plugins among them"""
    k: int = 1
    """how many eigenvalues"""
    tolerance: float = 1e-3
    """relative residual at which an eigenvalue counts as found"""
    chunk: int = 4096
    """samples at a time; larger minibatches go through in several pieces, with the same result"""


StrategyName = Literal["auto", "ddp", "fsdp2", "zero1", "zero2", "zero3", "tensor", "fsdp2+tensor"]
STRATEGIES: tuple[str, ...] = get_args(StrategyName)[1:]
"""All but ``auto``."""


@dataclass
class ShardingConfig:
    """How weights lie over processes. No choice changes the result of a step."""

    strategy: StrategyName = "auto"
    """ddp: all weights on every process; the others: parts of them; auto: as doctor --plan advises"""
    tensor_processes: int | None = None
    """fsdp2+tensor: how many neighbouring processes share each layer; null: those of a machine, or 2"""
    exchange: Literal["auto", "factors", "gradients"] = "auto"
    """optim.fused_update under ddp: what of a layer moves; auto: its factors (h, δ) where that is faster"""
    activation_checkpointing: bool = False
    """keep the signals of every √l-th layer alone and compute the others again in the backward pass"""
    offload: bool = False
    """weights in the memory of the host; refused: signals, scales and weights must be on one device"""


@dataclass
class CheckpointConfig:
    """When a run is saved, besides when a signal ends it."""

    every_steps: int | None = None
    """steps between checkpoints; null: none by steps"""
    every_minutes: float | None = 10.0
    """minutes between checkpoints; null: none by time"""
    at_end: bool = True
    """save when training is done"""
    keep: int = 2
    """newest checkpoints kept, besides keep_steps and folders with names of their own"""
    keep_steps: list[int] = field(default_factory=list)
    """steps that are saved and kept for good"""

    def due(self, step: int, last: int) -> bool:
        """Whether to save after ``step`` updates of ``last``."""
        if step == last:
            return self.at_end or step in self.keep_steps
        return step in self.keep_steps or (self.every_steps is not None and step % self.every_steps == 0)


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
