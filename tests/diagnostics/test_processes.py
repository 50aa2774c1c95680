"""Every diagnostic in 2 and 4 processes with unequal local batches, against one process, in float64."""

import math
from collections.abc import Callable
from functools import cache
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from scaled_sgd.config import DiagnosticsConfig, flat
from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import (
    block_sharpness,
    critical_rate,
    gradient_soft_ranks,
    hessian_trace,
    hessian_vector_product,
    hidden_features,
    loss_along,
    noise_stability,
    sharpness,
    spectral_density,
    tangent_kernel,
    taylor_coefficients,
    third_order,
)
from scaled_sgd.diagnostics.directions import direction_norms
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.operators.samples import SampleVectors, choose_vectors
from scaled_sgd.diagnostics.quantities import spectrum
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.diagnostics.taken import AdamState, StepTaken
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.direction import Direction
from scaled_sgd.steps.minibatch import Minibatch
from scaled_sgd.steps.rules import RULES
from tests.oracles import Problem, make_problem
from tests.processes import run_processes

ONE_PROCESS = (9,)
CASES = {
    (6, 3): [
        ("replica", "cross_entropy"),
        ("ddp", "mse"),
        ("fsdp2", "mse"),
        ("columnwise", "cross_entropy"),
        ("rowwise", "mse"),
        ("replicated", "cross_entropy"),
        ("replica", "mse, gelu"),
        ("fsdp2", "cross_entropy, tanh"),
    ],
    (9, 0): [("replica", "mse"), ("fsdp2", "cross_entropy")],
    (4, 0, 3, 2): [("replica", "cross_entropy"), ("fsdp2", "mse"), ("fsdp2", "mse, gelu")],
}
"""Local samples by rank: layouts of the weights with a loss, and an activation if it is smooth."""
FULL = (
    (6, 3, "replica", "cross_entropy"),
    (6, 3, "fsdp2", "mse"),
    (6, 3, "columnwise", "cross_entropy"),
    (6, 3, "replicated", "cross_entropy"),
    (9, 0, "replica", "mse"),
)
"""For ``make full``, as all on four processes: layouts whose other loss or kin are in every run."""


def sampled(sizes: tuple[int, ...], layout: str, loss: str) -> bool:
    return len(sizes) == 2 and (*sizes, layout, loss) not in FULL


ALONE = {"central_flow"}
"""Quantities that are refused on several processes, as tests/diagnostics/test_flows.py says."""
OVER_PROCESSES = [
    name
    for name in QUANTITIES
    if name not in ALONE and str(QUANTITIES[name].make).startswith("scaled_sgd.diagnostics.")
]
MANY_PRODUCTS = ["batch_spectrum", "noise_stability", "generalized_sharpness"]
PARTS = ("hessian", "gauss_newton", "feature")
ALONG_VECTORS = (
    "top_vector_shares",
    "subspace",
    "oscillation",
    "sharpening",
    "stabilization",
    "swing",
    "change",
    "second: log_lambda_min",
)
"""Words in columns that are found along eigenvectors, to the tolerance (eigenvalues to its
square), or far below the largest eigenvalue."""


def problem(case: str) -> Problem:
    loss, _, name = case.partition(", ")
    return make_problem(
        samples=9, inputs=7, outputs=3, depth=3, base_width=6, loss=loss, activation=name or (0.3, 0.8)
    )


def laid_out(model: nn.Module, layout: str) -> nn.Module:
    if layout == "ddp":
        return DistributedDataParallel(model)
    if layout == "replica":
        return model
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if layout == "fsdp2":
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    placement = {"columnwise": Shard(0), "rowwise": Shard(1), "replicated": Replicate()}[layout]
    for layer in model.layers:
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [placement]))
    return model


def whole(t: Tensor) -> Tensor:
    return t.full_tensor() if isinstance(t, DTensor) else t


