"""Incompatible keys, each combination stated once; checks, ``auto``, planner and docs read this table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from scaled_sgd.config.keys import KEYS, value_of
from scaled_sgd.config.sections import Config, DataConfig
from scaled_sgd.config.values import Holds, Limit, OneOf, Within, choices, shown
from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel.strategies import STRATEGIES, Capabilities
from scaled_sgd.steps.optimizers import OPTIMIZERS, Optimizer
from scaled_sgd.steps.rules import RULES, Rule

Allowed = tuple[Any, ...] | Limit | None
"""Values, a limit, or None for whatever the key's type allows."""


@dataclass(frozen=True)
class Combination:
    """The values of one key that the value of another key permits.

    Attributes:
        key: the limited key.
        given: the limiting key.
        allowed: permitted values of ``key`` for a value of ``given``.
        reason: why.
    """

    key: str
    given: str
    allowed: Callable[[Any], Allowed]
    reason: str

    def violation(self, config: Config) -> str | None:
        """One line about what is wrong with a configuration."""
        value, given = value_of(config, self.key), value_of(config, self.given)
        allowed = self.allowed(given)
        if allowed is None or (value in allowed if isinstance(allowed, tuple) else allowed.holds(value)):
            return None
        return (
            f"{self.key}: {shown(value)} is not usable; allowed: {self._words(allowed)} with "
            f"{self.given} {_bare(given)} ({self.reason})"
        )

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """For each limit: the key, its permitted values, the values of the other key, and the reason.

        Null, one number and the default stand for all numbers and texts.
        """
        own = choices(KEYS[self.key].hint)
        limited: dict[str, list[str]] = {}
        given_key = KEYS[self.given]
        for given in choices(given_key.hint) or dict.fromkeys((None, 2, given_key.default)):
            allowed = self.allowed(given)
            if allowed is not None and self._words(allowed) != self._words(own or ()):
                limited.setdefault(self._words(allowed), []).append(_bare(given))
        for words, given in limited.items():
            yield self.key, words, f"{self.given} {', '.join(given)}", self.reason

    def _words(self, allowed: tuple[Any, ...] | Limit) -> str:
        if isinstance(allowed, tuple):
            return ", ".join(map(_bare, allowed))
        return allowed.words(int if isinstance(KEYS[self.key].default, int) else float)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _by_strategy(allowed: Callable[[Capabilities], Allowed]) -> Callable[[str], Allowed]:
    return lambda strategy: None if strategy == "auto" else allowed(STRATEGIES[strategy])


def _when(value: Any, allowed: Allowed) -> Callable[[Any], Allowed]:
    return lambda given: allowed if given == value else None


def _unless(value: Any, allowed: Allowed) -> Callable[[Any], Allowed]:
    return lambda given: allowed if given != value else None


_LATER = Holds(lambda resume: resume != "auto", "no, or the path of a run or checkpoint")
_FUSED = tuple(can.name for can in STRATEGIES.entries if can.fused)
_NUMBER = Holds(lambda steps: steps is not None, "a number of steps")
_SPLIT = Holds(lambda split: split is not None, "a split")

