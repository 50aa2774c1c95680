"""The paths of a GPU, on an emulated one: what is captured, what waits, and the numbers of a CPU.

In processes of their own: torch cannot forget a device, nor learn of one after a backward pass.
"""

import gc
import tempfile
import warnings
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD, sharpness, taylor_coefficients
from scaled_sgd.config import OptimConfig
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.products import NARROW
from scaled_sgd.data import batches, load_data
from scaled_sgd.data.batches import Stream
from scaled_sgd.diagnostics import eigenpairs
from scaled_sgd.diagnostics.algorithms.krylov import AHEAD
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.captured import WARM_UP
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.study.small import batched
from scaled_sgd.study.small import session as small
from scaled_sgd.study.small.engine import train
from scaled_sgd.train.stepper import OneNetwork
from scaled_sgd.train.steps import FusedStep
from tests.emulated import NAME, emulated
from tests.processes import start_processes

GPU = f"{NAME}:0"
WIDE = torch.float64


def problem(device, *, depth=3, dtype=WIDE, rank=None):
    options = {"depth": depth, "base_width": 4, "seed": 0, "dtype": dtype, "device": device, "rank": rank}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 12, generator=generator, dtype=WIDE).to(dtype)
    return (
        HomogeneousMLP(12, 5, **options),
        x.to(device),
        torch.randint(5, (20,), generator=generator).to(device),
    )


def same(found, expected, tolerance=1e-12):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=tolerance, atol=tolerance)


def steps(device, rule, options, *, capture=None, factors=None, dtype=WIDE, quiet=True):
    """What steps of full and ragged minibatches find, the weights after them, and what was said."""
    model, x, y = problem(device, dtype=dtype, rank=2 if "frobenius_decay" in options else None)
    strategy = small.OneProcess(model, DepthwiseScaling(model, rule=rule))
    said, found = [], []
    step = FusedStep(
        strategy,
        OptimConfig(update="fused", **options),
        get_loss("cross_entropy"),
        DivergenceWatch(model.depth, torch.device(device)),
        factors=factors,
        capture=capture,
        say=said.append,
    )
    for number in range(10):
        n = 17 if number % 4 == 3 else 20
        waits = [] if capture is None else list(capture.waits)
        taken = step(x[:n], y[:n], n, 0.3 - 0.01 * number, measure=number % 3 == 0)
        assert capture is None or not quiet or capture.waits == waits
        found += [taken.loss.clone(), taken.scales.clone()]
        if number % 3 == 0:
            found += [taken.grad_norm.clone(), taken.soft_ranks.clone()]
    return [t.detach().cpu() for t in (*found, *model.parameters())], said


CASES = [
    ("norm", {"momentum": 0.6, "weight_decay": 0.1}),
    ("gain", {"frobenius_decay": 0.1, "momentum": 0.5}),
    ("unit", {"clip_norm": 0.3, "clip_layers": "last"}),
    ("spectral", {"normalize": True}),
]
EVERY = [
    (rule, options)
    for rule in RULES.names
    for options in (
        {"momentum": 0.6},
        {"weight_decay": 0.1, "clip_norm": 0.3},
        {"normalize": True, "momentum": 0.6, "weight_decay": 0.1},
        {"frobenius_decay": 0.1},
    )
]


def captured_steps_wait_for_nothing_and_have_the_numbers_of_a_cpu(_rank, cases=CASES):
    for rule, options in cases:
        expected, _ = steps("cpu", rule, options)
        with emulated() as device:
            found, said = steps(GPU, rule, options, capture=device)
        assert not said
        # Full minibatches have five steps without measurements and three with.
        assert device.launches.count("graph") == 5 + 3 - 2 * WARM_UP
        same(found, expected, 1e-11)


def captured_steps_in_bfloat16_add_into_float32(_rank):
    with emulated() as device:
        (plain, _), (captured, said) = (
            steps(GPU, "norm", {}, dtype=torch.float32, factors=NARROW, capture=capture)
            for capture in (None, device)
        )
    assert not said
    assert {"mm", "addmm"} <= set(device.narrow)
    torch.testing.assert_close(captured[0], plain[0])
    # Where the rate is a number it is not rounded with a factor.
    assert float(abs(captured[-1] - plain[-1]).max()) < 0.1 * float(plain[-1].abs().max())


