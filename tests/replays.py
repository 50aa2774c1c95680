"""Short runs of every path in float64, and what each gives: one list for two versions of the package.

A version is known by its :class:`Doors`, so that the code of another one can be asked the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Figures = dict[str, list[Any]]
"""Every figure of a run as a column over its rows, or over its layers."""

STEPS = 20


@dataclass(frozen=True)
class Doors:
    """Where a version of the package is entered.

    Attributes:
        package: the public names.
        main: the trainer, of a command line, in this process.
        run_all: of several command lines and a number of processes; runs below the folder ``where``.
        parse: a command line to a configuration.
        load_data: of a configuration's data and a seed.
        train_small: of a configuration, data and a folder.
        train_batch: of several.
        read_metrics: rows of a file.
        newest_intact: the last checkpoint of a folder.
    """

    package: Any
    main: Callable[..., int]
    run_all: Callable[..., Any]
    parse: Callable[..., Any]
    load_data: Callable[..., Any]
    train_small: Callable[..., Any]
    train_batch: Callable[..., Any]
    read_metrics: Callable[..., Iterable[dict[str, Any]]]
    newest_intact: Callable[..., Any]


SHORT = (
    "--scaling.rule=norm",
    "--model.depth=4", "--model.base_width=3", "--model.width_exponent=1", "--model.dtype=float64",
    "--data.limit=300", f"--optim.steps={STEPS}", "--optim.batch_size=83", "--run.log_every=1",
    "--run.eval_every=10", "--run.device=cpu", "--checkpoint.every_minutes=null",
)  # fmt: skip
"""Five epochs of ragged minibatches."""

OPTIONS = {
    "norm": ("--optim.lr=2",),
    "gain": (
        "--scaling.rule=gain", "--optim.lr=0.2", "--optim.momentum=0.9", "--optim.weight_decay=0.01",
        "--loss=mse", "--model.activation=abs", "--model.parameterization=ntp",
    ),
    "kernel": (
        "--scaling.rule=kernel", "--optim.lr=0.02", "--optim.clip_norm=0.05", "--optim.momentum=0.5",
        "--model.activation=[0.9, 0.3]", "--model.parameterization=sp",
    ),
    "none": (
        "--scaling.rule=none", "--optim.lr=0.1", "--optim.normalize=true", "--optim.schedule=cosine",
        "--optim.warmup_steps=4", "--model.parameterization=mup",
    ),
    "static": (
        "--scaling.static=true", "--optim.lr=0.5", "--optim.weight_decay=0.1", "--loss=mse",
        "--model.activation=[-0.6, 0.8]", "--model.width_exponent=2",
    ),
    "clipped": (
        "--optim.lr=1", "--optim.clip_norm=0.02", "--optim.momentum=0.8", "--model.activation=abs",
        "--optim.schedule=constant",
    ),
}  # fmt: skip
"""Every rule, parameterization, activation and way to update, each at least once."""

AUTOGRAD, FUSED = "--optim.fused_update=false", "--optim.fused_update=true"
DIAGNOSED = ("--diagnostics.every=7", "--diagnostics.samples=40", "--diagnostics.tolerance=1e-11")


def _trainer(names: Iterable[str], *extra: str) -> dict[str, tuple[str, ...]]:
    return {name: (*SHORT, *OPTIONS[name], *extra) for name in names}


def _labelled(**groups: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {f"{group}-{name}": arguments for group, of in groups.items() for name, arguments in of.items()}


ONE_PROCESS = _labelled(
    autograd=_trainer(OPTIONS, AUTOGRAD),
    fused=_trainer(OPTIONS, FUSED),
    accumulated=_trainer(["norm", "clipped"], AUTOGRAD, "--optim.accumulation=3"),
    diagnosed=_trainer(["norm"], AUTOGRAD, *DIAGNOSED)
    | {"fused": (*SHORT, *OPTIONS["norm"], "--loss=mse", "--scaling.rule=gain", FUSED, *DIAGNOSED)},
    fsdp2=_trainer(["clipped"], AUTOGRAD, "--sharding.strategy=fsdp2"),
    fsdp2_fused=_trainer(["kernel"], FUSED, "--sharding.strategy=fsdp2"),
    tensor=_trainer(["kernel"], AUTOGRAD, "--sharding.strategy=tensor"),
    tensor_fused=_trainer(["clipped"], FUSED, "--sharding.strategy=tensor"),
)
"""Command lines of the trainer, by name, for one process."""

TWO_PROCESSES = _labelled(
    ddp=_trainer(["norm", "kernel", "none"], AUTOGRAD, "--sharding.strategy=ddp"),
    ddp_factors=_trainer(
        ["gain", "clipped"], FUSED, "--sharding.strategy=ddp", "--sharding.exchange=factors"
    ),
    ddp_gradients=_trainer(
        ["kernel", "static"], FUSED, "--sharding.strategy=ddp", "--sharding.exchange=gradients"
    ),
    fsdp2=_trainer(["gain", "none"], AUTOGRAD, "--sharding.strategy=fsdp2"),
    fsdp2_fused=_trainer(["norm", "clipped"], FUSED, "--sharding.strategy=fsdp2"),
    tensor=_trainer(["static", "clipped"], AUTOGRAD, "--sharding.strategy=tensor"),
    tensor_fused=_trainer(["gain", "none"], FUSED, "--sharding.strategy=tensor"),
    mesh=_trainer(["gain"], AUTOGRAD, "--sharding.strategy=fsdp2+tensor"),
    mesh_fused=_trainer(["clipped"], FUSED, "--sharding.strategy=fsdp2+tensor"),
    diagnosed={
        strategy: (*SHORT, *OPTIONS["norm"], AUTOGRAD, f"--sharding.strategy={strategy}", *DIAGNOSED)
        for strategy in ("ddp", "fsdp2", "tensor")
    },
)
"""Likewise for two."""

ZERO = {
    strategy: (
        *SHORT,
        *OPTIONS["clipped"],
        AUTOGRAD,
        "--model.dtype=float32",
        f"--sharding.strategy={strategy}",
    )
    for strategy in ("zero1", "zero2", "zero3")
}
"""Likewise, in float32."""

SMALL_RUNS = _trainer(OPTIONS) | {"diagnosed": (*SHORT, *OPTIONS["norm"], *DIAGNOSED)}
"""Command lines whose configurations are run by a study's engine in its own process."""

