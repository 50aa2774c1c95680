import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, hessian, jacfwd

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import check_targets, get_loss
from tests.examples import examples

NAMES = ["cross_entropy", "mse"]
shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))


def problem(name, n, out_features, seed):
    generator = torch.Generator().manual_seed(seed)
    f, u = (3 * torch.randn(n, out_features, generator=generator, dtype=torch.float64) for _ in range(2))
    if name == "mse":
        return f, u, torch.randn(n, out_features, generator=generator, dtype=torch.float64)
    return f, u, torch.randint(out_features, (n,), generator=generator)


def reference(name, f, y):
    """The loss as the textbook writes it."""
    if name == "mse":
        return ((f - y) ** 2).sum() / 2
    return -torch.log(torch.exp(f[0]) / torch.exp(f[0]).sum())[y[0]]


@pytest.mark.parametrize("name", NAMES)
@examples(4)
@given(shapes)
def test_derivatives_agree_with_autograd(name, shape):
    f, u, y = problem(name, *shape)
    loss = get_loss(name)
    for i in range(len(f)):
        row, target, v = f[i : i + 1], y[i : i + 1], u[i : i + 1]

        def value(g, target=target):
            return reference(name, g, target)

        def along(t, row=row, v=v, value=value):
            return value(row + t * v)

        H = hessian(value)(row).reshape(f.shape[1], f.shape[1])
        third = jacfwd(jacfwd(jacfwd(along)))(torch.zeros((), dtype=torch.float64))
        torch.testing.assert_close(loss.value(row, target)[0], value(row))
        torch.testing.assert_close(loss.gradient(row, target), grad(value)(row))
        both = loss.value_and_gradient(row, target)
        torch.testing.assert_close(both, (loss.value(row, target), loss.gradient(row, target)))
        torch.testing.assert_close(loss.hessian_product(row, v), v @ H)
        torch.testing.assert_close(loss.third(row, v)[0], third, atol=1e-9, rtol=1e-9)


def test_mse_is_half_the_squared_distance_summed_over_outputs():
    value = get_loss("mse").value(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    assert value.tolist() == [12.5]


def test_cross_entropy_of_uniform_outputs_is_the_log_of_the_number_of_classes():
    value = get_loss("cross_entropy").value(torch.zeros(2, 7, dtype=torch.float64), torch.tensor([0, 6]))
    torch.testing.assert_close(value.exp(), torch.full((2,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_part_of_a_minibatch_has_an_empty_loss(name):
    f, u, y = problem(name, 0, 3, 0)
    loss = get_loss(name)
    assert loss.value(f, y).shape == loss.third(f, u).shape == (0,)
    assert loss.gradient(f, y).shape == loss.hessian_product(f, u).shape == (0, 3)


def test_an_unknown_loss_is_refused():
    with pytest.raises(UserError) as error:
        get_loss("hinge")
    assert str(error.value) == "loss: 'hinge' is unknown; allowed: cross_entropy, mse"


@pytest.mark.parametrize(
    ("name", "y"),
    [
        ("cross_entropy", torch.zeros(3)),
        ("cross_entropy", torch.zeros(2, dtype=torch.int64)),
        ("mse", torch.zeros(3, dtype=torch.int64)),
        ("mse", torch.zeros(3, 1)),
    ],
)
def test_targets_that_do_not_fit_are_refused(name, y):
    with pytest.raises(UserError, match="does not fit; allowed"):
        check_targets(get_loss(name), y, 3, 2)
