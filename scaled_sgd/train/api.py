"""Training from Python: one call from data in memory to a trained network."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scaled_sgd.config import Config
from scaled_sgd.config.checks import check
from scaled_sgd.config.parsing import for_training
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.given import GIVEN
from scaled_sgd.runs.trained import TrainedRun, load_run
from scaled_sgd.train.accelerator import create_accelerator
from scaled_sgd.train.trainer import Trainer


def train(config: Mapping[str, Any] | Config | None = None, *, data: Any = None) -> TrainedRun:
    """Train as ``scaled-sgd train`` does, in this process, and load the run; collective under a launcher.

    Args:
        config: keys as in a YAML file, ``{"data": {"target": "price"}, "optim": {"steps": 500}}``; with
            ``{"run": {"resume": "runs/x"}}`` over that run's.
        data: in place of ``data.source``: arrays (x, y), a table of pandas or pyarrow, columns by name, a
            Bunch of scikit-learn, a ``datasets.Dataset``, or a ``DatasetDict`` with splits.

    Raises:
        UserError: a mistake in the configuration or the data.
        DivergedError: the loss became non-finite.
        StoppedError: a signal arrived; the run was saved.
    """
    settings = _settings(config, given=data is not None)
    trainer = Trainer(settings, create_accelerator(settings), source=data)
    trainer.run()
    trainer.accelerator.wait_for_everyone()
    return load_run(trainer.folder)


def _settings(config: Mapping[str, Any] | Config | None, *, given: bool) -> Config:
    if isinstance(config, Config):
        settings = replace(config, data=replace(config.data, source=GIVEN)) if given else config
        check(settings)
        return settings
    values = dict(config or {})
    if given:
        section = values.get("data", {})
        if not isinstance(section, Mapping) or "source" in section:
            raise UserError("data: a source beside data in memory; allowed: one of the two")
        values["data"] = {**section, "source": GIVEN}
    return for_training(values)
