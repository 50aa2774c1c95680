"""The comparison on plain data; tests/distributed/test_handshake.py has it between processes."""

from dataclasses import replace

import pytest

from scaled_sgd.data import rank_rows
from scaled_sgd.train.handshake import Intent, Place, different_intent, different_key, misplaced

INTENT = Intent(2, "cpu", 1438, (64, 10), "abc")


def layout(data: int, tensor: int, minibatch: int = 101) -> list[Place]:
    """Ranks on a mesh, those of a row sharing samples."""
    return [
        Place("fsdp2+tensor", (d, data), (t, tensor), (rows.start, rows.stop), minibatch, None)
        for d in range(data)
        for rows in [rank_rows(minibatch, d, data)]
        for t in range(tensor)
    ]


def changed(places: list[Place], rank: int, **changes: object) -> list[Place]:
    return [replace(place, **changes) if i == rank else place for i, place in enumerate(places)]


@pytest.mark.parametrize(("data", "tensor"), [(1, 1), (4, 1), (1, 4), (2, 2), (3, 2)])
@pytest.mark.parametrize("minibatch", [1, 2, 101])
def test_ranks_with_parts_of_their_own_agree(data, tensor, minibatch):
    assert misplaced(layout(data, tensor, minibatch)) is None


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (
            changed(layout(2, 2), 3, strategy="ddp"),
            "sharding.strategy: 'ddp' on rank 3 and 'fsdp2+tensor' on rank 0; allowed: one on all ranks",
        ),
        (
            changed(layout(2, 1), 1, data=(0, 2)),
            "launch: data rank 0 and tensor rank 0 on rank 1 and on rank 0; allowed: once",
        ),
        (
            [Place("ddp", (0, 1), (0, 1), (0, 101), 101, None)] * 2,
            "launch: 1 data ranks and 1 tensor ranks on rank 0; allowed: a product of 2",
        ),
        (
            changed(layout(2, 1), 1, rows=(50, 100)),
            "launch: ranks take 100 rows of a minibatch of 101 at [0, 50]; allowed: each row once",
        ),
        (
            changed(layout(2, 1), 1, rows=(49, 100)),
            "launch: ranks take 101 rows of a minibatch of 101 at [0, 49]; allowed: each row once",
        ),
        (
            changed(layout(2, 1), 1, clipping=1.0),
            "launch: DeepSpeed clips gradients at 1.0 on rank 1; allowed: 0",
        ),
    ],
)
def test_a_rank_out_of_its_place_is_named(places, expected):
    assert misplaced(places) == expected


def test_deepspeed_that_does_not_clip_is_fine():
    assert misplaced([replace(place, clipping=0.0) for place in layout(2, 1)]) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"world_size": 1}, "launch: world size 1 on rank 1 and 2 on rank 0; allowed: the same on all ranks"),
        (
            {"device": "cuda"},
            "launch: device cuda on rank 1 and cpu on rank 0; allowed: the same on all ranks",
        ),
        (
            {"samples": 1437},
            "data.source: training samples 1437 on rank 1 and 1438 on rank 0; allowed: the same on all ranks",
        ),
        (
            {"features": (64, 9)},
            "data.source: inputs and outputs (64, 9) on rank 1 and (64, 10) on rank 0; "
            "allowed: the same on all ranks",
        ),
    ],
)
def test_a_rank_in_another_world_is_named(change, expected):
    assert different_intent([INTENT, replace(INTENT, **change)]) == expected
    assert different_intent([INTENT, INTENT]) is None


def test_the_key_that_differs_is_named():
    first = {"optim.lr": 1.0, "optim.steps": 5}
    assert different_key([first, first]) is None
    assert different_key([first, first, first | {"optim.lr": 2.0}]) == (
        "optim.lr: 2.0 on rank 2 and 1.0 on rank 0; allowed: one configuration on all ranks"
    )
    assert different_key([first, {"optim.lr": 1.0}]) == (
        "optim.steps: None on rank 1 and 5 on rank 0; allowed: one configuration on all ranks"
    )
