"""One run of a study, or a stack of like ones, in this process; what goes wrong is noted and not raised."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaled_sgd.config import Config
from scaled_sgd.data import Data, DataConfig, load_data
from scaled_sgd.errors import UserError
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import Run

Train = Callable[[Sequence[Config], Data, Sequence[Path]], Sequence[dict[str, Any]]]
"""Trains like runs, each into its folder; their summaries."""


@dataclass
class DataShelf:
    """Data that stay loaded, one for each ``data.`` section and seed."""

    quiet: bool = True
    loaded: dict[str, Data] = field(default_factory=dict)

    def __call__(self, config: DataConfig, seed: int) -> Data:
        """Load, or find."""
        key = f"{config!r} {seed}"
        if key not in self.loaded:
            self.loaded[key] = load_data(config, seed=seed, quiet=self.quiet)
        return self.loaded[key]


def attempt(runs: Sequence[Run], folder: StudyFolder, train: Train, shelf: DataShelf) -> list[str]:
    """How each of ``runs`` ended: its summary's status, or ``failed``, with the reason in its folder."""
    places = [folder.begin(run.id) for run in runs]
    try:
        data = shelf(runs[0].config.data, runs[0].config.run.seed)
        summaries = train([run.config for run in runs], data, places)
    except UserError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{traceback.format_exc()}{type(error).__name__}: {' '.join(str(error).split())}"
    else:
        return [str(summary["status"]) for summary in summaries]
    for run in runs:
        folder.fail(run.id, reason)
    return ["failed"] * len(runs)
