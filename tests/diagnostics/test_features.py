import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.diagnostics import (
    feature_ranks,
    gradient_soft_ranks,
    gram,
    hidden_features,
    kernel_alignment,
    kernel_drift,
)
from tests.diagnostics.strategies import problems, seeds
from tests.examples import examples
from tests.oracles import Problem, gradients, make_problem, signals


@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=seeds())
@examples(12)
def test_ranks_follow_from_singular_values(n: int, m: int, seed: int) -> None:
    H = torch.randn(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    squares = torch.linalg.svdvals(H).square()
    shares = squares / squares.sum()
    ranks = feature_ranks(H)
    torch.testing.assert_close(ranks.stable, squares.sum() / squares.max())
    torch.testing.assert_close(ranks.participation, squares.sum() ** 2 / squares.square().sum())
    torch.testing.assert_close(ranks.effective, torch.exp(-(shares * shares.log()).sum()))


def test_ranks_are_one_for_parallel_and_n_for_orthonormal_samples() -> None:
    parallel = feature_ranks(torch.ones(5, 7))
    orthonormal = feature_ranks(torch.eye(5, 7))
    for name in ("stable", "participation", "effective"):
        assert float(getattr(parallel, name)) == pytest.approx(1, abs=1e-5)
        assert float(getattr(orthonormal, name)) == pytest.approx(5)


def test_bfloat16_features_are_accumulated_wider() -> None:
    H = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = feature_ranks(H.double())
    for name in ("stable", "participation", "effective"):
        assert float(getattr(feature_ranks(H), name)) == pytest.approx(float(getattr(exact, name)), rel=1e-4)


@given(problem=problems(max_samples=9), chunk_size=st.sampled_from([None, 2]))
@examples(12)
def test_gradient_soft_ranks_follow_from_gradients_and_signals(
    problem: Problem, chunk_size: int | None
) -> None:
    G = gradients(problem)
    assume(all(float(g.norm()) > 1e-8 for g in G))
    n, (h, delta) = len(problem.x), signals(problem)
    wanted = [
        layer.multiplier**2 * t.square().sum() * d.square().sum() / n**2 / g.square().sum()
        for layer, t, d, g in zip(problem.model.scaled_layers, h, delta, G, strict=True)
    ]
    found = gradient_soft_ranks(problem.model, problem.x, problem.y, loss=problem.loss, chunk_size=chunk_size)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-9, atol=0)


def test_one_sample_has_soft_rank_one() -> None:
    p = make_problem(samples=1)
    torch.testing.assert_close(
        gradient_soft_ranks(p.model, p.x, p.y, loss=p.loss), torch.ones(4, dtype=torch.float64)
    )


@pytest.mark.parametrize("rank", [None, 2])
def test_hidden_features_are_what_the_model_computes(rank: int | None) -> None:
    p = make_problem(rank=rank)
    h, _ = signals(p)
    torch.testing.assert_close(hidden_features(p.model, p.x), h[1:])


def test_drift_and_alignment() -> None:
    H = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    K = gram(H)
    assert float(kernel_drift(K, K)) == 0
    assert float(kernel_drift(3 * K, K)) == pytest.approx(2)
    assert float(kernel_alignment(3 * K, K)) == pytest.approx(1)
    shifted = gram(H + torch.ones(4))
    assert float(kernel_alignment(shifted, K)) < 0.999
    assert float(kernel_alignment(shifted, K, centred=True)) == pytest.approx(1)


def test_mistakes_name_the_argument() -> None:
    p = make_problem()
    with pytest.raises(UserError, match=r"^features:"):
        feature_ranks(torch.ones(3))
    with pytest.raises(UserError, match=r"^K:"):
        kernel_drift(torch.eye(3), torch.eye(2))
    with pytest.raises(UserError, match=r"^x:"):
        hidden_features(p.model, p.x[:, 1:])


def test_features_of_any_network_are_the_outputs_of_its_named_modules() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(12, 2)
    ).double()
    x = torch.randn(6, 1, 5, dtype=torch.float64)
    first, last = hidden_features(net, x, modules=["1", "2"])
    torch.testing.assert_close(first, torch.tanh(net[0](x)).detach().flatten(1))
    torch.testing.assert_close(last, first)
    assert not net[1]._forward_hooks
    assert not first.requires_grad
    p = make_problem()
    z = hidden_features(p.model, p.x, modules=["layers.0"])[0]
    torch.testing.assert_close(p.model.apply_activation(z), hidden_features(p.model, p.x)[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tail", "'tail' is unknown; allowed: 0, 1, 1.weights"),
        ("1.weights", "'1.weights' has no output a sample"),
    ],
)
def test_names_that_are_no_features_are_refused(name: str, message: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.weights(self.weights(x))

    net = nn.Sequential(nn.Linear(3, 3), Recurrent())
    with pytest.raises(UserError, match=message):
        hidden_features(net, torch.zeros(2, 3), modules=[name])