def a_step_that_reads_a_number_runs_as_it_is_and_says_why(_rank):
    rule = RULES["norm"]

    def reading(s):
        return rule.function(s) * (float(s.F[0]) > 0)

    RULES._entries["norm"] = replace(rule, function=reading)
    expected, _ = steps("cpu", "norm", {"momentum": 0.5})
    with emulated() as device:
        found, said = steps(GPU, "norm", {"momentum": 0.5}, capture=device, quiet=False)
    (line,) = said
    assert line.endswith("operation not permitted when stream is capturing: aten::_local_scalar_dense")
    same(found, expected)


STUDY = (
    "--scaling.rule=norm", "--optim.lr=4", "--model.depth=4", "--model.base_width=4", "--optim.steps=16",
    "--optim.batch_size=300", "--run.log_every=8", "--model.dtype=float64", "--run.eval_every=0",
)  # fmt: skip


def run(folder, several, device=None):
    configs = [parse([*STUDY, *own]) for own in several]
    data = [load_data(config.data, seed=config.run.seed) for config in configs]
    with pytest.MonkeyPatch.context() as patch:
        if device is not None:
            patch.setattr(small, "find_device", lambda _: torch.device(GPU))
            for module in (small, batched):
                patch.setattr(module, "capture_for", lambda *_: device)
            # As from pinned memory.
            started = lambda t, to, dtype: t.to(to, dtype, non_blocking=True)  # noqa: E731
            patch.setattr(batches, "to_device", started)
        return train(configs, data, [folder / str(place) for place in range(len(configs))])


def check_runs(folder, several, waits):
    """Runs on the device have the summaries of those on a CPU; ``waits`` gets the count before each step."""
    expected = run(folder / "cpu", several)
    with emulated() as device, warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error", UserWarning)
        for stepper in (OneNetwork, batched.Together):
            take = stepper.take

            def counted(self, step, own, *, measure, take=take):
                waits[step] = len(device.waits)
                return take(self, step, own, measure=measure)

            patch.setattr(stepper, "take", counted)
        found = run(folder / "gpu", several, device)
    assert "graph" in device.launches
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["status"] == theirs["status"]
        for name in ("step", "layer", "initial_loss", "max_loss", "train_loss", "eval_loss", "accuracy"):
            number = theirs.get(name)
            assert ours.get(name) == (number if number is None else pytest.approx(number, rel=1e-9))


RUNS = [
    [("--scaling.static=true", "--optim.momentum=0.5")],
    [
        ("--optim.weight_decay=0.1",),
        ("--scaling.rule=none", "--optim.lr=1e200"),
        ("--run.seed=1", "--model.parameterization=ntp", "--optim.normalize=true", "--optim.lr=0.1"),
    ],
    [("--model.rank=2", "--optim.frobenius_decay=0.01", "--optim.lr=1"), ("--model.rank=2", "--optim.lr=2")],
]


def nothing_waits_between_two_rows_of_runs(_rank):
    for several in RUNS:
        waits = {}
        with tempfile.TemporaryDirectory() as folder:
            check_runs(Path(folder), several, waits)
        quiet = [step for step in range(1, 15) if step % 8 and (step + 1) % 8]
        assert all(waits[step] == waits[step + 1] for step in quiet)


def loops_of_the_users_own_are_captured_with_the_hook(_rank):
    def end(where, hooked, rule, kept, capture=None):
        model, x, y = problem(where)
        if hooked:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
            scaling = DepthwiseScaling(model, optimizer, rule=rule)
        else:
            optimizer = ScaledSGD(model, 0.1, momentum=0.5, rule=rule)
            scaling = optimizer.scaling

        def step():
            optimizer.zero_grad(set_to_none=not kept)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        for _ in range(3):
            step()
        take = step if capture is None else capture.capture(step)
        losses = [take().clone() for _ in range(3)]
        return [t.detach().cpu() for t in (*losses, scaling.scales, *model.parameters())]

    for hooked, case in product((True, False), (("norm", True), ("spectral", False))):
        with emulated() as device:
            found = end(GPU, hooked, *case, device)
        same(found, end("cpu", hooked, *case), 1e-10)


def captured_products_find_the_eigenvalue_with_a_wait_for_several(_rank):
    for space in ("dense", "factor"):
        options = {"loss": "cross_entropy", "scales": "norm", "tolerance": 1e-6, "space": space}
        expected = sharpness(*problem("cpu", depth=6), **options)
        with emulated() as device, pytest.MonkeyPatch.context() as patch:
            given = problem(GPU, depth=6)
            patch.setattr(eigenpairs, "capture_of", lambda _, device=device: device)
            device.waits.clear()
            found = sharpness(*given, **options)
        same([found.values], [expected.values], 1e-9)
        assert device.launches.count("graph") >= (1 if space == "dense" else 2) * (found.iterations - 2) > 0
        # Besides: scales, the start, a restart, results.
        assert len(device.waits) <= found.iterations / AHEAD + 14


