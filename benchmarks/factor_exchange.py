"""Two processes: exchanging factors against DistributedDataParallel and FSDP2.

    python -m benchmarks.factor_exchange [--width 2048] [--rows 16 64 256] [--json FILE]

Float32, gloo, one thread per process. A ratio is the peer's step time over ours, the median over the rounds
of one run. Targets at width 2048: 1.8 against DDP at 16 rows per process, 2 against FSDP2 at 64.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness import Figure, Report, paired
from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition, Ranks
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update

DEPTH, PROCESSES, LR = 4, 2, 1e-6


def network(width: int) -> HomogeneousMLP:
    return HomogeneousMLP(width, width, depth=DEPTH, base_width=width, width_exponent=0.0, seed=0)


def candidates(width: int, rows: int) -> dict[str, Callable[[], object]]:
    """One step of each kind on ``rows`` samples per process."""
    x, y = torch.randn(rows, width), torch.randint(width, (rows,))
    mesh = init_device_mesh("cpu", (PROCESSES,))
    options: dict[str, Any] = {"loss": get_loss("cross_entropy"), "update": Update(LR)}

    def by_autograd(model: torch.nn.Module) -> Callable[[], object]:
        optimizer = ScaledSGD(model, LR)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    def sharded() -> HomogeneousMLP:
        model = network(width)
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    replica, rows_model, ranks = network(width), sharded(), Ranks()
    whole, partition = Partition.of(replica, ranks=Ranks.alone()), Partition.of(rows_model)

    replica_scale, rows_scale = (
        DepthwiseScaling(model).measure_elsewhere().direction for model in (replica, rows_model)
    )

    def by_factors() -> None:
        take_step(whole, x, y, direct=replica_scale, ranks=ranks, sizes=[rows] * PROCESSES, **options)

    def by_rows() -> None:
        everything = [ranks.gather(t, [rows] * PROCESSES) for t in (x, y)]
        take_step(partition, *everything, direct=rows_scale, **options)

    return {
        "factors, replicated": by_factors,
        "DDP": by_autograd(DistributedDataParallel(network(width))),
        "factors, row-sharded": by_rows,
        "FSDP2": by_autograd(sharded()),
    }


def process(rank: int, folder: str, width: int, rows: Sequence[int], rounds: int, path: str | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=Path(folder, "rendezvous").as_uri(), rank=rank, world_size=PROCESSES
    )
    report = Report("factor_exchange", "a step that gathers factors, every process holding all weights")
    for count in rows:
        found = paired(candidates(width, count), unit="factors, replicated", rounds=rounds)
        found["DDP / factors"] = Figure(found["DDP"].value, least=1.8 if count == 16 else None)
        ahead = found["FSDP2"].value / found["factors, row-sharded"].value
        found["FSDP2 / factors, row-sharded"] = Figure(ahead, least=2 if count == 64 else None)
        if rank == 0:
            case = {"width": width, "depth": DEPTH, "rows a process": count, "processes": PROCESSES}
            report.add(case, found)
    if rank == 0:
        report.write(path)
    dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.factor_exchange", description=__doc__)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = (folder, options.width, options.rows, options.rounds, options.json)
        mp.spawn(process, work, nprocs=PROCESSES, join=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
