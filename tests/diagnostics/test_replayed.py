"""Captured products: the numbers of plain ones, in their place. Graphs need a GPU (tests/test_gpu.py)."""

import pytest
import torch

from scaled_sgd.config.parsing import parse
from scaled_sgd.data import load_data
from scaled_sgd.diagnostics import eigenpairs
from scaled_sgd.diagnostics.eigenpairs import sharpness_of
from scaled_sgd.diagnostics.operators import replayed
from scaled_sgd.diagnostics.operators.replayed import AFTER, allow_graphs, capture_of
from scaled_sgd.study.small.session import small_session
from tests.diagnostics.test_ahead import hessian


class StandIn:
    """Runs what a graph would replay, on the tensors that it was captured with."""

    def __init__(self, refuses=False):
        self.replays, self._refuses = 0, refuses

    def warm_up(self, function):
        return function()

    def capture(self, function):
        if self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        def replay():
            self.replays += 1
            return function()

        return replay


@pytest.mark.parametrize("space", ["dense", "factor"])
def test_a_search_by_captured_products_has_the_numbers_of_a_plain_one(space, monkeypatch):
    operator = hessian(space=space)
    plain = sharpness_of(operator, k=2)
    stand_in = StandIn()
    monkeypatch.setattr(eigenpairs, "capture_of", lambda _: stand_in)
    found = sharpness_of(operator, k=2)
    assert found.iterations == plain.iterations > AFTER
    of_a_product = 1 if space == "dense" else 2
    assert stand_in.replays >= of_a_product * (plain.iterations - AFTER - 1)
    torch.testing.assert_close(found.values, plain.values, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.vectors, plain.vectors, rtol=1e-10, atol=1e-12)


def test_what_cannot_be_captured_is_plain_and_says_why(monkeypatch):
    operator = hessian()
    plain = sharpness_of(operator)
    monkeypatch.setattr(eigenpairs, "capture_of", lambda _: StandIn(refuses=True))
    with pytest.warns(UserWarning, match="products are not captured as CUDA graphs: operation not permitted"):
        found = sharpness_of(operator)
    assert torch.equal(found.values, plain.values)


def test_a_cpu_captures_nothing():
    assert capture_of(hessian()) is None


@pytest.mark.parametrize("graphs", ["auto", "no"])
def test_the_switch_of_a_run_is_that_of_its_diagnostics(graphs, monkeypatch):
    allowed = []
    monkeypatch.setattr(eigenpairs, "capture_of", lambda _: allowed.append(replayed._ALLOWED.get()))
    options = ["--model.depth=3", "--model.base_width=3", "--optim.steps=1", "--diagnostics.every=1"]
    config = parse([*options, "--diagnostics.samples=10", f"--run.cuda_graphs={graphs}", "--run.device=cpu"])
    session = small_session(config, load_data(config.data, seed=0))
    batch = next(session.samples.minibatches(session.strategy.data))
    session.observe(batch, 0.1)
    assert allowed
    assert set(allowed) == {graphs == "auto"}
    with allow_graphs(False):
        assert not replayed._ALLOWED.get()
    assert replayed._ALLOWED.get()