def terms_of_the_loss_along_a_step_wait_for_nothing(_rank):
    def terms(model, x, y):
        found = taylor_coefficients(model, x, y, loss="cross_entropy", scales="norm")
        return [found.c0, found.c1, found.c2, found.c3]

    expected = terms(*problem("cpu"))
    with emulated() as device:
        given = problem(GPU)
        device.waits.clear()
        found = terms(*given)
        assert not device.waits
        captured = device.capture(lambda: terms(*given))()
        same([*captured, *found], 2 * expected, 1e-10)


def a_bad_number_is_found_in_its_layer_and_no_samples_have_none(_rank):
    """A gate (a + b) z may be infinite where z is not."""
    for activation in ("relu", "abs", "linear", "tanh", "softplus", (0.8, 0.6)):
        found = []
        for device in ("cpu", GPU):
            with emulated() if device == GPU else nullcontext():
                model = HomogeneousMLP(
                    4, 3, depth=3, base_width=4, seed=0, device=device, activation=activation,
                    parameterization="sp",
                )  # fmt: skip
                watch = DivergenceWatch(3, torch.device(device))
                for step, (n, size) in enumerate(((2, 1.0), (0, 1.0), (2, 2e38))):
                    watch.start_step(step)
                    x = torch.full((n, 4), size).to(device)
                    y = torch.zeros(n, dtype=torch.int64).to(device)
                    take_step(
                        Partition.of(model), x, y, loss=get_loss("cross_entropy"), sizes=[2],
                        direct=DepthwiseScaling(model).measure_elsewhere().direction,
                        update=Update(0.0), see=watch.see,
                    )  # fmt: skip
                found.append(watch.found())
        assert found[0] == found[1] is not None


def a_replay_whose_tensors_are_gone_is_an_error(_rank):
    with emulated() as device:
        total = torch.zeros(3).to(GPU)

        def adding(number):
            own = torch.full((3,), number).to(GPU)
            return own, device.capture(lambda: total.add_(own * 2))

        own, replay = adding(1.0)
        replay()
        assert total.cpu().tolist() == [2, 2, 2]
        del own
        gc.collect()
        with pytest.raises(RuntimeError, match="gone"):
            replay()


def a_stream_decodes_ahead_and_gives_the_minibatches_of_a_cpu(_rank):
    tables = [torch.arange(4 * part, 4 * part + 4) for part in range(5)]

    class Table(list):
        def slice(self, start, length):
            return Table(self[start : start + length])

    def decode(rows, first_row):
        numbers = torch.tensor(list(rows))
        return numbers[:, None].float(), numbers + first_row

    stream = Stream(
        lambda seed, size: iter([Table(t.tolist()) for t in tables]),
        decode,
        (torch.zeros(0, 1), torch.zeros(0)),
    )
    cut = {"batch_size": 4, "seed": 0, "epoch": 0, "start": 1}
    expected = [batch.own() for batch in stream.batches(**cut)]
    with emulated():
        found = [batch.own() for batch in stream.to(GPU, torch.float32).batches(**cut)]
        assert all(t.device.type == NAME for pair in found for t in pair)
        same([t for pair in found for t in pair], [t for pair in expected for t in pair])


CLAIMS = [
    captured_steps_wait_for_nothing_and_have_the_numbers_of_a_cpu,
    captured_steps_in_bfloat16_add_into_float32,
    a_step_that_reads_a_number_runs_as_it_is_and_says_why,
    nothing_waits_between_two_rows_of_runs,
    loops_of_the_users_own_are_captured_with_the_hook,
    captured_products_find_the_eigenvalue_with_a_wait_for_several,
    terms_of_the_loss_along_a_step_wait_for_nothing,
    a_bad_number_is_found_in_its_layer_and_no_samples_have_none,
    a_replay_whose_tensors_are_gone_is_an_error,
    a_stream_decodes_ahead_and_gives_the_minibatches_of_a_cpu,
]


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_on_a_gpu(claim):
    start_processes(claim, 1)


@pytest.mark.slow
@pytest.mark.full
def test_every_kind_of_step_is_captured():
    start_processes(captured_steps_wait_for_nothing_and_have_the_numbers_of_a_cpu, 1, EVERY)
