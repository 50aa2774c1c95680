"""Several ranks: layouts, numbers of processes, failures and deaths of one of them."""

import contextlib
import errno
import itertools
import os
import random
import signal

import pytest
import torch
import torch.distributed as dist

from scaled_sgd.core.errors import CheckpointError, UserError
from scaled_sgd.runs.checkpoint import newest_intact, open_checkpoint, prune, save
from tests.copies import context, ready
from tests.launching import PATIENCE
from tests.processes import run_processes
from tests.runs.checkpoint.cases import assert_holds, pieces, ranges, whole
from tests.runs.checkpoint.faults import Faults

pytestmark = pytest.mark.slow

LAYOUTS = ("replica", "rows", "mesh", "flat")


def save_step(folder, step, layout):
    rank, size = dist.get_rank(), dist.get_world_size()
    random_state = {"cpu": torch.full((3,), 10 * step + rank, dtype=torch.uint8)}
    state = {"step": step, "from": rank}
    save(folder, step, pieces=pieces(whole(step), layout, rank, size), private=random_state, state=state)


def assert_own_ranges(checkpoint, step, layout):
    """Every range that this rank holds under ``layout`` is read exactly."""
    for name, t in whole(step).items():
        for start, stop in ranges(layout, name, dist.get_rank(), dist.get_world_size()):
            assert torch.equal(checkpoint.read(name, start, stop), t[start:stop])


def save_all_layouts(folder):
    for step, layout in enumerate(LAYOUTS):
        save_step(folder, step, layout)


def read_and_save_on(folder, saved_world):
    for step, layout in enumerate(LAYOUTS[1:] + LAYOUTS[:1]):
        checkpoint = open_checkpoint(folder / f"step-{step}")
        assert checkpoint.world_size == saved_world
        assert checkpoint.state == {"step": step, "from": 0}
        assert_holds(checkpoint, step)
        assert_own_ranges(checkpoint, step, layout)
        for rank in range(saved_world):
            assert checkpoint.private(rank)["cpu"].tolist() == [10 * step + rank] * 3
    save_all_layouts(folder.with_name(f"{folder.name}-{dist.get_world_size()}"))


def test_checkpoints_move_exactly_between_layouts_and_numbers_of_processes(tmp_path):
    folder = tmp_path / "worlds"
    for step, layout in enumerate(LAYOUTS):
        state = {"step": step, "from": 0}
        random_state = {"cpu": torch.full((3,), 10 * step, dtype=torch.uint8)}
        one = "replica" if layout == "mesh" else layout
        save(folder, step, pieces=pieces(whole(step), one), private=random_state, state=state)
    for before, now in itertools.pairwise((1, 2, 4)):
        run_processes(read_and_save_on, now, folder, before)
        folder = folder.with_name(f"{folder.name}-{now}")
    for step in range(len(LAYOUTS)):
        assert_holds(open_checkpoint(folder / f"step-{step}"), step)
        sizes = [(folder / f"step-{step}" / f"rank-{rank}.safetensors").stat().st_size for rank in range(4)]
        assert max(sizes) < 2 * min(sizes)
    (folder / "step-3" / "rank-2.safetensors").unlink()
    checkpoint, skipped = newest_intact(folder)
    assert skipped == [
        f"checkpoint: '{folder}/step-3' is damaged: rank-2.safetensors is missing; "
        "allowed: an intact checkpoint"
    ]
    assert_holds(checkpoint, 2)


def failures_of_one_rank(folder):
    rank = dist.get_rank()
    save_step(folder, 1, "flat")
    lines = []
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for failing, at in [(0, 1), (0, 6), (1, 1), (1, 2), (1, 3)]:
        faults = Faults(at, failure=full) if rank == failing else contextlib.nullcontext()
        try:
            with faults:
                save_step(folder, 2, "flat")
        except CheckpointError as error:
            lines.append(str(error))
        dist.barrier()
        lines.append(sorted(os.listdir(folder)))
    try:
        private = {"x": torch.zeros(1, dtype=torch.complex64 if rank == 1 else torch.uint8)}
        save(folder, 2, pieces=[], private=private, state={})
    except ValueError as error:
        lines.append(type(error).__name__)
    return lines


def damage_that_one_rank_finds(folder):
    if dist.get_rank() == 0:
        path = folder / "step-2" / "rank-1.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    dist.barrier()
    checkpoint, skipped = newest_intact(folder)
    assert_holds(checkpoint, 1)
    try:
        open_checkpoint(folder / "step-2")
    except UserError as error:
        return [*skipped, str(error)]


def prune_together(folder):
    gone = prune(folder, 1, ())
    return gone, sorted(os.listdir(folder))


def several_failures(folder):
    failures = failures_of_one_rank(folder)
    save_step(folder, 2, "rows")
    damage = damage_that_one_rank_finds(folder)
    return failures, damage, prune_together(folder)


def test_ranks_agree_about_failures_damage_and_pruning(tmp_path):
    results = run_processes(several_failures, 2, tmp_path)
    (first, damage, pruned), (second, *others) = results
    assert others == [damage, pruned]
    assert first[:-1] == second[:-1]
    assert [first[-1], second[-1]] == ["CheckpointError", "ValueError"]
    assert first[1:-1:2] == [["step-1"]] * 5
    for line, file in zip(first[:-1:2], ["", "", *["rank-1.safetensors: "] * 3], strict=True):
        assert line.startswith(f"checkpoint: cannot write '{tmp_path}/step-2': {file}")
        assert line.endswith("No space left on device; allowed: a writable folder with room")
    size = (tmp_path / "step-2" / "rank-1.safetensors").stat().st_size
    line = (
        f"checkpoint: '{tmp_path}/step-2' is damaged: rank-1.safetensors has {size} bytes, "
        f"its manifest says {size + 1}; allowed: an intact checkpoint"
    )
    assert damage == [line, line]
    assert pruned == ([1], ["step-2"])


def save_until_killed(rank, rendezvous, folder, killed, at):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=2)
    with Faults(at, seed=at, power=True) if rank == killed else contextlib.nullcontext():
        for step in (2, 3):
            save_step(folder, step, "flat")
            prune(folder, 2, ())
    dist.barrier()


@pytest.mark.parametrize("deaths", [4, pytest.param(16, marks=pytest.mark.full)])
def test_a_rank_that_dies_in_a_save_leaves_a_complete_checkpoint(tmp_path, deaths):
    points = random.Random(0)
    for number in range(deaths):
        folder = tmp_path / str(number)
        save(folder, 1, pieces=pieces(whole(1), "flat"), private={}, state={})
        killed = number % 2
        at = points.randrange(1, 6 if killed else 40)
        arguments = (tmp_path / f"rendezvous-{number}", folder, killed, at)
        ready()
        ranks = [context.Process(target=save_until_killed, args=(rank, *arguments)) for rank in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(PATIENCE)
        assert ranks[killed].exitcode == -signal.SIGKILL
        assert ranks[1 - killed].exitcode == 1
        checkpoint, skipped = newest_intact(folder)
        assert skipped == []
        assert_holds(checkpoint, checkpoint.step)
        if killed:
            assert not [name for name in os.listdir(folder) if name.startswith(".")]
