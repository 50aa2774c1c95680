"""One run of a study, or a stack of similar runs, in this process; errors are recorded, not raised."""

import contextlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaled_sgd.config import Config, DataConfig
from scaled_sgd.config.plugins import load_plugins
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data, load_data
from scaled_sgd.runs.locks import HeldError
from scaled_sgd.study.folder import State, StudyFolder
from scaled_sgd.study.grid import Run
from scaled_sgd.study.small.session import data_bytes

Train = Callable[[Sequence[Config], Sequence[Data], Sequence[Path]], Sequence[dict[str, Any]]]
"""Trains similar runs, each with its data and folder; returns their summaries."""


@dataclass
class DataShelf:
    """Caches data for each ``data.`` section and seed, up to ``most`` bytes in total.

    The most recently used data stay, whatever their size.
    """

    quiet: bool = True
    most: int = 2**30
    loaded: dict[str, Data] = field(default_factory=dict)

    def __call__(self, config: DataConfig, seed: int) -> Data:
        """Return cached data, or load them."""
        key = f"{config!r} {seed}"
        found = self.loaded.pop(key, None) or load_data(config, seed=seed, quiet=self.quiet)
        self.loaded[key] = found
        while len(self.loaded) > 1 and sum(map(data_bytes, self.loaded.values())) > self.most:
            del self.loaded[next(iter(self.loaded))]
        return found


def attempt(runs: Sequence[Run], folder: StudyFolder, train: Train, shelf: DataShelf) -> list[str]:
    """Train ``runs``; returns each status: that of its summary, or ``failed`` with the reason in its folder.

    A run that another process trains, or has trained meanwhile, is skipped; its state is returned.
    """
    with contextlib.ExitStack() as locks:
        states: dict[str, str] = {}
        for run in runs:
            try:
                locks.enter_context(folder.hold(run.id))
            except HeldError:
                states[run.id] = State.RUNNING.value
                continue
            except OSError as error:
                states[run.id] = State.FAILED.value
                folder.fail(run.id, f"{type(error).__name__}: {error}")
                continue
            state = folder.state(run.id)
            if state.ended:
                states[run.id] = state.value
        mine = [run for run in runs if run.id not in states]
        states |= zip((run.id for run in mine), _made(mine, folder, train, shelf), strict=True)
        return [states[run.id] for run in runs]


def _made(runs: Sequence[Run], folder: StudyFolder, train: Train, shelf: DataShelf) -> list[str]:
    if not runs:
        return []
    try:
        for run in runs:
            load_plugins(run.config.run.plugins)
        places = [folder.begin(run.id) for run in runs]
        data = [shelf(run.config.data, run.config.run.seed) for run in runs]
        summaries = train([run.config for run in runs], data, places)
    except Exception as error:
        if len(runs) > 1:
            # An error of one run of a stack, or of the stack's size, need not concern the others.
            return [status for run in runs for status in _made_or_ended(run, folder, train, shelf)]
        reason = str(error)
        if not isinstance(error, UserError):
            reason = f"{traceback.format_exc()}{type(error).__name__}: {' '.join(str(error).split())}"
    else:
        return [str(summary["status"]) for summary in summaries]
    folder.fail(runs[0].id, reason)
    return [State.FAILED.value]


def _made_or_ended(run: Run, folder: StudyFolder, train: Train, shelf: DataShelf) -> list[str]:
    state = folder.state(run.id)
    return [state.value] if state.ended else _made([run], folder, train, shelf)
