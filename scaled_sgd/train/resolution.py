"""What the data and the launch decide of a configuration."""

import sys
from dataclasses import replace
from typing import Literal

from scaled_sgd.config import Config, ShardingConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data
from scaled_sgd.parallel.launcher import rank
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import Workload
from scaled_sgd.planning.choice import World, choose
from scaled_sgd.planning.memory import memory_warning

_DEFAULT_EPOCHS = 20.0


def resolve(config: Config, data: Data, world: World) -> Config:
    """The configuration with loss, steps, strategy, evaluation interval and metrics filled in.

    Raises:
        UserError: the configuration does not fit the data or the launch.
    """
    per_epoch = data.train.steps_per_epoch(config.optim.batch_size)
    steps = _steps(config, per_epoch)
    if config.optim.warmup_steps >= steps:
        raise UserError(
            f"optim.warmup_steps: {config.optim.warmup_steps} is not usable; "
            f"allowed: integers below the {steps} steps"
        )
    config = replace(config, loss=_loss(config, data))
    sharding = _sharding(config, data, world)
    every = config.run.eval_every
    names = config.run.metrics
    if names is None:
        names = ["accuracy"] if data.task == "classification" else ["mse"]
    return replace(
        config,
        optim=replace(config.optim, steps=steps, epochs=None),
        sharding=sharding,
        run=replace(
            config.run, metrics=names, eval_every=(per_epoch or steps) if every is None else every or steps
        ),
    )


def _loss(config: Config, data: Data) -> Literal["cross_entropy", "mse"]:
    if config.loss == "auto":
        return "cross_entropy" if data.task == "classification" else "mse"
    if config.loss == "cross_entropy" and data.task == "regression":
        raise UserError("loss: 'cross_entropy' does not fit number targets; allowed: mse, auto")
    return config.loss


def _steps(config: Config, per_epoch: int | None) -> int:
    if config.optim.steps is not None:
        return config.optim.steps
    if per_epoch is None:
        raise UserError("optim.steps: null does not fit data.streaming; allowed: a number of steps")
    epochs = _DEFAULT_EPOCHS if config.optim.epochs is None else config.optim.epochs
    return max(1, round(epochs * per_epoch))


def _sharding(config: Config, data: Data, world: World) -> ShardingConfig:
    """The strategy; says on the first rank where a step is predicted to exceed a process's memory.

    Args:
        config: whose loss is resolved.
        data: as loaded.
        world: as launched.
    """
    model = config.model
    work = Workload.of(config, data.in_features, data.out_features)
    if config.diagnostics.every and config.diagnostics.k > work.weights:
        raise UserError(
            f"diagnostics.k: {config.diagnostics.k} is not usable; allowed: integers from 1 to the "
            f"{work.weights:,} weights"
        )
    sharding = choose(config, world, work)
    can = STRATEGIES[sharding.strategy]
    if model.dtype not in can.dtypes:
        raise UserError(
            f"model.dtype: {model.dtype!r} does not fit {sharding.strategy}, which was launched; "
            f"allowed: {', '.join(can.dtypes)}"
        )
    if config.optim.fused_update and not can.fused:
        raise UserError(
            f"optim.fused_update: true does not fit {sharding.strategy}, which was launched; allowed: false"
        )
    if sharding.exchange != "auto" and not can.exchange:
        raise UserError(
            f"sharding.exchange: {sharding.exchange!r} does not fit sharding.strategy {sharding.strategy}; "
            "allowed: auto"
        )
    warning = memory_warning(replace(config, sharding=sharding), world, work)
    if warning is not None and rank() == 0:
        print(warning, file=sys.stderr, flush=True)
    return sharding
