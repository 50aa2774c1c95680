"""The largest quadratic network that trains on one device, found by the planner, then trained and measured.

    python -m benchmarks.largest [--device cuda] [--memory 12GB] [--depth 17] [--batch 256] [--json FILE]

Finds the largest base width whose fused float32 step, and whose sharpness in factor space, are predicted to
fit; then, each in its own turn with its own peak: initialises the weights from the seed, trains for some
steps, measures c0..c3 and the sharpness on ``--samples`` rows. A fused step holds no gradient and factor
space no vector of the weights' size; peers that do are measured on a small network of the same depth, in
bytes per weight, from which the largest that would fit follows. On a CPU the peak is the growth of the
resident size over that of a process that has trained a tiny network.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from benchmarks.harness import machine, write_json
from benchmarks.measuring import ENVIRONMENT, IN_FEATURES, OUT_FEATURES
from benchmarks.peers import criterion, eigenthings_operator, installed
from benchmarks.step_time import peak_bytes, step_by_hand, synchronize
from scaled_sgd import HomogeneousMLP, sharpness, taylor_coefficients
from scaled_sgd.core.activations import Activation
from scaled_sgd.core.parameterization import width_pattern
from scaled_sgd.parallel.machine import host_memory
from scaled_sgd.planning import Workload, nominal, predict
from scaled_sgd.planning.units import SIZES, parse, size

ACTIVATION = "abs"

KRYLOV = 4
"""Basis vectors of Lanczos, the fewest that find one eigenpair."""

PRODUCTS = 3
"""Vectors in factor space that a product needs beside the basis."""


@dataclass(frozen=True)
class Case:
    """A network and what is done with it.

    Attributes:
        base_width: m.
        depth: l.
        batch: samples of a step.
        samples: samples of the sharpness and of c0..c3.
        device: ``cpu`` or ``cuda``.
        steps: number of steps.
    """

    base_width: int
    depth: int
    batch: int
    samples: int
    device: str
    steps: int

    @property
    def widths(self) -> tuple[int, ...]:
        """(m_0, …, m_l)."""
        return width_pattern(
            IN_FEATURES, OUT_FEATURES, depth=self.depth, base_width=self.base_width, exponent=2.0
        )

    @property
    def weights(self) -> int:
        """Σ_k m_k m_{k−1}."""
        return self._work.weights

    @property
    def step_bytes(self) -> float:
        """Predicted peak of a step."""
        return predict("ddp", self._work, nominal(self.device), fused=True).peak_bytes

    @property
    def _work(self) -> Workload:
        return Workload(self.widths, self.batch, activation=Activation.of(ACTIVATION))

    @property
    def sharpness_bytes(self) -> float:
        """Weights, signals and vectors in factor space: n (m_k + m_{k−1}) numbers a layer each."""
        width = sum(self.widths)
        vectors = (KRYLOV + PRODUCTS) * 2 * width
        return 4.0 * (self.weights + self.samples * (3 * width + vectors))

    @property
    def peak_bytes(self) -> float:
        """Predicted peak of all that is done."""
        return max(self.step_bytes, self.sharpness_bytes)

    def network(self) -> HomogeneousMLP:
        """The network at step 0."""
        return HomogeneousMLP(
            IN_FEATURES,
            OUT_FEATURES,
            depth=self.depth,
            base_width=self.base_width,
            activation=ACTIVATION,
            seed=0,
            device=self.device,
        )

    def minibatch(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ten noisy classes, ‖x‖ = √m_0."""
        generator = torch.Generator().manual_seed(n)
        y = torch.randint(OUT_FEATURES, (n,), generator=generator)
        means = torch.randn(OUT_FEATURES, IN_FEATURES, generator=torch.Generator().manual_seed(0))
        x = means[y] + torch.randn(n, IN_FEATURES, generator=generator)
        x *= IN_FEATURES**0.5 / x.norm(dim=1, keepdim=True)
        return x.to(self.device), y.to(self.device)


def largest(case: Case, memory: float) -> Case:
    """``case`` at the largest base width that is predicted to fit.

    Raises:
        SystemExit: not even base width 1 fits.
    """
    few, many = 0, 1
    while replace(case, base_width=many).peak_bytes <= memory:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        fits = replace(case, base_width=middle).peak_bytes <= memory
        few, many = (middle, many) if fits else (few, middle)
    if not few:
        raise SystemExit(f"--memory: {size(memory)} is too little; allowed: more, or a smaller --batch")
    return replace(case, base_width=few)


class Peak:
    """The peak of memory on a device since the last reset, over ``floor`` bytes."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._floor = 0
        self.reset()
        self._floor = self.read()

    def reset(self) -> None:
        """Start again from what is held now."""
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes."""
        held = torch.cuda.max_memory_allocated() if self._device == "cuda" else peak_bytes()
        return held - self._floor


