"""Opens a stored network together with the samples that its run measures on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from scaled_sgd.config import Config
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.data import Resident, load_data
from scaled_sgd.data.facts import changed_fact, data_facts
from scaled_sgd.parallel import Ranks
from scaled_sgd.runs.checkpoint import Checkpoint, open_checkpoint
from scaled_sgd.runs.trained import find_checkpoint, from_checkpoint, stored_config
from scaled_sgd.train.samples import Samples

_NEEDED = ("diagnostics.samples",)


@dataclass(frozen=True)
class Probed:
    """A network at a step of its run, with its probe, in float64 on the CPU.

    Attributes:
        checkpoint: where it was stored.
        config: the keys of the run that decide its network, data and probe; the others have their defaults.
        network: the network.
        x: the probe (n, m_0): the training samples on which the run measures.
        y: their targets, in the form that the loss takes.
    """

    checkpoint: Checkpoint
    config: Config
    network: HomogeneousMLP
    x: Tensor
    y: Tensor

    @property
    def loss(self) -> str:
        """``cross_entropy`` or ``mse``."""
        return self.config.loss


def open_probed(
    path: str | Path, *, step: int | None = None, samples: int | Literal["all"] | None = None
) -> Probed:
    """The network and the probe of a run.

    Args:
        path: a run directory, or one of its checkpoints.
        step: of the checkpoint of a run directory; None: the newest intact one.
        samples: size of the probe; None: that of the run.

    Raises:
        UserError: there is no such checkpoint, or the data are gone or others than the run's.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"run: {str(path)!r} is no folder; allowed: a run directory or a checkpoint")
    if step is not None:
        folder = folder / "checkpoints" / f"step-{step}"
    checkpoint = open_checkpoint(folder) if step is not None else find_checkpoint(folder)
    network = from_checkpoint(checkpoint).model.double()
    state = checkpoint.state
    config = stored_config(state["config"], also=_NEEDED)
    config = replace(config, model=replace(config.model, dtype="float64"))
    data = load_data(config.data, seed=config.run.seed, quiet=True)
    if changed_fact(state["data"], data_facts(data)) is not None:
        raise UserError(
            f"data.source: {config.data.source!r} holds other data than those of {str(checkpoint.path)!r}; "
            "allowed: the data as they were"
        )
    if samples is not None:
        pool = data.train if isinstance(data.train, Resident) else data.evaluation
        probe = len(pool) if samples == "all" else samples
        config = replace(config, diagnostics=replace(config.diagnostics, samples=probe))
    x, y = Samples(data, config, torch.device("cpu")).probe(Ranks.alone())
    return Probed(checkpoint, config, network, x, y)
