import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import (
    block_sharpness,
    critical_rate,
    hessian_trace,
    hessian_vector_product,
    loss_along,
    sharpness,
    spectral_density,
    tangent_kernel,
    taylor_coefficients,
    third_order,
)
from scaled_sgd.diagnostics.operators.autograd import GenericCurvature
from scaled_sgd.diagnostics.operators.generic import GenericVectors
from tests.oracles import Foreign, full_hessian, gradients, make_problem, to_flat


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 4, generator=generator, dtype=torch.float64), torch.arange(7) % 3


def outputs(model: nn.Module, flat: Tensor, x: Tensor) -> Tensor:
    named = dict(model.named_parameters())
    parts = flat.split([p.numel() for p in named.values()])
    values = {name: part.view_as(p) for (name, p), part in zip(named.items(), parts, strict=True)}
    f: Tensor = functional_call(model, values, (x,))
    return f


def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda flat: nn.functional.cross_entropy(outputs(model, flat, x), y)


def weights(model: nn.Module) -> Tensor:
    return to_flat([p.detach() for p in model.parameters()])


def reference(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    H: Tensor = hessian(mean_loss(model, x, y))(weights(model))
    return H


def test_any_module_has_exact_products_and_top_eigenpairs() -> None:
    model, (x, y) = network(), data()
    H = reference(model, x, y)
    V = [torch.randn_like(p) for p in model.parameters()]
    found = hessian_vector_product(model, x, y, V, loss="cross_entropy")
    torch.testing.assert_close(to_flat(found), H @ to_flat(V))
    top = sharpness(model, x, y, loss="cross_entropy", k=2, tolerance=1e-9)
    torch.testing.assert_close(top.values, torch.linalg.eigvalsh(H).flip(0)[:2])
    torch.testing.assert_close(H @ to_flat(top.expand(1)), top.values[1] * to_flat(top.expand(1)))
    assert sharpness(model, x, y, loss="cross_entropy", warm_start=top.vectors[:1]).iterations == 1


def test_the_generic_path_agrees_with_the_formulas_of_the_family() -> None:
    p = make_problem()
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    operator = GenericCurvature(p.model, p.x, p.y, loss=p.loss, scales=xi)
    v = operator.vectors.random(0)
    torch.testing.assert_close(operator.multiply(v, torch.empty_like(v)), full_hessian(p, xi) @ v)


def test_taylor_terms_of_any_module_are_those_of_the_family_and_give_batch_sharpness() -> None:
    p = make_problem(activation="tanh")
    foreign, xi = Foreign(p.model), torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    top = sharpness(p.model, p.x, p.y, loss=p.loss, tolerance=1e-9)
    for along in ({}, {"scales": xi}, {"direction": top.expand()}):
        wanted = taylor_coefficients(p.model, p.x, p.y, loss=p.loss, **along)
        found = taylor_coefficients(foreign, p.x, p.y, loss=p.loss, **along)
        for name in ("c0", "c1", "c2", "c3", "gauss_newton", "feature"):
            torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-9, atol=1e-12)
    for order in (1, 2):
        lower = taylor_coefficients(foreign, p.x, p.y, loss=p.loss, order=order)
        assert (lower.c2 is None, lower.c3 is None) == (order == 1, True)
    g = to_flat(gradients(p))
    assert float(lower.directional_sharpness) == pytest.approx(float(g @ full_hessian(p) @ g / (g @ g)))


def test_the_loss_of_any_module_along_its_eigenvector_is_that_of_moved_weights() -> None:
    model, (x, y) = network(), data()
    top = sharpness(model, x, y, loss="cross_entropy", tolerance=1e-9)
    found = loss_along(model, x, y, loss="cross_entropy", direction=top, at=(0, 0.5))
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), top.expand(), strict=True):
            parameter.add_(part, alpha=0.5)
        moved = nn.functional.cross_entropy(model(x), y)
    assert float(found[1]) == pytest.approx(float(moved), rel=1e-12)