STACKS = {
    "without_momentum": (
        ("--optim.lr=2",),
        ("--optim.lr=3", "--run.seed=1", "--scaling.rule=gain", "--optim.weight_decay=0.05"),
        ("--optim.lr=0.5", "--scaling.rule=none", "--model.parameterization=ntp", "--optim.clip_norm=0.05"),
        ("--optim.lr=0.02", "--run.seed=2", "--scaling.rule=kernel", "--model.parameterization=sp"),
        ("--optim.lr=1", "--scaling.static=true", "--optim.schedule=cosine", "--optim.warmup_steps=3"),
        ("--optim.lr=0.1", "--scaling.rule=none", "--optim.normalize=true",
         "--model.parameterization=mup", "--optim.accumulation=2"),
    ),
    "with_momentum": (
        ("--optim.lr=0.5", "--optim.momentum=0.8"),
        ("--optim.lr=1", "--optim.momentum=0.4", "--optim.weight_decay=0.05", "--optim.clip_norm=0.02"),
        ("--optim.lr=0.1", "--optim.momentum=0.9", "--optim.normalize=true", "--scaling.rule=none",
         "--run.seed=1"),
        ("--optim.lr=0.3", "--optim.momentum=0.7", "--scaling.rule=gain", "--scaling.static=true"),
    ),
}  # fmt: skip
"""What runs that are trained together add to ``SHORT``."""

