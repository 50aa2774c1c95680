"""Eigenvectors that a run keeps: ``eigenvectors/step-<n>``, sharded as its weights are.

They lie in the form of checkpoints: each process writes its own rows, and a folder has its name once it is
complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.parallel import Partition
from scaled_sgd.runs.checkpoint import Checkpoint, Piece, open_checkpoint, save
from scaled_sgd.runs.checkpoint.manifest import MANIFEST

FOLDER = "eigenvectors"
_KEY = "eigenvalues"


@dataclass(frozen=True)
class KeptVectors:
    """Top eigenvectors of H on the probe before a step.

    Attributes:
        step: the step.
        values: their eigenvalues, largest first.
    """

    step: int
    values: Sequence[float]
    _stored: Checkpoint

    def vector(self, index: int) -> list[Tensor]:
        """Eigenvector ``index`` from 1, of norm 1: one tensor per layer, shaped as W_k, on the CPU.

        Raises:
            UserError: there is no such vector.
        """
        if not 1 <= index <= len(self.values):
            raise UserError(f"index: {index} is not usable; allowed: 1 to {len(self.values)}")
        depth = len(self._stored.names) // len(self.values)
        found = []
        for name in (_name(index, k) for k in range(1, depth + 1)):
            m_out, m_in = self._stored.shape(name)
            found.append(self._stored.read(name, 0, m_out * m_in).view(m_out, m_in))
        return found


def write_vectors(
    run: Path, step: int, partition: Partition, values: Sequence[float], vectors: Sequence[Sequence[Tensor]]
) -> Path:
    """Write the eigenvectors of a step below ``run``; the folder once it is on the disk. Collective.

    Args:
        run: the run directory.
        step: the step before which they were found.
        partition: whose rows the vectors have.
        values: eigenvalues.
        vectors: for each, this process's rows of every layer.

    Raises:
        CheckpointError: a file cannot be written.
    """
    pieces = [
        Piece(
            _name(index, k),
            (partition.widths[k], partition.widths[k - 1]),
            int(partition.columns(k).start) * partition.widths[k - 1],
            rows.reshape(-1),
        )
        for index, layers in enumerate(vectors, start=1)
        for k, rows in enumerate(layers, start=1)
    ]
    return save(run / FOLDER, step, pieces=pieces, private={}, state={_KEY: list(values)})


def holds_vectors(folder: Path) -> bool:
    """Whether ``folder`` is complete and holds eigenvectors, instead of a checkpoint.

    Raises:
        UserError: it is damaged.
    """
    return (folder / MANIFEST).is_file() and _KEY in open_checkpoint(folder).state


def read_vectors(folder: Path) -> KeptVectors:
    """The eigenvectors in ``eigenvectors/step-<n>`` of a run, verified.

    Raises:
        UserError: there are none, or they are damaged.
    """
    stored = open_checkpoint(folder, _check)
    return KeptVectors(stored.step, stored.state[_KEY], stored)


def _check(state: dict[str, object], _step: int) -> None:
    values = state.get(_KEY)
    if not isinstance(values, list) or not values or not all(isinstance(v, float) for v in values):
        raise ValueError("its state has no eigenvalues")


def _name(index: int, k: int) -> str:
    return f"eigenvector.{index}.{k}"