def test_blocks_of_any_module_are_tensors_or_named_groups() -> None:
    model, (x, y) = network(), data()
    H = reference(model, x, y)
    groups = [["0.weight", "0.bias"], ["2.weight", "2.bias"]]
    found = block_sharpness(model, x, y, loss="cross_entropy", groups=groups, tolerance=1e-9)
    wanted = [torch.linalg.eigvalsh(H[part, part])[-1] for part in (slice(0, 30), slice(30, None))]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert len(block_sharpness(model, x, y, loss="cross_entropy")) == 4
    with pytest.raises(UserError, match=r"^groups: '3' is no trainable parameter of Sequential; allowed: 0"):
        block_sharpness(model, x, y, loss="cross_entropy", groups=[["3"]])


def test_third_order_of_any_module_is_that_of_dense_derivatives() -> None:
    model, (x, y) = network(), data()
    found = third_order(model, x, y, loss="cross_entropy", tolerance=1e-10)
    loss, theta = mean_loss(model, x, y), weights(model)
    H, g = hessian(loss)(theta), grad(loss)(theta)
    values, vectors = torch.linalg.eigh(H)
    u = vectors[:, -1]
    slope = grad(lambda w: u @ hessian(loss)(w) @ u)(theta)
    across = slope - (u @ slope) * u
    torch.testing.assert_close(to_flat(found.eigenvalue_gradient), slope, rtol=1e-6, atol=1e-9)
    wanted = {
        "progressive_sharpening": -g @ slope,
        "self_stabilization": slope @ slope,
        "progressive_sharpening_across": -g @ across,
        "self_stabilization_across": across @ across,
        "swing": (g @ u).abs() / values[-1],
    }
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(float(value), rel=1e-6), name
    # ∇λ is also the derivative of the eigenvalue itself.
    away = torch.linalg.eigvalsh(hessian(loss)(theta - 1e-5 * g))[-1]
    near = torch.linalg.eigvalsh(hessian(loss)(theta + 1e-5 * g))[-1]
    assert found.progressive_sharpening == pytest.approx(float(away - near) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_third_order_and_critical_rate_of_any_module_are_those_of_the_family(activation: str) -> None:
    p = make_problem(activation=activation, samples=7, base_width=4)
    foreign = Foreign(p.model)
    for chunk_size in (None, 3):
        wanted = third_order(p.model, p.x, p.y, loss=p.loss, tolerance=1e-10, chunk_size=chunk_size)
        found = third_order(foreign, p.x, p.y, loss=p.loss, tolerance=1e-10)
        ours, theirs = to_flat(wanted.eigenvalue_gradient), to_flat(found.eigenvalue_gradient)
        torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-9)
        for name in ("progressive_sharpening", "self_stabilization_across", "swing"):
            assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-6), name
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    for along in ({}, {"scales": xi}, {"direction": [-p for p in gradients(p)]}):
        ours, theirs = (
            critical_rate(net, p.x, p.y, loss=p.loss, tolerance=1e-9, **along) for net in (p.model, foreign)
        )
        assert theirs.rate == pytest.approx(ours.rate, rel=1e-8)
        assert theirs.predicted == pytest.approx(ours.predicted, rel=1e-9)
    assert critical_rate(p.model, p.x, p.y, loss=p.loss, scales="norm").rate > 0


def test_a_step_of_any_module_at_the_critical_rate_leaves_the_loss() -> None:
    model, (x, y) = network(), data()
    found = critical_rate(model, x, y, loss="cross_entropy", tolerance=1e-9)
    loss, theta = mean_loss(model, x, y), weights(model)
    g = grad(loss)(theta)
    assert float(loss(theta - found.rate * g)) == pytest.approx(float(loss(theta)), rel=1e-8)
    assert float(loss(theta - 0.99 * found.rate * g)) < float(loss(theta))
    assert found.sharpness == 2 / found.rate
    c1, c2, c3 = (float(c) for c in (found.terms.c1, found.terms.c2, found.terms.c3))
    assert c1 + c2 * found.predicted + c3 * found.predicted**2 == pytest.approx(0, abs=1e-9 * abs(c1))
    uphill = critical_rate(model, x, y, loss="cross_entropy", direction=GenericVectors(model).expand(g))
    assert (uphill.rate, uphill.predicted, uphill.sharpness) == (None, None, None)


