"""Sparse parities and the power-law teacher: what they are, and that a seed alone decides them."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from scaled_sgd import load_run
from scaled_sgd.config.parsing import parse
from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Resident, load_data
from scaled_sgd.runs.records import read_metrics
from scaled_sgd.train.main import main


def parts(config, seed=0):
    data = load_data(config, seed=seed)
    assert isinstance(data.train, Resident)
    return data, torch.cat([data.train.x, data.evaluation.x]), torch.cat([data.train.y, data.evaluation.y])


def test_a_parity_is_the_product_of_the_first_bits():
    data, x, y = parts(DataConfig("parity", samples=5000, features=9, parity_bits=4))
    assert (len(data.train), len(data.evaluation)) == (4000, 1000)
    assert data.class_names == ("-1", "1")
    assert torch.equal(x.abs(), torch.ones_like(x))
    assert torch.equal(2 * y - 1, x[:, :4].prod(1).long())
    features = torch.cat([x, (2 * y - 1)[:, None]], 1).double()
    assert float((features.T @ features / 5000 - torch.eye(10)).abs().max()) < 5 / 5000**0.5


def test_numbers_are_the_signs():
    data, x, y = parts(DataConfig("parity", samples=50, features=5, parity_bits=2, task="regression"))
    assert data.pipeline.scale is not None
    torch.testing.assert_close(data.pipeline.in_unit(y), x[:, :2].prod(1, keepdim=True).double())


def test_a_teacher_is_linear_in_inputs_of_a_power_law():
    config = DataConfig(
        "teacher", samples=20_000, features=30, spectrum=1.0, signal=1.5, standardize_target=False
    )
    _, x, y = parts(config)
    x, y = x.double().numpy(), y.double().numpy()
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 30**0.5, rtol=1e-6)
    w, *_ = np.linalg.lstsq(x, y[:, 0], rcond=None)
    np.testing.assert_allclose(x @ w, y[:, 0], atol=1e-4)
    k = np.arange(1, 31)
    np.testing.assert_allclose(np.abs(w), k**-0.25, rtol=1e-4)
    slope = np.polyfit(np.log(k[3:]), np.log(x.var(axis=0)[3:]), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.1)


def test_whole_exponents_are_numbers_like_others():
    whole, given = (
        parts(DataConfig("teacher", samples=40, spectrum=b, signal=a))[1:] for b, a in ((2, 3), (2.0, 3.0))
    )
    assert all(map(torch.equal, whole, given))


def test_random_features_are_one_projection_of_the_inputs():
    shape = {"samples": 300, "features": 12, "standardize_target": False}
    _, x, y = parts(DataConfig("teacher", **shape))
    _, seen, same = parts(DataConfig("teacher", **shape, random_features=40))
    assert torch.equal(y, same)
    assert seen.shape == (300, 40)
    assert int(torch.linalg.matrix_rank(seen, rtol=1e-4)) == 12
    directions = torch.linalg.lstsq(x.double(), seen.double()).solution
    cosine = torch.cosine_similarity(x.double() @ directions, seen.double(), dim=1)
    assert float(cosine.min()) > 0.9


def test_noise_is_relative_to_the_teacher():
    plain, noisy = (
        parts(DataConfig("teacher", samples=8000, noise=s, standardize_target=False))[2].double()
        for s in (0.0, 0.5)
    )
    assert float((noisy - plain).std() / plain.std()) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("source", ["parity", "teacher"])
def test_rows_depend_on_their_own_seed_only(source):
    (_, x, _), (_, again, _) = (parts(DataConfig(source, samples=60), seed) for seed in (0, 1))
    other = parts(DataConfig(source, samples=60, seed=1))[1]
    assert torch.equal(x.sort(0).values, again.sort(0).values)
    assert not torch.equal(x.sort(0).values, other.sort(0).values)


@pytest.mark.parametrize("source", ["parity", "teacher"])
def test_a_stream_has_new_rows_at_every_step_the_same_for_any_number_of_ranks(source):
    data = load_data(DataConfig(source, samples=40, streaming=True), seed=0)

    def three(rank, size, start=0):
        found = data.train.batches(batch_size=7, seed=3, epoch=0, rank=rank, world_size=size, start=start)
        return [batch.own() for batch, _ in zip(found, range(3), strict=False)]

    whole = three(0, 1)
    for i, shares in enumerate(zip(*(three(rank, 3) for rank in range(3)), strict=True)):
        for t, own in zip(whole[i], zip(*shares, strict=True), strict=True):
            assert torch.equal(t, torch.cat(own))
    assert not torch.equal(whole[0][0], whole[1][0])
    assert torch.equal(three(0, 1, start=2)[0][0], whole[2][0])


SMALL = (
    "--data.source=parity", "--data.features=8", "--data.parity_bits=2", "--data.samples=400",
    "--model.depth=3", "--model.base_width=8", "--optim.steps=60", "--optim.batch_size=64",
    "--run.log_every=5", "--model.activation=abs",
)  # fmt: skip


@pytest.mark.usefixtures("fresh_world")
def test_a_run_learns_a_parity_online_resumes_and_is_evaluated_on_new_rows():
    found = []
    for name, more in (("whole", ()), ("resumed", ("--run.resume=runs/whole/checkpoints/step-20",))):
        options = ("--data.streaming=true", "--checkpoint.every_steps=20", f"--run.name={name}", *more)
        options += ("--checkpoint.keep=9",)
        assert main([*SMALL, *options]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        rows = list(read_metrics(f"runs/{name}/metrics.jsonl"))
        found.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert found[0] == found[1]
    assert found[0][-1]["accuracy"] > 0.95
    run = load_run("runs/whole")
    figures = run.evaluate("parity")
    assert figures["accuracy"] > 0.95
    assert len(run.predict("parity").values) == 400
    assert load_run("runs/whole/checkpoints/step-60").evaluate("parity") == figures
    with pytest.raises(UserError, match=r"^data\.source: 'teacher' is not what was trained on"):
        run.predict("teacher")


def test_more_bits_than_there_are_and_classes_of_a_teacher_are_refused():
    with pytest.raises(UserError, match=r"^data\.parity_bits: 3 is not usable; allowed: integers from"):
        load_data(DataConfig("parity", features=2), seed=0)
    with pytest.raises(UserError, match=r"^data\.task: 'classification' is not usable; allowed: auto, r"):
        parse(["--data.source=teacher", "--data.task=classification"])
