"""Whole runs in processes that share a world, several one after the other, for tests that need many."""

import contextlib
import importlib
import io
import itertools
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import StoppedError
from scaled_sgd.diagnostics import hessian_vector_product
from scaled_sgd.parallel import Ranks
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.accelerator import create_accelerator
from scaled_sgd.train.trainer import Trainer
from tests.launching import free_ports
from tests.processes import start_processes

Rows = list[dict[str, Any]]


@dataclass
class Finished:
    """What a run leaves, whatever its strategy.

    Attributes:
        rows: of its metrics.
        start: W_1..W_l at step 0, whole.
        weights: likewise at the end.
        momentum: likewise; empty without.
        product: H V for a fixed V, flat.
        held: numbers of the network's weights that each process held as masters.
    """

    rows: Rows
    start: list[Tensor]
    weights: list[Tensor]
    momentum: list[Tensor]
    product: Tensor
    held: list[int]


Prepare = Callable[[Any], None]


def run_all(
    runs: Sequence[tuple[str, ...]],
    processes: int,
    *,
    prepare: Prepare | None = None,
    where: Path | None = None,
) -> list[Finished]:
    """Every run, one after the other, in the same processes; ``prepare`` sees each accelerator first.

    A signal may stop a run, which has then finished as far as it went.

    They are below the folder ``where``, named run-0, run-1, … if not by their arguments.
    """
    with contextlib.ExitStack() as stack:
        folder = str(where or stack.enter_context(tempfile.TemporaryDirectory()))
        ports = free_ports(len(runs))
        start_processes(_process, processes, processes, folder, list(runs), ports, prepare)
        found = [pickle.loads(Path(folder, f"rank-{rank}").read_bytes()) for rank in range(processes)]
        return [
            _assemble(Path(folder, found[0][i]["folder"], "metrics.jsonl"), [of_rank[i] for of_rank in found])
            for i in range(len(runs))
        ]


def _process(
    rank: int,
    processes: int,
    folder: str,
    runs: list[tuple[str, ...]],
    ports: list[int],
    prepare: Prepare | None,
) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    found = []
    for i, (arguments, port) in enumerate(zip(runs, ports, strict=True)):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_PORT": str(port),
            }
        found.append(_run((f"--run.name=run-{i}", "--run.timeout_seconds=120", *arguments), prepare))
        _leave_world()
    Path(folder, f"rank-{rank}").write_bytes(pickle.dumps(found))


def _run(arguments: tuple[str, ...], prepare: Prepare | None) -> dict[str, Any]:
    config = parse(arguments)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        accelerator = create_accelerator(config)
        if prepare is not None:
            prepare(accelerator)
        trainer = Trainer(config, accelerator)
        found: dict[str, Any] = {}
        end_training = accelerator.end_training

        def examine() -> None:
            """At the end of the run, while its processes are still together; several stay so."""
            found.update(_examined(trainer, start))
            if accelerator.num_processes == 1:
                end_training()

        accelerator.end_training = examine
        start = [("start", *piece[1:]) for piece in _held(trainer) if piece[0] == "weight"]
        with contextlib.suppress(StoppedError):
            trainer.run()
    return found


_Piece = tuple[str, int, tuple[int, int], int, Tensor]
"""Kind, layer, shape, first number and numbers of what a process holds."""


def _examined(trainer: Trainer, start: list[_Piece]) -> dict[str, Any]:
    strategy, (x, y) = trainer.strategy, trainer.session.samples.probe(Ranks())
    generator = torch.Generator().manual_seed(5)
    vectors = [
        torch.randn(m_out, m_in, generator=generator, dtype=torch.float64).to(x.dtype)
        for m_in, m_out in itertools.pairwise(strategy.network.widths)
    ]
    product = hessian_vector_product(strategy.module, x, y, vectors, loss=trainer.session.loss)
    return {
        "folder": trainer.folder,
        "pieces": [*start, *_held(trainer)],
        "product": torch.cat([p.reshape(-1) for p in product]),
    }


def _held(trainer: Trainer) -> list[_Piece]:
    return [
        (kind, shard.k, shard.shape, shard.start, values.cpu().clone())
        for shard in trainer.strategy.shards
        for kind in ("weight", "momentum")
        if (values := shard.values(kind)) is not None
    ]


def _leave_world() -> None:
    """Forget the run. Several processes keep the group they have, as a process has one world for life.

    Making it anew for each run was seen to wait for ever, once in some hundred times.
    """
    if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if "deepspeed" in sys.modules:
            sys.modules["deepspeed.comm.comm"].cdb = None
            importlib.reload(sys.modules["deepspeed.utils.groups"])
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)


def _assemble(metrics: Path, of_ranks: list[dict[str, Any]]) -> Finished:
    whole: dict[str, dict[int, Tensor]] = {"start": {}, "weight": {}, "momentum": {}}
    for rank in of_ranks:
        for kind, k, shape, start, values in rank["pieces"]:
            flat = whole[kind].setdefault(k, torch.full(shape, torch.nan, dtype=values.dtype)).view(-1)
            flat[start : start + len(values)] = values
    held = [sum(len(p[-1]) for p in rank["pieces"] if p[0] == "weight") for rank in of_ranks]
    begun, weights, momentum = ([t for _, t in sorted(layers.items())] for layers in whole.values())
    return Finished(list(read_metrics(metrics)), begun, weights, momentum, of_ranks[0]["product"], held)


def figures(rows: Rows) -> dict[tuple[int, str], Tensor]:
    """Every number of the metrics but times and residuals, by step and dotted key."""
    found: dict[tuple[int, str], Tensor] = {}

    def walk(step: int, name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(step, f"{name}.{key}", inner)
        elif value is not None:
            found[step, name] = torch.tensor(value, dtype=torch.float64)

    for row in rows:
        for key, value in row.items():
            if key not in ("seconds", "sharpness_residuals"):
                walk(row["step"], key, value)
    return found
