"""The rules unit and spectral, in sample space and in the gradient's own, against dense references."""

import pytest
import torch
from torch import nn

from scaled_sgd import DepthwiseScaling, HomogeneousMLP, ScaledSGD
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.parallel import Partition
from scaled_sgd.steps.polar import full_precision, limit, polar_kernels
from scaled_sgd.steps.polynomials import POLAR, POLYNOMIALS, Polar, polar_express
from scaled_sgd.steps.rules import RULES
from scaled_sgd.steps.sizes import in_sample_space
from scaled_sgd.steps.stack import Stack
from scaled_sgd.steps.step import take_step
from scaled_sgd.steps.update import Update
from tests.examples import pairwise

EPS = 2.0**-52


def factors(n, m_out, m_in, *, decades=1.0, seed=0):
    """δ and h whose product has singular values over some decades."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(n, m_out, generator=generator, dtype=torch.float64)
    mixed = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -decades, n, dtype=torch.float64)
    return delta, mixed @ (values[:, None] * torch.randn(n, m_in, generator=generator, dtype=torch.float64))


def dense_iteration(G, coefficients):
    """X ← a X + b X XᵀX + c (X Xᵀ)² X, from G / ‖G‖_F."""
    X = G / G.norm()
    for a, b, c in coefficients:
        M = X @ X.T
        X = a * X + (b * M + c * M @ M) @ X
    return X


def exact_polar(G):
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    kept = s > 1e-7 * s.max()
    return U[:, kept] @ Vh[kept]


@pytest.mark.parametrize(
    "polar", [Polar(name, steps) for name in ("quintic", "polar_express") for steps in (1, 2, 3, 5)]
)
@pytest.mark.parametrize(("n", "m_out", "m_in"), [(12, 12, 12), (10, 17, 12), (9, 12, 30)])
def test_both_spaces_take_the_steps_of_the_dense_iteration(polar, n, m_out, m_in):
    delta, h = factors(n, m_out, m_in)
    G = delta.T @ h
    K, _ = polar_kernels((h @ h.T @ delta @ delta.T)[None], polar.coefficients)
    M, _ = polar_kernels((G @ G.T)[None], polar.coefficients)
    wanted = dense_iteration(G, polar.coefficients)
    torch.testing.assert_close(delta.T @ K[0] @ h / G.norm(), wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(M[0] @ G / G.norm(), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_limit_is_the_polar_factor_of_the_svd(rank):
    """Repeated samples make the signals rank-deficient."""
    delta, h = (t[torch.arange(9) % rank] for t in factors(9, 14, 11))
    G = delta.T @ h
    K, ratio = limit((delta @ delta.T)[None], (h @ h.T)[None], eps=EPS)
    M, _ = limit(None, (G.T @ G)[None], eps=EPS)
    for found in (delta.T @ K[0] @ h, G @ M[0]):
        torch.testing.assert_close(found / G.norm(), exact_polar(G), rtol=0, atol=1e-10)
    assert ratio.item() == 1


@pytest.mark.parametrize(
    ("polar", "kind", "dtype"),
    pairwise(
        [Polar(name, steps) for name in POLYNOMIALS for steps in (1, 3, 5, 8)],
        ["flat", "decades", "outlier", "one"],
        [torch.float32, torch.float64],
    ),
)
def test_the_largest_singular_value_is_known_to_five_percent(polar, kind, dtype):
    values = {
        "flat": torch.ones(64),
        "decades": torch.logspace(0, -4, 64),
        "outlier": torch.cat([torch.ones(1), torch.full((63,), 0.05)]),
        "one": torch.eye(64)[0],
    }[kind].double()
    B = torch.diag(values.square())[None].to(torch.float64 if polar.precise else dtype)
    of = polar.coefficients
    M, ratio = limit(None, B, eps=EPS) if of is None else polar_kernels(B, of)
    singular = M[0].diagonal().abs() * values / values.norm()
    assert ratio.item() == pytest.approx(float(singular.max()), rel=0.05)


def test_polar_express_reaches_one_percent_from_its_lower_bound_on():
    for steps in (2, 3, 5):
        s = torch.logspace(-4, 0, 2000, dtype=torch.float64)
        start = s.clone()
        for a, b, c in polar_express(steps):
            s = a * s + b * s**3 + c * s**5
        far = start[(s - 1).abs() > 0.0101]
        assert float(far.max()) < {2: 0.19, 3: 0.046, 5: 0.0027}[steps]
        assert (s < 1.0101).all()


def network(dtype=torch.float64, seed=0):
    return HomogeneousMLP(6, 3, depth=4, base_width=3, activation="abs", seed=seed, dtype=dtype)


def minibatch(n, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 6, generator=generator, dtype=dtype), torch.randint(3, (n,), generator=generator)


def taken(model, rule, x, y, **options):
    """U_k of one fused step."""
    before = [W.detach().clone() for W in model.parameters()]
    take_step(
        Partition.of(model), x, y, loss=get_loss("cross_entropy"), direct=rule, update=Update(1.0), **options
    )
    return [V - W.detach() for V, W in zip(before, model.parameters(), strict=True)]


@pytest.mark.parametrize("n", [1, 4, 12, 40])
@pytest.mark.parametrize("polar", [POLAR, Polar("quintic", 5), Polar("exact")])
@pytest.mark.parametrize("held", [1 << 20, 0])
def test_a_step_is_omega_over_l_times_the_polar_factor(n, polar, held, monkeypatch):
    monkeypatch.setattr("scaled_sgd.steps.sizes.HELD", {"cpu": held})
    model, twin, (x, y) = network(), network(), minibatch(n)
    get_loss("cross_entropy").value(twin(x), y).mean().backward()
    found = taken(model, RULES["spectral"].with_settings(polar), x, y)
    for U, layer in zip(found, twin.scaled_layers, strict=True):
        G, size = layer.weight.grad, layer.layer_weight / 4
        of = exact_polar(G) if polar.coefficients is None else dense_iteration(G, polar.coefficients)
        largest = torch.linalg.matrix_norm(U, 2)
        assert float(largest) == pytest.approx(size, rel=1e-9 if polar.coefficients is None else 0.05)
        # Gram matrices lose the digits by which the smallest singular values are below the largest.
        digits = 1e-8 if polar.coefficients is None else 1e-10
        torch.testing.assert_close(U / largest, of / torch.linalg.matrix_norm(of, 2), rtol=0, atol=digits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("polar", [POLAR, Polar("quintic", 8), Polar("exact")])
def test_a_minibatch_without_gradient_or_with_equal_samples_gives_finite_steps(dtype, polar):
    rule = RULES["spectral"].with_settings(polar)
    x, y = (t[:1].expand(9, *t.shape[1:]) for t in minibatch(9, dtype))
    assert all(bool(U.isfinite().all()) for U in taken(network(dtype), rule, x, y))
    model = network(dtype)
    with torch.no_grad():
        model.layers[3].weight.zero_()
    found = taken(model, rule, x, y)
    assert all(bool((U == 0).all()) for U in found[:3])
    assert float(torch.linalg.matrix_norm(found[3], 2)) == pytest.approx(
        model.layers[3].layer_weight / 4, rel=0.05
    )


@pytest.mark.parametrize("polynomials", ["quintic", "polar_express"])
def test_a_gradient_of_any_size_gives_its_polar_factor_or_nothing(polynomials):
    """In float32, whose squares underflow below 1e-19."""
    coefficients = Polar(polynomials, 3).coefficients
    delta, h = (t.float() for t in factors(9, 12, 30))
    wanted, ratio = polar_kernels((h @ h.T @ delta @ delta.T)[None], coefficients)
    for size in torch.logspace(-30, 0, 61).tolist():
        small = size * delta
        K, found = polar_kernels((h @ h.T @ small @ small.T)[None], coefficients)
        assert K.isfinite().all()
        if found > 0:
            torch.testing.assert_close(K, wanted, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(found, ratio, rtol=1e-4, atol=0)
        assert bool(found > 0) == bool(size * delta.norm() * h.norm() > 1e-15) or 1e-17 < size < 1e-15


def test_a_step_in_float32_is_that_in_float64():
    x, y = minibatch(12)
    wanted = taken(network(), RULES["spectral"], x, y)
    for U, V in zip(taken(network(torch.float32), RULES["spectral"], x.float(), y), wanted, strict=True):
        torch.testing.assert_close(U.double() / V.norm(), V / V.norm(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_products_of_the_iteration_are_not_shortened(together):
    """However a program asked for shorter ones: for all backends, or, which torch does not mix, for one."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = torch.get_float32_matmul_precision()
    try:
        if together:
            torch.set_float32_matmul_precision("medium")
        else:
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        shorter = [backend.fp32_precision for backend in backends]
        assert shorter[0] == "tf32"
        with torch.autocast("cpu", torch.bfloat16), full_precision():
            assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert [backend.fp32_precision for backend in backends] == shorter
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_space_is_chosen_by_multiplications():
    assert in_sample_space(256, 1600, 1024, POLAR)
    assert not in_sample_space(256, 10, 3136, POLAR)
    assert not in_sample_space(1024, 576, 1024, POLAR)
    assert not in_sample_space(0, 1600, 1024, POLAR)


