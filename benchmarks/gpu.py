"""Everything that is claimed about one GPU, in one command of a few minutes.

    python -m benchmarks.gpu [--only steps hook trainer stack diagnostics] [--json FILE]
    python -m benchmarks.gpu --small --device cpu    # the same code on tiny networks, to try it

Every ratio is measured in one run, its candidates taking turns; widths m·k², 784 inputs, 10 classes.

- steps: fused steps, plain and captured as a CUDA graph, and SGD by autograd as a graph, over the bare matrix
  products in the same precision: float32, TF32, bf16. Targets: 1.33 at (64, 8, n 4096) and (128, 8, 1024) in
  TF32 and bf16, 1.5 at (64, 8, 1024) in TF32; 1.2 times SGD's graph at (16, 8, 512).
- hook: SGD with the hook over SGD, plain and both captured. Targets: 1.10 at (64, 8, 1024), 1.03 at
  (128, 8, 4096).
- trainer: a step between two rows over a captured step, of a run of a study and of one of the trainer, the
  latter with its row. Target: 1.15.
- stack: 64 runs one by one over the same together. Target: 10.
- diagnostics: one Hessian product, plain and captured, over an eager gradient (target 0.6) and beside a
  compiled jvp(grad) (1), c0..c3, plain and captured (1.2), the top eigenvalue with plain and with captured
  products, the latter over its products (1.3), hessian-eigenthings over ours (5).

The largest network that fits has a command of its own, benchmarks.largest.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.diagnostics import gradient, problem
from benchmarks.harness import Figure, Report, paired
from benchmarks.peers import eigenthings_lanczos, hessian_products, installed
from benchmarks.step_time import LIMIT, LR, Case, bare_products, step_by_hand, synchronize
from scaled_sgd import DepthwiseScaling, HomogeneousMLP, sharpness, taylor_coefficients
from scaled_sgd.config import Config
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.losses import get_loss
from scaled_sgd.data import Data, Resident, load_data
from scaled_sgd.diagnostics import HessianSpace, Minibatch
from scaled_sgd.diagnostics.operators.replayed import allow_graphs
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.captured import CudaGraphs
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.study.small.batched import Together
from scaled_sgd.study.small.session import small_session, stepper_of
from scaled_sgd.train.api import train as train_by_trainer
from scaled_sgd.train.stepper import Stepper

SHAPES = ((16, 8, 512), (64, 8, 1024), (64, 8, 4096), (128, 8, 1024))
OVER_PRODUCTS = {(64, 8, 4096): 1.33, (128, 8, 1024): 1.33, (64, 8, 1024): 1.5}
OVER_SGD = {(16, 8, 512): 1.2}
HOOKED = {(64, 8, 1024): 1.10, (128, 8, 4096): 1.03}
MEASURED = ((32, 7, 256), (64, 6, 64), (64, 8, 256), (128, 8, 256))
TINY = ((2, 4, 8),)
COMPILED = "compiled jvp(grad)"
COMPILING = 200.0
"""Seconds after which no peer is compiled any more, so that the command ends within five minutes."""

Run = Callable[[], object]


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Products in TF32 if ``name`` is tf32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def waiting(run: Run, device: str) -> Run:
    """``run``, waiting for the device."""

    def call() -> None:
        run()
        synchronize(device)

    return call


def captured(run: Run, device: str) -> Run:
    """``run`` as a CUDA graph; on a CPU as it is."""
    if device != "cuda":
        return run
    graphs = CudaGraphs()
    for _ in range(3):
        graphs.warm_up(run)  # type: ignore[arg-type, unused-ignore]
    replay = graphs.capture(run)  # type: ignore[arg-type, unused-ignore]
    # With ``run``, which keeps the tensors that the graph reads.
    return lambda _run=run: replay()  # type: ignore[misc]


def fused(model: HomogeneousMLP, x: Tensor, y: Tensor, *, factors: torch.dtype | None = None) -> Run:
    """A fused step whose rate is on the device, as captured steps need it."""
    lr = torch.full((), LR, dtype=torch.float64, device=x.device)
    scaling = DepthwiseScaling(model).measure_elsewhere()
    loss, partition = get_loss("cross_entropy"), Partition.of(model, factors=factors)
    return lambda: take_step(partition, x, y, loss=loss, direct=scaling.direction, update=Update(lr))


def sgd(case: Case, *, hook: bool = False) -> Run:
    """A step of torch.optim.SGD by autograd."""
    model, (x, y) = case.network(), case.minibatch()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, foreach=True)
    if hook:
        DepthwiseScaling(model, optimizer)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            f = model(x)
        F.cross_entropy(f.float(), y).backward()
        optimizer.step()

    return step


def steps(report: Report, shapes: Sequence[tuple[int, int, int]], device: str, rounds: int) -> None:
    """Steps over bare products."""
    for shape in shapes:
        for name in ("no", "tf32", "bf16"):
            case = Case(shape[0], 2.0, shape[1], shape[2], device, name)
            with precision(name):
                model, (x, y) = case.network(), case.minibatch()
                bare, step = (
                    bare_products(case, wait=False),
                    fused(case.network(), *case.minibatch(), factors=case.factors),
                )
                candidates = {
                    LIMIT: waiting(bare, device),
                    "bare products, captured": waiting(captured(bare, device), device),
                    "fused, plain": waiting(step_by_hand(model, x, y, factors=case.factors), device),
                    "fused, captured": waiting(captured(step, device), device),
                    "SGD, plain": waiting(sgd(case), device),
                    "SGD, captured": waiting(captured(sgd(case), device), device),
                }
                found = paired(candidates, unit=LIMIT, rounds=rounds)
            if shape in OVER_PRODUCTS and (name == "tf32" or (name == "bf16" and shape != (64, 8, 1024))):
                found["fused, captured"] = replace(found["fused, captured"], most=OVER_PRODUCTS[shape])
            ratio = found["fused, captured"].value / found["SGD, captured"].value
            found["fused over SGD, captured"] = Figure(ratio, most=OVER_SGD.get(shape))
            report.add(asdict(case), found)


def hook(report: Report, shapes: Sequence[tuple[int, int, int]], device: str, rounds: int) -> None:
    """The hook's cost over SGD."""
    for shape in shapes:
        case = Case(shape[0], 2.0, shape[1], shape[2], device, "no")
        candidates = {
            "SGD": waiting(sgd(case), device),
            "SGD + hook": waiting(sgd(case, hook=True), device),
            "SGD, captured": waiting(captured(sgd(case), device), device),
            "SGD + hook, captured": waiting(captured(sgd(case, hook=True), device), device),
        }
        found = paired(candidates, unit="SGD", rounds=rounds)
        found["SGD + hook"] = replace(found["SGD + hook"], most=HOOKED.get(shape))
        ratio = found["SGD + hook, captured"].value / found["SGD, captured"].value
        found["hook, both captured"] = Figure(ratio, most=HOOKED.get(shape))
        report.add(asdict(case), found)


