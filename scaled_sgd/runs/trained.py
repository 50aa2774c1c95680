"""Loads a run as something to use: its network, with the pipeline from rows to predictions."""

import sys
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from scaled_sgd.config.keys import KEYS
from scaled_sgd.config.network import network_of
from scaled_sgd.config.parsing import from_dict
from scaled_sgd.config.resumed import BUILT_IN_METRICS
from scaled_sgd.config.sections import Config
from scaled_sgd.config.stored import completed
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.losses import get_loss
from scaled_sgd.core.network import HomogeneousMLP
from scaled_sgd.data import load_data
from scaled_sgd.data.facts import changed_fact, data_facts
from scaled_sgd.data.generated import SOURCES, fresh_rows
from scaled_sgd.data.loaded import Task
from scaled_sgd.data.metrics import built_in_metrics
from scaled_sgd.data.new_rows import NewRows, read_rows
from scaled_sgd.data.pipeline import Pipeline
from scaled_sgd.data.prepared import Prepared
from scaled_sgd.runs.checkpoint import Checkpoint, open_checkpoint
from scaled_sgd.runs.checkpoint.folders import steps_in
from scaled_sgd.runs.checkpoint.manifest import MANIFEST
from scaled_sgd.runs.own_files import run_folder
from scaled_sgd.runs.pretrained import CONFIG, damaged, network_in, read_config

_ROWS = 4096
"""Rows per forward pass."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of n rows, in their order.

    Attributes:
        outputs: f (n, m_l); of standardised targets.
        values: names of classes (n,), or numbers in the unit of the target column (n,), or (n, m_l) if a
            target has several.
        probabilities: (n, m_l), of a network trained with cross-entropy; else None.
    """

    outputs: Tensor
    values: NDArray[Any]
    probabilities: Tensor | None


