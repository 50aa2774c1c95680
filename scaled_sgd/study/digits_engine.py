"""One small run without a launcher, an optimizer object or files: what studies do by the thousand."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scaled_sgd.data import Data, DataConfig, Resident, load_data
from scaled_sgd.diagnostics import Minibatch, feature_ranks, hidden_features, sharpness
from scaled_sgd.diagnostics.gradients import gradient_square_norms
from scaled_sgd.diagnostics.scales import mean_squares
from scaled_sgd.errors import UserError
from scaled_sgd.fused import Update, fused_step, scale_by, scale_frozen
from scaled_sgd.losses import Loss, get_loss
from scaled_sgd.model import HomogeneousMLP
from scaled_sgd.scaling import Rule, get_rule
from scaled_sgd.schedule import Schedule
from scaled_sgd.sharding import Partition

EXPLODED = 1e3
"""A run stops when a minibatch loss exceeds this many times the first."""

_EDGE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run on the embedded digits.

    ``output_scale`` multiplies the last layer's α, ``output_weight`` its ω.
    """

    depth: int
    base_width: int
    lr: float
    seed: int = 0
    width_exponent: float = 2.0
    activation: str = "abs"
    parameterization: str = "nup"
    output_scale: float = 1.0
    output_weight: float = 1.0
    rule: str = "norm"
    static: bool = False
    loss: str = "cross_entropy"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    clip_norm: float | None = None
    batch_size: int = 128
    steps: int = 300
    measurements: int = 10


@dataclass(frozen=True)
class RunResult:
    """What a study keeps of a run. Sharpness is measured on a fixed probe over the last half.

    Attributes:
        initial_loss: first minibatch loss.
        max_loss: largest minibatch loss; infinite for a run that left the floating point numbers.
        train_loss: over all training samples at the end; NaN for a run that exploded.
        eval_loss: held-out.
        accuracy: held-out.
        sharpness: largest eigenvalue of H at the end.
        edge_ratios: η_t λ_t / 2 with λ_t the preconditioned sharpness, over the last half.
        stable_rank: of the last hidden layer on the probe, at the end.
    """

    initial_loss: float
    max_loss: float
    train_loss: float
    eval_loss: float
    accuracy: float
    sharpness: float
    edge_ratios: tuple[float, ...]
    stable_rank: float

    @property
    def stable(self) -> bool:
        """No loss explosion: the largest loss is at most twice the first."""
        return self.max_loss <= 2 * self.initial_loss


@lru_cache(maxsize=1)
def digits() -> Data:
    """The embedded data set, read once a process."""
    return load_data(DataConfig(), seed=0)


def build(spec: RunSpec, *, dtype: torch.dtype = torch.float32) -> HomogeneousMLP:
    """The network of a run at step 0."""
    data = digits()
    model = HomogeneousMLP(
        data.in_features,
        data.out_features,
        depth=spec.depth,
        base_width=spec.base_width,
        width_exponent=spec.width_exponent,
        activation=spec.activation,
        parameterization=spec.parameterization,
        seed=spec.seed,
        dtype=dtype,
    )
    model.scaled_layers[-1].multiplier *= spec.output_scale
    model.scaled_layers[-1].layer_weight *= spec.output_weight
    return model


def initial_edge(spec: RunSpec) -> float:
    """The learning rate 2/λ at step 0, λ the preconditioned sharpness on the probe."""
    model = build(spec)
    x, y = probe(spec)
    pairs = sharpness(model, x, y, loss=spec.loss, scales=_scales(spec, model), tolerance=_EDGE_TOLERANCE)
    return 2 / float(pairs.values[0])


