"""Other optimizers behind ``optim.optimizer``, against torch's own steps on the same gradients."""

from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from scaled_sgd import HomogeneousMLP
from scaled_sgd.config.parsing import from_dict, parse
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import load_data
from scaled_sgd.planning import Workload
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.muon import Muon
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.peers import NormalizedSGD, build
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.small.attempt import DataShelf
from scaled_sgd.study.small.batched import can_be_stacked
from scaled_sgd.study.small.engine import train as train_small
from scaled_sgd.train.main import main

SMALL = (
    "--model.depth=4", "--model.base_width=4", "--model.dtype=float64", "--optim.batch_size=500",
    "--optim.steps=4", "--optim.schedule=constant", "--run.log_every=1", "--checkpoint.every_steps=2",
    "--scaling.rule=none", "--optim.lr=0.01",
)  # fmt: skip
PEERS = {
    "adamw": ("--optim.optimizer=adamw", "--optim.options={betas: [0.8, 0.9]}", "--optim.weight_decay=0.1"),
    "muon": ("--optim.optimizer=muon", "--optim.options={mu: 0.9, ns_steps: 3}"),
    "nsgd": ("--optim.optimizer=nsgd", "--optim.lr=0.5", "--optim.momentum=0.5", "--optim.weight_decay=0.1"),
    "by path": ("--optim.optimizer=torch.optim.RMSprop", "--optim.momentum=0.5"),
}


def by_hand(name, network):
    """The optimizers of ``PEERS`` made from torch's alone."""
    weights = [*network.parameters()]
    if name == "adamw":
        return [torch.optim.AdamW(weights, 0.01, betas=(0.8, 0.9), weight_decay=0.1)]
    if name == "by path":
        return [torch.optim.RMSprop(weights, 0.01, momentum=0.5)]
    hidden = torch.optim.Muon(
        weights[1:-1], 0.01, 0.0, momentum=0.9, ns_steps=3, adjust_lr_fn="match_rms_adamw"
    )
    return [hidden, torch.optim.AdamW([weights[0], weights[-1]], 0.01, weight_decay=0.0)]


