"""The configuration of a run: one class per section; each key states its type, limits and what it decides.

A key's docstring is its line in ``--help``. For incompatible keys see :mod:`scaled_sgd.config.combinations`.
"""

from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from typing import Annotated, Literal, get_type_hints

from scaled_sgd.config.values import Holds, OneOf, Within
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import MAX_DEPTH, PARAMETERIZATIONS, Activation
from scaled_sgd.core.text import is_plain_name
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.polynomials import MOST, POLAR, POLYNOMIALS, Polar
from scaled_sgd.steps.rules import RULES


class Decides(Enum):
    """What a key decides, and hence when it may change."""

    SHAPES = "shapes of weights: a resumed run may not change it"
    WEIGHTS = "weights: a resumed run may change it where run.accept_changes names it"
    RECORDS = "what is seen of a run: a resumed run may change it"
    NOTHING = "nothing but rounding: runs that differ in it alone are the same run of a study"


class Stacked(Enum):
    """Marks keys that may differ among networks trained as one stack."""

    YES = True


SHAPES, RECORDS, NOTHING, STACKED = Decides.SHAPES, Decides.RECORDS, Decides.NOTHING, Stacked.YES

Count = Annotated[int, Within(1)]
Natural = Annotated[int, Within(0)]
NonNegative = Annotated[float, Within(0)]
Positive = Annotated[float, Within(above=0)]
Fraction = Annotated[float, Within(above=0, below=1)]


def _is_activation(value: object) -> bool:
    try:
        Activation.of(value)  # type: ignore[arg-type]
    except UserError:
        return False
    return True


def _is_key(name: str) -> bool:
    """Whether ``name`` is a key, or a section with all its keys."""
    section, _, key = name.partition(".")
    hint = get_type_hints(Config).get(section)
    return hint is not None and (name == section or (is_dataclass(hint) and key in hint.__dataclass_fields__))


@dataclass
class ModelConfig:
    """The network."""

    depth: Annotated[int, Within(1, MAX_DEPTH), SHAPES] = 6
    """number of weight matrices l"""
    base_width: Annotated[Count, SHAPES] = 32
    """m of the hidden widths m·k^r"""
    width_exponent: Annotated[NonNegative, SHAPES] = 2.0
    """r: 0 constant, 1 linear, 2 quadratic widths"""
    activation: (
        Literal["relu", "abs", "linear"]
        | Annotated[
            tuple[float, float], Holds(_is_activation, "two finite numbers [a, b], one of them not 0")
        ]
    ) = "relu"
    """a·s + b·|s|: a name, or [a, b], normalised; abs (a = 0) makes f(−x) = f(x), so it fits pixels only"""
    parameterization: Annotated[str, OneOf(PARAMETERIZATIONS), STACKED] = "nup"
    """how multipliers and initial weights depend on widths"""
    dtype: Literal["float32", "float64"] = "float32"
    """of weights and inputs"""


@dataclass
class OptimConfig:
    """Steps."""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "sgd"
    """what becomes of scaled gradients: a name, or the path of a class such as torch.optim.RMSprop"""
    options: dict[str, bool | int | float | str | list[float] | None] = field(default_factory=dict)
    """further arguments of the optimizer, such as {betas: [0.9, 0.95]}"""
    update: Annotated[Literal["auto", "fused", "autograd"], NOTHING] = "auto"
    """fused: add updates to weights as they are computed, no gradient is held; auto: where that is exact"""
    lr: Annotated[NonNegative, STACKED] = 1.0
    """learning rate η at its peak"""
    batch_size: Count = 256
    """samples of one step over all processes"""
    steps: Count | None = None
    """number of steps; null: take epochs"""
    epochs: Annotated[float, Within(above=0, most=1e9)] | None = None
    """passes over the training data; 20 when steps is null too"""
    schedule: Annotated[Literal["constant", "linear", "cosine", "edge"], STACKED] = "linear"
    """decay of the learning rate to 0 after warm-up; edge: no decay; from optim.lr on the
    rate follows the one that keeps the directional edge ratio at optim.edge_ratio"""
    edge_ratio: Annotated[Positive, STACKED] = 1.0
    """with schedule edge: η c2/|c1| along the step; at 1 a quadratic predicts that the loss stays"""
    edge_every: Annotated[Count, STACKED] = 5
    """with schedule edge: steps between measurements of c1 and c2"""
    warmup_steps: Annotated[Natural, STACKED] = 0
    """steps over which the learning rate grows linearly from 0"""
    momentum: Annotated[float, Within(0, below=1), STACKED] = 0.0
    """μ of v ← μ v + ξ G"""
    weight_decay: Annotated[NonNegative, STACKED] = 0.0
    """λ of v ← v + λ W, not scaled by ξ"""
    accumulation: Annotated[Count, NOTHING] = 1
    """microbatches a step; the step stays the same"""
    clip_norm: Annotated[Positive | None, STACKED] = None
    """largest norm of the whole gradient, before scaling; null: no clipping"""
    normalize: Annotated[bool, STACKED] = False
    """divide the whole gradient by its norm, before scaling: with scaling.rule none, normalised SGD"""

    @property
    def limits_gradient(self) -> bool:
        """Whether the whole gradient is clipped or normalised, so that a step needs its norm."""
        return self.normalize or self.clip_norm is not None


