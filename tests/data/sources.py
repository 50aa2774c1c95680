"""Small data sets, how tests load them, and what they expect of them."""

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

from scaled_sgd.config import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data import Data, Resident, load_data


def load(source: Path | str, seed: int = 0, **options: Any) -> Data:
    return load_data(DataConfig(source=str(source), **options), seed=seed)


def plain(source: Path | str, seed: int = 0, **options: Any) -> Data:
    """Numbers and targets as they stand in the source, but for the norm of rows."""
    numbers = {"standardize": False, "constant": False, "standardize_target": False, "missing": "refuse"}
    return load(source, seed, **numbers | {"categories": 0, "codes": "number"} | options)


def saved(folder: Path, columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    rows = datasets.Dataset.from_dict(columns, features=features and datasets.Features(features))
    rows.save_to_disk(str(folder))
    return folder


def table(n: int = 20, **more: list[Any]) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    columns = {"a": draw.normal(size=n), "b": draw.integers(0, 9, n), "label": [i % 2 for i in range(n)]}
    return pd.DataFrame({**columns, **more})


def parquet(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(path, index=False)
    return path


def png(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


def unit(x: Any) -> torch.Tensor:
    """Rows at norm √m_0, by float64."""
    rows = torch.as_tensor(np.asarray(x), dtype=torch.float64)
    return rows.mul(math.sqrt(rows.shape[1]) / rows.norm(dim=1, keepdim=True)).float()


def refusal(source: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("data.")
    return message


def every_row(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and held-out rows sorted by target, for tables whose targets are all different."""
    assert isinstance(data.train, Resident)
    x, y = torch.cat([data.train.x, data.evaluation.x]), torch.cat([data.train.y, data.evaluation.y])
    order = y.flatten().argsort()
    return x[order], y[order]
