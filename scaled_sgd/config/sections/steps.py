"""The sections ``optim`` and ``scaling``: what becomes of a gradient."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from scaled_sgd.config.sections.marks import NOTHING, STACKED, Count, Natural, NonNegative, Positive
from scaled_sgd.config.values import Holds, OneOf, Within
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.polynomials import MOST, POLAR, POLYNOMIALS, Polar
from scaled_sgd.steps.rules import RULES

_ASCEND = Holds(
    lambda factors: all(one[0] < other[0] for one, other in pairwise(factors)),
    "a list of [step, factor] with steps that ascend",
)


@dataclass
class OptimConfig:
    """Steps."""

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "sgd"
    """what becomes of scaled gradients: a name, or the path of a class such as torch.optim.RMSprop"""
    options: dict[str, bool | int | float | str | list[float] | None] = field(default_factory=dict)
    """further arguments of the optimizer, such as {betas: [0.9, 0.95]}"""
    update: Annotated[Literal["auto", "fused", "autograd"], NOTHING] = "auto"
    """fused: add updates to weights as they are computed, no gradient is held; auto: where that is exact"""
    lr: Annotated[NonNegative, STACKED] = 0.5
    """learning rate η at its peak; rates to start from: 0.5 to 1 with spectral, 2 with unit, 8 with norm"""
    lr_in_edges: Annotated[Positive | None, STACKED] = None
    """instead of optim.lr, in units of 2/λ₀; λ₀: preconditioned sharpness on the probe at the start"""
    batch_size: Count | Literal["all"] = 256
    """samples of one step over all processes; all: all training samples"""
    steps: Count | None = None
    """number of steps; null: take epochs"""
    epochs: Annotated[float, Within(above=0, most=1e9)] | None = None
    """passes over the training data; 20 when steps is null too, of tables up to 50, for 500 steps"""
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "edge", "drift_adjusted", "adas"], STACKED
    ] = "linear"
    """decay of the learning rate to 0 after warm-up; edge: no decay; from optim.lr on the
    rate follows the one that keeps the directional edge ratio at optim.edge_ratio; drift_adjusted: from
    optim.lr on 2/‖H ĝ‖^p, H and ĝ = g/‖g‖ of the minibatch, at most twice what it was (arXiv 2302.01952);
    adas: η ← β η + ζ ΔG, G the mean knowledge gain of the weights (arXiv 2006.06587)"""
    lr_factors: Annotated[list[tuple[Natural, Positive]], _ASCEND, STACKED] = field(default_factory=list)
    """such as [[400, 0.5], [600, 2]]: half the rate of the schedule from step 400 on, twice it from 600 on"""
    edge_ratio: Annotated[Positive, STACKED] = 1.0
    """with schedule edge: η c2/|c1| along the step; at 1 a quadratic predicts that the loss stays"""
    edge_every: Annotated[Count, STACKED] = 5
    """with schedule edge, drift_adjusted or adas: steps between measurements of c1 and c2, ‖H ĝ‖ or G"""
    drift_power: Annotated[float, Within(above=0, most=1), STACKED] = 1.0
    """with schedule drift_adjusted: p; below 1 rates are larger where ‖H ĝ‖ is above 1"""
    adas_decay: Annotated[float, Within(0, most=1), STACKED] = 0.8
    """with schedule adas: β"""
    adas_growth: Annotated[Positive, STACKED] = 1.0
    """with schedule adas: ζ, in units of the learning rate; the paper's rates are about 0.03 at first"""
    warmup_steps: Annotated[Natural, STACKED] = 0
    """steps over which the learning rate grows linearly from 0"""
    momentum: Annotated[float, Within(0, below=1), STACKED] = 0.0
    """μ of v ← μ v + ξ G"""
    weight_decay: Annotated[NonNegative, STACKED] = 0.0
    """λ of v ← v + λ W, not scaled by ξ"""
    frobenius_decay: Annotated[NonNegative, STACKED] = 0.0
    """with model.rank: λ of the gradient of λ/2 ‖W‖², W = U Vᵀ, added to those of U and V instead of λU and
    λV; of layers that are not factorised too (arXiv 2105.01029)"""
    accumulation: Annotated[Count, NOTHING] = 1
    """microbatches a step; the step stays the same"""
    clip_norm: Annotated[Positive | None, STACKED] = None
    """largest norm of the whole gradient, before scaling; null: no clipping"""
    clip_layers: Annotated[Literal["all", "last"] | list[Count], STACKED] = "all"
    """layers whose gradient clip_norm and normalize look at and act on: all, the last (arXiv 2305.12125), or
    their numbers from 1, such as [5, 6]; other layers step as without them"""
    normalize: Annotated[bool, STACKED] = False
    """divide the whole gradient by its norm, before scaling: with scaling.rule none, normalised SGD"""

    @property
    def batch(self) -> int:
        """``batch_size`` of a resolved configuration."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    @property
    def measures_rate(self) -> bool:
        """Whether rates are not known before the run."""
        return self.schedule in ("edge", "drift_adjusted", "adas")

    @property
    def limits_gradient(self) -> bool:
        """Whether the whole gradient is clipped or normalised, so that a step needs its norm."""
        return self.normalize or self.clip_norm is not None


@dataclass
class ScalingConfig:
    """Depthwise gradient scaling."""

    rule: Annotated[str, OneOf(RULES, also=("auto",)), STACKED] = "auto"
    """how ξ_k comes from forward and backward norms; auto: spectral with optim.optimizer sgd, else none"""
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
