"""What the data decide of a configuration."""

import os
from dataclasses import replace
from typing import Literal

import torch

from scaled_sgd.config import Config
from scaled_sgd.data import Data
from scaled_sgd.errors import UserError
from scaled_sgd.parameterization import count_weights, width_pattern

_DEFAULT_EPOCHS = 20.0


def resolve(config: Config, data: Data) -> Config:
    """The configuration with loss, steps, evaluation interval and metrics filled in.

    Raises:
        UserError: the configuration does not fit the data, or the network not this machine.
    """
    per_epoch = data.train.steps_per_epoch(config.optim.batch_size)
    steps = _steps(config, per_epoch)
    if config.optim.warmup_steps >= steps:
        raise UserError(
            f"optim.warmup_steps: {config.optim.warmup_steps} is not usable; allowed: below the {steps} steps"
        )
    _check_memory(config, data)
    every = config.run.eval_every
    names = config.run.metrics
    if names is None:
        names = ["accuracy"] if data.task == "classification" else ["mse"]
    return replace(
        config,
        loss=_loss(config, data),
        optim=replace(config.optim, steps=steps, epochs=None),
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


def _check_memory(config: Config, data: Data) -> None:
    """Refuse a network whose weights and gradients exceed the memory of this machine or its GPU."""
    model = config.model
    widths = width_pattern(
        data.in_features,
        data.out_features,
        depth=model.depth,
        base_width=model.base_width,
        exponent=model.width_exponent,
    )
    weights = count_weights(widths)
    needed = 2 * weights * getattr(torch, model.dtype).itemsize
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available() and config.run.device != "cpu":
        total = torch.cuda.mem_get_info()[1]
    if needed > total:
        raise UserError(
            f"model.base_width: {model.base_width} gives {weights:,} weights, {needed / 2**30:,.0f} GiB with "
            f"gradients; allowed here: at most {total / 2**30:,.0f} GiB"
        )
