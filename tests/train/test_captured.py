"""Captured steps: the numbers of plain ones, without reading anything on the host.

A CUDA graph needs a GPU (tests/test_gpu.py). Here a stand-in runs the same function on the same fixed
tensors, and a device without values shows that nothing in a step reads them.
"""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from scaled_sgd import DepthwiseScaling, HomogeneousMLP
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.captured import WARM_UP, CapturedStep, CudaGraphs, _side_stream, why_failed
from scaled_sgd.steps.divergence import DivergenceWatch
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.step import Taken, take_step
from scaled_sgd.steps.update import Update
from scaled_sgd.study.small import batched
from scaled_sgd.study.small.engine import train as train_small
from scaled_sgd.train import trainer
from scaled_sgd.train.capturing import capture_for, why_not
from tests.study.small_runs import left_in, same
from tests.study.test_batched import SEEDS_AND_RULES, WITH_MOMENTUM, changed, data_of
from tests.train.test_steps import numbers, train

pytestmark = pytest.mark.usefixtures("fresh_world")


class StandIn:
    """Runs a captured function instead of replaying a graph; like a graph it gives its results in place."""

    def __init__(self):
        self.captured = self.replays = 0

    def warm_up(self, function):
        return function()

    def capture(self, function):
        self.captured += 1
        results = []

        def replay():
            self.replays += 1
            taken = function()
            if not results:
                results.append(taken)
            kept = results[0]
            for name in ("loss", "scales", "grad_norm", "soft_ranks"):
                if getattr(taken, name) is not None:
                    getattr(kept, name).copy_(getattr(taken, name).clone())
            return kept

        return replay


@pytest.mark.parametrize(
    "options",
    [
        ("--optim.schedule=linear", "--optim.batch_size=300"),
        ("--scaling.static=true", "--optim.momentum=0.8", "--optim.weight_decay=0.01"),
        ("--optim.normalize=true", "--scaling.rule=none", "--optim.weight_decay=0.1"),
        ("--optim.clip_norm=0.02", "--scaling.rule=spectral", "--optim.momentum=0.5"),
    ],
)
def test_a_captured_run_has_the_numbers_of_a_plain_one(options, monkeypatch):
    options = ("--diagnostics.sharpness=false", *options)
    _, plain = train("plain", *options)
    stand_in = StandIn()
    monkeypatch.setattr(trainer, "capture_for", lambda *_: stand_in)
    _, captured = train("captured", *options)
    assert stand_in.replays > WARM_UP
    for row, other in zip(plain, captured, strict=True):
        assert numbers(other) == pytest.approx(numbers(row), rel=1e-12, abs=1e-14, nan_ok=True)


def test_divergence_is_found_at_its_step_and_layer(monkeypatch, capsys):
    options = ("--optim.lr=1e4", "--scaling.rule=none", "--optim.steps=40", "--model.activation=abs")
    options += ("--diagnostics.sharpness=false",)
    found = []
    for name, stand_in in (("plain", None), ("captured", StandIn())):
        monkeypatch.setattr(trainer, "capture_for", lambda *_, stand_in=stand_in: stand_in)
        assert train(name, *options)[0] == 3
        found += [line.replace(name, "") for line in capsys.readouterr().err.splitlines() if "layer" in line]
    assert stand_in.replays
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("rule", RULES.names)
def test_a_step_reads_no_number_on_the_host(rule):
    model = HomogeneousMLP(12, 5, depth=5, base_width=4, seed=0, device="meta")
    velocities = [torch.empty_like(layer.weight) for layer in model.scaled_layers]
    watch = DivergenceWatch(model.depth, torch.device("meta"))
    watch.start_step(3)
    for measure in (False, True):
        taken = take_step(
            Partition.of(model),
            torch.empty(20, 12, device="meta"),
            torch.empty(20, dtype=torch.int64, device="meta"),
            loss=get_loss("cross_entropy"),
            direct=DepthwiseScaling(model, rule=rule).measure_elsewhere().direction,
            update=Update(
                torch.zeros((), dtype=torch.float64, device="meta"),
                momentum=0.9,
                weight_decay=0.1,
                velocity=lambda k: velocities[k - 1],
                clip_norm=1.0,
            ),
            see=watch.see,
            measure=measure,
        )
        assert taken.scales.shape == (5,)


