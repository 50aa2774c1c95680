"""Loads training and held-out examples from the `data.` configuration."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaled_sgd.config.combinations import check_data
from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.columns import Columns
from scaled_sgd.data.dialect import Asked
from scaled_sgd.data.encoding import Encoding
from scaled_sgd.data.examples import Examples
from scaled_sgd.data.generated import SOURCES, load_generated
from scaled_sgd.data.given import given
from scaled_sgd.data.loaded import Data
from scaled_sgd.data.resident import load_rows, load_table
from scaled_sgd.data.sources import open_source
from scaled_sgd.data.streamed import load_stream

DIGITS = Columns(("pixels",), "digit")
"""Columns of the embedded digits."""


def load_data(config: DataConfig, *, seed: int, quiet: bool = False, source: Any = None) -> Data:
    """Load, decode and normalise a data set; the same on every rank.

    Args:
        config: The `data.` section.
        seed: Selects the held-out examples and those kept by `limit`.
        quiet: Show no progress bars.
        source: Data in memory, see :func:`scaled_sgd.data.given.given`; None: those of `source`.

    Raises:
        UserError: The configuration does not fit the data; one line says where.
    """
    check_data(config)
    if source is not None:
        if config.streaming:
            raise UserError("data.streaming: true does not fit data in memory; allowed: false")
        return load_table(config, given(source), seed=seed)
    if config.source == "digits":
        return _load_digits(config, seed=seed)
    if config.source in SOURCES:
        return load_generated(config, seed=seed)
    opened = open_source(config.source, streaming=config.streaming, quiet=quiet, asked=Asked.of(config))
    if config.streaming:
        return load_stream(config, opened)
    return load_table(config, opened, seed=seed)


def _load_digits(config: DataConfig, *, seed: int) -> Data:
    x, y = read_digits()
    examples = Examples(x.astype(np.float32), y.astype(np.int64))
    encoding = Encoding(DIGITS, {}, tuple(range(10)), tuple("0123456789"))
    return load_rows(config, examples, encoding, seed=seed)


@cache
def read_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels (1797, 64) and digits (1797,) of ``sklearn.datasets.load_digits``; not to be written to.

    Reads its file directly: importing scikit-learn takes longer than a short run.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y
