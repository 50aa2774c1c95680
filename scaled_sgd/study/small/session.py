"""The session of a small run: training in this process without a launcher, and with SGD without autograd."""

from collections.abc import Callable
from dataclasses import replace
from warnings import warn

import torch
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.config.network import network_of
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.data import Data, Resident
from scaled_sgd.data.metrics import built_in_metrics
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.parallel.machine import host_memory
from scaled_sgd.parallel.strategies import SIMPLEST
from scaled_sgd.planning.choice import World
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.hook import DepthwiseScaling
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.train.capturing import capture_for
from scaled_sgd.train.resolution import resolve
from scaled_sgd.train.session import Session
from scaled_sgd.train.stepper import OneNetwork
from scaled_sgd.train.steps import AutogradStep, FusedStep, factors_of
from scaled_sgd.train.strategies.base import FusedStrategy, GradientStrategy
from scaled_sgd.train.strategies.native import MakeOptimizer
from scaled_sgd.train.strategies.shards import RowShard

_PLACED_BYTES = 2**30
"""Data sets on a device are cached up to this many bytes; the last one always."""


class OneProcess(FusedStrategy):
    """``ddp`` on this process only, in any world, without an optimizer object.

    Attributes:
        lent: gives v_k from the network's stack; None if it is not in a stack.
    """

    name = SIMPLEST

    def __init__(self, network: HomogeneousMLP, scaling: DepthwiseScaling) -> None:
        self.network = self.module = network
        self.scaling = scaling.measure_elsewhere()
        self.lent: Callable[[int], Tensor | None] | None = None
        self.shards = ()
        self.data = self.tensor = Ranks.alone()
        self._velocities: dict[int, Tensor] = {}

    def velocity(self, k: int) -> Tensor:
        """v_k, zero at first."""
        if k not in self._velocities:
            self._velocities[k] = torch.zeros_like(self.network.scaled_layers[k - 1].weight)
        return self._velocities[k]

    def velocity_rows(self, partition: Partition) -> Callable[[int], Tensor | None]:
        """The full v_k."""
        return self.lent or self.velocity


class OneProcessByGradients(GradientStrategy):
    """``ddp`` on this process only, in any world, for optimizers that step by gradients."""

    name = SIMPLEST

    def __init__(self, network: HomogeneousMLP, make_optimizer: MakeOptimizer) -> None:
        self.network = self.module = network
        self.kept = make_optimizer.kept
        self.optimizer, self.scaling = make_optimizer(network)
        self.data = self.tensor = Ranks.alone()
        self.shards = [
            RowShard(k, layer.weight, self.optimizer, self.kept, copies=1)
            for k, layer in enumerate(network.scaled_layers, start=1)
        ]


def small_session(config: Config, data: Data) -> Session:
    """The session of ``config`` in this process, with the trainer's numbers on one process up to rounding.

    Raises:
        UserError: the configuration does not fit the data or this machine.
    """
    device = find_device(config)
    config = resolve(config, data, _world(device))
    network = network_of(config, data.in_features, data.out_features, device=device)
    metrics = built_in_metrics(config.run.metrics or [], data.task)
    strategy = _strategy(config, network)
    session = Session(config, _place(data, device, config.model.dtype), strategy, metrics)
    session.find_rate()
    if session.observer is not None:
        session.observer.say = lambda line: None
    return session


def _strategy(config: Config, network: HomogeneousMLP) -> OneProcess | OneProcessByGradients:
    if not OPTIMIZERS[config.optim.optimizer].stacked:
        return OneProcessByGradients(network, MakeOptimizer(config))
    rule = config.scaling
    scaling = DepthwiseScaling(network, rule=rule.rule, static=rule.static, polar=rule.settings)
    return OneProcess(network, scaling)


def stepper_of(session: Session) -> OneNetwork:
    """The steps of a small run: fused if its optimizer allows."""
    strategy, optim, loss = session.strategy, session.config.optim, session.loss
    watch = DivergenceWatch(strategy.network.depth, strategy.device)
    if isinstance(strategy, OneProcess):
        factors, capture = factors_of(session.config), capture_for(session.config, strategy)
        step = FusedStep(strategy, optim, loss, watch, factors=factors, capture=capture, say=warn)
        return OneNetwork(session, step, watch)
    assert isinstance(strategy, OneProcessByGradients)
    watch.attach(strategy.network)
    return OneNetwork(session, AutogradStep(strategy, optim, loss, watch), watch)


def find_device(config: Config) -> torch.device:
    """The device of ``run.device``.

    Raises:
        UserError: there is no such device.
    """
    there, asked = torch.cuda.is_available(), config.run.device
    if asked == "cuda" and not there:
        raise UserError("run.device: 'cuda' is not here; allowed: auto, cpu")
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def _world(device: torch.device) -> World:
    cuda = device.type == "cuda"
    return World(1, 1, cuda, torch.cuda.mem_get_info()[1] if cuda else host_memory())


_placed: list[tuple[Data, tuple[torch.device, str], Data]] = []


def _place(data: Data, device: torch.device, dtype: str) -> Data:
    """``data`` on ``device`` in ``dtype``; the last few are cached."""
    for whole, kind, found in _placed:
        if whole is data and kind == (device, dtype):
            return found
    number = getattr(torch, dtype)
    moved = replace(data, train=data.train.to(device, number), evaluation=data.evaluation.to(device, number))
    _placed.append((data, (device, dtype), moved))
    while len(_placed) > 1 and sum(data_bytes(found) for *_, found in _placed) > _PLACED_BYTES:
        del _placed[0]
    return moved


def data_bytes(data: Data) -> int:
    """Bytes of the samples of ``data`` that are in memory."""
    parts = [part for part in (data.train, data.evaluation) if isinstance(part, Resident)]
    return sum(t.numel() * t.element_size() for part in parts for t in (part.x, part.y))