def in_turn(case: Case, floor: Callable[[], Peak], say: Callable[[str], None]) -> dict[str, Any]:
    """Initialise, train, c0..c3, sharpness: seconds and peak bytes of each."""
    found: dict[str, Any] = {}
    peak = floor()

    def timed(name: str, action: Callable[[], Any]) -> Any:
        peak.reset()
        start = time.perf_counter()
        result = action()
        synchronize(case.device)
        found[name] = {"seconds": time.perf_counter() - start, "peak": peak.read()}
        say(f"{name}: {found[name]['seconds']:.1f} s, peak {size(found[name]['peak'])}")
        return result

    model = timed("initialise", case.network)
    x, y = case.minibatch(case.batch)
    step = step_by_hand(model, x, y, lr=1.0)
    losses = timed(f"{case.steps} steps", lambda: [step().loss for _ in range(case.steps)])
    found["losses"] = [float(losses[0]) / case.batch, float(losses[-1]) / case.batch]
    x, y = case.minibatch(case.samples)
    terms = timed("c0..c3", lambda: taylor_coefficients(model, x, y, loss="cross_entropy", scales="norm"))
    found["taylor"] = [float(c) for c in (terms.c0, terms.c1, terms.c2, terms.c3)]
    top = timed(
        "sharpness",
        lambda: sharpness(
            model, x, y, loss="cross_entropy", scales="norm", space="factor", basis=KRYLOV, tolerance=1e-2
        ),
    )
    found["sharpness"] |= {"value": float(top.values[0]), "products": top.iterations}
    return found


def peer(name: str, case: Case, floor: Callable[[], Peak]) -> float:
    """Peak bytes per weight of another method."""
    peak = floor()
    model = case.network()
    x, y = case.minibatch(case.batch if name in ("AdamW", "SGD") else case.samples)
    if name in ("AdamW", "SGD"):
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    else:
        from hessian_eigenthings import lanczos

        lanczos(eigenthings_operator(model, x, y), k=1, max_iter=8, which="LA", tol=1e-9, seed=0)
    synchronize(case.device)
    return peak.read() / case.weights


def warmed(case: Case) -> Peak:
    """The peak over what the libraries need: after a tiny network has done all of it."""
    tiny = replace(case, base_width=1, depth=3, batch=2, samples=2, steps=1)
    in_turn(tiny, lambda: Peak(case.device), lambda _: None)
    return Peak(case.device)


def _work(_rank: int, name: str, case: Case, threads: int, queue: "mp.SimpleQueue[Any]") -> None:
    torch.set_num_threads(threads)
    floor = partial(warmed, case)
    if name == "ours":
        queue.put(in_turn(case, floor, lambda line: print(f"  {line}", flush=True)))
    else:
        queue.put(peer(name, case, floor))


def in_own_process(name: str, case: Case, threads: int) -> Any:
    """The result of a method in a fresh process, whose memory is its own."""
    queue: mp.SimpleQueue[Any] = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_work, (name, case, threads, queue), nprocs=1, join=True)
    return queue.get()


def main(arguments: Sequence[str] | None = None) -> int:
    """Find, train and measure; write JSON if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.largest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", help="such as 12GB; by default 0.95 of a GPU, half of a machine")
    parser.add_argument("--depth", type=int, default=17)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    os.environ |= {key: value for key, value in ENVIRONMENT.items() if key.startswith("MALLOC")}
    if options.memory is not None:
        memory = parse("--memory", options.memory, SIZES)
    elif options.device == "cuda":
        memory = 0.95 * torch.cuda.get_device_properties(0).total_memory
    else:
        memory = host_memory() / 2
    start = Case(1, options.depth, options.batch, options.samples, options.device, options.steps)
    case = largest(start, memory)
    print(
        f"{case.weights:,} weights: base width {case.base_width}, depth {case.depth}, batch {case.batch}; "
        f"predicted peak {size(case.step_bytes)} of a step, {size(case.sharpness_bytes)} of the sharpness, "
        f"of {size(memory)}"
    )
    found = in_own_process("ours", case, options.threads)
    first, last = found["losses"]
    top = found["sharpness"]
    print(f"loss {first:.3f} to {last:.3f}; sharpness {top['value']:.3g} in {top['products']} products")
    measured = found[f"{case.steps} steps"]["peak"]
    print(f"peak of steps over predicted: {measured / case.step_bytes:.3f}")
    per_weight = {"ours": case.peak_bytes / case.weights}
    small = largest(case, memory / 16)
    for name in () if options.no_peers else ("SGD", "AdamW", "hessian-eigenthings"):
        if name != "hessian-eigenthings" or installed("hessian_eigenthings"):
            per_weight[name] = in_own_process(name, small, options.threads)
    for name, count in per_weight.items():
        print(f"{name:<20} {count:6.2f} bytes a weight, at most {int(memory / count):,} weights")
    record = {
        "machine": machine(),
        "memory": memory,
        "case": asdict(case),
        "weights": case.weights,
        "predicted": {"step": case.step_bytes, "sharpness": case.sharpness_bytes},
        "measured": found,
        "bytes_per_weight": per_weight,
        "peers_at": small.weights,
    }
    write_json(options.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
