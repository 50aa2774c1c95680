"""Neural collapse, alignment with the labels and smallest eigenvalues, against dense matrices."""

import math

import pytest
import torch
from torch import Tensor

from scaled_sgd.config import DiagnosticsConfig
from scaled_sgd.diagnostics import Minibatch, hidden_features, tangent_kernel
from scaled_sgd.diagnostics.labels import log_lambda_min, neural_collapse
from scaled_sgd.diagnostics.observer import Observer
from scaled_sgd.diagnostics.taken import StepTaken
from scaled_sgd.steps.direction import Direction
from tests.oracles import Problem, make_problem, output_jacobian

NAMES = ["neural_collapse", "label_alignment", "feature_kernels"]


def measured(p: Problem, y: Tensor, *, chunk: int = 100, say: object = None) -> dict[str, object]:
    config = DiagnosticsConfig(every=1, taylor=False, sharpness=False, ranks=False, chunk=chunk)
    config.quantities = NAMES
    observer = Observer(config, p.model, p.x, y, loss=p.loss, say=say or (lambda line: None))
    taken = StepTaken(Direction(torch.ones(p.model.depth, dtype=torch.float64)), 0.1)
    return observer.measure(Minibatch(p.model, p.x, y, loss=p.loss), taken)


def dense_collapse(H: Tensor, ids: Tensor) -> float:
    means = {c: H[ids == c].mean(0) for c in ids.unique().tolist()}
    within = sum(torch.outer(h - means[c], h - means[c]) for h, c in zip(H, ids.tolist(), strict=True)) / len(
        H
    )
    between = sum(torch.outer(m - H.mean(0), m - H.mean(0)) for m in means.values()) / len(means)
    pinv = torch.linalg.pinv(between, hermitian=True, rtol=1e-10)
    return float((within @ pinv).trace()) / len(means)


def centred(K: Tensor) -> Tensor:
    C = torch.eye(len(K), dtype=K.dtype) - 1 / len(K)
    return C @ K @ C


def cosine(K: Tensor, L: Tensor) -> float:
    return float((K * L).sum() / K.norm() / L.norm())


@pytest.mark.parametrize("samples", [11, 30])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_collapse_and_alignment_are_those_of_dense_matrices(samples: int, loss: str) -> None:
    p = make_problem(samples=samples, base_width=5, loss=loss)
    ids = torch.arange(samples) % 7 % 3
    Y = torch.nn.functional.one_hot(ids, 3).double()
    row = measured(p, ids if loss == "cross_entropy" else Y)
    H = hidden_features(p.model, p.x)[-1]
    assert row["neural_collapse"] == pytest.approx(dense_collapse(H, ids), rel=1e-8)
    J = output_jacobian(p).view(samples, 3, -1)
    theta = torch.einsum("icp,jcp->ij", J, J)
    torch.testing.assert_close(tangent_kernel(p.model, p.x, trace_outputs=True), theta)
    labels = centred(Y @ Y.T)
    wanted = {"kernel": cosine(centred(theta), labels), "features": cosine(centred(H @ H.T), labels)}
    assert row["label_alignment"] == pytest.approx(wanted, rel=1e-9)
    in_pieces = measured(p, ids if loss == "cross_entropy" else Y, chunk=4)
    assert in_pieces["neural_collapse"] == pytest.approx(row["neural_collapse"], rel=1e-9)
    assert in_pieces["label_alignment"] == {"kernel": None, "features": pytest.approx(wanted["features"])}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_labels_of_a_centred_network_are_those_of_its_data(loss: str) -> None:
    p = make_problem(samples=11, base_width=5, loss=loss)
    ids = torch.arange(11) % 3
    y = ids if loss == "cross_entropy" else torch.nn.functional.one_hot(ids, 3).double()
    plain = measured(p, y)
    p.model.centered = True
    row = measured(p, y)
    assert {name: row[name] for name in ("neural_collapse", "label_alignment")} == {
        name: plain[name] for name in ("neural_collapse", "label_alignment")
    }


def test_collapse_is_zero_where_samples_of_a_class_agree_and_undefined_where_classes_do() -> None:
    means = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 1, 2, 0, 1, 0])
    assert float(neural_collapse(means[ids], ids)) == pytest.approx(0, abs=1e-25)
    assert math.isnan(float(neural_collapse(torch.ones(6, 5), ids)))


def test_numbers_are_no_classes_but_have_an_alignment() -> None:
    said: list[str] = []
    p = make_problem(loss="mse", samples=9)
    row = measured(p, p.y, say=said.append)
    assert row["neural_collapse"] is None
    assert any(line.startswith("neural_collapse: null, for the targets are not classes") for line in said)
    H = hidden_features(p.model, p.x)[-1]
    found = row["label_alignment"]["features"]
    assert found == pytest.approx(cosine(centred(H @ H.T), centred(p.y @ p.y.T)), rel=1e-9)


def test_smallest_eigenvalues_are_those_of_dense_kernels_and_null_where_there_is_none() -> None:
    p = make_problem(samples=6, base_width=4, width_exponent=1.0)
    row = measured(p, p.y)
    wanted = [torch.linalg.eigvalsh(H @ H.T / H.shape[1])[0] for H in hidden_features(p.model, p.x)]
    assert [H.shape[1] for H in hidden_features(p.model, p.x)] == [4, 8, 12]
    assert row["log_lambda_min"][0] is None
    assert row["log_lambda_min"][1:] == pytest.approx([math.log(v) for v in wanted[1:]], rel=1e-8)
    twice = torch.randn(1, 9).expand(2, 9)
    assert float(log_lambda_min(twice)) == -math.inf
    assert float(log_lambda_min(torch.eye(4, 9))) == pytest.approx(-math.log(9))
