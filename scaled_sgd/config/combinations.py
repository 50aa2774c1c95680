"""Refuses incompatible keys, and resolves ``auto`` of rule, parameterization and update."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from scaled_sgd.config.incompatible import COMBINATIONS
from scaled_sgd.config.sections import Config, DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.rules import RULES


def violations(config: Config) -> Iterator[str]:
    """Violated combinations of a configuration."""
    return (found for one in COMBINATIONS if (found := one.violation(config)) is not None)


def check_combinations(config: Config) -> None:
    """Refuse incompatible keys.

    Raises:
        UserError: names the first.
    """
    found = list(violations(with_update(config)))
    if found and config.optim.update == "auto":
        # What neither update can do is what is wrong, not the update that is left.
        found = [line for line in found if line in [*violations(_updated(config, "fused"))]] or found
    for line in found:
        raise UserError(line)


def check_data(data: DataConfig) -> None:
    """Refuse incompatible keys of the data alone.

    Raises:
        UserError: names the first.
    """
    config = Config(data=data)
    for one in COMBINATIONS:
        line = (
            one.violation(config) if one.key.startswith("data.") and one.given.startswith("data.") else None
        )
        if line is not None:
            raise UserError(line)


def with_rule(config: Config) -> Config:
    """``scaling.rule: auto``, the optimizer's own, and then ``model.parameterization: auto``, the rule's."""
    if config.scaling.rule == "auto":
        rule = OPTIMIZERS[config.optim.optimizer].rule
        config = replace(config, scaling=replace(config.scaling, rule=rule))
    if config.model.parameterization == "auto":
        name = RULES[config.scaling.rule].parameterization
        config = replace(config, model=replace(config.model, parameterization=name))
    return config


def with_update(config: Config) -> Config:
    """The configuration with ``optim.update: auto`` resolved: fused wherever a fused step is exact."""
    if config.optim.update != "auto":
        return config
    if config.run.precision == "bf16":
        # Fused steps keep signals in float32 where autocast rounds them: other numbers, which are asked for.
        return _updated(config, "autograd")
    fused = _updated(config, "fused")
    return fused if next(violations(fused), None) is None else _updated(config, "autograd")


def _updated(config: Config, update: Literal["fused", "autograd"]) -> Config:
    return replace(config, optim=replace(config.optim, update=update))


def with_strategy(config: Config, strategy: str) -> Config:
    """The configuration with another strategy."""
    return replace(config, sharding=replace(config.sharding, strategy=strategy))


def permits(config: Config, strategy: str) -> bool:
    """Whether a configuration is compatible with a strategy."""
    return next(violations(with_update(with_strategy(config, strategy))), None) is None
