"""The same numbers on a GPU, without waiting for it. Skipped where there is none: ``pytest -m gpu``."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState

from scaled_sgd import (
    DepthwiseScaling,
    HomogeneousMLP,
    ScaledSGD,
    gradient_soft_ranks,
    sharpness,
    taylor_coefficients,
)
from scaled_sgd.config.parsing import parse
from scaled_sgd.core import products
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.products import NARROW
from scaled_sgd.data import load_data
from scaled_sgd.diagnostics.operators.replayed import allow_graphs
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.steps.captured import CudaGraphs, why_failed
from scaled_sgd.steps.divergence import DivergenceWatch, witness
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.study.small.batched import Together, faster_batched
from scaled_sgd.study.small.engine import train
from scaled_sgd.study.small.session import small_session, stepper_of
from scaled_sgd.train.main import main
from scaled_sgd.train.steps import FusedStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def problem(device):
    model = HomogeneousMLP(12, 5, depth=5, base_width=4, seed=0, dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    return model, x.to(device), torch.randint(5, (20,), generator=generator).to(device)


@pytest.mark.parametrize("rule", RULES.names)
def test_steps_on_the_gpu_are_those_on_the_cpu(rule):
    weights = []
    for device in ("cpu", "cuda"):
        model, x, y = problem(device)
        optimizer = ScaledSGD(model, 0.1, rule=rule, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        weights.append([w.detach().cpu() for w in model.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_scaled_step_never_waits_for_the_gpu():
    model, x, y = problem("cuda")
    optimizer = ScaledSGD(model, 0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_fused_step_on_the_gpu_is_that_on_the_cpu():
    weights = []
    for device in ("cpu", "cuda"):
        model, x, y = problem(device)
        scale = DepthwiseScaling(model).measure_elsewhere().direction
        for _ in range(5):
            take_step(
                Partition.of(model), x, y, loss=get_loss("cross_entropy"), direct=scale, update=Update(0.1)
            )
        weights.append([w.detach().cpu() for w in model.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_diagnostics_on_the_gpu_are_those_on_the_cpu():
    found = []
    for device in ("cpu", "cuda"):
        model, x, y = problem(device)
        terms = taylor_coefficients(model, x, y, loss="cross_entropy", scales="norm")
        top = sharpness(model, x, y, loss="cross_entropy", scales="norm", k=2, tolerance=1e-9)
        ranks = gradient_soft_ranks(model, x, y, loss="cross_entropy")
        numbers = [terms.c0, terms.c1, terms.c2, terms.c3, *top.values, *ranks]
        found.append(torch.stack([torch.as_tensor(number).cpu().double() for number in numbers]))
    torch.testing.assert_close(*found, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [
        ("ddp", "no"),
        ("ddp", "tf32"),
        ("ddp", "bf16"),
        ("ddp", "fp16"),
        ("fsdp2", "no"),
        ("fsdp2", "bf16"),
        ("tensor", "bf16"),
    ],
)
def test_a_run_on_the_gpu_learns_digits(strategy, precision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = ["--model.activation=abs", "--model.base_width=16", "--optim.lr=8", "--optim.steps=300"]
    options = [
        "--run.device=cuda",
        f"--run.precision={precision}",
        f"--sharding.strategy={strategy}",
        "--scaling.rule=norm",
        "--diagnostics.every=100",
    ]
    try:
        assert main([*network, *options, "--run.name=gpu"]) == 0
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
    summary = json.loads((tmp_path / "runs/gpu/summary.json").read_text())
    assert summary["device"] == "cuda"
    assert summary["accuracy"] > 0.9


def test_a_run_of_the_cpu_resumes_on_the_gpu(tmp_path, monkeypatch):
    """What is stored are numbers, not devices."""
    monkeypatch.chdir(tmp_path)
    network = [
        "--model.base_width=4",
        "--model.dtype=float64",
        "--optim.steps=20",
        "--checkpoint.every_steps=10",
    ]
    ends = []
    for device, more in (("cpu", []), ("cuda", ["--run.resume=runs/cpu/checkpoints/step-10"])):
        try:
            assert main([*network, f"--run.device={device}", f"--run.name={device}", *more]) == 0
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        ends.append(json.loads((tmp_path / f"runs/{device}/summary.json").read_text())["train_loss"])
    assert ends[1] == pytest.approx(ends[0], rel=1e-9)


STUDY = (
    "--scaling.rule=norm", "--optim.lr=4",
    "--model.depth=4", "--model.base_width=4", "--optim.steps=30", "--optim.batch_size=200",
    "--run.log_every=10", "--model.dtype=float64", "--run.eval_every=0",
)  # fmt: skip


def stacked_configs(device, momentum):
    """A stack has momentum in all of its runs or in none."""
    options = [
        (),
        ("--scaling.rule=gain", "--optim.lr=1"),
        ("--scaling.rule=none", "--optim.lr=1e200"),
        ("--scaling.static=true", "--optim.clip_norm=0.1"),
        ("--run.seed=1", "--model.parameterization=ntp", "--optim.normalize=true", "--optim.lr=0.1"),
    ]
    common = (*STUDY, f"--run.device={device}", f"--optim.momentum={momentum}")
    return [parse([*common, *own]) for own in options]


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_stacked_runs_on_the_gpu_are_those_one_by_one_on_the_cpu(momentum, tmp_path):
    configs = stacked_configs("cuda", momentum)
    data = [load_data(config.data, seed=config.run.seed) for config in configs]
    found = train(configs, data, [tmp_path / f"gpu-{place}" for place in range(len(configs))])
    for place, config in enumerate(stacked_configs("cpu", momentum)):
        (alone,) = train([config], [data[place]], [tmp_path / f"cpu-{place}"])
        assert found[place]["status"] == alone["status"]
        for name in ("step", "layer", "initial_loss", "max_loss", "train_loss", "eval_loss", "accuracy"):
            ours, theirs = found[place].get(name), alone.get(name)
            assert ours == (theirs if theirs is None else pytest.approx(theirs, rel=1e-8))


@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)])
def test_a_stacked_step_never_waits_for_the_gpu(seeds):
    sessions = {}
    for seed in seeds:
        config = parse([*STUDY, "--run.device=cuda", f"--run.seed={seed}", "--optim.clip_norm=0.5"])
        sessions[seed] = small_session(config, load_data(config.data, seed=seed))
    minibatches = {seed: next(one.samples.minibatches(Ranks.alone())) for seed, one in sessions.items()}
    stepper, batches = Together([sessions[seed] for seed in seeds]), [minibatches[seed] for seed in seeds]
    stepper.take(0, batches, measure=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        stepper.take(1, batches, measure=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_small_run_on_the_gpu_is_that_on_the_cpu(tmp_path):
    found = []
    for device in ("cpu", "cuda"):
        config = parse(
            [*STUDY, f"--run.device={device}", "--diagnostics.every=10", "--diagnostics.samples=50"]
        )
        found += train([config], [load_data(config.data, seed=0)], [tmp_path / device])
    for name in ("initial_loss", "max_loss", "train_loss", "eval_loss"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-8)


def test_which_way_is_faster_is_measured():
    configs = [parse([*STUDY, "--run.device=cuda", f"--optim.lr={lr}"]) for lr in range(1, 17)]
    assert isinstance(faster_batched(configs), bool)


@pytest.mark.parametrize(
    "options",
    [
        ("--optim.schedule=linear", "--optim.batch_size=150"),
        ("--scaling.rule=spectral", "--optim.momentum=0.5", "--optim.weight_decay=0.01"),
        ("--scaling.rule=gain", "--optim.clip_norm=0.02"),
        ("--scaling.static=true",),
        ("--optim.normalize=true", "--scaling.rule=none"),
    ],
)
def test_captured_steps_have_the_numbers_of_plain_ones(options, tmp_path):
    ends = []
    for graphs in ("no", "auto"):
        config = parse([*STUDY, "--run.device=cuda", f"--run.cuda_graphs={graphs}", *options])
        ends += train([config], [load_data(config.data, seed=0)], [tmp_path / graphs])
    for name in ("initial_loss", "max_loss", "train_loss", "eval_loss"):
        assert ends[1][name] == pytest.approx(ends[0][name], rel=1e-12)


def test_a_step_can_be_captured():
    """No fallback: every rule that is not exact becomes a graph."""
    for rule in RULES.names:
        config = parse([*STUDY, "--run.device=cuda", f"--scaling.rule={rule}", "--optim.momentum=0.5"])
        session = small_session(config, load_data(config.data, seed=0))
        said = []
        step = FusedStep(
            session.strategy,
            config.optim,
            session.loss,
            DivergenceWatch(session.strategy.network.depth, session.strategy.device),
            capture=CudaGraphs(),
            say=said.append,
        )
        batch = next(session.samples.minibatches(Ranks.alone()))
        for _ in range(4):
            step(*batch.own(), batch.n_global, 0.1, measure=False)
        assert not said


def test_bf16_steps_are_those_of_the_cpu_to_a_rounding_of_factors():
    """On a CPU factors are rounded and multiplied in float32; here tensor cores add into float32."""
    changes = []
    for device in ("cpu", "cuda"):
        model, x, y = problem(device)
        model, x = model.float(), x.float()
        before = [w.detach().clone() for w in model.parameters()]
        scale = DepthwiseScaling(model).measure_elsewhere().direction
        take_step(
            Partition.of(model, factors=NARROW),
            x,
            y,
            loss=get_loss("cross_entropy"),
            direct=scale,
            update=Update(0.1),
        )
        changes.append(
            torch.cat(
                [(w.detach() - v).cpu().flatten() for w, v in zip(model.parameters(), before, strict=True)]
            )
        )
    assert float((changes[0] - changes[1]).norm() / changes[0].norm()) < 5e-3


@pytest.mark.parametrize("ndim", [2, 3])
def test_bf16_products_are_native_for_one_network_and_for_a_stack(ndim):
    assert products._accumulates("cuda", ndim)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn((16,) * ndim, generator=generator).to(NARROW) for _ in range(2))
    start = torch.ones((16,) * ndim)
    found = products.add_product_(start.cuda(), left.cuda(), right.cuda(), beta=0.5, alpha=2.0)
    exact = 0.5 + 2 * left.double() @ right.double()
    torch.testing.assert_close(found.cpu().double(), exact, rtol=1e-5, atol=1e-5)
    product = products.matmul(left.cuda(), right.cuda())
    torch.testing.assert_close(product.cpu().double(), (exact - 0.5) / 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_is_witnessed(bad):
    z = torch.randn(300, 700, device="cuda")
    assert witness(z).isfinite()
    z[123, 456] = bad
    assert not witness(z).isfinite()


def test_a_captured_loop_of_the_users_own_has_the_steps_of_a_plain_one():
    ends = []
    for captured in (False, True):
        model, x, y = problem("cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scaling = DepthwiseScaling(model, optimizer)

        def step(model=model, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        graphs = CudaGraphs()
        for _ in range(3):
            graphs.warm_up(step)
        take = graphs.capture(step) if captured else step
        for _ in range(3):
            take()
        ends.append([scaling.scales.clone(), *(w.detach().clone() for w in model.parameters())])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-14)


def test_captured_products_find_the_eigenvalues_of_plain_ones(recwarn):
    model, x, y = problem("cuda")
    options = {"loss": "cross_entropy", "scales": "norm", "k": 2, "tolerance": 1e-9}
    captured = sharpness(model, x, y, **options)
    with allow_graphs(False):
        plain = sharpness(model, x, y, **options)
    torch.testing.assert_close(captured.values, plain.values, rtol=1e-12, atol=0)
    assert not [warning for warning in recwarn if "not captured" in str(warning.message)]


@pytest.mark.slow
def test_a_network_compiled_into_graphs_has_the_steps_of_a_plain_one():
    ends = []
    for compiled in (False, True):
        model, x, y = problem("cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scaling = DepthwiseScaling(model, optimizer)
        run = torch.compile(model, mode="reduce-overhead") if compiled else model
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(run(x), y).backward()
            optimizer.step()
        ends.append([scaling.scales.clone(), *(w.detach().clone() for w in model.parameters())])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_a_failed_capture_says_its_first_reason_and_leaves_the_stream():
    graphs, here, number = CudaGraphs(), torch.cuda.current_stream(), torch.ones((), device="cuda")
    with pytest.raises(RuntimeError) as failed:
        graphs.capture(lambda: float(number))
    assert "captur" in why_failed(failed.value)
    assert torch.cuda.current_stream() == here
    take = graphs.capture(lambda: number.add_(1))
    take()
    assert float(number) == 2


def test_steps_of_a_run_never_wait_for_the_gpu():
    """Not even where an epoch begins and its permutation is drawn on the host."""
    config = parse([*STUDY, "--run.device=cuda", "--optim.batch_size=300"])
    session = small_session(config, load_data(config.data, seed=0))
    stepper, minibatches = stepper_of(session), session.samples.minibatches(Ranks.alone())
    for step in range(20):
        stepper.take(step, [next(minibatches)], measure=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(20, 30):
            stepper.take(step, [next(minibatches)], measure=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_terms_of_the_loss_along_a_step_can_be_captured():
    model, x, y = problem("cuda")
    terms = partial(taylor_coefficients, model, x, y, loss="cross_entropy", scales="norm")
    plain, graphs = terms(), CudaGraphs()
    graphs.warm_up(terms)
    captured = graphs.capture(terms)()
    for name in ("c0", "c1", "c2", "c3"):
        torch.testing.assert_close(getattr(captured, name), getattr(plain, name), rtol=1e-12, atol=0)
