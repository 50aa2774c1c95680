"""What small runs leave, and whether two left the same."""

import json

import pytest

from scaled_sgd.config import flat
from scaled_sgd.runs.records import read_metrics


def left_in(folder):
    """Rows and summary of a run."""
    return list(read_metrics(folder / "metrics.jsonl")), json.loads((folder / "summary.json").read_text())


def same(found, expected, *, rel=1e-12, left_out=()):
    """All numbers but how long things took, residuals, which are rounding, and what is ``left_out``."""
    hidden = ("seconds", "sharpness_residuals", *left_out)
    found, expected = (
        {key: value for key, value in flat(row).items() if not key.startswith(hidden)}
        for row in (found, expected)
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=rel, abs=1e-15), key
        else:
            assert found[key] == value, key