def diagnose(model: nn.Module, p: Problem, x: Tensor, y: Tensor, vectors: list[Tensor]) -> dict[str, Tensor]:
    loss = p.loss
    t = taylor_coefficients(model, x, y, loss=loss, scales="norm")
    chunked = taylor_coefficients(model, x, y, loss=loss, scales="norm", chunk_size=4)
    products = hessian_vector_product(model, x, y, vectors, loss=loss, scales="gain")
    found = {
        "taylor": torch.stack([t.c0, t.c1, t.c2, t.c3, t.gauss_newton, t.feature]),
        "chunked": torch.stack([chunked.c0, chunked.c1, chunked.c2, chunked.c3]),
        "scales": t.scales,
        "soft ranks": gradient_soft_ranks(model, x, y, loss=loss),
        "product": torch.cat([whole(p).reshape(-1) for p in products]),
        "trace": hessian_trace(model, x, y, loss=loss, scales="norm").layers,
        "kernel": tangent_kernel(model, x),
        "features": torch.cat(hidden_features(model, x), dim=1),
        "along matrices": along(model, x, y, loss, matrices()),
        "along tensors": along(model, x, y, loss, vectors),
        "along own rows": along(model, x, y, loss, own_rows(model, vectors)),
        "loss along matrices": loss_along(model, x, y, loss=loss, direction=matrices(), at=(-1, 0.5)),
        "loss along own rows": loss_along(
            model, x, y, loss=loss, direction=own_rows(model, vectors), at=(-1, 0.5), chunk_size=4
        ),
        "along tensors, chunked": along(model, x, y, loss, vectors, chunk_size=4),
        "norms": direction_norms(Minibatch(model, x, y, loss=loss), matrices()),
        "blocks": block_sharpness(model, x, y, loss=loss, tolerance=1e-8),
        "density": spectral_density(model, x, y, loss=loss, steps=4, probes=1).nodes,
    }
    for space in ("dense", "factor"):
        top = sharpness(model, x, y, loss=loss, scales="norm", k=2, space=space, tolerance=1e-8, basis=8)
        found[f"eigenvalues, {space}"] = top.values
        partition = Partition.of(model)
        rows = enumerate(top.expand(), start=1)
        found[f"eigenvector, {space}"] = torch.cat(
            [partition.gather(V.T, k).reshape(-1) for k, V in rows]
        ).abs()
        for part in ("gauss_newton", "feature"):
            top = sharpness(
                model, x, y, loss=loss, scales="gain", part=part, space=space, tolerance=1e-6, basis=8
            )
            found[f"{part}, {space}"] = top.values
    return found | measured(model, p)


def matrices() -> Direction:
    generator = torch.Generator().manual_seed(6)
    K = torch.randn(3, 9, 9, generator=generator, dtype=torch.float64)
    return Direction(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), [K[0], None, K[2]])


def own_rows(model: nn.Module, vectors: list[Tensor]) -> list[Tensor]:
    partition = Partition.of(model)
    return [whole(v)[partition.columns(k)] for k, v in enumerate(vectors, start=1)]


def along(model: nn.Module, x: Tensor, y: Tensor, loss: str, direction: object, **options: int) -> Tensor:
    t = taylor_coefficients(model, x, y, loss=loss, direction=direction, **options)
    return torch.stack([t.c0, t.c1, t.c2, t.c3])


def ramp(batch: Minibatch) -> Callable[[int], Tensor]:
    """Own rows of a vector that grows from −1 to 1 within each layer."""

    def rows(k: int) -> Tensor:
        m_in, m_out = batch.partition.model.widths[k - 1 : k + 1]
        return torch.linspace(-1, 1, m_in * m_out, dtype=torch.float64).view(m_out, m_in)[
            batch.partition.columns(k)
        ]

    return rows