def config_of(shape: tuple[int, int, int], device: str, count: int, **options: object) -> list[str]:
    """Options of a run on the embedded digits."""
    width, depth, n = shape
    keys = {
        "model.base_width": width,
        "model.depth": depth,
        "model.activation": "abs",
        "scaling.rule": "norm",
        "optim.batch_size": n,
        "optim.steps": count,
        "run.log_every": count,
        "run.eval_every": 0,
        "run.device": device,
    }
    return [f"--{key}={value}" for key, value in {**keys, **options}.items()]


def seconds_of_steps(stepper: Stepper, sessions: Sequence[object], count: int, device: str) -> float:
    """Seconds of ``count`` steps after a warm-up, minibatches included."""
    first = sessions[0]
    number, start = 0, 0.0
    while number < count + 4:
        for batch in first.samples.minibatches(Ranks.alone()):  # type: ignore[attr-defined]
            if number == 4:
                synchronize(device)
                start = time.perf_counter()
            if number == count + 4:
                break
            stepper.take(number, [batch] * len(sessions), measure=False)
            number += 1
    synchronize(device)
    return time.perf_counter() - start


def trainer(report: Report, shapes: Sequence[tuple[int, int, int]], device: str, count: int) -> None:
    """Steps of a session, with its minibatches, over one captured step."""
    for shape in shapes:
        seconds = {}
        for graphs in ("auto", "no"):
            config = parse(config_of(shape, device, count, **{"run.cuda_graphs": graphs}))
            data, rows = _digits(config, 16)
            session = small_session(config, data)
            stepper = stepper_of(session)
            seconds[graphs] = seconds_of_steps(stepper, [session], count, device) / count
            stepper.end()
        x, y = (t[: shape[2]].to(device) for t in (rows.x, rows.y))
        model = HomogeneousMLP(
            x.shape[1],
            10,
            depth=shape[1],
            base_width=shape[0],
            activation="abs",
            seed=0,
            device=device,
        )
        bare = waiting(captured(fused(model, x, y), device), device)
        alone = paired({"captured": bare}, unit="captured")["captured"].seconds
        assert alone is not None
        whole = seconds_of_a_run(shape, device, count)
        report.add(
            {"shape": shape},
            {
                "trainer step over a captured one": Figure(
                    seconds["auto"] / alone, seconds["auto"], most=1.15
                ),
                "with run.cuda_graphs no": Figure(seconds["no"] / alone, seconds["no"]),
                "the same of the trainer": Figure(whole / alone, whole, most=1.15),
            },
        )


