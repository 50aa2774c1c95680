"""The same quantities by other libraries, where they are installed, on the same network."""

import pytest
import torch
from torch import nn

from scaled_sgd.diagnostics import hessian_trace, hessian_vector_product, sharpness
from tests.oracles import Problem, make_problem, to_flat


def problem() -> Problem:
    return make_problem(samples=10, inputs=6, outputs=4, base_width=5)


def test_products_agree_with_curvlinops() -> None:
    curvlinops = pytest.importorskip("curvlinops")
    p = problem()
    peer = curvlinops.HessianLinearOperator(
        p.model, nn.CrossEntropyLoss(), list(p.model.parameters()), [(p.x, p.y)], check_deterministic=False
    )
    V = [torch.randn_like(w) for w in p.model.parameters()]
    found = to_flat(hessian_vector_product(p.model, p.x, p.y, V, loss=p.loss))
    torch.testing.assert_close(found, (peer @ to_flat(V)).detach())


def test_eigenpairs_and_trace_agree_with_hessian_eigenthings() -> None:
    eigenthings = pytest.importorskip("hessian_eigenthings")
    p = problem()
    peer = eigenthings.HessianOperator(
        p.model, [(p.x, p.y)], eigenthings.supervised_loss(nn.CrossEntropyLoss())
    )
    wanted = eigenthings.lanczos(peer, k=2, max_iter=60, reorthogonalize=True, which="LA", seed=0)
    found = sharpness(p.model, p.x, p.y, loss=p.loss, k=2, tolerance=1e-9, max_iterations=200)
    torch.testing.assert_close(found.values, wanted.eigenvalues, rtol=1e-8, atol=0)
    cosine = to_flat(found.expand()) @ wanted.eigenvectors[0]
    assert abs(float(cosine)) == pytest.approx(1, rel=1e-8)
    columns = [peer.matvec(row) for row in torch.eye(peer.size, dtype=torch.float64)]
    exact = torch.stack(columns).trace()
    torch.testing.assert_close(hessian_trace(p.model, p.x, p.y, loss=p.loss).value, exact)