@dataclass
class ScalingConfig:
    """Depthwise gradient scaling."""

    rule: Annotated[str, OneOf(RULES), STACKED] = "spectral"
    """how ξ_k comes from forward and backward norms"""
    static: Annotated[bool, STACKED] = False
    """keep the scales of the first step"""
    polar: Annotated[str, OneOf(POLYNOMIALS)] = POLAR.polynomials
    """rule spectral: the polynomials that take singular values towards 1; exact: eigen-decomposition"""
    iterations: Annotated[int, Within(1, MOST)] = POLAR.iterations
    """rule spectral: how many of them, but for exact"""

    @property
    def settings(self) -> Polar:
        """How ``spectral`` equalises singular values."""
        return Polar(self.polar, self.iterations)


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
    timeout_seconds: Annotated[float, Within(1, 1e6), NOTHING] = 600.0
    """longest wait for another process before the run is given up"""
    eval_every: Annotated[Natural | None, RECORDS] = None
    """steps between evaluations; null: once an epoch; 0: at the end only"""
    log_every: Annotated[Count, RECORDS] = 10
    """steps between lines of metrics.jsonl"""
    metrics: Annotated[list[str] | None, RECORDS] = None
    """evaluate metrics by name or local script; null: accuracy for classes, mse for numbers"""
    trackers: Annotated[list[str], NOTHING] = field(default_factory=list)
    """experiment trackers by Accelerate's names, such as [tensorboard]"""


@dataclass
class DataConfig:
    """Where examples come from and how they become tensors."""

    source: str = "digits"
    """"digits" (1,797 handwritten digits, embedded), a local file of a known format such as parquet, CSV or
    JSON, a folder of such files, of images or of IDX files (MNIST), a `save_to_disk` folder, or a name on the
    Hugging Face hub such as "ylecun/mnist\""""
    split: str = "train"
    """split to train on"""
    eval_split: str | None = None
    """split to evaluate on; without it the test set of IDX files, or a seeded part of `split`"""
    eval_fraction: Fraction = 0.2
    """part of `split` that is held out where no `eval_split` is named"""
    inputs: list[str] | None = None
    """input columns, joined in this order; null: the image column, else the list column, else all numeric
    columns but the target"""
    target: str | None = None
    """target column; null: the class-label column, else one called label, labels, target, y or class. Class
    labels, strings, booleans and integers without gaps from 0 or 1 are classes; other numbers are regression
    targets"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """what the target is: auto goes by the rule above; classification takes any integers for classes,
    regression any numbers for numbers"""
    standardize: bool = False
    """give every feature zero mean and unit variance over the training examples, before every example is
    scaled to norm √m_0"""
    streaming: bool = False
    """read while training, for data larger than memory; needs `eval_split`"""
    shuffle_buffer: Count = 10_000
    """examples among which a stream is shuffled"""
    limit: Count | None = None
    """train on this many examples only, chosen by seed"""


@dataclass
class DiagnosticsConfig:
    """What is measured along the way, and how often."""

    every: Natural = 0
    """steps between measurements; 0: none"""
    samples: Count = 256
    """size of the fixed probe on which curvature and ranks are measured"""
    taylor: bool = True
    """Taylor coefficients of the step's own minibatch along its update, and the loss they predict"""
    sharpness: bool = True
    """largest eigenvalues of H and of Ξ^{1/2} H Ξ^{1/2} on the probe"""
    ranks: bool = True
    """soft ranks of features and gradients, and kernel drift, on the probe"""
    quantities: list[Annotated[str, OneOf(QUANTITIES)]] = field(default_factory=list)
    """names of further quantities, those of plugins among them"""
    k: Count = 1
    """how many eigenvalues"""
    tolerance: Fraction = 1e-3
    """relative residual at which an eigenvalue counts as found"""
    chunk: Count = 4096
    """samples at a time; larger minibatches go through in several pieces, with the same result"""


@dataclass
class ShardingConfig:
    """How weights lie over processes. No choice changes the result of a step."""

    strategy: Annotated[str, OneOf(STRATEGIES, also=("auto",))] = "auto"
    """ddp: all weights on every process; the others: parts of them; auto: as doctor --plan advises"""
    tensor_processes: Count | None = None
    """fsdp2+tensor: how many neighbouring processes share each layer; null: those of a machine, or 2"""
    exchange: Literal["auto", "factors", "gradients"] = "auto"
    """fused steps under ddp: what of a layer moves; auto: its factors (h, δ) where that is faster"""
    activation_checkpointing: bool = False
    """keep the signals of every √l-th layer only and compute the others again in the backward pass"""
    offload: Annotated[
        bool,
        Holds(lambda asked: not asked, "false (signals, scales and weights must be on one device)"),
    ] = False
    """weights in the memory of the host; refused: signals, scales and weights must be on one device"""


@dataclass
class CheckpointConfig:
    """When a run is saved, besides when a signal ends it."""

    every_steps: Count | None = None
    """steps between checkpoints; null: none by steps"""
    every_minutes: Positive | None = 10.0
    """minutes between checkpoints; null: none by time"""
    at_end: bool = True
    """save when training is done"""
    keep: Count = 2
    """newest checkpoints kept, besides keep_steps and folders with names of their own"""
    keep_steps: list[Count] = field(default_factory=list)
    """steps that are saved and kept for good"""

    def due(self, step: int, last: int) -> bool:
        """Whether to save after ``step`` of ``last`` updates."""
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
    diagnostics: Annotated[DiagnosticsConfig, RECORDS] = field(default_factory=DiagnosticsConfig)
    sharding: Annotated[ShardingConfig, NOTHING] = field(default_factory=ShardingConfig)
    checkpoint: Annotated[CheckpointConfig, NOTHING] = field(default_factory=CheckpointConfig)
    run: RunConfig = field(default_factory=RunConfig)
