"""The loss along a line, against the loss of moved weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import Minibatch, loss_along, sharpness
from scaled_sgd.diagnostics.line import losses_along
from scaled_sgd.steps.direction import Direction
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, flat_loss, flat_parameters, gradients, make_problem, to_flat

AT = (-0.7, 0.0, 0.1, 2.0)


def moved(p: Problem, u: torch.Tensor) -> torch.Tensor:
    theta = flat_parameters(p.model)
    return torch.stack([flat_loss(p, theta + t * u) for t in AT])


@given(problem=problems(), seed=seeds(), chunk_size=st.sampled_from([None, 2]))
@examples(15)
def test_along_tensors_it_is_the_loss_of_the_moved_weights(
    problem: Problem, seed: int, chunk_size: int | None
) -> None:
    p, generator = problem, torch.Generator().manual_seed(seed)
    u = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in p.model.parameters()]
    found = loss_along(p.model, p.x, p.y, loss=p.loss, direction=u, at=AT, chunk_size=chunk_size)
    torch.testing.assert_close(found, moved(p, to_flat(u)), rtol=1e-11, atol=1e-13)


def test_along_a_direction_of_the_minibatch_and_along_eigenpairs() -> None:
    p = make_problem(samples=7, base_width=4)
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    step = to_flat([-s * G for s, G in zip(xi, gradients(p), strict=True)])
    K = [torch.eye(7, dtype=torch.float64)] * 4
    pairs = sharpness(p.model, p.x, p.y, loss=p.loss)
    for direction, u in (
        (Direction(xi), step),
        (Direction(xi, K), step),
        (pairs, to_flat(pairs.expand())),
    ):
        found = loss_along(p.model, p.x, p.y, loss=p.loss, direction=direction, at=AT)
        torch.testing.assert_close(found, moved(p, u), rtol=1e-11, atol=1e-13)


def test_between_two_losses_gradients_are_as_the_caller_has_them() -> None:
    p = make_problem()
    batch = Minibatch(p.model, p.x, p.y, loss=p.loss)
    along = Direction(torch.ones(p.model.depth, dtype=torch.float64))
    assert [torch.is_grad_enabled() for _ in losses_along(batch, along, AT)] == [True] * len(AT)


def test_a_direction_of_another_network_is_refused() -> None:
    p = make_problem()
    with pytest.raises(UserError, match=r"^direction: 1 tensors; allowed: 4, one a layer"):
        loss_along(p.model, p.x, p.y, loss=p.loss, direction=[p.x], at=AT)
