from dataclasses import replace

import pytest
import torch

from scaled_sgd.config import Config
from scaled_sgd.data import Data, Resident
from scaled_sgd.data.columns import Columns
from scaled_sgd.data.encoding import Encoding
from scaled_sgd.data.normalization import Normalization
from scaled_sgd.data.pipeline import Pipeline
from scaled_sgd.runs.summary import network_facts, sizes_cut


@pytest.mark.parametrize(("asked", "used", "lines"), [(64, 40, 2), (40, 40, 0), (7, 7, 0)])
def test_a_summary_has_the_sizes_that_were_used(asked: int, used: int, lines: int) -> None:
    part = Resident(torch.ones(40, 3), torch.zeros(40, dtype=torch.long))
    columns = Columns(("x",), "y")
    pipeline = Pipeline(Encoding(columns, {}, (0, 1), ("a", "b")), 3, 2, Normalization())
    config = Config()
    data = Data(part, part, pipeline, config.data)
    config = replace(config, optim=replace(config.optim, batch_size=asked))
    config = replace(config, diagnostics=replace(config.diagnostics, every=1, samples=asked))
    sizes = network_facts(config, data, (3, 4, 2))["sizes"]
    assert sizes == {"training": 40, "held_out": 40, "batch": used, "probe": used}
    assert [*sizes_cut(config, data)] == [
        f"{key}: {asked} is more than there are; all 40 samples are taken"
        for key in ("optim.batch_size", "diagnostics.samples")
    ][:lines]
    config = replace(config, diagnostics=replace(config.diagnostics, every=0))
    assert network_facts(config, data, (3, 4, 2))["sizes"]["probe"] is None
    assert len([*sizes_cut(config, data)]) == (lines > 0)
