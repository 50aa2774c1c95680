"""Diagnostics against automatic differentiation and other libraries; the gradient is the unit of time.

    python -m benchmarks.diagnostics [--threads 1] [--json results.json] [--only cost|warm|memory|processes]

Float32, cross-entropy, two networks. Each ratio is measured in one run, with all candidates taking turns.
"""

import argparse
import resource
import time
from functools import partial

import torch
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.harness import Figure, Report, paired
from benchmarks.peers import criterion, eigenthings_lanczos, hessian_products, installed, nested_reverse
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.diagnostics import (
    HessianSpace,
    Minibatch,
    block_sharpness,
    sharpness,
    taylor_coefficients,
)
from scaled_sgd.diagnostics.operators.curvature import curvature
from scaled_sgd.diagnostics.quantities.batches import gradient_direction
from scaled_sgd.diagnostics.taylor import taylor_of
from scaled_sgd.parallel import Ranks

SHAPES = {
    "784-32..1152-10, n=256": {"base_width": 32, "depth": 7, "samples": 256},
    "784-64..1600-10, n=64": {"base_width": 64, "depth": 6, "samples": 64},
}


def problem(base_width: int, depth: int, samples: int) -> tuple[HomogeneousMLP, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = HomogeneousMLP(784, 10, depth=depth, base_width=base_width, parameterization="ntp", seed=0)
    y = torch.randint(10, (samples,), generator=generator)
    means = torch.randn(10, 784, generator=generator)
    x = means[y] + torch.randn(samples, 784, generator=generator)
    return model, 28 * x / x.norm(dim=1, keepdim=True), y


def gradient(model: HomogeneousMLP, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(criterion(model(x), y), list(model.parameters()))


def train(model: HomogeneousMLP, x: Tensor, y: Tensor, steps: int, lr: float = 0.5) -> None:
    """A little plain SGD, so that the spectrum is one that occurs in training."""
    for _ in range(steps):
        for p, g in zip(model.parameters(), gradient(model, x, y), strict=True):
            p.data.sub_(g, alpha=lr)


def cost(shape: str, repeats: int) -> dict[str, float]:
    """Time in gradients: products, c0..c3, batch sharpness, and top eigenvalues at residual 1e-3."""
    model, x, y = problem(**SHAPES[shape])
    train(model, x, y, 20)
    space = HessianSpace(Minibatch(model, x, y, loss="cross_entropy"))
    dual, out = space.dual(space.start(0)), torch.empty(space.size)
    other = torch.empty(space.size)
    candidates = {
        "gradient": partial(gradient, model, x, y),
        "ours: one product": lambda: space.dual(space.multiply(dual, out), other),
        "ours: c0..c3": lambda: taylor_coefficients(model, x, y, loss="cross_entropy"),
        "ours: top eigenvalue": lambda: sharpness(model, x, y, loss="cross_entropy"),
        "nested reverse: c0..c3": nested_reverse(model, x, y),
    }
    outputs = curvature(Minibatch(model, x, y, loss="cross_entropy"), part="gauss_newton")
    half = outputs.vectors
    dual_G, out_G, other_G = half.dual(outputs.start(0)), torch.empty(half.size), torch.empty(half.size)
    candidates |= {
        "ours: one product of G": lambda: half.dual(outputs.multiply(dual_G, out_G), other_G),
        "ours: batch sharpness of a minibatch": lambda: batch_sharpness(model, x, y),
        "ours: top eigenvalue of G": lambda: sharpness(
            model, x, y, loss="cross_entropy", part="gauss_newton"
        ),
        "ours: top eigenvalue of H − G": lambda: sharpness(model, x, y, loss="cross_entropy", part="feature"),
        "ours: top eigenvalues of all blocks": lambda: block_sharpness(model, x, y, loss="cross_entropy"),
    }
    candidates |= {f"{name}: one product": run for name, run in hessian_products(model, x, y).items()}
    if installed("hessian_eigenthings"):
        run, steps = eigenthings_lanczos(model, x, y, tolerance=1e-3)
        candidates["hessian-eigenthings: top eigenvalue"] = run
        ours = sharpness(model, x, y, loss="cross_entropy").iterations
        print(f"products to residual 1e-3: ours {ours}, theirs {steps}")
    timed = paired(candidates, unit="gradient", rounds=repeats)
    found = {name: figure.value for name, figure in timed.items()}
    products = [v for name, v in found.items() if name.endswith("one product") and "ours" not in name]
    found["product of G / product of H"] = found["ours: one product of G"] / found["ours: one product"]
    found["ahead: one product, of the best"] = min(products) / found["ours: one product"]
    found["ahead: c0..c3"] = found["nested reverse: c0..c3"] / found["ours: c0..c3"]
    if "hessian-eigenthings: top eigenvalue" in found:
        theirs = found["hessian-eigenthings: top eigenvalue"]
        found["ahead: top eigenvalue"] = theirs / found["ours: top eigenvalue"]
    return found


def batch_sharpness(model: HomogeneousMLP, x: Tensor, y: Tensor) -> Tensor:
    """gᵀHg/‖g‖² of one minibatch, signals included."""
    batch = Minibatch(model, x, y, loss="cross_entropy")
    return taylor_of(batch, gradient_direction(batch), order=2).directional_sharpness


TARGETS = {"ours: batch sharpness of a minibatch": 2.2, "product of G / product of H": 0.8}
"""Largest values that are aimed at."""


def warm(shape: str, steps: int = 40, lr: float = 0.5) -> dict[str, float]:
    """Hessian products per call on a fixed probe batch while SGD on other samples moves the weights."""
    model, x, y = problem(**SHAPES[shape])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(1)
    vectors, counts = None, []
    for _ in range(steps):
        found = sharpness(model, x, y, loss="cross_entropy", warm_start=vectors)
        vectors = found.vectors
        counts.append(found.iterations)
        batch = torch.randint(len(x), (len(x),), generator=generator)
        optimizer.zero_grad()
        criterion(model(x[batch]), y[batch]).backward()
        optimizer.step()
    steady = torch.tensor(counts[steps // 4 :], dtype=torch.float64)
    return {
        "first call": counts[0],
        "steady, median": float(steady.median()),
        "steady, most": float(steady.max()),
    }


def memory() -> dict[str, float]:
    """Growth of peak resident memory over the size of the parameters, 100 million parameters, n = 256."""
    model, x, y = problem(base_width=128, depth=9, samples=256)
    parameter_bytes = sum(p.numel() * 4 for p in model.parameters())
    model(x[:2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = sharpness(model, x, y, loss="cross_entropy", max_iterations=8)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "parameters, millions": parameter_bytes / 4e6,
        "extra memory / parameters": (after - before) * 1024 / parameter_bytes,
        "products": found.iterations,
    }


def processes(
    rank: int, world_size: int, shape: str, folder: str, repeats: int, seconds: "mp.SimpleQueue[float]"
) -> None:
    """Seconds per product in this many processes with one thread each."""
    torch.set_num_threads(1)
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
        )
    model, x, y = problem(**SHAPES[shape])
    own = slice(len(x) * rank // world_size, len(x) * (rank + 1) // world_size)
    operator = curvature(Minibatch(model, x[own], y[own], loss="cross_entropy"))
    space = operator.vectors
    dual, out, other = space.dual(operator.start(0)), torch.empty(space.size), torch.empty(space.size)
    times = []
    for _ in range(repeats):
        Ranks().sum(torch.zeros(1))
        start = time.perf_counter()
        space.dual(operator.multiply(dual, out), other)
        times.append(time.perf_counter() - start)
    if rank == 0:
        seconds.put(sorted(times)[len(times) // 2])
    if world_size > 1:
        torch.distributed.destroy_process_group()


def speed_up(shape: str, repeats: int) -> dict[str, float]:
    """Speed-up from one process to two: one product, one thread each, three rounds."""
    import tempfile

    rounds = []
    for _ in range(3):
        times = []
        for world_size in (1, 2):
            queue = mp.get_context("spawn").SimpleQueue()
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(processes, (world_size, shape, folder, 5 * repeats, queue), nprocs=world_size)
            times.append(queue.get())
        rounds.append(times[0] / times[1])
    return {"one process / two": sorted(rounds)[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=["cost", "warm", "memory", "processes"])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for shape in SHAPES if arguments.only in (None, "cost") else ():
            results[f"{shape}, threads {threads}: times of a gradient"] = cost(shape, arguments.repeats)
    for shape in SHAPES if arguments.only in (None, "warm") else ():
        results[f"{shape}: products of warm starts"] = warm(shape)
    if arguments.only in (None, "memory"):
        results["memory"] = memory()
    for shape in SHAPES if arguments.only in (None, "processes") else ():
        results[f"{shape}: two processes"] = speed_up(shape, arguments.repeats)
    report = Report("diagnostics", "a gradient by autograd, where a figure is one of time")
    for title, rows in results.items():
        report.add(
            {"case": title}, {name: Figure(value, most=TARGETS.get(name)) for name, value in rows.items()}
        )
    report.write(arguments.json)


if __name__ == "__main__":
    main()