BY_HAND: dict[str, dict[str, Any]] = {
    "norm": {"rule": "norm", "lr": 1.0},
    "gain": {"rule": "gain", "lr": 0.2, "momentum": 0.9, "loss": "mse", "network": {"activation": "abs"}},
    "kernel": {"rule": "kernel", "lr": 0.05, "network": {"parameterization": "sp"}},
    "none": {"rule": "none", "lr": 0.1, "momentum": 0.5, "network": {"parameterization": "mup"}},
    "static": {"rule": "norm", "static": True, "lr": 0.3, "weight_decay": 0.01, "pieces": 3},
    "clipped": {"rule": "norm", "lr": 0.5, "momentum": 0.6, "weight_decay": 0.01, "clip_norm": 0.02},
}
"""Loops over autograd that a user writes, for the hook and for ScaledSGD."""


def one_process(doors: Doors, name: str, folder: Path) -> Figures:
    """A run of ``ONE_PROCESS`` in this process, below ``folder``."""
    assert doors.main([*ONE_PROCESS[name], f"--run.dir={folder}", f"--run.name={name}"]) == 0
    return left_by_trainer(doors, folder / name)


def two_processes(
    doors: Doors, folder: Path, named: Mapping[str, tuple[str, ...]] = TWO_PROCESSES
) -> dict[str, Figures]:
    """All of ``TWO_PROCESSES``, or of ``ZERO``."""
    runs = [(*arguments, f"--run.name={name}") for name, arguments in named.items()]
    doors.run_all(runs, 2, where=folder)
    return {name: left_by_trainer(doors, folder / "runs" / name) for name in named}


def small_run(doors: Doors, name: str, folder: Path) -> Figures:
    """A run of ``SMALL_RUNS``."""
    config = doors.parse(SMALL_RUNS[name])
    summary = doors.train_small(config, doors.load_data(config.data, seed=config.run.seed), folder)
    return columns(doors.read_metrics(folder / "metrics.jsonl")) | _ends(summary)


def stack(doors: Doors, name: str, folder: Path) -> dict[str, Figures]:
    """The runs of a stack, by their place."""
    configs = [doors.parse([*SHORT, *extra]) for extra in STACKS[name]]
    data = {seed: doors.load_data(configs[0].data, seed=seed) for seed in {c.run.seed for c in configs}}
    folders = [folder / str(place) for place in range(len(configs))]
    summaries = doors.train_batch(configs, [data[config.run.seed] for config in configs], folders)
    return {
        own.name: columns(doors.read_metrics(own / "metrics.jsonl")) | _ends(summary)
        for own, summary in zip(folders, summaries, strict=True)
    }


def by_hand(
    doors: Doors,
    *,
    with_hook: bool,
    rule: str,
    lr: float,
    static: bool = False,
    loss: str = "cross_entropy",
    pieces: int = 1,
    clip_norm: float | None = None,
    network: Mapping[str, Any] | None = None,
    **options: float,
) -> Figures:
    """A loop over autograd with ``torch.optim.SGD`` and the hook, or with ScaledSGD."""
    package = doors.package
    model = package.HomogeneousMLP(
        6, 3, depth=4, base_width=3, seed=1, dtype=torch.float64, **(network or {})
    )
    if with_hook:
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=lr, **options)
        scaling = package.DepthwiseScaling(model, optimizer, rule=rule, static=static)
    else:
        optimizer = scaling = package.ScaledSGD(model, lr, rule=rule, static=static, **options)
    found: Figures = {"loss": [], "grad_norm": [], "scales": []}
    for x, y in _minibatches(loss):
        optimizer.zero_grad()
        total = x.new_zeros(())
        for own_x, own_y in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
            f = model(own_x)
            value = (
                nn.functional.cross_entropy(f, own_y, reduction="sum")
                if loss == "cross_entropy"
                else (f - own_y).square().sum() / 2
            ) / len(x)
            value.backward()
            total += value.detach()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        found["loss"].append(total.item())
        found["grad_norm"].append(gradient.norm().item())
        found["scales"].append(scaling.scales.tolist())
    return found | _checksums({f"W{k}": p.detach() for k, p in enumerate(model.parameters(), 1)})


