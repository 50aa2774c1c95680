"""Every strategy on 1, 2 and 4 processes against replicas on one: one loss, scale, update, diagnosis.

``pytest -s`` prints the table: the largest relative difference of any figure, for each strategy, number of
processes and feature.
"""

import importlib.util
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException

from tests.training import Finished, figures, run_all

pytestmark = pytest.mark.slow

BASE = (
    "--scaling.rule=norm",
    "--model.depth=4", "--model.base_width=5", "--optim.lr=1", "--optim.steps=7", "--optim.batch_size=331",
    "--run.log_every=1", "--run.eval_every=6", "--diagnostics.every=6", "--diagnostics.samples=23",
    "--diagnostics.tolerance=1e-2", "--optim.schedule=cosine",
)  # fmt: skip
"""An epoch and two steps, a ragged minibatch among them, diagnosed at the start and at the last step.

Sharpness to the last digit, in every layout, is the claim of tests/diagnostics/test_processes.py.
"""
FEATURES = {
    "plain": ("--optim.update=autograd",),
    "all": (
        "--optim.momentum=0.9", "--optim.clip_norm=0.01", "--optim.accumulation=3",
        "--optim.weight_decay=0.001", "--optim.lr=0.3", "--diagnostics.sharpness=false",
    ),
    "recompute": (
        "--sharding.activation_checkpointing=true", "--loss=mse", "--scaling.rule=gain",
        "--diagnostics.sharpness=false",
    ),
    "fused": (
        "--optim.update=fused", "--optim.momentum=0.9", "--optim.clip_norm=0.01", "--optim.lr=0.3",
        "--optim.weight_decay=0.001", "--diagnostics.sharpness=false",
    ),
    "spectral": (
        "--optim.update=fused", "--scaling.rule=spectral", "--optim.momentum=0.9", "--optim.lr=0.1",
        "--optim.batch_size=40", "--diagnostics.sharpness=false",
    ),
    "smooth": ("--optim.update=fused", "--model.activation=gelu", "--diagnostics.sharpness=false"),
    "centered": (
        "--optim.update=fused", "--model.centered=true", "--model.output_scale=0.5", "--loss=mse",
        "--optim.batch_size=100", "--optim.clip_norm=0.02", "--optim.clip_layers=[2, 4]",
        "--optim.schedule=drift_adjusted", "--optim.edge_every=5",
    ),
    "factored": (
        "--optim.update=fused", "--model.rank=5", "--optim.frobenius_decay=0.01", "--optim.momentum=0.9",
        "--optim.lr=0.3", "--diagnostics.sharpness=false",
    ),
    "bf16": ("--run.precision=bf16", "--model.dtype=float32", "--diagnostics.sharpness=false"),
    "bf16_fused": (
        "--run.precision=bf16", "--model.dtype=float32", "--optim.update=fused",
        "--diagnostics.sharpness=false",
    ),
}  # fmt: skip
FUSED = ("factored",)
"""Features that gradients of autograd do not have."""
NARROW = ("bf16", "bf16_fused")
EXACT = ("ddp", "fsdp2", "tensor", "fsdp2+tensor")
ZERO = ("zero1", "zero2", "zero3") if importlib.util.find_spec("deepspeed") else ()
TOLERANCE = {"float64": 1e-12, "spectral": 1e-10, "float32": 1e-5, "bf16": 3e-2}
"""Relative to the largest number of a figure."""
SAMPLED = ("plain", "fused")
"""Features that are tried on every number of processes without ZeRO, on 4 by the strategies that share none
of the weights and both their rows and columns; all others on 2 by the strategies of one dimension, and by all
on all in ``make full``."""
OF_ZERO = {"zero1": ("plain", "bf16"), "zero2": ("plain", "recompute"), "zero3": ("plain", "all")}
"""Each stage and each feature, on 2 processes."""


CASES = [
    (strategy, processes, feature)
    for strategy in (*EXACT, *ZERO)
    for processes in (1, 2, 4)
    for feature in FEATURES
    if not (
        strategy in ZERO and feature in ("fused", "spectral", "smooth", "centered", "factored", "bf16_fused")
    )
    and not (processes == 4 and feature in ("recompute", "smooth", "bf16", "bf16_fused"))
]
"""ZeRO keeps its weights where only DeepSpeed's own steps reach them; 4 processes have no other arithmetic
than 2, but other shares."""


def sampled(strategy: str, processes: int, feature: str) -> bool:
    if strategy in ZERO:
        return processes == 2 and feature in OF_ZERO[strategy]
    if processes == 4:
        return feature in SAMPLED and strategy in ("ddp", "fsdp2+tensor")
    return feature in SAMPLED or (processes == 2 and strategy != "fsdp2+tensor")


def marked(cases: list[tuple[str, int, str]]) -> list[Any]:
    """As parameters; those outside the sample for ``make full``."""
    return [
        pytest.param(*case, marks=() if sampled(*case) else pytest.mark.full, id="-".join(map(str, case)))
        for case in cases
    ]


