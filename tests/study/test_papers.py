"""Studies that repeat papers: each runs in a tiny size, and its claims and figures are computed."""

import re

import pytest
import yaml
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scaled_sgd.study.claims.paper import read_claims, read_paper
from scaled_sgd.study.claims.verdict import judge
from scaled_sgd.study.figures import draw_figures
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import expand, read_study
from scaled_sgd.study.grid.study_file import named_studies
from scaled_sgd.study.small.attempt import DataShelf
from scaled_sgd.study.small.engine import train
from scaled_sgd.study.tables.collect import collect
from tests.launching import REPOSITORY

PAPERS = {name: path for name, path in named_studies().items() if name.startswith("papers/")}
TINY = {"optim.steps": 4, "diagnostics.every": 2, "model.base_width": 4, "data.limit": 48,
        "optim.warmup_steps": 1}  # fmt: skip
"""Sizes of a test: of the keys that a study has in its base; an axis of them gets two values."""


@pytest.fixture(scope="module")
def shelf():
    return DataShelf()


@pytest.mark.slow
@pytest.mark.parametrize("most_runs", [4, pytest.param(8, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_is_repeated_in_a_tiny_size(name, most_runs, tmp_path, shelf, monkeypatch):
    # Placing panels takes longer than drawing them.
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, figure: None)
    source = yaml.safe_load(PAPERS[name].read_text(encoding="utf-8"))
    varied = {key for axis in source["axes"] for key in axis}
    base = read_study(PAPERS[name]).base
    choices = [made for axis in source["axes"] for made in axis.values() if isinstance(made, dict)]
    ranks = [keys.get("model.rank") for made in choices for keys in made.values() if isinstance(keys, dict)]
    sizes = TINY | {"model.base_width": max(TINY["model.base_width"], *(rank or 0 for rank in ranks), 0)}
    tiny = {key: [value, value + 2] if key in varied else value for key, value in sizes.items()}
    study = read_study(PAPERS[name], {key: tiny[key] for key in tiny if key in varied or key in base})
    runs = expand(study, shelf)
    # Some of every choice, at no more than so many runs.
    runs = runs[:: -(-len(runs) // most_runs)]
    folder = StudyFolder(tmp_path / name.removeprefix("papers/"))
    folder.write_plan(study, runs)
    for run in runs:
        train([run.config], [shelf(run.config.data, run.config.run.seed)], [folder.begin(run.id)])
    collected = collect(folder.path)
    assert draw_figures(collected, source["report"]).figures
    assert len(judge(read_claims(source["claims"], collected.axes), collected)) == len(source["claims"])


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_says_how_its_setting_differs_and_how_to_run_it_in_full(name):
    source = yaml.safe_load(PAPERS[name].read_text(encoding="utf-8"))
    paper = read_paper(source["paper"])
    assert paper.differs
    assert re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
    assert "# Full size: --" in PAPERS[name].read_text(encoding="utf-8")
    assert source["claims"]


def test_the_index_of_papers_names_each():
    index = (REPOSITORY / "docs/papers/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\[(\w+)\]\(\w+\.md\)", index)) == {
        name.removeprefix("papers/") for name in PAPERS
    }