@pytest.mark.parametrize("rule", ["unit", "spectral"])
def test_a_bias_is_the_weight_of_one_more_feature_of_value_one(rule):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    DepthwiseScaling(model, optimizer, rule=rule, polar=Polar("exact"))
    x, y = minibatch(9)
    nn.functional.cross_entropy(model(x), y).backward()
    joined = [torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1) for layer in (model[0], model[2])]
    before = [torch.cat([layer.weight, layer.bias[:, None]], 1).detach() for layer in (model[0], model[2])]
    optimizer.step()
    for layer, G, V in zip((model[0], model[2]), joined, before, strict=True):
        W = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
        wanted = G / G.norm() if rule == "unit" else exact_polar(G)
        torch.testing.assert_close(V - W, wanted / 2, rtol=0, atol=1e-10)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_microbatches_are_orthogonalised_together(microbatches):
    x, y = minibatch(9)
    model, twin = network(), network()
    optimizer = ScaledSGD(twin, 1.0, rule="spectral")
    for rows in torch.arange(9).chunk(microbatches):
        (get_loss("cross_entropy").value(twin(x[rows]), y[rows]).sum() / 9).backward()
    optimizer.step()
    taken(model, RULES["spectral"], x, y)
    for W, V in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(W, V, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [4, 20])