def arguments(strategy: str, feature: str) -> tuple[str, ...]:
    dtype = "float64" if strategy in EXACT else "float32"
    features = FEATURES[feature]
    if (strategy, feature) == ("ddp", "fused"):
        features = (*features, "--sharding.exchange=factors")
    return (*BASE, f"--model.dtype={dtype}", *features, f"--sharding.strategy={strategy}")


@cache
def reference(feature: str, dtype: str) -> Finished:
    """Replicas, that is plain training by autograd, on one process."""
    own = (
        ("--sharding.strategy=ddp",)
        if feature in FUSED
        else ("--optim.update=autograd", "--sharding.strategy=ddp")
    )
    (run,) = run_all([(*BASE, f"--model.dtype={dtype}", *FEATURES[feature], *own)], 1)
    return run


@cache
def runs(
    processes: int, strategies: tuple[str, ...], in_sample: bool
) -> dict[tuple[str, str], Finished] | Exception:
    """All features of all these in one set of processes; what failed is not tried once for each of them."""
    cases = [
        (strategy, feature)
        for strategy, count, feature in CASES
        if strategy in strategies and count == processes and sampled(strategy, count, feature) == in_sample
    ]
    try:
        found = run_all([arguments(*case) for case in cases], processes)
    except ProcessException as error:
        return error
    return dict(zip(cases, found, strict=True))


def run_of(processes: int, strategy: str, feature: str) -> Finished:
    found = runs(processes, EXACT if strategy in EXACT else ZERO, sampled(strategy, processes, feature))
    if isinstance(found, Exception):
        raise found
    return found[strategy, feature]


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest number; nan where either has one."""
    assert found.shape == wanted.shape
    if wanted.numel() == 0:
        return 0.0
    return float(
        (found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30)
    )


def differences(found: Finished, wanted: Finished) -> dict[str, float]:
    worst: dict[str, float] = {}
    a, b = figures(found.rows), figures(wanted.rows)
    assert a.keys() == b.keys()
    for (step, name), number in b.items():
        worst[name] = max(worst.get(name, 0.0), difference(a[step, name], number))
    worst["product"] = difference(found.product, wanted.product)
    for kind in ("weights", "momentum"):
        of_layers = zip(getattr(found, kind), getattr(wanted, kind), strict=True)
        worst[kind] = max((difference(W, V) for W, V in of_layers), default=0.0)
    return worst


@pytest.mark.parametrize(("strategy", "processes", "feature"), marked(CASES))
def test_the_answer_does_not_depend_on_strategy_or_processes(strategy, processes, feature):
    found = run_of(processes, strategy, feature)
    precision = "bf16" if feature in NARROW else "float64" if strategy in EXACT else "float32"
    dtype = "float32" if feature in NARROW else precision
    worst = differences(found, reference(feature, dtype))
    if feature in NARROW:
        # Curvature of a network that rounding moved: losses and weights are the claim.
        worst = {name: worst[name] for name in ("loss", "eval_loss", "weights", "scales")}
        exact = reference("plain", "float32")
        rounded, losses = (torch.tensor([row["loss"] for row in run.rows[:-1]]) for run in (found, exact))
        assert difference(rounded, losses) > 1e-6, "nothing was rounded"
    name, largest = max(worst.items(), key=lambda item: item[1])
    print(f"{strategy:12} {processes} processes  {feature:9}  {largest:.1e}  ({name})")
    allowed = TOLERANCE["spectral" if feature == "spectral" else precision]
    assert {name: error for name, error in worst.items() if not error <= allowed} == {}


@pytest.mark.parametrize(
    ("strategy", "processes", "feature"), marked([case for case in CASES if case[2] in ("plain", "bf16")])
)
def test_a_run_starts_from_the_weights_of_its_seed_whatever_its_precision(strategy, processes, feature):
    run = run_of(processes, strategy, feature)
    for W, start in zip(run.start, reference("plain", "float32").start, strict=True):
        assert torch.equal(W.float(), start.float())


@pytest.mark.parametrize(
    ("strategy", "processes", "feature"),
    marked([case for case in CASES if case[0] != "ddp" and case[1] > 1 and case[2] == "plain"]),
)
def test_no_process_holds_more_than_its_share_of_the_masters(strategy, processes, feature):
    run = run_of(processes, strategy, feature)
    total = sum(W.numel() for W in run.weights)
    assert sum(run.held) == total
    # Rows do not divide evenly: at most one row of each layer more.
    rows = sum(W.shape[1] for W in run.weights)
    assert max(run.held) <= total / processes + processes * rows


def test_momentum_is_compared_where_there_is_one():
    assert len(reference("all", "float64").momentum) == 4
    assert all(torch.isfinite(v).all() for v in reference("all", "float64").momentum)