def train(name, *options):
    status = main([*SMALL, f"--run.name={name}", *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(f"runs/{name}/metrics.jsonl")
    ]


@pytest.mark.parametrize("name", ["adamw", "muon", "by path"])
def test_steps_are_those_of_torch(name):
    torch.manual_seed(0)
    network, twin = (
        HomogeneousMLP(5, 3, depth=4, base_width=3, seed=0, dtype=torch.float64) for _ in range(2)
    )
    optim = parse([*SMALL, *PEERS[name]]).optim
    ours, theirs = build(OPTIMIZERS[optim.optimizer], network, optim), by_hand(name, twin)
    for _ in range(3):
        x = torch.randn(7, 5, dtype=torch.float64)
        for model in (network, twin):
            model.zero_grad()
            model(x).square().sum().backward()
        ours.step()
        for part in theirs:
            part.step()
    for W, V in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(W, V, rtol=1e-12, atol=0)


def quintic(G):
    """U S' Vᵀ of five of Muon's polynomials of the singular values of G, in float64."""
    U, s, Vt = torch.linalg.svd(G.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return U * s @ Vt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nesterov", [False, True])
def test_muons_iteration_may_be_in_float32(dtype, nesterov):
    """Two steps, so that an iteration that overwrites the momentum would be seen."""
    network = HomogeneousMLP(5, 3, depth=3, base_width=3, seed=0, dtype=dtype)
    options = {"mu": 0.5, "nesterov": nesterov, "adjust_lr_fn": None, "ns_dtype": "float32"}
    optimizer = Muon(network, 0.1, **options)
    hidden = network.layers[1].weight
    expected, v = hidden.detach().double().clone(), torch.zeros(hidden.shape, dtype=torch.float64)
    torch.manual_seed(0)
    for _ in range(2):
        for weight in network.parameters():
            weight.grad = torch.randn_like(weight)
        G = hidden.grad.double()
        optimizer.step()
        v = 0.5 * v + 0.5 * G
        stretch = max(1, hidden.shape[0] / hidden.shape[1]) ** 0.5
        expected = expected - 0.1 * stretch * quintic(0.5 * G + 0.5 * v if nesterov else v)
    error = (hidden.double() - expected).norm() / (0.1 * hidden.shape[1] ** 0.5)
    assert error < 1e-4
    assert torch.zeros(()).bfloat16().dtype == torch.bfloat16


def test_a_normalised_step_is_as_long_as_its_rate_whatever_the_gradient():
    network = HomogeneousMLP(5, 3, depth=3, base_width=3, dtype=torch.float64)
    optimizer = NormalizedSGD(network, 0.3, momentum=0.9)
    before = torch.cat([W.detach().flatten() for W in network.parameters()])
    gradient = torch.randn(len(before), dtype=torch.float64)
    v = torch.zeros_like(before)
    for scale in (1e-150, 1e9):
        v = 0.9 * v + 0.1 * scale * gradient
        parts = (scale * gradient).split([W.numel() for W in network.parameters()])
        for W, part in zip(network.parameters(), parts, strict=True):
            W.grad = part.view_as(W)
        optimizer.step()
        before = before - 0.3 * v / v.norm()
        after = torch.cat([W.detach().flatten() for W in network.parameters()])
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.parametrize("name", PEERS)
def test_a_run_learns_and_is_resumed_bit_for_bit(name):
    rows = train("whole", *PEERS[name])
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert train("resumed", *PEERS[name], "--run.resume=runs/whole/checkpoints/step-2") == rows
    stored = yaml.safe_load(Path("runs/whole/config.yaml").read_text())["optim"]
    assert stored["options"] == parse([*SMALL, *PEERS[name]]).optim.options


@pytest.mark.usefixtures("fresh_world")
@pytest.mark.parametrize("name", PEERS)
def test_a_small_run_has_the_numbers_of_the_trainer(name):
    config = parse([*SMALL, *PEERS[name], "--checkpoint.every_steps=null"])
    data = load_data(config.data, seed=0)
    Path("small").mkdir()
    train_small([config], [data], [Path("small")])
    small = [row["loss"] for row in read_metrics("small/metrics.jsonl") if "loss" in row]
    assert small == pytest.approx([r["loss"] for r in train("run", *PEERS[name]) if "loss" in r], rel=1e-12)
    assert not can_be_stacked(config)


def test_the_planner_counts_what_most_weights_keep():
    counted = {name: Workload.of(parse([*SMALL, *PEERS[name]]), 64, 10).states for name in PEERS}
    assert counted == {"adamw": 2, "muon": 1, "nsgd": 1, "by path": 2}


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [("sgd", "spectral"), ("adamw", "none"), ("nsgd", "none"), ("torch.optim.RMSprop", "none")],
)
def test_depthwise_scaling_is_the_default_of_sgd_only(optimizer, rule, tmp_path):
    optim = {"optimizer": optimizer}
    assert from_dict({"optim": optim}).scaling.rule == rule
    assert from_dict({"optim": optim, "scaling": {"rule": "norm"}}).scaling.rule == "norm"
    text = {"axes": [{"optim.optimizer": [optimizer]}]}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(text))
    (run,) = expand(read_study(file), DataShelf())
    assert run.config.scaling.rule == rule
    # A folder that was planned before the rule depended on the optimizer keeps its rule.
    file.write_text(yaml.safe_dump(text | {"defaults": {"scaling.rule": "spectral"}}))
    (run,) = expand(read_study(file), DataShelf())
    assert run.config.scaling.rule == "spectral"


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"optimizer": "adam"}, "optim.optimizer: 'adam' is not usable; allowed: sgd, adamw, muon, nsgd, or "
         "the path of a class such as torch.optim.RMSprop"),
        ({"optimizer": "adamw", "momentum": 0.9}, "optim.momentum: 0.9 is not usable; allowed: 0.0 with "
         "optim.optimizer adamw (it has its own, in optim.options)"),
        ({"options": {"eps": 1.0}}, "optim.options: {'eps': 1.0} is not usable; allowed: {} with "
         "optim.optimizer sgd (all its options have keys)"),
        ({"optimizer": "adamw", "options": [1]}, "optim.options: '[1]' does not fit; allowed: a mapping such "
         "as {a: 1}"),
    ],
)  # fmt: skip
def test_what_an_optimizer_does_not_have_is_refused(optim, message):
    with pytest.raises(UserError) as error:
        from_dict({"optim": optim})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamw", {"betas": [2, 0.9]}, "optim.options: Invalid beta parameter at index 0: 2.0; allowed: "
         "arguments of adamw"),
        ("muon", {"speed": 3}, "optim.options: Muon.__init__() got an unexpected keyword argument 'speed'; "
         "allowed: arguments of muon"),
        ("muon", {"ns_dtype": "half"}, "optim.options: ns_dtype 'half' is not usable; allowed: bfloat16, "
         "float32"),
        ("torch.optim.Nothing", {}, "optim.optimizer: 'torch.optim.Nothing' cannot be imported (module "
         "'torch.optim' has no attribute 'Nothing'); allowed: a registered name, or the path of a class of "
         "optimizers"),
        ("torch.nn.Linear", {}, "optim.optimizer: 'torch.nn.Linear' is no torch.optim.Optimizer; allowed: a "
         "registered name, or the path of a class of optimizers"),
    ],
)  # fmt: skip
def test_options_that_it_does_not_take_are_one_line(name, options, message):
    optim = from_dict({"optim": {"optimizer": name, "options": options}}).optim
    with pytest.raises(UserError) as error:
        build(OPTIMIZERS[name], HomogeneousMLP(5, 3, depth=3, base_width=3), optim)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"optimizer": "torch.optim.LBFGS"}, "optim.optimizer: 'torch.optim.LBFGS' takes no step by"),
        ({"optimizer": "torch.optim.SparseAdam"}, "optim.optimizer: 'torch.optim.SparseAdam' takes no step"),
        ({"optimizer": "torch.optim.RMSprop", "options": {"lr": 3}},
         "optim.options: lr has a key of its own; allowed: optim.lr"),
        ({"optimizer": "torch.optim.Adagrad", "momentum": 0.9},
         "optim.momentum: 0.9 is not usable; allowed: 0, since torch.optim.Adagrad has none"),
    ],
)  # fmt: skip
def test_an_optimizer_by_path_that_does_not_fit_is_one_line(optim, message):
    config = from_dict({"optim": optim})
    with pytest.raises(UserError) as error:
        Workload.of(config, 64, 10)
    assert str(error.value).startswith(message)