COMBINATIONS = (
    *(
        # Their product fits float32 too.
        Combination(
            key, "model.dtype", _when("float32", Within(0, most)), "a step must fit the weights' type"
        )
        for key, most in (("optim.lr", 1e30), ("optim.weight_decay", 1e8))
    ),
    Combination(
        "run.precision", "model.dtype", _unless("float32", ("no",)), "mixed precision is of float32 weights"
    ),
    Combination(
        "run.precision",
        "sharding.strategy",
        _by_strategy(lambda can: can.precisions),
        "loss scales are for replicas",
    ),
    Combination(
        "run.precision",
        "optim.update",
        _when("fused", ("no", "tf32")),
        "updates have the weights' own precision",
    ),
    Combination(
        "model.dtype",
        "sharding.strategy",
        _by_strategy(lambda can: can.dtypes),
        "ZeRO keeps float32 masters",
    ),
    Combination(
        "optim.accumulation",
        "optim.update",
        _when("fused", (1,)),
        "the update would come before the gradient is whole",
    ),
    Combination(
        "optim.accumulation",
        "optim.batch_size",
        lambda n: None if n is None else Within(1, n),
        "a microbatch has samples",
    ),
    Combination(
        "sharding.activation_checkpointing",
        "optim.update",
        _when("fused", (False,)),
        "signals are computed once",
    ),
    Combination(
        "optim.update",
        "sharding.strategy",
        _by_strategy(lambda can: None if can.fused else ("auto", "autograd")),
        "only DeepSpeed's own steps reach its masters",
    ),
    Combination(
        "optim.update",
        "scaling.rule",
        lambda name: None if _fits_gradients(RULES[name]) else ("auto", "fused"),
        "a gradient of autograd is scaled by a number only",
    ),
    Combination(
        "sharding.strategy",
        "scaling.rule",
        lambda name: None if RULES[name].scalar else OneOf(_FUSED, also=("auto",)),
        "matrices need whole layers, or the fused update of row shards",
    ),
    Combination(
        "optim.update",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].fused else ("auto", "autograd"),
        "it steps by gradients",
    ),
    Combination(
        "optim.schedule",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].fused else ("constant", "linear", "cosine"),
        "the edge is that of the steps of SGD",
    ),
    Combination(
        "optim.momentum",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].momentum else (0.0,),
        "it has its own, in optim.options",
    ),
    Combination(
        "optim.options",
        "optim.optimizer",
        lambda name: None if OPTIMIZERS[name].options else ({},),
        "all its options have keys",
    ),
    Combination(
        "sharding.strategy",
        "optim.optimizer",
        lambda name: OneOf(_strategies_for(OPTIMIZERS[name]), also=("auto",)),
        "where its step is right",
    ),
    Combination(
        "sharding.exchange",
        "sharding.strategy",
        _by_strategy(lambda can: None if can.exchange else ("auto",)),
        "only replicas have the choice",
    ),
    Combination(
        "sharding.exchange",
        "optim.update",
        _when("autograd", ("auto",)),
        "only fused steps have the choice",
    ),
    Combination(
        "sharding.tensor_processes",
        "sharding.strategy",
        _by_strategy(lambda can: None if can.shares_layers else (None,)),
        "it decides by itself how many processes share a layer",
    ),
    Combination(
        "scaling.static",
        "scaling.rule",
        lambda name: None if RULES[name].scalar else (False,),
        "matrices belong to their minibatch",
    ),
    Combination(
        "sharding.exchange",
        "scaling.rule",
        lambda name: None if _fits_gradients(RULES[name]) else ("auto", "factors"),
        "a gradient alone does not tell its factors",
    ),
    Combination(
        "optim.normalize", "optim.clip_norm", _unless(None, (False,)), "a normalised gradient has norm 1"
    ),
    Combination("optim.steps", "optim.epochs", _unless(None, (None,)), "one of the two says how long"),
    *(
        Combination(f"data.{key}", "data.source", _when("digits", allowed), reason)
        for key, allowed, reason in (
            ("streaming", (False,), "it is in memory"),
            ("split", ("train",), "it has one split"),
            ("eval_split", (None,), "it has one split; data.eval_fraction of it is held out"),
            ("task", ("auto", "classification"), "it has classes"),
            ("inputs", (None,), "it has no columns"),
            ("target", (None,), "it has no columns"),
        )
    ),
    Combination("optim.steps", "data.streaming", _when(True, _NUMBER), "the length of a stream is unknown"),
    Combination("data.eval_split", "data.streaming", _when(True, _SPLIT), "a stream holds nothing out"),
    Combination("data.limit", "data.streaming", _when(True, (None,)), "optim.steps limits a stream"),
    Combination("data.standardize", "data.streaming", _when(True, (False,)), "it takes all rows"),
    Combination(
        "optim.warmup_steps",
        "optim.steps",
        lambda steps: None if steps is None else Within(0, steps - 1),
        "warm-up ends before training",
    ),
    Combination("run.resume", "run.name", _when(None, _LATER), "auto finds a run by its name"),
)


def _fits_gradients(rule: Rule) -> bool:
    return rule.scalar or rule.polar


def _strategies_for(optimizer: Optimizer) -> tuple[str, ...]:
    return tuple(
        can.name
        for can in STRATEGIES.entries
        if (optimizer.sharded or not can.rows) and (optimizer.zero or can.zero_stage is None)
    )


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


def with_update(config: Config) -> Config:
    """The configuration with ``optim.update: auto`` resolved: fused wherever a fused step is exact."""
    if config.optim.update != "auto":
        return config
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