def diagnostics(doors: Doors) -> Figures:
    """The public diagnostics of fixed networks."""
    package, found = doors.package, Figures()
    for loss, options in (
        ("cross_entropy", {}),
        ("mse", {"activation": "abs", "parameterization": "ntp", "width_exponent": 1.0}),
    ):
        model = package.HomogeneousMLP(6, 3, depth=4, base_width=3, seed=1, dtype=torch.float64, **options)
        x, y = next(_minibatches(loss))
        generator = torch.Generator().manual_seed(2)
        vectors = [torch.randn(W.shape, generator=generator, dtype=torch.float64) for W in model.parameters()]
        taylor = package.taylor_coefficients(model, x, y, loss=loss, scales="norm")
        top = package.sharpness(model, x, y, loss=loss, scales="norm", tolerance=1e-11)
        product = package.hessian_vector_product(model, x, y, vectors, loss=loss)
        ranks = package.feature_ranks(model(x).detach())
        found |= {
            f"{loss}.taylor": [float(c) for c in (taylor.c0, taylor.c1, taylor.c2, taylor.c3)],
            f"{loss}.sharpness": [float(value) for value in top.values],
            f"{loss}.soft_ranks": package.gradient_soft_ranks(model, x, y, loss=loss).tolist(),
            f"{loss}.ranks": [float(r) for r in (ranks.stable, ranks.participation, ranks.effective)],
        } | {f"{loss}.{k}": v for k, v in _checksums({f"H{k}": p for k, p in enumerate(product)}).items()}
    return found


def _minibatches(loss: str) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        x = torch.randn(21, 6, generator=generator, dtype=torch.float64)
        y = x[:, :3].argmax(1) if loss == "cross_entropy" else x[:, 2:5].sin()
        yield x, y


def left_by_trainer(doors: Doors, folder: Path) -> Figures:
    """Columns of the metrics, and checksums of all that the last checkpoint holds."""
    checkpoint, _ = doors.newest_intact(folder / "checkpoints")
    tensors = {
        name: checkpoint.read(name, 0, torch.Size(checkpoint.shape(name)).numel())
        for name in sorted(checkpoint.names)
    }
    return columns(doors.read_metrics(folder / "metrics.jsonl")) | _checksums(tensors)


def columns(rows: Iterable[Mapping[str, Any]]) -> Figures:
    """Every number of the rows but times and residuals, which are rounding; None where a row lacks it."""
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "sharpness_residuals")} for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _ends(summary: Mapping[str, Any]) -> Figures:
    """The losses of a summary, which stand for weights that are not kept."""
    return {name: [summary[name]] for name in ("initial_loss", "train_loss", "eval_loss", "max_loss")}


def _checksums(tensors: Mapping[str, Tensor]) -> Figures:
    """Norm, sum and alternating sum of each tensor, in float64."""
    found = {}
    for name, tensor in tensors.items():
        t = tensor.double().reshape(-1)
        found[f"of {name}"] = [t.norm().item(), t.sum().item(), (t[::2].sum() - t[1::2].sum()).item()]
    return found


def largest_difference(found: Figures, wanted: Figures) -> tuple[float, str]:
    """Over all wanted figures, relative to the largest number of each; infinite where one is missing."""
    return max(((_difference(found.get(name), column), name) for name, column in wanted.items()))


def _difference(found: Any, wanted: Any) -> float:
    pairs = list(_leaves(found, wanted))
    if any(not isinstance(a, int | float) for a, _ in pairs):
        return float("inf")
    a, b = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    return float((a - b).abs().nan_to_num(nan=torch.inf).max() / b.abs().max().clamp(min=1e-30))


def _leaves(found: Any, wanted: Any) -> Iterator[tuple[Any, float]]:
    """Wanted numbers with what stands in their place."""
    if isinstance(wanted, Mapping):
        for key, inner in wanted.items():
            yield from _leaves(found.get(key) if isinstance(found, Mapping) else None, inner)
    elif isinstance(wanted, list):
        fits = isinstance(found, list) and len(found) == len(wanted)
        for place, inner in enumerate(wanted):
            yield from _leaves(found[place] if fits else None, inner)
    elif wanted is not None:
        yield found, wanted
