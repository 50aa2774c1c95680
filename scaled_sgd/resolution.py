"""What the data and the launch decide of a configuration."""

import itertools
from dataclasses import replace
from typing import Literal

import torch

from scaled_sgd.config import Config
from scaled_sgd.data import Data
from scaled_sgd.errors import UserError
from scaled_sgd.parameterization import count_weights, width_pattern
from scaled_sgd.strategies.choice import ZERO, World, bytes_per_process, choose
from scaled_sgd.strategies.config import ShardingConfig

_DEFAULT_EPOCHS = 20.0


def resolve(config: Config, data: Data, world: World) -> Config:
    """The configuration with loss, steps, strategy, evaluation interval and metrics filled in.

    Raises:
        UserError: the configuration does not fit the data or the launch, or the network not the memory.
    """
    per_epoch = data.train.steps_per_epoch(config.optim.batch_size)
    steps = _steps(config, per_epoch)
    if config.optim.warmup_steps >= steps:
        raise UserError(
            f"optim.warmup_steps: {config.optim.warmup_steps} is not usable; "
            f"allowed: integers below the {steps} steps"
        )
    sharding = _sharding(config, data, world)
    every = config.run.eval_every
    names = config.run.metrics
    if names is None:
        names = ["accuracy"] if data.task == "classification" else ["mse"]
    return replace(
        config,
        loss=_loss(config, data),
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
    """The strategy; refuses a network whose weights, gradients and momentum exceed a process's memory."""
    model = config.model
    try:
        widths = width_pattern(
            data.in_features,
            data.out_features,
            depth=model.depth,
            base_width=model.base_width,
            exponent=model.width_exponent,
        )
    except UserError as error:
        raise UserError(f"model.{error}") from None
    weights = count_weights(widths)
    if config.diagnostics.every and config.diagnostics.k > weights:
        raise UserError(
            f"diagnostics.k: {config.diagnostics.k} is not usable; allowed: integers from 1 to the "
            f"{weights:,} weights"
        )
    copies = 1 + bool(config.optim.momentum) + (not config.optim.fused_update)
    state_bytes = copies * weights * getattr(torch, model.dtype).itemsize
    sharding = choose(config.sharding, world, state_bytes)
    if sharding.strategy in ZERO and model.dtype != "float32":
        raise UserError(
            f"model.dtype: {model.dtype!r} does not fit {sharding.strategy}, which was launched; "
            "allowed: float32"
        )
    if sharding.strategy in ZERO and config.optim.fused_update:
        raise UserError(
            f"optim.fused_update: true does not fit {sharding.strategy}, which was launched; allowed: false"
        )
    if sharding.exchange != "auto" and sharding.strategy != "ddp":
        raise UserError(
            f"sharding.exchange: {sharding.exchange!r} does not fit sharding.strategy {sharding.strategy}; "
            "allowed: auto"
        )
    largest = max(m_in * m_out for m_in, m_out in itertools.pairwise(widths))
    needed = bytes_per_process(sharding, world, state_bytes, largest * getattr(torch, model.dtype).itemsize)
    if needed > world.memory:
        in_parts = needed > state_bytes / world.size and state_bytes <= world.size * world.memory
        raise UserError(
            f"model.base_width: {model.base_width} gives {weights:,} weights, {_gib(needed)} a process with "
            f"gradients under {sharding.strategy}; allowed here: at most {_gib(world.memory)}"
            + (", or sharding.strategy fsdp2" if in_parts else "")
        )
    return sharding


def _gib(count: float) -> str:
    """Bytes in GiB, in two digits where few."""
    return f"{count / 2**30:,.0f} GiB" if count >= 10 * 2**30 else f"{count / 2**30:.2g} GiB"