def seconds_of_a_run(shape: tuple[int, int, int], device: str, count: int) -> float:
    """Seconds of a step of the trainer, between two rows that are captured by then."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"run.dir": folder, "run.name": "run", "optim.steps": 4 * count + 1}
        config = parse(config_of(shape, device, count, **options))
        # A fifth of them is held out.
        _, data = _digits(config, 20)
        train_by_trainer(config, data=(data.x.numpy(), data.y.numpy()))
        rows = read_metrics(Path(folder) / "run" / "metrics.jsonl")
        at = {row["step"]: row["seconds"] for row in rows}
        return float(at[4 * count] - at[3 * count]) / count


def stack(report: Report, shape: tuple[int, int, int], device: str, runs: int, count: int) -> None:
    """Runs one by one over the same runs together."""
    configs = [
        parse(config_of(shape, device, count + 8, **{"optim.lr": 0.1 * (row + 1)})) for row in range(runs)
    ]
    data, _ = _digits(configs[0], 16)
    alone = small_session(configs[0], data)
    stepper: Stepper = stepper_of(alone)
    one = seconds_of_steps(stepper, [alone], count, device)
    stepper.end()
    sessions = [small_session(config, data) for config in configs]
    stepper = Together(sessions)
    together = seconds_of_steps(stepper, sessions, count, device)
    stepper.end()
    ratio = runs * one / together
    report.add({"shape": shape, "runs": runs}, {"one by one over together": Figure(ratio, least=10)})


def _digits(config: Config, minibatches: int) -> tuple[Data, Resident]:
    """Digits, repeated to some minibatches an epoch, so that none is smaller than the others."""
    data = load_data(config.data, seed=0)
    assert isinstance(data.train, Resident)
    assert config.optim.batch_size is not None
    again = torch.arange(minibatches * config.optim.batch_size) % len(data.train)
    train = Resident(data.train.x[again], data.train.y[again])
    return replace(data, train=train), train


def diagnostics(
    report: Report, shapes: Sequence[tuple[int, int, int]], device: str, rounds: int, *, until: float
) -> None:
    """Hessian products, c0..c3 and the top eigenvalue in gradients; nothing compiles after ``until``."""
    for shape in shapes:
        compiles = device == "cuda" and time.monotonic() < until
        report.add({"shape": shape}, diagnostics_of(shape, device, rounds, compiles=compiles))


def diagnostics_of(
    shape: tuple[int, int, int], device: str, rounds: int, *, compiles: bool
) -> dict[str, Figure]:
    """Those of one network."""
    model, x, y = problem(*shape)
    model, x, y = model.to(device), x.to(device), y.to(device)
    space = HessianSpace(Minibatch(model, x, y, loss="cross_entropy"))
    dual, out = space.dual(space.start(0)), torch.empty(space.size, device=device)
    other = torch.empty(space.size, device=device)
    top = partial(sharpness, model, x, y, loss="cross_entropy")
    products = top().iterations

    def plain_top() -> None:
        with allow_graphs(False):
            top()

    def product() -> Tensor:
        return space.dual(space.multiply(dual, out), other)

    taylor = partial(taylor_coefficients, model, x, y, loss="cross_entropy")
    candidates: dict[str, Run] = {
        "gradient": waiting(partial(gradient, model, x, y), device),
        "one product, plain": waiting(product, device),
        "one product": waiting(captured(product, device), device),
        "c0..c3": waiting(taylor, device),
        "c0..c3, captured": waiting(captured(taylor, device), device),
        "top eigenvalue, plain products": waiting(plain_top, device),
        "top eigenvalue": waiting(top, device),
    }
    if compiles:
        candidates |= compiled_jvp(model, x, y, device)
    theirs = "hessian-eigenthings: top eigenvalue"
    if installed("hessian_eigenthings"):
        candidates[theirs] = waiting(eigenthings_lanczos(model, x, y, tolerance=1e-3)[0], device)
    found = paired(candidates, unit="gradient", rounds=rounds)
    ratio = found["top eigenvalue"].value / (products * found["one product"].value)
    found |= {
        "one product": replace(found["one product"], most=0.6),
        "c0..c3": replace(found["c0..c3"], most=1.2),
        "c0..c3, captured": replace(found["c0..c3, captured"], most=1.2),
        "top eigenvalue over its products": Figure(ratio, most=1.3),
    }
    if COMPILED in found:
        ahead = found[COMPILED].value / found["one product"].value
        found["ahead: compiled jvp(grad)"] = Figure(ahead, least=1)
    if theirs in found:
        found["ahead: top eigenvalue"] = Figure(found[theirs].value / found["top eigenvalue"].value, least=5)
    return found


def compiled_jvp(model: nn.Module, x: Tensor, y: Tensor, device: str) -> dict[str, Run]:
    """The peer jvp(grad), compiled; nothing where it does not compile."""
    product = torch.compile(hessian_products(model, x, y)["jvp(grad)"])
    try:
        product()
    except Exception as error:
        print(
            f"skipped: jvp(grad) does not compile: {(str(error).splitlines() or [type(error).__name__])[0]}"
        )
        return {}
    return {COMPILED: waiting(product, device)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; write JSON if asked."""
    parts = ("steps", "hook", "trainer", "stack", "diagnostics")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks, few rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: there is no CUDA device; allowed here: cpu, with --small")
    started, device, rounds = time.monotonic(), options.device, 3 if options.small else options.rounds
    count = 8 if options.small else 100
    report = Report("gpu", "bare products, SGD, a captured step or a gradient")
    small = options.small
    if "steps" in options.only:
        steps(report, TINY if small else SHAPES, device, rounds)
    if "hook" in options.only:
        hook(report, TINY if small else tuple(HOOKED), device, rounds)
    if "trainer" in options.only:
        trainer(report, TINY if small else ((16, 8, 512), (64, 8, 1024)), device, count)
    if "stack" in options.only:
        stack(report, TINY[0] if small else (16, 6, 256), device, 4 if small else 64, count)
    if "diagnostics" in options.only:
        diagnostics(report, TINY if small else MEASURED, device, rounds, until=started + COMPILING)
    report.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