def measured(model: nn.Module, p: Problem) -> dict[str, Tensor]:
    """Every column of every quantity that a run measures on several processes, None as NaN.

    Twice with one observer, with other weights the second time, so that what is kept between measurements
    counts: before a step with momentum and decay, then before AdamW's. Those that take many products and
    keep no more than eigenvectors are measured once, before a plain step and one by polar factors.
    """
    batch = Minibatch(model, p.x, p.y, loss=p.loss, whole=True)
    adam = AdamState((0.9, 0.99), 1e-3, 2, lambda k: ramp(batch)(k).abs())
    xi = Direction(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    kept = observer(model, p, [name for name in OVER_PROCESSES if name not in MANY_PRODUCTS], 1e-7)
    # Weights of another seed than that of the network, as those of step 0.
    kept.load_state_dict({"from_start.began": torch.ones(())})
    batch.partition.model.seed = 7

    def fresh(number: int) -> Minibatch:
        rows = slice(number, number + 5)
        return Minibatch(model, p.x[rows], p.y[rows], loss=p.loss, whole=True, chunk_size=5 - number)

    taken = StepTaken(xi, 0.1, momentum=0.9, weight_decay=0.1, velocity=ramp(batch))
    rows = {"first": kept.measure(batch, taken, fresh)}
    with torch.no_grad():
        # A mean far enough from 0 stands out of noise, as knowledge sees it.
        for layer, mean in zip(batch.partition.layers, (0.5, 1.0, 0.5), strict=True):
            layer.weight.add_(mean)
    moved = Minibatch(model, p.x, p.y, loss=p.loss, whole=True)
    rows["second"] = kept.measure(moved, StepTaken(xi, 0.1, factor=0.8, adam=adam), fresh)
    polar = StepTaken(RULES["spectral"](moved.statistics), 0.1, polar=True)
    rows["polar"] = observer(model, p, ["generalized_sharpness"], 1e-6).measure(moved, polar)
    # Errors of eigenvalues are squares of the tolerance, that of noise_stability is of it.
    with mock.patch.object(spectrum, "STEPS", 4):
        # Nodes of an exhausted Krylov space would be as rounding has them.
        rows["plain"] = observer(model, p, MANY_PRODUCTS, 1e-5).measure(moved, StepTaken(xi, 1.0), fresh)
    return {
        f"{when}: {name}": torch.tensor(
            [math.nan if v is None else v for v in (value if isinstance(value, list) else [value])],
            dtype=torch.float64,
        )
        for when, row in rows.items()
        for name, value in flat(row).items()
    }


def observer(model: nn.Module, p: Problem, names: list[str], tolerance: float) -> Observer:
    """Of these quantities and ``change``."""
    switches = dict.fromkeys(("taylor", "sharpness", "ranks"), False)
    config = DiagnosticsConfig(every=1, **switches, quantities=names, k=2, tolerance=tolerance, minibatches=2)
    return Observer(config, model, p.x, p.y, loss=p.loss, probe_is_all=True, say=lambda line: None)


def vectors_like(model: nn.Module, weights: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    return [
        distribute_tensor(v, w.device_mesh, w.placements) if isinstance(w, DTensor) else v
        for v, w in zip(drawn, weights, strict=True)
    ]


def diagnose_layout(layout: str, loss: str, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    p = problem(loss)
    model = laid_out(p.model, layout)
    rank = dist.get_rank() if dist.is_initialized() else 0
    x, y = p.x.split(list(sizes))[rank], p.y.split(list(sizes))[rank]
    vectors = vectors_like(model, list(p.model.parameters()))
    return diagnose(model, p, x, y, vectors)


def diagnose_all(sizes: tuple[int, ...], in_sample: bool) -> dict[tuple[str, str], dict[str, Tensor]]:
    return {
        (layout, loss): diagnose_layout(layout, loss, sizes)
        for layout, loss in CASES[sizes]
        if sampled(sizes, layout, loss) == in_sample
    }


@cache
def alone(loss: str) -> dict[str, Tensor]:
    return diagnose_layout("replica", loss, ONE_PROCESS)


@cache
def together(sizes: tuple[int, ...], in_sample: bool) -> list[dict[tuple[str, str], dict[str, Tensor]]]:
    return run_processes(diagnose_all, len(sizes), sizes, in_sample)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "layout", "loss"),
    [
        pytest.param(sizes, *case, marks=[] if sampled(sizes, *case) else [pytest.mark.full])
        for sizes, cases in CASES.items()
        for case in cases
    ],
)
def test_diagnostics_do_not_depend_on_processes_or_layout(
    sizes: tuple[int, ...], layout: str, loss: str
) -> None:
    for of_rank in together(sizes, sampled(sizes, layout, loss)):
        for name, wanted in alone(loss).items():
            found = of_rank[layout, loss][name]
            torch.testing.assert_close(
                found,
                wanted,
                rtol=1e-10,
                atol=1e-6 if any(word in name for word in ALONG_VECTORS) else 1e-12,
                equal_nan=True,
                msg=lambda m, name=name: f"{name}: {m}",
            )


def spaces_of_rank() -> list[bool]:
    p = problem("mse")
    replica = choose_vectors(Minibatch(p.model, p.x, p.y, loss="mse"), space="factor")
    sharded = laid_out(p.model, "columnwise")
    rows = choose_vectors(Minibatch(sharded, p.x, p.y, loss="mse"), space="factor")
    return [isinstance(vectors, SampleVectors) for vectors in (replica, rows)]


def generic_of_rank(sizes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    p = problem("cross_entropy")
    rank = dist.get_rank() if dist.is_initialized() else 0
    x, y = p.x.split(list(sizes))[rank], p.y.split(list(sizes))[rank]
    generator = torch.Generator().manual_seed(5)
    V = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in model.parameters()]
    top = sharpness(model, x, y, loss="cross_entropy", tolerance=1e-9)
    minibatches = [(x, y), (2 * x, y)]
    noise = noise_stability(model, minibatches, loss="cross_entropy", lr=3.0)
    features = hidden_features(model, x, modules=["1"])
    t = taylor_coefficients(model, x, y, loss="cross_entropy")
    along = loss_along(model, x, y, loss="cross_entropy", direction=V, at=(-1, 0.5))
    products = hessian_vector_product(model, x, y, V, loss="cross_entropy")
    options = {"loss": "cross_entropy", "tolerance": 1e-9}
    parts = [sharpness(model, x, y, part=part, **options).values for part in ("gauss_newton", "feature")]
    blocks = [
        block_sharpness(model, x, y, groups=groups, **options)
        for groups in (None, [["0.weight", "0.bias"], ["2.weight"]])
    ]
    traces = [hessian_trace(model, x, y, loss="cross_entropy", part=part, probes=3) for part in PARTS]
    densities = [
        spectral_density(model, x, y, loss="cross_entropy", part=part, steps=4, probes=2) for part in PARTS
    ]
    slope = third_order(model, x, y, loss="cross_entropy", tolerance=1e-12)
    critical = critical_rate(model, x, y, loss="cross_entropy", tolerance=1e-12)
    return [
        *products,
        *slope.eigenvalue_gradient,
        torch.tensor([slope.progressive_sharpening, slope.self_stabilization, slope.swing]),
        torch.tensor([critical.rate, critical.predicted]),
        tangent_kernel(model, x),
        tangent_kernel(model, x, trace_outputs=True),
        top.values,
        noise.values,
        *features,
        torch.stack([t.c0, t.c1, t.c2, t.c3, t.gauss_newton]),
        along,
        *parts,
        *blocks,
        *(number for t in traces for number in (t.value, t.standard_error)),
        *(t for d in densities for t in (d.nodes, d.weights)),
    ]


def refused(names: tuple[str, ...]) -> list[str]:
    """What a run on several processes says of each of these quantities."""
    p = problem("mse")
    batch = Minibatch(p.model, p.x, p.y, loss="mse", whole=True)
    said = []
    for name in names:
        with pytest.raises(UserError) as error:
            observer(p.model, p, [name], 1e-3).measure(batch, StepTaken(matrices(), 0.1))
        said.append(str(error.value))
    return said


def others_of_rank(sizes: tuple[int, ...]) -> tuple[list[Tensor], list[bool], list[str]]:
    return generic_of_rank(sizes), spaces_of_rank(), refused(tuple(sorted(ALONE)))


@pytest.mark.slow
def test_any_module_weighs_samples_not_processes_and_replicas_share_samples_but_shards_rows() -> None:
    wanted = generic_of_rank(ONE_PROCESS)
    for found, shares_samples, said in run_processes(others_of_rank, 3, (5, 0, 4)):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        assert shares_samples == [True, False]
        assert all("\n" not in line and line.endswith("one process") for line in said)


@pytest.mark.slow
def test_every_registered_quantity_is_compared_with_one_process_or_refuses_several() -> None:
    """Every column has a number in some row, so that the comparison says something of it."""
    known = {
        name.partition(": ")[2]
        for loss in ("mse", "cross_entropy")
        for name, value in alone(loss).items()
        if bool(value.isfinite().any())
    }
    known |= {name.rpartition(".")[0] for name in known}
    columns = {column.name for name in OVER_PROCESSES for column in QUANTITIES[name].columns}
    assert columns - known == set()
