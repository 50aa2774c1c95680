"""Side-by-side timing: candidates take turns, so that a busy machine slows all of them equally."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

Candidates = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Figure:
    """One number in a table.

    Attributes:
        value: the measurement, usually a ratio.
        seconds: the median time behind it, if it is a ratio of times.
        spread: the least and the largest ratio of all rounds.
        most: upper target.
        least: lower target.
        bound: whether the measurement was stopped, so that ``value`` is a lower bound.
    """

    value: float
    seconds: float | None = None
    most: float | None = None
    least: float | None = None
    bound: bool = False
    spread: tuple[float, float] | None = None

    def __str__(self) -> str:
        words = f"{'≥ ' if self.bound else ''}{self.value:.3f}".rjust(10)
        if self.seconds is not None and self.bound:
            words += f"  stopped after {self.seconds:.0f} s"
        elif self.seconds is not None:
            words += f"  {1e3 * self.seconds:10.2f} ms"
        if self.spread is not None:
            words += f"  ({self.spread[0]:.3g} to {self.spread[1]:.3g})"
        if self.most is not None:
            words += f"  target ≤ {self.most:g}{'' if self.value <= self.most else ', missed'}"
        if self.least is not None:
            words += f"  target ≥ {self.least:g}{'' if self.value >= self.least else ', missed'}"
        return words


@dataclass
class Report:
    """The tables of one benchmark, printed as they are filled.

    Attributes:
        benchmark: its name.
        limit: the reference that its ratios divide by.
    """

    benchmark: str
    limit: str
    tables: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
        """Add one case: its shapes and settings, and its measurements."""
        words = ", ".join(f"{key} {value}" for key, value in case.items())
        print(f"\n{self.benchmark}, over {self.limit}: {words}")
        width = max(map(len, figures), default=0)
        for name, figure in figures.items():
            print(f"  {name:<{width}}{figure}", flush=True)
        rows = {
            name: {k: v for k, v in asdict(f).items() if v is not None and v is not False}
            for name, f in figures.items()
        }
        self.tables.append({"case": dict(case), "figures": rows})

    def write(self, path: str | None) -> None:
        """Write everything as JSON, with facts about the machine; do nothing if ``path`` is None."""
        if path is not None:
            found = {
                "benchmark": self.benchmark,
                "limit": self.limit,
                "machine": machine(),
                "tables": self.tables,
            }
            write_json(path, found)


def machine() -> dict[str, Any]:
    """Facts about the machine and its software."""
    return {
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def write_json(path: str | None, results: Any) -> None:
    """Write the results as JSON; do nothing if ``path`` is None."""
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def paired(
    candidates: Candidates,
    *,
    unit: str,
    rounds: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Figure]:
    """Each candidate's time divided by that of ``unit`` in the same round, the median over rounds.

    Slow drift of the machine's speed cancels within a round; the order alternates, so that position gives no
    advantage.
    """
    names = list(candidates)
    for name in names:
        candidates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            start = clock()
            candidates[name]()
            seconds[name].append(clock() - start)
    figures = {}
    for name, times in seconds.items():
        ratios = [own / other for own, other in zip(times, seconds[unit], strict=True)]
        spread = (min(ratios), max(ratios)) if rounds > 1 else None
        figures[name] = Figure(statistics.median(ratios), statistics.median(times), spread=spread)
    return figures
