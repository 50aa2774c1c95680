"""Fused steps with the rules unit and spectral over the fused step with norm, and beside torch.optim.Muon.

    python -m benchmarks.directions [--shapes 64,8,256 128,8,256 …] [--muon 64,8,256 64,8,64] [--json FILE]

One thread, float32, CPU time, on networks of base width m, depth l and quadratic widths, with 784 inputs and
10 outputs, and minibatches of n; a shape is m,l,n. Rules take turns in every round; a ratio is the median
over rounds. Muon orthogonalises the gradients of hidden layers, in bfloat16 or, the fairest peer on CPUs
without such products, in float32; AdamW steps the first and the last layer. Its figure is the time of a step
over that of ``spectral``, or a lower bound where the step did not end within --muon-seconds of CPU time.
Targets at the first three shapes: 1.20, 1.10 and 1.05; Muon 15 and 80 times slower at the first and third.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F

from benchmarks.harness import Figure, Report, paired
from scaled_sgd import HomogeneousMLP
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.muon import Muon
from scaled_sgd.steps.polynomials import Polar
from scaled_sgd.steps.rules import RULES, Rule
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update

Shape = tuple[int, int, int]

LR = 1e-6
DEFAULT: tuple[Shape, ...] = ((64, 8, 256), (128, 8, 256), (64, 8, 64), (32, 6, 256), (64, 8, 1024))
MOST = {(64, 8, 256): 1.20, (128, 8, 256): 1.10, (64, 8, 64): 1.05}
MUON = {(64, 8, 256): 15.0, (64, 8, 64): 80.0}


def network(shape: Shape) -> HomogeneousMLP:
    width, depth, _ = shape
    return HomogeneousMLP(784, 10, depth=depth, base_width=width, activation="abs", seed=0)


def minibatch(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(shape[2], 784)
    return x * 28 / x.norm(dim=1, keepdim=True), torch.randint(10, (shape[2],))


def rules(settings: Sequence[Polar]) -> dict[str, Rule]:
    """The rules that are compared."""
    found = {name: RULES[name] for name in ("norm", "unit", "spectral")}
    for polar in settings:
        name = f"spectral, {polar.iterations} {polar.polynomials}"
        found[name] = RULES["spectral"].with_settings(polar)
    return found


def candidates(shape: Shape, settings: Sequence[Polar]) -> dict[str, Callable[[], object]]:
    """One step of each rule, all on one network."""
    partition, (x, y) = Partition.of(network(shape)), minibatch(shape)

    def step(rule: Rule) -> Callable[[], object]:
        return lambda: take_step(
            partition, x, y, loss=get_loss("cross_entropy"), direct=rule, update=Update(LR)
        )

    return {name: step(rule) for name, rule in rules(settings).items()}


def take_muon_step(shape: Shape, ns_dtype: str, limit: int, found: Connection) -> None:
    """Send the CPU seconds of a step by autograd with Muon and AdamW; ends the process after ``limit``."""
    torch.set_num_threads(1)
    model, (x, y) = network(shape), minibatch(shape)
    optimizer = Muon(model, LR, ns_dtype=ns_dtype)
    start = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + limit, int(start) + limit + 1))
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    found.send(time.process_time() - start)


def muon(shape: Shape, ns_dtype: str, limit: int, own: float) -> Figure:
    """A step with Muon over one of ``own`` seconds, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=take_muon_step, args=(shape, ns_dtype, limit, sender))
    child.start()
    sender.close()
    child.join()
    least = MUON.get(shape)
    if child.exitcode == 0:
        seconds = receiver.recv()
        return Figure(seconds / own, seconds, least=least)
    return Figure(limit / own, limit, least=least, bound=True)


def shape_of(text: str) -> Shape:
    width, depth, n = map(int, text.split(","))
    return width, depth, n


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.directions", description=__doc__)
    parser.add_argument("--shapes", type=shape_of, nargs="+", default=DEFAULT, metavar="M,L,N")
    parser.add_argument("--muon", type=shape_of, nargs="*", default=tuple(MUON), metavar="M,L,N")
    parser.add_argument("--polar", nargs="*", default=[], metavar="SCHEDULE:STEPS", help="further settings")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--muon-seconds", type=int, default=60, metavar="Y", help="CPU time of a step at most"
    )
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = [Polar(name, int(steps)) for name, _, steps in (text.partition(":") for text in options.polar)]
    report = Report("directions", "a fused step with norm")
    for shape in options.shapes:
        found = paired(
            candidates(shape, settings), unit="norm", rounds=options.rounds, clock=time.process_time
        )
        found["spectral"] = replace(found["spectral"], most=MOST.get(shape))
        if shape in options.muon:
            own = found["spectral"].seconds
            assert own is not None
            for dtype in ("float32", "bfloat16"):
                found[f"Muon in {dtype} over spectral"] = muon(shape, dtype, options.muon_seconds, own)
        report.add(dict(zip(("base width", "depth", "n"), shape, strict=True)), found)
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