@pytest.mark.parametrize("stacked", [WITH_MOMENTUM, SEEDS_AND_RULES])
def test_stacked_runs_are_captured_again_when_one_leaves(stacked, monkeypatch, tmp_path):
    lost = {**stacked[0], "scaling.rule": "none", "optim.lr": 1e3}
    base = {"model.activation": "abs", "optim.steps": 16, "diagnostics.sharpness": False}
    configs = [changed({**changes, **base}) for changes in (*stacked, lost)]
    data = [data_of(config.run.seed) for config in configs]
    ends = []
    for name, capture in (("plain", None), ("captured", StandIn())):
        monkeypatch.setattr(batched, "capture_for", lambda *_, found=capture: found)
        folders = [tmp_path / name / str(row) for row in range(len(configs))]
        ends.append((train_small(configs, data, folders), folders))
    assert capture.captured >= 2
    for plain, captured in zip(*(folders for _, folders in ends), strict=True):
        for row, other in zip(left_in(plain)[0], left_in(captured)[0], strict=True):
            same(other, row)
    assert [summary["status"] for summary in ends[1][0]] == [summary["status"] for summary in ends[0][0]]
    assert ends[1][0][-1]["status"] == "diverged"


def test_what_cannot_be_captured_runs_as_it_is_and_says_why():
    class Refuses(StandIn):
        def capture(self, function):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    said, taken = [], Taken(torch.tensor(1.0), 1, torch.ones(2))
    step = CapturedStep(lambda x, y, lr, n, measure: taken, Refuses(), said.append)
    x = y = lr = torch.zeros(1)
    assert all(step(x, y, lr, 1, measure=False) is taken for _ in range(5))
    assert said == ["steps are not captured as CUDA graphs: operation not permitted when stream is capturing"]


@pytest.mark.parametrize(
    ("layout", "backend", "reason"),
    [
        ("ddp", "nccl", None),
        ("ddp", "gloo", "collectives of gloo cannot be captured"),
        ("fsdp2", "nccl", "processes share the layers of fsdp2"),
    ],
)
def test_several_processes_capture_what_nccl_exchanges_between_replicas(layout, backend, reason):
    ranks = SimpleNamespace(size=2, backend=lambda device: backend)
    strategy = SimpleNamespace(
        name=layout, device=torch.device("cuda"), data=ranks, tensor=SimpleNamespace(size=1)
    )
    config = changed({"optim.update": "fused"})
    assert why_not(config, strategy) == reason
    assert (capture_for(config, strategy) is None) == (reason is not None)


def test_a_failed_capture_says_its_first_reason_and_leaves_the_stream(monkeypatch):
    """As torch ends it: with an error in its place."""
    streams = ["before"]

    class Graph:
        def capture_begin(self, capture_error_mode):
            assert streams[-1] == "side"

        def capture_end(self):
            assert not gc.isenabled()
            raise RuntimeError("operation failed due to a previous error during capture")

    @contextmanager
    def stream(of):
        streams.append(of)
        try:
            yield
        finally:
            streams.append("before")

    for name, value in {
        "CUDAGraph": Graph,
        "Stream": lambda: "side",
        "stream": stream,
        "current_device": lambda: 0,
        "synchronize": lambda: None,
        "mem_get_info": lambda: (2, 4),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    _side_stream.cache_clear()

    def reads():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(RuntimeError, match="previous error") as failed:
        CudaGraphs().capture(reads)
    _side_stream.cache_clear()
    assert streams == ["before", "side", "before"]
    assert gc.isenabled()
    assert why_failed(failed.value) == "operation not permitted when stream is capturing"
