"""Checks before the first step that all processes mean the same run and that each has its own part of it.

Launchers start a command on each machine without comparing. Processes that differ would wait for each other
until the time-out, or train something that nobody configured.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scaled_sgd.config import Config, as_dict, flat
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data, rank_rows
from scaled_sgd.parallel.agreement import gather
from scaled_sgd.train.strategies.base import Strategy

_OF_A_MACHINE = ("data.source",)
"""Keys that may differ between machines: data may have another path on each."""


@dataclass(frozen=True)
class Intent:
    """The run that a process is about to build.

    Attributes:
        world_size: number of processes as this process sees it.
        device: kind of its device.
        samples: number of training samples; None for a stream.
        features: m_0 and m_l.
        digest: digest of its configuration.
    """

    world_size: int
    device: str
    samples: int | None
    features: tuple[int, int]
    digest: str


@dataclass(frozen=True)
class Place:
    """The part of a process in a step.

    Attributes:
        strategy: name of the strategy.
        data: rank and number of ranks with different samples.
        tensor: rank and number of ranks that share samples.
        rows: first of its rows of a full minibatch, and one past the last.
        minibatch: number of rows of a full minibatch.
        clipping: norm at which DeepSpeed itself clips, 0: never; None: no DeepSpeed.
    """

    strategy: str
    data: tuple[int, int]
    tensor: tuple[int, int]
    rows: tuple[int, int]
    minibatch: int
    clipping: float | None


def agree_on_run(config: Config, data: Data, device: torch.device, world_size: int) -> None:
    """Compare the intents of all processes. Collective, before anything is sharded.

    Raises:
        UserError: on every rank, naming the first rank that differs from rank 0, and the difference.
    """
    samples = data.train.steps_per_epoch(1)
    plain = {key: value for key, value in flat(as_dict(config)).items() if key not in _OF_A_MACHINE}
    features = (data.in_features, data.out_features)
    intents = gather(Intent(world_size, device.type, samples, features, _digest(plain)))
    if len({intent.digest for intent in intents}) > 1:
        _refuse(different_key(gather(plain)))
    _refuse(different_intent(intents))


def agree_on_places(strategy: Strategy, config: Config) -> None:
    """Compare the places of all processes. Collective.

    Raises:
        UserError: on every rank, naming the rank with a wrong place.
    """
    n = config.optim.batch
    rows = rank_rows(n, strategy.data.rank, strategy.data.size)
    clipping: Callable[[], float] | None = getattr(strategy.module, "gradient_clipping", None)
    place = Place(
        strategy.name,
        (strategy.data.rank, strategy.data.size),
        (strategy.tensor.rank, strategy.tensor.size),
        (rows.start, rows.stop),
        n,
        None if clipping is None else float(clipping()),
    )
    _refuse(misplaced(gather(place)))


def different_key(configurations: Sequence[dict[str, Any]]) -> str | None:
    """A message about the first key that differs between a rank and rank 0, or None."""
    first = configurations[0]
    for rank, other in enumerate(configurations):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                return (
                    f"{key}: {other.get(key)!r} on rank {rank} and {first.get(key)!r} on rank 0; "
                    "allowed: one configuration on all ranks"
                )
    return None


def different_intent(intents: Sequence[Intent]) -> str | None:
    """A message about the first difference in world or data between a rank and rank 0, or None."""
    first = intents[0]
    for rank, other in enumerate(intents):
        for key, what, own, wanted in (
            ("launch", "world size", other.world_size, first.world_size),
            ("launch", "device", other.device, first.device),
            ("data.source", "training samples", other.samples, first.samples),
            ("data.source", "inputs and outputs", other.features, first.features),
        ):
            if own != wanted:
                return (
                    f"{key}: {what} {own} on rank {rank} and {wanted} on rank 0; "
                    "allowed: the same on all ranks"
                )
    return None


def misplaced(places: Sequence[Place]) -> str | None:
    """Why the parts of the ranks do not form one step on one minibatch; None if they do."""
    first = places[0]
    taken: dict[tuple[int, int], int] = {}
    for rank, place in enumerate(places):
        if place.strategy != first.strategy:
            return (
                f"sharding.strategy: {place.strategy!r} on rank {rank} and {first.strategy!r} on rank 0; "
                "allowed: one on all ranks"
            )
        if place.clipping:
            return f"launch: DeepSpeed clips gradients at {place.clipping} on rank {rank}; allowed: 0"
        part = (place.data[0], place.tensor[0])
        if part in taken:
            return (
                f"launch: data rank {part[0]} and tensor rank {part[1]} on rank {rank} and on rank "
                f"{taken[part]}; allowed: once"
            )
        taken[part] = rank
        if place.data[1] * place.tensor[1] != len(places):
            return (
                f"launch: {place.data[1]} data ranks and {place.tensor[1]} tensor ranks on rank {rank}; "
                f"allowed: a product of {len(places)}"
            )
    # Ranks that share samples have the same rows, so each data rank counts once.
    rows = sorted({(place.data[0], place.rows) for place in places})
    ends = [0, *(stop for _, (_, stop) in rows)]
    starts = [*(start for _, (start, _) in rows), first.minibatch]
    if starts != ends:
        held = sum(stop - start for _, (start, stop) in rows)
        return (
            f"launch: ranks take {held} rows of a minibatch of {first.minibatch} at {starts[:-1]}; "
            "allowed: each row once"
        )
    return None


def _digest(plain: dict[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(message: str | None) -> None:
    if message is not None:
        raise UserError(message)
