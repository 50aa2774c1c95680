import pytest
import torch

from scaled_sgd import HomogeneousMLP
from scaled_sgd.steps.divergence import DivergenceWatch, witness


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [None, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dim", [None, (1, 2)])
def test_a_witness_is_finite_where_all_is_though_sums_overflow(dim, bad, dtype):
    z = torch.full((2, 5, 3), torch.finfo(dtype).max, dtype=dtype)
    if bad is not None:
        z[1, 2, 1] = bad
    assert witness(z, dim).isfinite().tolist() == z.isfinite().all(dim).tolist()


def test_a_witness_of_no_samples_is_finite():
    assert witness(torch.empty(0, 3)).isfinite()


def network():
    return HomogeneousMLP(6, 3, depth=4, base_width=3, activation="abs", seed=0)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_first_bad_layer_is_named_even_after_an_update_spoiled_all_weights(k):
    model = network()
    watch = DivergenceWatch(model.depth, torch.device("cpu"))
    watch.attach(model)
    x = torch.randn(5, 6)
    watch.start_step(3)
    model(x)
    assert watch.found() is None
    watch.start_step(4)
    with torch.no_grad():
        model.layers[k - 1].weight.fill_(torch.inf)
    model(x)
    watch.start_step(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    model(x)
    assert watch.found() == (4, k)
    assert watch.describe(k) == f"layer {k} of 4"


def test_a_loss_that_overflows_by_itself_is_told_apart():
    watch = DivergenceWatch(network().depth, torch.device("cpu"))
    watch.start_step(7)
    watch.see([torch.tensor(torch.inf)], 5)
    assert watch.found() == (7, 5)
    assert watch.describe(5) == "the loss itself"


def test_evaluation_is_not_watched():
    model = network()
    watch = DivergenceWatch(model.depth, torch.device("cpu"))
    watch.attach(model)
    with torch.no_grad():
        model(torch.full((2, 6), torch.nan))
    assert watch.found() is None
