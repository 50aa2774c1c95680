"""Captured steps of replicas: all processes replay a step with its exchange, or none does."""

import pytest
import torch
import torch.distributed as dist

from scaled_sgd import DepthwiseScaling, HomogeneousMLP
from scaled_sgd.config import OptimConfig
from scaled_sgd.core.losses import get_loss
from scaled_sgd.data import rank_rows
from scaled_sgd.parallel import Ranks
from scaled_sgd.steps.captured import CudaGraphs
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.study.small.session import OneProcess
from scaled_sgd.train.steps import FusedStep
from tests.processes import run_processes, start_processes
from tests.train.test_captured import StandIn

CASES = [
    ("norm", [True] * 4, {"momentum": 0.6, "weight_decay": 0.1}),
    ("gain", [False] * 4, {"clip_norm": 0.3}),
    ("spectral", [True, False, True, False], {"momentum": 0.5}),
]
"""Rule, layers whose factors are exchanged instead of their gradients, options."""

SAMPLES = (9, 9, 9, 8)
"""Of minibatches: the second of two processes has four rows of each."""


class Refuses(StandIn):
    def capture(self, function):
        if dist.get_rank() == 1:
            raise RuntimeError("no memory is left")
        return super().capture(function)


def steps(rule, exchange, options, capture, device="cpu"):
    """Losses, norms and scales of some steps, the weights after them, and what was said."""
    model = HomogeneousMLP(12, 5, depth=4, base_width=4, seed=0, dtype=torch.float64, device=device)
    strategy = OneProcess(model, DepthwiseScaling(model, rule=rule))
    strategy.data, strategy.exchange = Ranks(), exchange
    watch, said = DivergenceWatch(4, torch.device(device)), []
    optim = OptimConfig(update="fused", **options)
    step = FusedStep(strategy, optim, get_loss("cross_entropy"), watch, capture=capture, say=said.append)
    history, generator = [], torch.Generator().manual_seed(0)
    for number in range(20):
        n, measure = SAMPLES[number % 4], number % 5 == 0
        x = torch.randn(n, 12, generator=generator, dtype=torch.float64).to(device)
        y = torch.randint(5, (n,), generator=generator).to(device)
        rows = rank_rows(n, strategy.data.rank, strategy.data.size)
        taken = step(x[rows], y[rows], n, 0.3 - 0.01 * number, measure=measure)
        norm = taken.grad_norm[None] if measure else taken.scales[:0]
        history.append(torch.cat([strategy.data.sum(taken.loss.clone())[None], norm, taken.scales]).cpu())
    step.end()
    return torch.cat(history), [weight.detach().cpu() for weight in model.parameters()], said


def compared(capture, device="cpu"):
    """Plain and captured steps of each case."""
    return [(steps(*case, None, device), steps(*case, capture(), device)) for case in CASES]


def with_stand_ins():
    seen = []

    def stand_in():
        seen.append(StandIn())
        return seen[-1]

    assert Ranks().backend(torch.device("cpu")) == "gloo"
    found, refusing = compared(stand_in), Refuses()
    return found, [one.replays for one in seen], steps(*CASES[0], refusing), refusing.replays


def check(plain, captured):
    torch.testing.assert_close(captured[0], plain[0], rtol=1e-12, atol=1e-12)
    for weight, expected in zip(captured[1], plain[1], strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_captured_replicas_take_the_steps_of_plain_ones():
    reasons = ["another process could not", "no memory is left"]
    for (found, replays, refused, none), reason in zip(
        run_processes(with_stand_ins, 2), reasons, strict=True
    ):
        for plain, captured in found:
            check(plain, captured)
            assert not captured[2]
        # The first two of each kind of step are not replayed: there are 12 and 4 plain steps of 9 and of 8
        # samples, and 3 and 1 that are measured.
        assert replays == [10 + 2 + 1] * len(CASES)
        check(found[0][0], refused)
        assert refused[2] == [f"steps are not captured as CUDA graphs: {reason}"]
        assert none == 0


def on_gpus(rank, folder):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        for plain, captured in compared(CudaGraphs, f"cuda:{rank}"):
            check(plain, captured)
            assert not captured[2]
    finally:
        # Waits for every graph of the group to be freed.
        dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_nccl_exchanges_within_a_graph(tmp_path):
    start_processes(on_gpus, 2, str(tmp_path))
