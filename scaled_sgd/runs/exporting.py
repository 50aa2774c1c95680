"""A trained network as one file for other programs: weights, a program of ``torch.export``, or ONNX."""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.data.normalization import Array
from scaled_sgd.runs.pretrained import architecture
from scaled_sgd.runs.records import finite, replace_file
from scaled_sgd.runs.trained import TrainedRun

_MOST_ONNX_BYTES = 2**31 - 2**20
"""A message of protobuf holds less than 2 GiB, and the graph needs some."""


class Predictor(nn.Module):
    """The numbers of a row's input columns → its prediction, with the fitted part of the pipeline inside.

    Args:
        run: a trained network.
        network: its network in another precision.

    Attributes:
        in_features: d, the numbers of a row as :meth:`TrainedRun.predict` takes them in an array; those of
            text columns one-hot.
        names: of the outputs: ``outputs`` (n, m_l); ``probabilities`` (n, m_l) for cross-entropy; ``values``
            (n, m_l) in the unit of a target that was standardised.
    """

    fills: Tensor | None
    input_means: Tensor | None
    input_deviations: Tensor
    target_means: Tensor | None
    target_deviations: Tensor

    def __init__(self, run: TrainedRun, network: HomogeneousMLP | None = None) -> None:
        super().__init__()
        self.network = network or run.model
        self.start: HomogeneousMLP | None = None
        if self.network.centered:
            # A program draws no weights, so it holds those of step 0.
            self.start = copy.deepcopy(self.network)
            self.start.reset_parameters()
        normalization, scale = run.pipeline.normalization, run.pipeline.scale
        self.constant = normalization.constant
        self.in_features = self.network.widths[0] - (self.constant is not None)
        given = {"probabilities": run.loss == "cross_entropy", "values": scale is not None}
        self.names = ("outputs", *(name for name, holds in given.items() if holds))
        self.register_buffer("fills", _numbers(normalization.fills))
        for name, moments in (("input", normalization.standardization), ("target", scale)):
            means, deviations = (None, None) if moments is None else (moments.means, moments.deviations)
            self.register_buffer(f"{name}_means", _numbers(means))
            self.register_buffer(f"{name}_deviations", _numbers(deviations))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs called :attr:`names` of rows x (n, d), float64."""
        if self.fills is not None:
            x = torch.where(x.isnan(), self.fills, x)
        if self.input_means is not None:
            varies = self.input_deviations > 0
            x = (x - self.input_means) * torch.where(varies, 1 / self.input_deviations, 0.0)
        if self.constant is not None:
            x = torch.cat([x, torch.full_like(x[:, :1], self.constant)], dim=1)
        peak = x.abs().amax(dim=1, keepdim=True)
        h = (x / torch.where(peak > 0, peak, 1.0)).float()
        h = h * (h.shape[1] ** 0.5 / torch.linalg.vector_norm(h, dim=1, keepdim=True).clamp_min(1))
        h = h.to(self.network.scaled_layers[0].weight.dtype)
        f = self.network.uncentered(h)
        if self.start is not None:
            f = f - self.start.uncentered(h)
        given = [f]
        if "probabilities" in self.names:
            given.append(f.softmax(dim=1))
        if self.target_means is not None:
            given.append(f.double() * self.target_deviations + self.target_means)
        return tuple(given)


def _numbers(values: Array | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)


def export(run: TrainedRun, path: Path, kind: str) -> str:
    """Write a file with the network and, as JSON text, what is known of it; returns what it takes and gives.

    Args:
        run: a trained network.
        path: the file; replaced as a whole.
        kind: one of :data:`WRITERS`.

    Raises:
        UserError: a package is missing, or the format does not hold so many weights.
        OSError: the file cannot be written.
    """
    known = {"loss": run.loss, "pipeline": run.pipeline.as_dict()}
    facts = json.dumps(finite(architecture(run.model) | dict(run.config) | known), ensure_ascii=False)
    return WRITERS[kind](run, path, facts)


def _safetensors(run: TrainedRun, path: Path, facts: str) -> str:
    weights = {name: weight.detach().contiguous() for name, weight in run.model.state_dict().items()}
    replace_file(path, lambda place: save_file(weights, place, metadata={"format": "pt", "config": facts}))
    return f"{', '.join(weights)}; metadata: config"


def _pt2(run: TrainedRun, path: Path, facts: str) -> str:
    model = Predictor(run, copy.deepcopy(run.model))
    program = _program(model)

    def write(place: Path) -> None:
        with place.open("wb") as stream:
            torch.export.save(program, stream, extra_files={"config.json": facts})

    replace_file(path, write)
    return f"{_signature(model)}; extra file: config.json"


def _onnx(run: TrainedRun, path: Path, facts: str) -> str:
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"format: 'onnx' needs {error.name}, which is not installed; allowed here: safetensors, pt2, or "
            "onnx after pip install 'scaled-sgd[export]'"
        ) from error
    # Runtimes have no activations in float64 (onnxruntime: "no implementation for LeakyRelu").
    model = Predictor(run, copy.deepcopy(run.model).float())
    if sum(weight.nbytes for weight in model.parameters()) >= _MOST_ONNX_BYTES:
        raise UserError("format: 'onnx' holds less than 2 GiB of weights; allowed: safetensors, pt2")
    # It would tell of packages that these programs do not use.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            _program(model), dynamo=True, verbose=False, input_names=["x"], output_names=[*model.names]
        )
    assert made is not None
    proto = made.model_proto
    proto.metadata_props.add(key="config", value=facts)
    replace_file(path, lambda place: place.write_bytes(proto.SerializeToString()))
    rounded = "" if next(run.model.parameters()).dtype == torch.float32 else "; weights rounded to float32"
    return f"{_signature(model)}{rounded}; metadata: config"


def _program(model: Predictor) -> torch.export.ExportedProgram:
    # Two rows, since one would be taken for a constant.
    x = torch.ones(2, model.in_features, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            model.eval().requires_grad_(False), (x,), dynamic_shapes={"x": {0: torch.export.Dim("n", min=1)}}
        )


def _signature(model: Predictor) -> str:
    given = ", ".join(f"{name} (n, {model.network.widths[-1]})" for name in model.names)
    return f"x (n, {model.in_features}), float64 → {given}"


WRITERS: Mapping[str, Callable[[TrainedRun, Path, str], str]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "pt2": _pt2,
}
"""By format; each returns what its file takes and gives."""