@dataclass(frozen=True)
class TrainedRun:
    """The trained network of a run.

    Attributes:
        model: the network, on the CPU.
        pipeline: the way from rows to inputs.
        loss: ``"cross_entropy"`` or ``"mse"``.
        config: ``config.json`` of the run's ``model/``, or what of it the run's checkpoint tells.
    """

    model: HomogeneousMLP
    pipeline: Pipeline
    loss: str
    config: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the outputs; None for regression."""
        return self.pipeline.encoding.class_names

    def read(self, source: Any, *, split: str | None = None) -> NewRows:
        """The rows of a table, data set or file, for several calls; raises as :func:`read_rows`.

        Of a generated source, such as ``"parity"``, new rows like those of training.
        """
        if isinstance(source, str) and source in SOURCES:
            source = self._generated(source)
        return source if isinstance(source, NewRows) else read_rows(source, self.pipeline, split=split)

    def _generated(self, source: str) -> Prepared:
        settings = self.config.get("configuration")
        config = stored_config(settings).data if isinstance(settings, Mapping) else None
        if config is None or config.source != source:
            raise UserError(f"data.source: {source!r} is not what was trained on; allowed: a file or folder")
        return fresh_rows(config)

    def predict(self, source: Any, *, split: str | None = None, progress: bool = False) -> Predictions:
        """Predictions of all rows.

        Args:
            source: see :meth:`read`, or an array of the raw numbers of the input columns (n, …).
            split: of a file, folder or data set on the hub; None: ``train``, or the only one.
            progress: show a bar on a terminal.

        Raises:
            UserError: it cannot be read, or does not fit the columns of training.
        """
        if isinstance(source, np.ndarray | Tensor):
            x = self.pipeline.array(np.asarray(source.cpu() if isinstance(source, Tensor) else source))
        else:
            rows = self.read(source, split=split)
            for line in self.pipeline.unknown(rows.table):
                warnings.warn(line, stacklevel=2)
            x = self.pipeline.inputs(rows.table, rows.folders)
        f = self._outputs(x, progress)
        if self.classes is None:
            values = self.pipeline.in_unit(f).double()
            return Predictions(f, (values[:, 0] if f.shape[1] == 1 else values).numpy(), None)
        names = np.array(self.classes, dtype=object)[f.argmax(dim=1).numpy()]
        return Predictions(f, names, f.softmax(dim=1) if self.loss == "cross_entropy" else None)

    def evaluate(
        self, source: Any, *, split: str | None = None, predictions: Predictions | None = None
    ) -> dict[str, float]:
        """Mean loss, and accuracy or (in the target's unit) squared error and R², over rows with targets.

        Args:
            source: see :meth:`read`.
            split: see :meth:`predict`.
            predictions: those of the same rows, if they are known.

        Raises:
            UserError: as :meth:`predict`, or a target is missing or is none of training.
        """
        rows = self.read(source, split=split)
        if not rows.has_target:
            target = self.pipeline.encoding.columns.target
            raise UserError(f"data.source: no column {target!r}; allowed: data with the target of training")
        f = (predictions or self.predict(rows)).outputs
        references = y = self.pipeline.targets(rows.table)
        if self.classes is not None and self.loss == "mse":
            y = F.one_hot(y, f.shape[1])
        y = y if self.loss == "cross_entropy" else y.to(f.dtype)
        loss = float(get_loss(self.loss).value(f, y).double().mean())
        if self.classes is None:
            f, references = self.pipeline.in_unit(f), self.pipeline.in_unit(references)
        task: Task = "regression" if self.classes is None else "classification"
        names = [name for name, of in BUILT_IN_METRICS.items() if of == task]
        return {"loss": loss} | built_in_metrics(names, task).compute(f, references)

    @torch.no_grad()
    def _outputs(self, x: Tensor, progress: bool) -> Tensor:
        weight = self.model.scaled_layers[0].weight
        with tqdm(total=len(x), unit="row", disable=not (progress and sys.stderr.isatty())) as bar:
            outputs = []
            for part in torch.split(x, _ROWS):
                outputs.append(self.model(part.to(weight.device, weight.dtype)).cpu())
                bar.update(len(part))
        return torch.cat(outputs)


def load_run(path: str | Path) -> TrainedRun:
    """The trained network of a run, from ``model/``, or else from the newest intact checkpoint.

    Nothing is unpickled, and no code that the folder names is loaded.

    Args:
        path: a run directory, a checkpoint, or a folder such as ``model/``.

    Raises:
        UserError: there is no such run, it is damaged, or it was stored without what predictions need.
    """
    folder = run_folder(path)
    for place, follow in ((folder / "model", False), (folder, True)):
        if (place / CONFIG).is_file():
            if place.is_symlink() and not follow:
                raise damaged(place, "it is a link")
            return _from_model(place, follow=follow)
    return from_checkpoint(find_checkpoint(folder))


def _from_model(folder: Path, *, follow: bool) -> TrainedRun:
    config = read_config(folder, follow=follow)
    try:
        pipeline = Pipeline.from_dict(config.get("pipeline"))
    except ValueError as error:
        raise damaged(folder, str(error)) from error
    return _fitting(folder, network_in(folder, config, follow=follow), pipeline, config.get("loss"), config)


def _fitting(
    folder: Path, network: HomogeneousMLP, pipeline: Pipeline, loss: Any, config: Mapping[str, Any]
) -> TrainedRun:
    losses = ("mse",) if pipeline.encoding.classes is None else ("cross_entropy", "mse")
    if (network.widths[0], network.widths[-1]) != (pipeline.width, pipeline.outputs) or loss not in losses:
        raise damaged(folder, "its network, pipeline and loss do not fit each other")
    return TrainedRun(network, pipeline, loss, config)


def find_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint at ``folder``, or the newest intact one of a run directory.

    Raises:
        UserError: there is none.
    """
    if (folder / MANIFEST).is_file():
        return open_checkpoint(folder, _check)
    store = folder / "checkpoints"
    why = "no model/ and no checkpoint (small runs of studies store neither)"
    for step in [] if store.is_symlink() else steps_in(store):
        try:
            return open_checkpoint(store / f"step-{step}", _check)
        except UserError as error:
            why = str(error)
            print(f"warning: {error}", file=sys.stderr, flush=True)
    raise UserError(f"load_run: {str(folder)!r} has {why}; allowed: a run that finished or saved")


def _check(state: Mapping[str, Any], _step: int) -> None:
    for name in ("config", "data"):
        if not isinstance(state.get(name), dict):
            raise ValueError(f"its state has no {name}")


def from_checkpoint(checkpoint: Checkpoint) -> TrainedRun:
    """The network of a checkpoint.

    Raises:
        UserError: it is damaged, or was stored without what predictions need.
    """
    state, path = checkpoint.state, checkpoint.path
    config = stored_config(state["config"])
    network = network_of(
        config, state["data"].get("in_features"), state["data"].get("out_features"), device="meta"
    )
    if network.depth != sum(name.startswith("weight.") for name in checkpoint.names):
        raise damaged(path, f"it has not {network.depth} weights")
    network.centered = config.model.centered
    for k, layer in enumerate(network.scaled_layers, start=1):
        name, shape = f"weight.{k}", tuple(layer.weight.shape)
        if checkpoint.shape(name) != shape:
            raise damaged(path, f"{name} has shape {checkpoint.shape(name)}, not {shape}")
        layer.to_empty(device="cpu")
        with torch.no_grad():
            layer.weight.view(-1).copy_(checkpoint.read(name, 0, layer.weight.numel()))
    known = {"loss": config.loss, "configuration": state["config"], "versions": state.get("versions")}
    return _fitting(path, network, _pipeline(checkpoint, config), config.loss, known)


def stored_config(stored: Mapping[str, Any], also: Collection[str] = ()) -> Config:
    """The part of a stored configuration that decides predictions, and the keys in ``also``.

    Code (plugins, metrics) stays out.
    """
    sections: dict[str, Any] = {"model": {}, "data": {}, "run": {}}
    # A stream is refused without a number of steps.
    named = {"run.seed", "optim.steps", *also}
    for name, value in completed(stored).items():
        section, _, key = name.partition(".")
        if name in KEYS and (section in ("model", "data") or name in named):
            sections.setdefault(section, {})[key] = value
    return from_dict(sections | {"loss": stored.get("loss", "auto")})


def _pipeline(checkpoint: Checkpoint, config: Config) -> Pipeline:
    """The stored pipeline; for a checkpoint of an earlier version that of the data, if they are as before."""
    state, path = checkpoint.state, checkpoint.path
    if "pipeline" in state:
        try:
            return Pipeline.from_dict(state["pipeline"])
        except ValueError as error:
            raise damaged(path, str(error)) from error
    try:
        data = load_data(config.data, seed=config.run.seed, quiet=True)
    except UserError as error:
        raise UserError(
            f"load_run: {str(path)!r} has no stored pipeline, and its data are not here ({error}); allowed: "
            "the data in their place"
        ) from error
    if changed_fact(state["data"], data_facts(data)) is not None:
        raise UserError(
            f"load_run: {str(path)!r} has no stored pipeline, and {config.data.source!r} holds other data "
            "than it was trained on; allowed: the data as they were"
        )
    return data.pipeline