def test_tangent_kernel_of_any_module_is_the_jacobians_gram_matrix() -> None:
    model, (x, _) = network(), data()
    xi = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    roots = torch.cat([r.expand(p.numel()) for r, p in zip(xi.sqrt(), model.parameters(), strict=True)])
    J = jacrev(lambda flat: outputs(model, flat, x))(weights(model)).flatten(0, 1) * roots
    torch.testing.assert_close(tangent_kernel(model, x, scales=xi), J @ J.T)
    summed = torch.einsum("icjc->ij", (J @ J.T).view(7, 3, 7, 3))
    torch.testing.assert_close(tangent_kernel(model, x, scales=xi, trace_outputs=True), summed)
    p = make_problem()
    torch.testing.assert_close(tangent_kernel(Foreign(p.model), p.x), tangent_kernel(p.model, p.x))


def test_frozen_parameters_are_left_out() -> None:
    model, (x, y) = network(), data()
    model[0].weight.requires_grad_(False)
    H = reference(model, x, y)[24:, 24:]
    top = sharpness(model, x, y, loss="cross_entropy", tolerance=1e-9)
    torch.testing.assert_close(top.values[0], torch.linalg.eigvalsh(H)[-1])


def test_hutchinson_states_its_standard_error() -> None:
    model, (x, y) = network(), data()
    exact = float(reference(model, x, y).trace())
    found = hessian_trace(model, x, y, loss="cross_entropy", probes=200)
    assert abs(float(found.value) - exact) < 4 * float(found.standard_error)
    assert found.layers is None


def test_density_of_any_module() -> None:
    model, (x, y) = network(), data()
    found = spectral_density(model, x, y, loss="cross_entropy", steps=15, probes=2)
    top = float(torch.linalg.eigvalsh(reference(model, x, y))[-1])
    assert float(found.nodes.nan_to_num().max()) == pytest.approx(top, rel=1e-6)


def test_mistakes_say_what_is_not_available() -> None:
    model, (x, y) = network(), data()
    for name, wrong in {
        "scales": {"scales": "norm"},
        "space": {"space": "factor"},
        "loss": {"loss": "hinge"},
    }.items():
        with pytest.raises(UserError, match=f"^{name}: .*(available|allowed)"):
            sharpness(model, x, y, **({"loss": "cross_entropy"} | wrong))
    with pytest.raises(UserError, match=r"^vectors:"):
        hessian_vector_product(model, x, y, [x], loss="cross_entropy")
    with pytest.raises(UserError, match=r"^model:"):
        sharpness(nn.Flatten(), x, y, loss="cross_entropy")
    with pytest.raises(UserError, match=r"^probes:"):
        hessian_trace(model, x, y, loss="cross_entropy", probes=1)
    with pytest.raises(UserError, match=r"^chunk_size: 2 is for HomogeneousMLP alone"):
        third_order(model, x, y, loss="cross_entropy", chunk_size=2)
    with pytest.raises(UserError, match=r"^tolerance:"):
        critical_rate(model, x, y, loss="cross_entropy", tolerance=0)
    with pytest.raises(UserError, match=r"^model: outputs of shape \(7, 3, 1\) do not fit; allowed"):
        tangent_kernel(nn.Sequential(model, nn.Unflatten(1, (3, 1))), x)
    with pytest.raises(UserError, match=r"^x:"):
        sharpness(model, x[:0], y[:0], loss="cross_entropy")
    with pytest.raises(UserError, match=r"^x:"):
        tangent_kernel(model, x[:0])


def test_without_a_finite_eigenvalue_there_is_no_third_order() -> None:
    model, (x, y) = network(), data()
    x[0, 0] = math.nan
    found = third_order(model, x, y, loss="cross_entropy")
    own = make_problem()
    with torch.no_grad():
        own.model.layers[0].weight.fill_(math.nan)
    for terms in (found, third_order(own.model, own.x, own.y, loss=own.loss)):
        assert math.isnan(terms.progressive_sharpening)
        assert math.isnan(terms.swing)
