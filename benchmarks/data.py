"""Samples per second of resident data against a per-example DataLoader, 60,000 × 784 in batches of 256.

    python -m benchmarks.data [--json FILE]

One peer indexes a Hugging Face dataset in torch format, as most training scripts do; the other, tensors.
Medians over alternating rounds. Target: 20 times.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Figure, Report
from scaled_sgd.data import Resident

SAMPLES, FEATURES, BATCH = 60_000, 784, 256


ROUNDS = 5


def rate(batch_sizes: Iterable[int], samples: int) -> float:
    """Thousands of samples per second over the first ``samples``."""
    seen, start = 0, time.perf_counter()
    for size in batch_sizes:
        seen += size
        if seen >= samples:
            break
    return seen / (time.perf_counter() - start) / 1e3


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    x, y = torch.randn(SAMPLES, FEATURES), torch.randint(10, (SAMPLES,))
    part = 6_000
    table = datasets.Dataset.from_dict({"x": x[:part].numpy().astype(np.float32), "y": y[:part].numpy()})
    resident = Resident(x, y)
    data_set = DataLoader(table.with_format("torch"), batch_size=BATCH, shuffle=True)
    tensors = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    rates: dict[str, list[float]] = {}
    for epoch in range(ROUNDS + 1):
        batches = resident.batches(batch_size=BATCH, seed=0, epoch=epoch)
        for name, found in (
            ("resident", rate((len(batch.own()[1]) for batch in batches), SAMPLES)),
            ("DataLoader over a data set", rate((len(batch["y"]) for batch in data_set), part)),
            ("DataLoader over tensors", rate((len(batch[1]) for batch in tensors), SAMPLES)),
        ):
            rates.setdefault(name, []).append(found)
    # The first round warms up.
    figures = {name: Figure(statistics.median(found[1:])) for name, found in rates.items()}
    for name in ("DataLoader over a data set", "DataLoader over tensors"):
        ahead = [ours / theirs for ours, theirs in zip(rates["resident"], rates[name], strict=True)]
        figures[f"ahead of {name}"] = Figure(statistics.median(ahead[1:]), least=20)
    report = Report("data", "thousand samples a second")
    report.add({"samples": SAMPLES, "features": FEATURES, "batch": BATCH}, figures)
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
