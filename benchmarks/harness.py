"""Side-by-side timing: candidates take turns in one run, so that a busy machine slows all of them alike."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], *, repeats: int = 9, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each candidate over ``repeats`` rounds in which every one runs once."""
    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def ratios(seconds: Mapping[str, float], unit: str) -> dict[str, float]:
    """Every time over the time of ``unit``."""
    return {name: value / seconds[unit] for name, value in seconds.items()}


def print_table(title: str, rows: Mapping[str, float], *, decimals: int = 2) -> None:
    """A title and one aligned line a value."""
    print(f"\n{title}")
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value:8.{decimals}f}")


def write_json(path: str | None, results: Any) -> None:
    """Write the results where asked, nothing when ``path`` is None."""
    if path is not None:
        Path(path).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def paired(candidates: Mapping[str, Callable[[], Any]], *, unit: str, rounds: int = 15) -> dict[str, float]:
    """Median over rounds of each candidate's time over that of ``unit`` in the same round.

    Slow changes of the machine's speed cancel within a round; the order alternates, so that none gains
    from its place.
    """
    names = list(candidates)
    for name in names:
        candidates[name]()
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        seconds: dict[str, float] = {}
        for name in names if number % 2 else reversed(names):
            start = time.perf_counter()
            candidates[name]()
            seconds[name] = time.perf_counter() - start
        for name in names:
            found[name].append(seconds[name] / seconds[unit])
    return {name: statistics.median(values) for name, values in found.items()}
