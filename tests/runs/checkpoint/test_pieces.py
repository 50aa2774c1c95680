import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.runs.checkpoint.pieces import Claim, Extent, Piece, extents_of, plan, values_in


@st.composite
def covering_claims(draw):
    """Claims of up to five ranks on one tensor, that cover it, overlap and repeat as they like."""
    count = draw(st.integers(0, 30))
    size = draw(st.integers(1, 5))
    cuts = sorted({0, count, *draw(st.lists(st.integers(0, count), max_size=5))})
    ranges = list(itertools.pairwise(cuts)) or [(0, 0)]
    number = st.integers(0, count)
    ranges += [tuple(sorted(pair)) for pair in draw(st.lists(st.tuples(number, number), max_size=5))]
    claims = [[] for _ in range(size)]
    for start, stop in ranges:
        for rank in draw(st.sets(st.integers(0, size - 1), min_size=1)):
            claims[rank].append(Claim("w", (count,), "F64", start, stop))
    return count, claims


@given(covering_claims())
def test_extents_tile_the_tensor_and_lie_in_one_claim_of_their_rank(case):
    count, claims = case
    extents = plan(claims)["w"].extents
    assert [i for e in extents for i in range(e.start, e.stop)] == list(range(count))
    for e in extents:
        assert any(claim.start <= e.start and e.stop <= claim.stop for claim in claims[e.rank])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_a_replica_is_cut_evenly_over_its_holders(size):
    claims = [[Claim("w", (5, 20), "F32", 0, 100)] for _ in range(size)]
    sizes = [e.stop - e.start for e in plan(claims)["w"].extents]
    assert len(sizes) == size
    assert max(sizes) - min(sizes) <= 1


def test_what_one_rank_alone_holds_it_writes_alone():
    claims = [[Claim("w", (10,), "F32", 0, 4)], [Claim("w", (10,), "F32", 4, 10)]]
    layouts = plan(claims)
    assert extents_of(layouts, 0) == [("w", Extent(0, 4, 0))]
    assert extents_of(layouts, 1) == [("w", Extent(4, 10, 1))]


def test_the_values_of_an_extent_are_a_view_of_the_piece_that_holds_it():
    values = torch.arange(6.0)
    pieces = [Piece("v", (6,), 0, torch.zeros(6)), Piece("w", (10,), 4, values)]
    part = values_in(pieces, "w", Extent(6, 9, 0))
    assert part.tolist() == [2.0, 3.0, 4.0]
    assert part.data_ptr() == values[2:].data_ptr()


@pytest.mark.parametrize(
    ("ranges", "gap"),
    [([(0, 5), (6, 12)], "5 to 6"), ([(1, 12)], "0 to 1"), ([(0, 11)], "11 to 12"), ([(3, 3)], "0 to 3")],
)
def test_a_gap_is_an_error(ranges, gap):
    claims = [[Claim("weight.1", (3, 4), "F32", *r)] for r in ranges]
    with pytest.raises(ValueError, match=f"weight.1: no rank holds numbers {gap} of 12"):
        plan(claims)


@pytest.mark.parametrize("other", [("F64", (12,)), ("F32", (2, 6))])
def test_ranks_that_disagree_about_a_tensor_are_an_error(other):
    dtype, shape = other
    claims = [[Claim("w", (12,), "F32", 0, 12)], [Claim("w", shape, dtype, 0, 12)]]
    with pytest.raises(ValueError, match="w: ranks disagree"):
        plan(claims)


@pytest.mark.parametrize(
    ("shape", "start", "values"),
    [
        ((2, 3), 0, torch.zeros(2, 3)),
        ((2, 3), 4, torch.zeros(3)),
        ((2, 3), -1, torch.zeros(3)),
        ((2, 3), 0, torch.zeros(6, dtype=torch.complex64)),
    ],
)
def test_a_piece_that_no_tensor_has_is_an_error(shape, start, values):
    with pytest.raises(ValueError, match=r"allowed|inside"):
        Piece("w", shape, start, values)


def test_a_piece_of_nothing_is_a_piece():
    assert Piece("w", (2, 0), 0, torch.zeros(0)).claim == Claim("w", (2, 0), "F32", 0, 0)
    assert plan([[Claim("w", (2, 0), "F32", 0, 0)]])["w"].extents == ()
    assert math.prod(()) == Piece("scalar", (), 0, torch.zeros(1)).stop
