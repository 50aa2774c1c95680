"""Lanczos on a device that works ahead of the host: the same numbers, and a wait every few products."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scaled_sgd import HomogeneousMLP
from scaled_sgd.diagnostics import HessianSpace, Minibatch
from scaled_sgd.diagnostics.algorithms import lanczos as lanczos_file
from scaled_sgd.diagnostics.algorithms import quadrature as quadrature_file
from scaled_sgd.diagnostics.algorithms.krylov import AHEAD, Basis, products_ahead
from scaled_sgd.diagnostics.algorithms.lanczos import lanczos
from scaled_sgd.diagnostics.algorithms.quadrature import quadrature
from tests.diagnostics.test_sharpness import Diagonal


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(lanczos_file, "products_ahead", lambda _: AHEAD)


def hessian(dtype=torch.float64, space="auto"):
    model = HomogeneousMLP(12, 5, depth=4, base_width=4, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 12, generator=generator, dtype=dtype)
    y = torch.randint(5, (20,), generator=generator)
    return HessianSpace(Minibatch(model, x, y, loss="cross_entropy"), space=space)


def test_a_cpu_waits_for_nothing_and_looks_at_every_product():
    assert products_ahead(torch.device("cpu")) == 1
    assert products_ahead(torch.device("cuda")) == AHEAD > 1


@pytest.mark.parametrize("space", ["dense", "factor"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_pairs_and_products_are_those_of_looking_at_every_one(space, dtype, tolerance, monkeypatch):
    found = []
    for count in (1, AHEAD):
        monkeypatch.setattr(lanczos_file, "products_ahead", lambda _, count=count: count)
        operator = hessian(dtype, space)
        found.append(lanczos(operator, operator.start(0), k=3, basis=12, tolerance=1e-4))
    one, several = found
    assert one.converged
    assert (several.converged, several.iterations) == (True, one.iterations)
    torch.testing.assert_close(several.values, one.values, rtol=tolerance, atol=0)
    scale = float(one.vectors.abs().max())
    torch.testing.assert_close(several.vectors, one.vectors, rtol=0, atol=1e3 * tolerance * scale)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("which", ["largest", "magnitude"])
@pytest.mark.parametrize("weighted", [False, True])
def test_restarts_reach_the_wanted_end_of_a_long_spectrum(which, weighted):
    diagonal = torch.cat([torch.linspace(-5, 1, 300), torch.tensor([2.0, 2.1, 2.2])]).double()
    space = Diagonal(diagonal, torch.linspace(0.1, 3, 303).double() if weighted else None)
    found = lanczos(space, space.random(1), k=3, which=which, tolerance=1e-9, basis=9, max_iterations=900)
    order = (diagonal.abs() if which == "magnitude" else diagonal).argsort(descending=True)
    assert found.converged
    torch.testing.assert_close(found.values, diagonal[order[:3]], rtol=1e-9, atol=0)


@pytest.mark.usefixtures("ahead")
def test_an_invariant_subspace_in_the_midst_of_products_is_seen():
    space = Diagonal(torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0, 0.0]).double())
    found = lanczos(space, torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).double(), k=2, basis=9)
    torch.testing.assert_close(found.values, torch.tensor([3.0, 2.0]).double())
    zero = lanczos(Diagonal(torch.zeros(4).double()), torch.ones(4).double())
    assert (zero.converged, zero.values.tolist()) == (True, [0.0])
    few = Diagonal(torch.tensor([3.0, 2.0]).double())
    assert len(lanczos(few, few.random(0), k=4, basis=9).values) == 2


@pytest.mark.usefixtures("ahead")
def test_an_operator_that_is_not_finite_gives_nan():
    space = Diagonal(torch.tensor([1.0, torch.inf, 2.0]).double())
    found = lanczos(space, torch.ones(3).double())
    assert not found.converged
    assert found.values.isnan().all()


@pytest.mark.usefixtures("ahead")
def test_products_in_which_rounding_was_not_all_that_was_removed_are_taken_again(monkeypatch):
    """A limit that hardly any product keeps to: every one is taken with care in the end."""
    space, careful = Diagonal(torch.linspace(0, 1, 60).double()), []
    step, init = Basis.step, Basis.__init__

    def strict(basis, *args):
        init(basis, *args)
        basis._limit = 1e-18

    monkeypatch.setattr(Basis, "__init__", strict)
    monkeypatch.setattr(Basis, "step", lambda basis: careful.append(basis.count) or step(basis))
    found = lanczos(space, space.random(0), tolerance=1e-9, basis=12, max_iterations=400)
    assert careful
    assert found.converged
    torch.testing.assert_close(found.values, torch.ones(1).double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("distinct", [3, 40])
def test_nodes_and_weights_of_a_density_are_those_of_looking_at_every_product(distinct, monkeypatch):
    found = []
    for count in (1, AHEAD):
        monkeypatch.setattr(quadrature_file, "products_ahead", lambda _, count=count: count)
        space = Diagonal(torch.linspace(0.5, 2, distinct).double().repeat(2))
        found.append(quadrature(space, space.random(0), 10))
    one, several = found
    torch.testing.assert_close(several.nodes, one.nodes, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(several.weights, one.weights, rtol=1e-10, atol=1e-12)


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name().partition(".")[0] not in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::equal",
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("space", ["dense", "factor"])
def test_the_host_reads_once_in_several_products(space, monkeypatch):
    operator, grown = hessian(space=space), []
    ahead, grow = Basis._step_ahead, Basis.grow

    def refuse(*_):
        raise AssertionError("a number was read")

    def watched(basis, beta):
        with monkeypatch.context() as patch, NoReads():
            for name in ("tolist", "cpu", "item", "numpy", "__float__", "__bool__"):
                patch.setattr(torch.Tensor, name, refuse)
            return ahead(basis, beta)

    monkeypatch.setattr(Basis, "_step_ahead", watched)
    monkeypatch.setattr(Basis, "grow", lambda basis, n: grown.append(grow(basis, n)) or grown[-1])
    found = lanczos(operator, operator.start(0), k=2, basis=20, tolerance=1e-6)
    assert found.converged
    # All but a restart, the end of a basis, and what is taken again with care.
    assert len(grown) <= found.iterations / AHEAD + 4
