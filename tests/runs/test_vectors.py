"""Kept eigenvectors of sharded weights."""

from pathlib import Path

import pytest
import torch

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import sharpness
from scaled_sgd.parallel import Partition
from scaled_sgd.runs.vectors import read_vectors, write_vectors
from tests.diagnostics.test_processes import laid_out, problem
from tests.oracles import full_hessian, to_flat
from tests.processes import run_processes


def written(folder: str) -> list[int]:
    found = []
    for step, layout in enumerate(("replica", "fsdp2")):
        p = problem("mse")
        model = laid_out(p.model, layout)
        # Each process needs its samples once.
        x, y = (t.tensor_split(2)[torch.distributed.get_rank()] for t in (p.x, p.y))
        top = sharpness(model, x, y, loss="mse", k=2, tolerance=1e-9)
        vectors = [top.expand(i) for i in range(2)]
        write_vectors(Path(folder), step, Partition.of(model), top.values.tolist(), vectors)
        found.append(sum(rows.numel() for rows in vectors[0]))
    return found


@pytest.mark.slow
def test_each_process_writes_its_rows_and_together_they_are_the_vectors(tmp_path: Path) -> None:
    held = run_processes(written, 2, str(tmp_path))
    p = problem("mse")
    H, total = full_hessian(p), sum(w.numel() for w in p.model.parameters())
    for step in (0, 1):
        assert held[0][step] + held[1][step] == total
        kept = read_vectors(tmp_path / f"eigenvectors/step-{step}")
        for index, value in enumerate(kept.values, start=1):
            v = to_flat(kept.vector(index))
            torch.testing.assert_close(H @ v, value * v, rtol=0, atol=1e-7 * value)
            assert float(v.norm()) == pytest.approx(1, rel=1e-9)


def test_vectors_that_are_not_there_are_refused(tmp_path: Path) -> None:
    p = problem("mse")
    top = sharpness(p.model, p.x, p.y, loss="mse")
    folder = write_vectors(tmp_path, 5, Partition.of(p.model), top.values.tolist(), [top.expand()])
    with pytest.raises(UserError, match=r"^index: 2 is not usable; allowed: 1 to 1"):
        read_vectors(folder).vector(2)
    with pytest.raises(UserError, match=r"^checkpoint: .* is not there"):
        read_vectors(tmp_path / "eigenvectors/step-6")
