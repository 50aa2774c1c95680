"""The loss that a run's gradient flows follow: its network in float64 and its training samples."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scaled_sgd.config.network import network_of
from scaled_sgd.config.sections import Config, OptimConfig
from scaled_sgd.config.stored import completed
from scaled_sgd.config.yaml_files import read_yaml
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.data import Data, Resident, load_data
from scaled_sgd.data.facts import changed_fact, data_facts
from scaled_sgd.diagnostics.flow.landscape import NetworkLandscape
from scaled_sgd.parallel import Ranks
from scaled_sgd.runs.checkpoint.folders import steps_in
from scaled_sgd.runs.trained import find_checkpoint, load_run, stored_config
from scaled_sgd.train.samples import Samples

MOST_WEIGHTS = 100_000
_CHUNK = 4096


@dataclass(frozen=True)
class FlowProblem:
    """Weights and samples to start from.

    Attributes:
        network: in float64, on the CPU.
        x: training samples (n, m_0), float64.
        y: targets, in the form that the loss takes.
        loss: ``cross_entropy`` or ``mse``.
        lr: η, at its peak, of a run of plain SGD whose rate was given, else None.
    """

    network: HomogeneousMLP
    x: Tensor
    y: Tensor
    loss: str
    lr: float | None

    def landscape(self, tolerance: float) -> NetworkLandscape:
        """The loss, with a network of its own; ``tolerance`` is the relative residual of eigenvalues."""
        network = copy.deepcopy(self.network)
        return NetworkLandscape(
            network, self.x, self.y, loss=self.loss, chunk_size=_CHUNK, tolerance=tolerance
        )


def flow_problem(run: Path, *, step: int | None, samples: int | None) -> FlowProblem:
    """The problem of a run directory.

    Args:
        run: the directory.
        step: of the checkpoint; 0: the initial weights; None: the run's last weights.
        samples: number of training samples, drawn by the run's seed; None: all.

    Raises:
        UserError: no run, no such checkpoint, too many weights, or data that are streamed or not the run's.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"flow: {str(run)!r} has no config.yaml; allowed: a run directory")
    stored = completed(read_yaml(run / "config.yaml"))
    config = stored_config(stored)
    data = load_data(config.data, seed=config.run.seed, quiet=True)
    if not isinstance(data.train, Resident):
        raise UserError("flow: data.streaming true has no set of all samples; allowed: data in memory")
    _check_data(run, config, data)
    settled = replace(
        config,
        model=replace(config.model, dtype="float64"),
        loss=("cross_entropy" if data.task == "classification" else "mse")
        if config.loss == "auto"
        else config.loss,
        diagnostics=replace(config.diagnostics, samples=samples or len(data.train)),
    )
    fresh = network_of(settled, data.in_features, data.out_features, device="meta")
    count = sum(layer.weight.numel() for layer in fresh.scaled_layers)
    if count > MOST_WEIGHTS:
        raise UserError(f"flow: the network has {count:,} weights; allowed: up to {MOST_WEIGHTS:,}")
    network = _network(run, config, step, data.in_features, data.out_features)
    x, y = Samples(data, settled, torch.device("cpu")).probe(Ranks.alone())
    plain = (
        stored["scaling.rule"] == "none"
        and stored["optim.optimizer"] == "sgd"
        and not any(
            stored[f"optim.{key}"]
            for key in ("momentum", "weight_decay", "frobenius_decay", "clip_norm", "normalize")
        )
        and stored["optim.lr_in_edges"] is None
        and not stored["optim.lr_factors"]
        and not OptimConfig(schedule=stored["optim.schedule"]).measures_rate
    )
    lr = float(stored["optim.lr"]) if plain else None
    return FlowProblem(network.double(), x, y, settled.loss, lr)


def _check_data(run: Path, config: Config, data: Data) -> None:
    """Refuse other data than those of the run's checkpoints, if it has any."""
    if not steps_in(run / "checkpoints"):
        return
    if changed_fact(find_checkpoint(run).state["data"], data_facts(data)) is not None:
        raise UserError(
            f"data.source: {config.data.source!r} holds other data than those of {str(run)!r}; "
            "allowed: the data as they were"
        )


def _network(run: Path, config: Config, step: int | None, m_in: int, m_out: int) -> HomogeneousMLP:
    if step is None:
        return load_run(run).model
    store = run / "checkpoints"
    if step in steps_in(store):
        return load_run(store / f"step-{step}").model
    if step == 0:
        return network_of(config, m_in, m_out, device="cpu")
    known = ", ".join(str(found) for found in sorted({0, *steps_in(store)}))
    raise UserError(f"--step: {step} has no checkpoint in {str(store)!r}; allowed: {known}")
