"""What a package beside this one adds by one entry is seen wherever such things are named."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from scaled_sgd import HomogeneousMLP
from scaled_sgd.config.parsing import from_dict, parse
from scaled_sgd.core.activations import ACTIVATIONS
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import PARAMETERIZATIONS
from scaled_sgd.data.formats import FORMATS
from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.runs.checkpoint import open_checkpoint
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.steps.optimizers import OPTIMIZERS, Optimizer
from scaled_sgd.steps.rules import RULES, register_rule
from scaled_sgd.study.command import main as study
from scaled_sgd.train.main import main
from tests.launching import REPOSITORY, environment

TOY = "tests.plugins.toy"
PLUGIN = f"--run.plugins=[{TOY}]"
ACCEPTED = f"--run.accept_code=[{TOY}]"
SMALL = (
    "--model.depth=3", "--model.base_width=4", "--model.dtype=float64", "--optim.batch_size=500",
    "--optim.steps=4", "--optim.schedule=constant", "--run.log_every=1", "--checkpoint.every_steps=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def forgotten(fresh_world):
    """Nothing of the toy is known before a test, or after it."""
    forget()
    yield
    forget()


def forget():
    sys.modules.pop(TOY, None)
    for registry, name in (
        (RULES, "toy"),
        (OPTIMIZERS, "slowing"),
        (OPTIMIZERS, "adagrad"),
        (QUANTITIES, "weight_norms"),
        (FORMATS, ".words"),
        (PARAMETERIZATIONS, "halves"),
        (ACTIVATIONS, "sine"),
    ):
        if name in registry:
            registry.remove(name)


def train(name, *options):
    status = main([*SMALL, f"--run.name={name}", *options])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert status == 0
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(f"runs/{name}/metrics.jsonl")
    ]


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )


def stored(name):
    return yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text())


def test_a_rule_is_unknown_until_its_plugin_is_named():
    with pytest.raises(
        UserError, match=rf"^scaling\.rule: 'toy' is not usable; allowed: auto, {', '.join(RULES)}$"
    ):
        parse(["--scaling.rule=toy"])
    assert parse([PLUGIN, "--scaling.rule=toy"]).scaling.rule == "toy"
    assert from_dict({"scaling": {"rule": "toy"}, "run": {"plugins": [TOY]}}).scaling.rule == "toy"


@pytest.mark.parametrize("update", ["fused", "autograd"])
def test_a_rule_trains_and_is_in_the_metrics(update):
    rows = train(
        "run",
        PLUGIN,
        "--scaling.rule=toy",
        "--model.parameterization=ntp",
        "--optim.lr=4",
        f"--optim.update={update}",
    )
    assert all(row["scales"] == [0.5, 0.5, 0.5] for row in rows if "scales" in row)
    plain = train("plain", "--scaling.rule=none", "--model.parameterization=ntp", "--optim.lr=2")
    losses = [[row["loss"] for row in found if "loss" in row] for found in (rows, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_an_activation_trains_fused_as_by_autograd_and_is_diagnosed(capsys):
    options = (PLUGIN, "--model.activation=sine", "--diagnostics.every=2", "--optim.lr=0.1")
    fused, autograd = (train(name, *options, f"--optim.update={name}") for name in ("fused", "autograd"))
    said = capsys.readouterr().err
    assert "model.activation: sine is not homogeneous; weights behind it start with 1.327 times" in said
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (fused, autograd)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    (row,) = (row for row in fused if row["step"] == 2)
    assert row["gates_flipped"] is None
    predicted, after = row["predicted_loss"] - row["loss"], row["loss_after"] - row["loss"]
    assert predicted == pytest.approx(after, rel=1e-2)


def test_a_run_remembers_its_plugins_and_resumes_with_them():
    whole = train("whole", PLUGIN, "--scaling.rule=toy")
    assert stored("whole")["run"]["plugins"] == [TOY]
    forget()
    resumed = train("resumed", "--run.resume=runs/whole/checkpoints/step-2", ACCEPTED)
    assert resumed == whole
    assert stored("resumed")["run"]["plugins"] == [TOY]


@pytest.mark.slow
def test_help_shows_what_a_plugin_adds():
    command = ["-m", "scaled_sgd.cli", "train", "--help", PLUGIN]
    printed = python(*command)
    lines = printed.stdout.splitlines()
    assert f"  --scaling.rule {{{', '.join(['auto', *RULES, 'toy'])}}}" in lines
    names = ", ".join([*OPTIMIZERS, "slowing", "adagrad", OPTIMIZERS.words])
    assert f"  --optim.optimizer {{{names}}}" in lines
    text = " ".join(printed.stdout.split())
    for registry in (RULES, OPTIMIZERS, STRATEGIES, PARAMETERIZATIONS, QUANTITIES):
        for name in registry:
            assert f"{name}: {registry[name].label}" in text
    for added in (
        "toy: half of ω", "slowing: step t has the rate η / t", "adagrad: torch.optim.Adagrad",
        "halves: halved", "weight_norms: norms of weights",
    ):  # fmt: skip
        assert added in text


def test_a_study_compares_a_rule_of_a_plugin(tmp_path, capsys):
    Path("toy.yaml").write_text(
        f"base: {{model.depth: 2, model.base_width: 2, optim.steps: 3, run.plugins: [{TOY}]}}\n"
        "axes:\n  - scaling.rule: [none, toy]\n"
    )
    assert study(["run", "toy.yaml", "--workers=1"]) == 0
    forget()
    assert study(["collect", "toy.yaml"]) == 0
    assert study(["run", "toy.yaml", "--workers=1"]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_an_optimizer_trains_and_its_state_is_resumed():
    slowing = (PLUGIN, "--optim.optimizer=slowing", "--optim.momentum=0.5", "--scaling.rule=spectral")
    rows = train("whole", *slowing)
    _, first, second, *_ = (row["loss"] for row in rows if "loss" in row)
    _, same, other, *_ = (row["loss"] for row in train("plain", "--optim.momentum=0.5") if "loss" in row)
    assert first == pytest.approx(same, rel=1e-12)
    assert second != pytest.approx(other, rel=1e-3)
    optim = stored("whole")["optim"]
    assert json.loads(Path("runs/whole/summary.json").read_text())["update"] == "autograd"
    assert (optim["optimizer"], optim["update"]) == ("slowing", "auto")
    checkpoint = open_checkpoint(Path("runs/whole/checkpoints/step-2"))
    assert {f"{kind}.{k}" for kind in ("weight", "momentum", "visits") for k in (1, 2, 3)} <= {
        *checkpoint.names
    }
    forget()
    assert train("resumed", "--run.resume=runs/whole/checkpoints/step-2", ACCEPTED) == rows


def test_an_optimizer_of_torch_gets_scaled_gradients_and_is_resumed():
    adagrad = (PLUGIN, "--optim.optimizer=adagrad", "--optim.lr=0.1", "--scaling.rule=spectral")
    rows = train("whole", *adagrad, "--diagnostics.every=2")
    assert rows[0]["sharpness"] > 0
    assert rows[0]["predicted_loss"] is rows[0]["edge_ratio"] is None
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert rows[0]["scales"] == pytest.approx(train("plain")[0]["scales"], rel=1e-12)
    checkpoint = open_checkpoint(Path("runs/whole/checkpoints/step-2"))
    assert {f"squares.{k}" for k in (1, 2, 3)} <= {*checkpoint.names}
    assert checkpoint.state["optimizer"] == {"step": 2.0}
    forget()
    assert train("resumed", "--run.resume=runs/whole/checkpoints/step-2", ACCEPTED) == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--optim.update=fused",),
            "optim.update: 'fused' is not usable; allowed: auto, autograd with optim.optimizer slowing "
            "(it steps by gradients)",
        ),
        (
            ("--sharding.strategy=fsdp2",),
            "sharding.strategy: 'fsdp2' is not usable; allowed: auto, ddp with optim.optimizer slowing "
            "(where its step is right)",
        ),
    ],
)
def test_an_optimizer_is_refused_where_it_cannot_go(options, message):
    with pytest.raises(UserError) as error:
        parse([PLUGIN, "--optim.optimizer=slowing", *options])
    assert str(error.value) == message


def test_an_optimizer_that_is_said_to_be_fused_holds_the_velocity():
    def build(network, lr, *, momentum, weight_decay):
        return torch.optim.SGD(network.parameters(), lr, momentum=momentum)

    OPTIMIZERS.add("claims", Optimizer("claims", "torch.optim.SGD", build, fused=True))
    try:
        with pytest.raises(UserError) as error:
            main([*SMALL, "--run.name=run", "--optim.optimizer=claims", "--debug"])
    finally:
        OPTIMIZERS.remove("claims")
        AcceleratorState._reset_state(reset_partial_state=True)
    assert str(error.value) == (
        "optim.optimizer: 'claims' is registered with fused=True but builds a SGD; allowed: a ScaledSGD, or "
        "fused=False"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unseen_pictures")
def test_a_diagnostic_is_in_metrics_checkpoints_tables_and_the_page(tmp_path, capsys):
    options = (PLUGIN, "--diagnostics.every=1", "--diagnostics.quantities=[weight_norms]")
    rows = train("whole", *options, "--diagnostics.sharpness=false")
    measured = [row for row in rows if "weight_norms" in row]
    start = HomogeneousMLP(64, 10, depth=3, base_width=4, seed=0, dtype=torch.float64)
    norms = [float(W.norm()) for W in start.parameters()]
    assert measured[0]["weight_norms"] == pytest.approx(norms, rel=1e-12)
    assert [row["times"] for row in measured] == [1, 2, 3, 4]
    forget()
    assert train("resumed", "--run.resume=runs/whole/checkpoints/step-2", ACCEPTED) == rows
    Path("toy.yaml").write_text(
        f"base: {{model.depth: 2, model.base_width: 2, optim.steps: 3, run.plugins: [{TOY}], "
        "diagnostics.every: 1, diagnostics.quantities: [weight_norms]}\naxes:\n  - optim.lr: [1, 2]\n"
    )
    assert study(["run", "toy.yaml", "--workers=1"]) == 0
    assert study(["collect", "toy.yaml"]) == 0
    table = pandas.read_parquet("studies/toy/metrics.parquet")
    assert len(table["weight_norms.1"].dropna()) == 6
    done = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("done: "))
    pasted = shlex.split(done.partition("; ")[2].removesuffix(" shows it"))
    forget()
    assert study(pasted[2:]) == 0
    page = Path("studies/toy/report.html").read_text()
    assert "What becomes of the weight norms in training?" in page
    assert "In training the weight norms of the last layer goes from" in page
    assert "How often was it measured?" in page
    assert "In training the count goes from 1 to 3 at" in page
    drawn = pandas.read_csv("studies/toy/figures/weight_norms.csv")
    assert list(drawn["layer"]) == [1, 2]


def test_a_parameterization_and_a_data_format_are_used_by_name():
    Path("rows.words").write_text("".join(f"{i % 5} {i % 3} 1 {i % 2}\n" for i in range(40)))
    rows = train(
        "run", PLUGIN, "--model.parameterization=halves", "--data.source=rows.words", "--optim.batch_size=10"
    )
    ntp = train(
        "ntp", PLUGIN, "--model.parameterization=ntp", "--data.source=rows.words", "--optim.batch_size=10"
    )
    assert rows[0]["loss"] == pytest.approx(ntp[0]["loss"], rel=1e-12)


def test_an_entry_point_is_loaded_by_name_and_only_then(tmp_path, monkeypatch):
    metadata = tmp_path / "toybox-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toybox\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[scaled_sgd.plugins]\ntoybox = {TOY}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert parse([]).run.plugins == []
    assert TOY not in sys.modules
    assert parse(["--run.plugins=[toybox]", "--scaling.rule=toy"]).scaling.rule == "toy"


def test_a_plugin_that_fails_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        parse(["--run.plugins=[broken]"])
    assert str(error.value) == (
        "run.plugins: 'broken' cannot be imported (RuntimeError: two lines); allowed: modules that Python "
        "finds, and entry points of scaled_sgd.plugins"
    )


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(
        UserError, match=r"^optim\.optimizer: 'sgd' is registered already; allowed: another name$"
    ):
        OPTIMIZERS.add("sgd", OPTIMIZERS["sgd"])


@pytest.mark.slow
def test_every_registry_can_be_read_without_torch():
    code = (
        "import sys\n"
        "from scaled_sgd.config import KEYS, Config\n"
        "from scaled_sgd.config.parsing import from_dict\n"
        "from_dict({})\n"
        "assert all(key.allowed and key.help for key in KEYS.values())\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    python("-c", code)


@pytest.mark.parametrize(
    ("value", "kind"), [(2.0, "float"), ("abc", "str"), (torch.ones(7, dtype=torch.float64), "Tensor")]
)
def test_a_rule_that_gives_something_else_is_one_line(value, kind, capsys):
    register_rule("wrong", formula="?", label="?")(lambda statistics: value)
    try:
        assert main([*SMALL, "--scaling.rule=wrong", "--run.name=wrong"]) == 2
    finally:
        RULES.remove("wrong")
        AcceleratorState._reset_state(reset_partial_state=True)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: scaling.rule: 'wrong' gave {kind} instead of a number a layer; ")
