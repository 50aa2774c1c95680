"""Resolves the parts of a configuration that depend on the data and the launch."""

import sys
from dataclasses import replace
from typing import Literal

from scaled_sgd.config import Config
from scaled_sgd.config.combinations import check_combinations, with_rule, with_strategy, with_update
from scaled_sgd.config.resumed import BUILT_IN_METRICS
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data, Resident
from scaled_sgd.parallel.launcher import rank
from scaled_sgd.planning import Workload
from scaled_sgd.planning.choice import World, choose
from scaled_sgd.planning.memory import memory_warning

_DEFAULT_EPOCHS = 20.0
_TABLE_STEPS, _TABLE_EPOCHS = 500, 50.0
"""Steps on a table, and most passes over it, where no length is given: twenty passes over a few thousand rows
are too few, hundreds over a few hundred rows too many."""


def resolve(config: Config, data: Data, world: World) -> Config:
    """The configuration with loss, steps, rule, strategy, evaluation interval and metrics filled in.

    Raises:
        UserError: the configuration does not fit the data or the launch.
    """
    config = _with_all(with_rule(config), data)
    per_epoch = data.train.steps_per_epoch(config.optim.batch)
    steps = _steps(config, data, per_epoch)
    optim = replace(config.optim, steps=steps, epochs=None)
    settled = replace(config, loss=_loss(config, data), optim=optim, data=data.config)
    config = _with_layout(settled, data, world)
    every = config.run.eval_every
    names = config.run.metrics
    if names is None:
        names = [name for name, task in BUILT_IN_METRICS.items() if task == data.task]
    return replace(
        config,
        run=replace(
            config.run, metrics=names, eval_every=(per_epoch or steps) if every is None else every or steps
        ),
    )


def _with_all(config: Config, data: Data) -> Config:
    """Replace ``all`` by the number of training samples.

    Raises:
        UserError: a stream has no such number.
    """
    optim, diagnostics = config.optim, config.diagnostics
    for key, value in (("optim.batch_size", optim.batch_size), ("diagnostics.samples", diagnostics.samples)):
        if value == "all" and not isinstance(data.train, Resident):
            raise UserError(f"{key}: 'all' has no number where data are streamed; allowed: integers from 1")
    if not isinstance(data.train, Resident):
        return config
    n = len(data.train)
    return replace(
        config,
        optim=replace(optim, batch_size=n) if optim.batch_size == "all" else optim,
        diagnostics=replace(diagnostics, samples=n) if diagnostics.samples == "all" else diagnostics,
    )


def _loss(config: Config, data: Data) -> Literal["cross_entropy", "mse"]:
    if config.loss == "auto":
        return "cross_entropy" if data.task == "classification" else "mse"
    if config.loss == "cross_entropy" and data.task == "regression":
        raise UserError("loss: 'cross_entropy' does not fit number targets; allowed: mse, auto")
    return config.loss


def _steps(config: Config, data: Data, per_epoch: int | None) -> int:
    if config.optim.steps is not None:
        return config.optim.steps
    assert per_epoch is not None, "a stream comes with a number of steps"
    if config.optim.epochs is None:
        least = min(_TABLE_STEPS, round(_TABLE_EPOCHS * per_epoch)) if data.is_table else 1
        return max(least, round(_DEFAULT_EPOCHS * per_epoch))
    return max(1, round(config.optim.epochs * per_epoch))


def check_launched(config: Config, world: World) -> None:
    """Refuse keys that are incompatible with the launched strategy, before any data are loaded.

    Raises:
        UserError: names the first such key.
    """
    if world.launched is not None and config.sharding.strategy == "auto":
        check_combinations(with_strategy(config, world.launched))
    if world.launched_half and config.optim.update == "fused":
        raise UserError(
            "optim.update: 'fused' is not usable; allowed: auto, autograd with a launch whose FSDP policy "
            "gathers weights in 16 bits"
        )


def _with_layout(config: Config, data: Data, world: World) -> Config:
    """Resolve the strategy and the update; warn on rank 0 if a step may exceed a process's memory.

    Args:
        config: a configuration with a resolved loss.
        data: as loaded.
        world: as launched.
    """
    work = Workload.of(config, data.in_features, data.out_features)
    if config.diagnostics.every and config.diagnostics.k > work.weights:
        raise UserError(
            f"diagnostics.k: {config.diagnostics.k} is not usable; allowed: integers from 1 to the "
            f"{work.weights:,} weights"
        )
    config = replace(config, sharding=choose(config, world, work))
    if world.launched_half and config.optim.update == "auto":
        config = replace(config, optim=replace(config.optim, update="autograd"))
    config = with_update(config)
    check_combinations(config)
    warning = memory_warning(config, world, work)
    if warning is not None and rank() == 0:
        print(warning, file=sys.stderr, flush=True)
    return config