def test_networks_of_a_stack_take_the_steps_that_they_take_alone(n):
    x, y = minibatch(n)
    models, twins = ([network(seed=seed) for seed in (0, 1)] for _ in range(2))
    for model in models:
        taken(model, RULES["spectral"], x, y)
    take_step(
        Stack(twins), x, y.expand(2, n), loss=get_loss("cross_entropy"), direct=RULES["spectral"],
        update=Update(torch.ones(2, 1, 1, dtype=torch.float64)), sizes=[n],
    )  # fmt: skip
    for model, twin in zip(models, twins, strict=True):
        for W, V in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(W, V, rtol=0, atol=1e-11)


def test_unit_is_norm_times_the_root_of_the_soft_rank():
    model, twin, (x, y) = network(), network(), minibatch(12)
    found, ranks = taken(model, RULES["unit"], x, y), []

    def norm(statistics):
        ranks.append(statistics.soft_ranks)
        return RULES["norm"](statistics)

    for U, V, S in zip(found, taken(twin, norm, x, y), ranks[0], strict=True):
        torch.testing.assert_close(U, S.sqrt() * V, rtol=1e-10, atol=0)


def test_what_has_no_meaning_is_refused():
    model = network()
    for wrong, says in (
        ({"rule": "spectral", "static": True}, "^static: True has no meaning for 'spectral'"),
        ({"polar": Polar}, "^polar: "),
    ):
        with pytest.raises(UserError, match=says):
            DepthwiseScaling(model, **wrong)
    for values, says in (
        (("cubic", 3), "^scaling.polar: 'cubic'"),
        (("quintic", 0), "^scaling.iterations: 0"),
        (("quintic", 9), "^scaling.iterations: 9 .* integers from 1 to 8"),
    ):
        with pytest.raises(UserError, match=says):
            Polar(*values)
