"""Runs of one shape as one stacked computation."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaled_sgd.config import Config, as_dict, flat
from scaled_sgd.data import Data, load_data
from scaled_sgd.study.engine import Steps, refuse_unsuited
from scaled_sgd.study.grid.identity import WITHOUT_EFFECT
from scaled_sgd.study.record import Record
from scaled_sgd.study.run import Cut, Run, find_device
from scaled_sgd.study.stack import NEVER, Stack

_VARIED = (
    "model.parameterization", "optim.lr", "optim.schedule", "optim.warmup_steps", "optim.momentum",
    "optim.weight_decay", "optim.clip_norm", "optim.normalize", "optim.accumulation", "scaling.", "run.seed",
)  # fmt: skip
"""Keys that may differ within a stack."""

_TIMED = 16
"""Most runs, and steps, of a trial."""


def same_shape(config: Config) -> str:
    """The same for runs that :func:`train_batch` can train together."""
    plain = flat(as_dict(config))
    kept = {k: v for k, v in plain.items() if not k.startswith((*WITHOUT_EFFECT, *_VARIED))}
    kept |= {"run.device": config.run.device, "momentum": config.optim.momentum > 0}
    return json.dumps(kept, sort_keys=True)


def train_batch(
    configs: Sequence[Config], data: Sequence[Data], folders: Sequence[Path]
) -> list[dict[str, Any]]:
    """As :func:`~.engine.train_small` for each, with the same numbers but for rounding; the summaries.

    The networks are stacked: batched products, ξ a network, one pass over the data for all runs of one seed.
    Runs that diverge leave the stack when the next row is due. ``seconds`` are each
    run's share of those of the stack.

    Args:
        configs: of one shape (:func:`same_shape`).
        data: of each; runs of one seed and one object take the same minibatches.
        folders: of each.

    Raises:
        UserError: as train_small.
        ValueError: the shapes differ.
    """
    if len({same_shape(config) for config in configs}) > 1:
        raise ValueError("configs: of several shapes; allowed: those that same_shape gives one value")
    for config in configs:
        refuse_unsuited(config)
    runs = [Run(config, own) for config, own in zip(configs, data, strict=True)]
    summaries: dict[int, dict[str, Any]] = {}
    with contextlib.ExitStack() as opened:
        records = [
            opened.enter_context(Record(run, folder, together=len(runs)))
            for run, folder in zip(runs, folders, strict=True)
        ]
        _train(Stack(runs), records, lambda place, summary: summaries.__setitem__(place, summary))
    return [summaries[place] for place in range(len(runs))]


def faster_batched(configs: Sequence[Config], data: Data | None = None) -> bool:
    """Whether the runs of the commonest shape train faster together, by a trial of a few steps of both ways.

    On a CPU the answer is no, without a trial: rounding differs between a stack and a run by itself, and a
    study that was stopped and goes on is to have the tables of one that was not. At depth 6 on one core runs
    were measured to be 3.3 times as fast together at base width 4 and batches of 32, 1.8 times at 8 and 128,
    1.1 times at 16 and 128.
    """
    if not configs or find_device(configs[0]).type == "cpu":
        return False
    shapes: dict[str, list[Config]] = {}
    for config in configs:
        shapes.setdefault(same_shape(config), []).append(config)
    alike = max(shapes.values(), key=len)[:_TIMED]
    data = load_data(alike[0].data, seed=alike[0].run.seed) if data is None else data
    one_by_one = _seconds(_steps_of_one(Run(alike[0], data))) * len(alike)
    return _seconds(_steps_of_stack([Run(config, data) for config in alike])) < one_by_one


def _train(stack: Stack, records: list[Record], ended: Callable[[int, dict[str, Any]], None]) -> None:
    """Train ``stack`` to the end; ``ended`` is told the place and the summary of each run."""
    places = list(range(len(records)))
    depth, first = stack.runs[0].model.depth, stack.runs[0]

    def drop(bad: list[bool], codes: list[float]) -> None:
        """Leave the networks that are ``bad``."""
        for place, is_bad, code in zip(places, bad, codes, strict=True):
            if is_bad:
                ended(place, records[place].diverged(*divmod(int(code), depth + 2)))
        kept = [row for row, is_bad in enumerate(bad) if not is_bad]
        if len(kept) < len(bad):
            places[:] = [places[row] for row in kept]
            stack.keep(kept)

    for step, cuts, rows_of in _cuts(stack.runs):
        logged = step in first.logged
        if logged:
            largest, codes = torch.stack((stack.each.largest, stack.each.first_bad)).tolist()
            drop([not math.isfinite(loss) for loss in largest], codes)
            if not places:
                return
        own = [cuts[rows_of[place]] for place in places]
        rows = [records[place].begin(cut) for place, cut in zip(places, own, strict=True)]
        x, y = together(cuts, [rows_of[place] for place in places])
        taken = stack.take(step, x, y, measure_gradient=logged)
        if step == 0 or logged:
            for run, scales in zip(stack.runs, taken.scales, strict=True):
                run.scaling.record(scales)
        if not logged:
            continue
        assert taken.grad_norm is not None
        found = torch.cat((taken.loss[:, None], taken.grad_norm[:, None], taken.scales), 1).tolist()
        for place, cut, row, (loss, norm, *scales) in zip(places, own, rows, found, strict=True):
            assert row is not None
            records[place].end(row, cut, loss=loss, grad_norm=norm, scales=scales)
    # The last update shows in no step.
    stack.see(torch.stack([run.probe_loss() for run in stack.runs])[:, None], first.steps - 1)
    codes = stack.each.first_bad.tolist()
    drop([code < NEVER for code in codes], codes)
    for place, largest in zip(places, stack.each.largest.tolist(), strict=True):
        ended(place, records[place].finished(largest))


def _cuts(runs: Sequence[Run]) -> Iterator[tuple[int, list[Cut], list[int]]]:
    """Every step's minibatches, one for each data set and seed, and which of them each run takes."""
    sources: list[Run] = []
    rows_of: list[int] = []
    for run in runs:
        alike = [
            row
            for row, source in enumerate(sources)
            if source.data is run.data and source.config.run.seed == run.config.run.seed
        ]
        rows_of.append(alike[0] if alike else len(sources))
        if not alike:
            sources.append(run)
    for step, cuts in enumerate(zip(*(source.cuts() for source in sources), strict=True)):
        yield step, list(cuts), rows_of


def together(cuts: list[Cut], rows: list[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets for a stack: one minibatch where all take the same, else one a network."""
    if len(set(rows)) == 1:
        return cuts[rows[0]].x, cuts[rows[0]].y
    return torch.stack([cuts[row].x for row in rows]), torch.stack([cuts[row].y for row in rows])


def _steps_of_one(run: Run) -> Iterator[None]:
    take = Steps(run)
    for cut in run.cuts():
        yield
        take(cut, measure_gradient=False)


def _steps_of_stack(runs: Sequence[Run]) -> Iterator[None]:
    stack = Stack(runs)
    for step, cuts, rows in _cuts(runs):
        yield
        stack.take(step, *together(cuts, rows), measure_gradient=False)


def _seconds(steps: Iterator[None]) -> float:
    """Of a step, once the first few are over."""
    for _ in zip(range(_TIMED // 4), steps, strict=False):
        pass
    torch.cuda.synchronize()
    start = time.perf_counter()
    taken = sum(1 for _ in zip(range(_TIMED), steps, strict=False))
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / max(taken, 1)
