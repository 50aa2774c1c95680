"""Any sequence of actions of a training loop gives the steps of a float64 reference with its own books."""

import copy
import io
import pickle
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.functional import cross_entropy

from scaled_sgd import DepthwiseScaling, ScaledSGD
from scaled_sgd.core.errors import UserError
from tests.examples import examples

LR, MOMENTUM, ROWS = 0.3, 0.6, 8


class Pooled(nn.Module):
    """Layer 1 sees all tokens of a sample, layers 2 and 3 their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(4, 5, bias=False), nn.Linear(5, 4), nn.Linear(4, 3, bias=False)]
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layers[0](x)).mean(1)
        return self.layers[2](torch.tanh(self.layers[1](h)))


@dataclass
class Page:
    """The books of one layer: the gradient it should have, and the sums that describe it."""

    gradient: list[Tensor] | None = None
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))

    def add(self, gradient: list[Tensor], sums: Tensor) -> None:
        if self.gradient is None:
            self.gradient, self.sums = gradient, sums
        else:
            self.gradient = [a + b for a, b in zip(self.gradient, gradient, strict=True)]
            self.sums = self.sums + sums


class Reference:
    """Weights, momentum and scales by the formulas of theory §3, from autograd on a copy of the weights."""

    def __init__(self, model: nn.Module, rule: str, static: bool) -> None:
        self.weights = [[p.detach().clone() for p in layer.parameters()] for layer in model.layers]
        self.momentum = [[torch.zeros_like(p) for p in layer] for layer in self.weights]
        self.rule, self.static = rule, static
        self.scales: Tensor | None = None
        self.frozen: int | None = None
        self.clear()

    def clear(self) -> None:
        self.pages = [Page() for _ in self.weights]

    def backward(self, x: Tensor, y: Tensor) -> None:
        h, z = [x], []
        for k, layer in enumerate(self.weights):
            z.append((h[k] @ layer[0].T + (layer[1] if len(layer) > 1 else 0)).requires_grad_())
            h.append(torch.tanh(z[k]).mean(1) if k == 0 else torch.tanh(z[k]))
        signals = torch.autograd.grad(cross_entropy(z[2], y, reduction="sum") / ROWS, z)
        for k, (features, g) in enumerate(zip(h[:3], signals, strict=True)):
            if k != self.frozen:
                rows, signal = features.detach().flatten(0, -2), g.flatten(0, -2)
                gradient = [signal.T @ rows, signal.sum(0)][: len(self.weights[k])]
                sums = [rows.square().sum(), signal.square().sum(), torch.tensor(len(rows)), torch.tensor(1)]
                self.pages[k].add(gradient, torch.stack([s.double() for s in sums]))

    @property
    def refuses(self) -> bool:
        """Whether a step has no right value."""
        return self.frozen is not None or len({page.sums[3].item() for page in self.pages}) > 1

    def step(self) -> None:
        depth, h_squares, g_squares, rows = 3, *torch.stack([page.sums for page in self.pages]).T[:3]
        bias = torch.tensor([float(len(layer) > 1) for layer in self.weights])
        F, D = h_squares / rows + bias, g_squares * rows
        B = D / D[-1]
        xi = {
            "none": torch.ones(depth, dtype=torch.float64),
            "norm": 1 / (depth * (F * D).sqrt()),
            "gain": 1 / (depth * (F * B).sqrt()),
            "kernel": 1 / (depth * F * B),
        }[self.rule]
        if self.scales is None or not self.static:
            self.scales = xi
        for k, page in enumerate(self.pages):
            assert page.gradient is not None
            for W, v, G in zip(self.weights[k], self.momentum[k], page.gradient, strict=True):
                v.mul_(MOMENTUM).add_(self.scales[k] * G)
                W.sub_(LR * v)


class Loop:
    """A network, its optimizer and its scaling, in the hands of a user."""

    def __init__(self, rule: str, static: bool, folds: bool) -> None:
        torch.manual_seed(0)
        self.options = {"rule": rule, "static": static}
        self.folds = folds
        self.build(Pooled())
        self.reference = Reference(self.model, rule, static)
        self.drawn = 0

    def build(self, model: nn.Module) -> None:
        self.model = model
        if self.folds:
            self.optimizer = ScaledSGD(model, LR, momentum=MOMENTUM, **self.options)
            self.scaling = self.optimizer.scaling
        else:
            self.optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM)
            self.scaling = DepthwiseScaling(model, self.optimizer, **self.options)

    def samples(self) -> tuple[Tensor, Tensor]:
        self.drawn += 1
        generator = torch.Generator().manual_seed(self.drawn)
        n, tokens = 1 + self.drawn % 3, 1 + self.drawn % 2
        x = torch.randn(n, tokens, 4, generator=generator, dtype=torch.float64)
        return x, torch.randint(3, (n,), generator=generator)

    def backward(self) -> None:
        x, y = self.samples()
        (cross_entropy(self.model(x), y, reduction="sum") / ROWS).backward()
        self.reference.backward(x, y)

    def two_in_one_backward(self) -> None:
        (x, y), (u, v) = self.samples(), self.samples()
        losses = [cross_entropy(self.model(a), b, reduction="sum") / ROWS for a, b in ((x, y), (u, v))]
        (losses[0] + losses[1]).backward()
        self.reference.backward(x, y)
        self.reference.backward(u, v)

    def overflow(self) -> None:
        """A backward pass that is not finite: the step is skipped, the gradients are cleared."""
        x, y = self.samples()
        (cross_entropy(self.model(x), y) * torch.inf).backward()
        self.model_none()

    def forward_only(self) -> None:
        self.model(self.samples()[0])

    def evaluate(self) -> None:
        with torch.no_grad():
            self.model(self.samples()[0])

    def only_weights(self) -> None:
        """Gradients that go to no ``.grad``."""
        x, y = self.samples()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        torch.autograd.grad(cross_entropy(self.model(x), y), trained)

    def optimizer_none(self) -> None:
        self.optimizer.zero_grad()
        self.reference.clear()

    def optimizer_zero(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        self.reference.clear()

    def model_none(self) -> None:
        self.model.zero_grad()
        self.reference.clear()

    def model_zero(self) -> None:
        self.model.zero_grad(set_to_none=False)
        self.reference.clear()

    def by_hand(self) -> None:
        for p in self.model.parameters():
            p.grad = None
        self.reference.clear()

    def freeze(self) -> None:
        if self.reference.frozen is None:
            self.model_none()
            self.reference.frozen = self.drawn % 3
            self.model.layers[self.reference.frozen].requires_grad_(False)

    def unfreeze(self) -> None:
        self.model.requires_grad_(True)
        self.reference.frozen = None

    def attach(self) -> None:
        """The cell that builds the hook, run again."""
        if self.folds or self.reference.frozen is not None:
            return
        self.model_none()
        self.scaling = DepthwiseScaling(self.model, self.optimizer, **self.options)
        self.reference.scales = None

    def deepcopied(self) -> None:
        self.model, self.optimizer = copy.deepcopy((self.model, self.optimizer))
        self.scaling = self.optimizer.scaling if self.folds else None
        self.reference.clear()

    def pickled(self) -> None:
        self.model, self.optimizer = pickle.loads(pickle.dumps((self.model, self.optimizer)))
        self.scaling = self.optimizer.scaling if self.folds else None
        self.reference.clear()

    def resumed(self) -> None:
        """By state dicts, into fresh objects."""
        if self.reference.frozen is not None or self.scaling is None:
            return
        buffer = io.BytesIO()
        torch.save((self.model.state_dict(), self.optimizer.state_dict(), self.scaling.state_dict()), buffer)
        buffer.seek(0)
        weights, state, scales = torch.load(buffer, weights_only=True)
        self.build(Pooled())
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state)
        self.scaling.load_state_dict(scales)
        self.reference.clear()

    def checkpointed(self) -> None:
        """By ``torch.distributed.checkpoint``, which steps with zero gradients to make a state."""
        if self.reference.frozen is not None or self.scaling is None:
            return
        self.model_none()
        state = copy.deepcopy(get_optimizer_state_dict(self.model, self.optimizer))
        weights, scales = self.model.state_dict(), self.scaling.state_dict()
        self.build(Pooled())
        self.model.load_state_dict(weights)
        set_optimizer_state_dict(self.model, self.optimizer, state)
        if not self.folds:
            self.scaling.load_state_dict(scales)

    def step(self) -> None:
        if all(page.gradient is None for page in self.reference.pages):
            return
        if self.reference.refuses and self.options["rule"] != "none":
            with pytest.raises(UserError):
                self.optimizer.step()
        elif not self.reference.refuses:
            self.reference.step()
            self.optimizer.step()
            self.compare()
        self.optimizer_none()

    def compare(self) -> None:
        for layer, wanted in zip(self.model.layers, self.reference.weights, strict=True):
            for p, W in zip(layer.parameters(), wanted, strict=True):
                torch.testing.assert_close(p.detach(), W, rtol=1e-9, atol=1e-11)
        if self.scaling is not None:
            torch.testing.assert_close(self.scaling.scales, self.reference.scales, rtol=1e-9, atol=0)


OFTEN = ["backward", "step"]
CLEARING = ["optimizer_none", "optimizer_zero", "model_none", "model_zero", "by_hand", "overflow"]
OTHER = ["two_in_one_backward", "forward_only", "evaluate", "only_weights", "freeze", "unfreeze", "attach"]
SAVING = ["deepcopied", "pickled", "resumed", "checkpointed"]
ACTIONS = st.one_of(*(st.sampled_from(group) for group in (OFTEN, OFTEN, CLEARING, OTHER, SAVING)))


@settings(examples(20), suppress_health_check=list(HealthCheck), database=None)
@given(
    st.sampled_from(["norm", "gain", "kernel", "none"]),
    st.booleans(),
    st.booleans(),
    st.lists(ACTIONS, min_size=4, max_size=14),
)
def test_any_loop_takes_the_steps_of_the_reference(
    rule: str, static: bool, folds: bool, actions: list[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = Loop(rule, static, folds)
        for action in [*actions, "backward", "step"]:
            getattr(loop, action)()
