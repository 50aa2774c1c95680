"""What the hook launches where launches are dear: a device without values counts them, and reads nothing."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from scaled_sgd import DepthwiseScaling, HomogeneousMLP
from scaled_sgd.steps import hook_sums, statistics
from scaled_sgd.steps.hook_checks import StepChecks
from scaled_sgd.steps.statistics import square_into, square_norm, square_norms

VIEWS = {
    "view",
    "select",
    "detach",
    "t",
    "unbind",
    "expand",
    "alias",
    "slice",
    "unsqueeze",
    "new_empty_strided",
}
"""Operations that launch nothing."""


class Launches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = Counter()
        self.wide = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").partition(".")[0]
        assert name not in ("_local_scalar_dense", "item", "nonzero", "is_nonzero"), "a number was read"
        if func.namespace == "aten" and name not in VIEWS and name != "promote_types":
            # Numbers on the device, one for each tensor of a list, take a launch each.
            self.names[name] += len(args[0]) if name == "_foreach_mul_" else 1
            if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
                self.wide.append(out.numel())
        return out


def launches(depth, *, hook):
    """Those of a second step: the first does not know yet what its sums are of."""
    model = HomogeneousMLP(12, 5, depth=depth, base_width=4, seed=0, device="meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    x, y = torch.empty(20, 12, device="meta"), torch.empty(20, dtype=torch.int64, device="meta")
    if hook:
        DepthwiseScaling(model, optimizer)
    for _ in range(2):
        with Launches() as seen:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return seen


@pytest.fixture
def no_checks(monkeypatch):
    """Steps whose scales are not checked: all but steps 1, 2, 4, 8, … where reading makes the device wait."""
    monkeypatch.setattr(StepChecks, "__call__", lambda *_: None)


@pytest.mark.usefixtures("no_checks")
def test_the_hook_launches_little_for_a_layer_and_nothing_in_float64():
    def own(depth):
        return launches(depth, hook=True).names.total() - launches(depth, hook=False).names.total()

    # Two sums of squares and ξ G.
    assert (own(8) - own(4)) / 4 <= 3
    assert own(8) - 8 * 3 <= 20
    assert max(launches(8, hook=True).wide) <= 8 * 4


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for module in (statistics, hook_sums):
        monkeypatch.setattr(module, "reads_are_free", lambda _: False)


def scales_of(how):
    model = HomogeneousMLP(12, 5, depth=4, base_width=4, seed=0, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    scaling, found = DepthwiseScaling(model, optimizer), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(24, 12, generator=generator, dtype=torch.float64)
        y = torch.randint(5, (24,), generator=generator)
        optimizer.zero_grad(set_to_none=how != "zeroed")
        if how == "parts":
            for part in range(3):
                rows = slice(8 * part, 8 * part + 8)
                (F.cross_entropy(model(x[rows]), y[rows]) / 3).backward()
        elif how == "twice":
            losses = F.cross_entropy(model(x), y, reduction="none")
            losses[:10].sum().div(24).backward(retain_graph=True)
            losses[10:].sum().div(24).backward()
        elif how == "recomputed":
            F.cross_entropy(checkpoint(model, x, use_reentrant=False), y).backward()
        else:
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        found.append(scaling.scales)
    return torch.stack(found)


@pytest.fixture
def on_a_cpu(how):
    return scales_of(how)


@pytest.mark.parametrize("how", ["plain", "parts", "twice", "recomputed", "zeroed"])
def test_scales_are_those_of_a_cpu(on_a_cpu, how, as_on_a_gpu):
    torch.testing.assert_close(scales_of(how), on_a_cpu, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_squares_without_reading_a_number_have_the_signals_own_precision(dtype, as_on_a_gpu):
    signals = [torch.randn(30, 17, generator=torch.Generator().manual_seed(k)).to(dtype) for k in range(3)]
    exact = torch.stack([s.double().square().sum() for s in signals])
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(square_norms(signals), exact, rtol=tolerance, atol=0)
    torch.testing.assert_close(torch.stack([square_norm(s) for s in signals]), exact, rtol=tolerance, atol=0)
    out = torch.zeros(3, dtype=torch.promote_types(dtype, torch.float32))
    for k, signal in enumerate(signals):
        square_into(signal, out.select(0, k))
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=0)


@pytest.mark.usefixtures("as_on_a_gpu", "no_checks")
def test_a_graph_that_was_freed_is_refused_in_words():
    model = HomogeneousMLP(6, 3, depth=2, base_width=2, seed=0)
    DepthwiseScaling(model, torch.optim.SGD(model.parameters(), lr=0.1))
    f = model(torch.randn(4, 6))
    f.sum().backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        f.sum().backward()


@pytest.mark.slow
def test_a_compiled_network_is_one_graph_with_its_hook():
    """What ``mode="reduce-overhead"`` needs on a GPU."""
    model = HomogeneousMLP(12, 5, depth=4, base_width=4, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaling = DepthwiseScaling(model, optimizer)
    x, y = torch.randn(20, 12), torch.randint(5, (20,))
    F.cross_entropy(torch.compile(model, backend="aot_eager", fullgraph=True)(x), y).backward()
    measured = scaling.update()
    F.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(measured, scaling.update(), rtol=1e-5, atol=0)