def run(spec: RunSpec) -> RunResult:
    """Train once; a run that explodes ends early with NaN losses at the end."""
    data, loss = digits(), get_loss(spec.loss)
    assert isinstance(data.train, Resident)
    model, rule = build(spec), resolve_rule(spec.rule)
    schedule = Schedule(spec.schedule, spec.lr, spec.steps, spec.warmup_steps)
    scale = scale_by(rule, model)
    frozen: Tensor | None = None
    initial = largest = math.nan
    ratios: list[float] = []
    start = None
    for step, (x, y) in enumerate(_minibatches(spec, data.train)):
        lr = schedule(step)
        if spec.clip_norm is not None:
            lr *= min(1.0, spec.clip_norm / max(gradient_norm(model, x, y, spec.loss), 1e-30))
        if _measures(spec, step):
            pairs = sharpness(
                model,
                *probe(spec),
                loss=spec.loss,
                scales=_scales(spec, model) if frozen is None else frozen,
                tolerance=_EDGE_TOLERANCE,
                warm_start=start,
            )
            start = pairs.vectors
            ratios.append(lr * float(pairs.values[0]) / 2)
        taken = fused_step(Partition.of(model), x, y, loss=loss, scale=scale, update=Update(lr))
        if spec.static and frozen is None:
            frozen, scale = taken.scales, scale_frozen(taken.scales)
        current = float(taken.loss) / taken.n
        initial = current if step == 0 else initial
        largest = current if step == 0 else max(largest, current)
        if not math.isfinite(current) or current > EXPLODED * initial:
            nan = math.nan
            return RunResult(initial, math.inf, nan, nan, nan, nan, tuple(ratios), nan)
    return _finished(spec, model, loss, initial, largest, tuple(ratios))


def resolve_rule(name: str) -> Rule:
    """A rule by name; ``power:q`` is ω R^{q/2} / (l √(F D)), between ``norm`` (0) and ``gain`` (1).

    Raises:
        UserError: no such rule.
    """
    if not name.startswith("power:"):
        return get_rule(name)
    try:
        q = float(name.removeprefix("power:"))
    except ValueError:
        raise UserError(f"rule: {name!r} has no number; allowed: power:0 to power:1") from None
    norm = get_rule("norm")
    return lambda F, D, R, omega, depth: R.pow(q / 2) * norm(F, D, R, omega, depth)


def _minibatches(spec: RunSpec, train: Resident) -> "list[tuple[Tensor, Tensor]]":
    batches: list[tuple[Tensor, Tensor]] = []
    epoch = 0
    while len(batches) < spec.steps:
        for batch in train.batches(batch_size=spec.batch_size, seed=spec.seed, epoch=epoch):
            if batch.n_global == spec.batch_size:
                batches.append((batch.x, _targets(spec, batch.y)))
        epoch += 1
    return batches[: spec.steps]


def _targets(spec: RunSpec, y: Tensor) -> Tensor:
    return F.one_hot(y, digits().out_features).float() if spec.loss == "mse" else y


def probe(spec: RunSpec) -> tuple[Tensor, Tensor]:
    """The samples on which curvature and ranks are measured, with targets."""
    train = digits().train
    assert isinstance(train, Resident)
    return train.x[:128], _targets(spec, train.y[:128])


def _scales(spec: RunSpec, model: HomogeneousMLP) -> Tensor:
    x, y = probe(spec)
    F_, D, R = mean_squares(Minibatch(model, x, y, loss=spec.loss))
    omega = torch.tensor([layer.layer_weight for layer in model.scaled_layers], dtype=torch.float64)
    return resolve_rule(spec.rule)(F_, D, R, omega, model.depth)


def gradient_norm(model: HomogeneousMLP, x: Tensor, y: Tensor, loss: str) -> float:
    """‖G‖_F over all layers."""
    return math.sqrt(float(gradient_square_norms(Minibatch(model, x, y, loss=loss)).sum()))


def _measures(spec: RunSpec, step: int) -> bool:
    half = spec.steps // 2
    interval = max(1, (spec.steps - half) // max(1, spec.measurements))
    return spec.measurements > 0 and step >= half and (step - half) % interval == 0


@torch.no_grad()
def _finished(
    spec: RunSpec,
    model: HomogeneousMLP,
    loss: Loss,
    initial: float,
    largest: float,
    ratios: tuple[float, ...],
) -> RunResult:
    data = digits()
    assert isinstance(data.train, Resident)
    x, y = probe(spec)
    losses = [
        float(loss.value(model(split.x), _targets(spec, split.y)).mean())
        for split in (data.train, data.evaluation)
    ]
    predicted = model(data.evaluation.x).argmax(1)
    top = math.nan
    if spec.measurements:
        top = float(sharpness(model, x, y, loss=spec.loss, tolerance=_EDGE_TOLERANCE).values[0])
    rank = math.nan
    if spec.depth > 1:
        rank = float(feature_ranks(hidden_features(model, x)[-1]).stable)
    return RunResult(
        initial_loss=initial,
        max_loss=largest,
        train_loss=losses[0],
        eval_loss=losses[1],
        accuracy=float((predicted == data.evaluation.y).float().mean()),
        sharpness=top,
        edge_ratios=ratios,
        stable_rank=rank,
    )
