"""Studies that repeat papers: each runs in a tiny size, and its claims and figures are computed."""

import dataclasses
import gzip
import re
import shlex
import struct

import pytest
import yaml
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scaled_sgd.diagnostics.registry import QUANTITIES
from scaled_sgd.study.claims.labels import column_label
from scaled_sgd.study.claims.paper import read_claims, read_paper
from scaled_sgd.study.claims.plot import read_plot
from scaled_sgd.study.claims.verdict import judge
from scaled_sgd.study.command import main
from scaled_sgd.study.execution import run as execution
from scaled_sgd.study.figures import draw_figures
from scaled_sgd.study.figures.reading.words import axis_label
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
    drawings = draw_figures(collected, source["report"])
    assert drawings.figures
    for figure in drawings.figures:
        assert wrong_labels(figure.picture) == []
    assert len(judge(read_claims(source["claims"], collected.axes), collected)) == len(source["claims"])


PLOTS = [
    read_plot(found, None)
    for path in PAPERS.values()
    for found in yaml.safe_load(path.read_text(encoding="utf-8"))["report"]
    if isinstance(found, dict)
]


def wrong_labels(picture):
    """Labels of axes and legends that are names of columns, and axes in the first place without any."""
    found = [ax.get_ylabel() or "no label" for ax in picture.axes if ax.get_subplotspec().is_first_col()]
    found += [ax.get_xlabel() or "no label" for ax in picture.axes if ax.get_subplotspec().is_last_row()]
    found += [text.get_text() for legend in picture.legends for text in legend.get_texts()]
    return [text for text in found if text == "no label" or is_raw(text)]


def is_raw(text):
    """Whether a text is the name of a column or a key: joined words, apart from symbols such as S_k."""
    return text in ("lr", "edge") or bool(re.search(r"[a-z]{2,}[._][a-z0-9]", text))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: f"{plot.name}-{plot.along}")
def test_every_axis_and_line_of_a_described_figure_has_words(plot):
    columns = [curve.column for curve in plot.curves if curve.column] + [plot.against] * bool(plot.against)
    said = [plot.y_label, axis_label(plot.along), axis_label(plot.lines or "step")]
    said += [column_label(column) for column in columns]
    assert all(said)
    assert not any(is_raw(text) for text in said)
    # Several columns need a word for what they have in common.
    assert len([column for column in columns if column != "edge"]) < 2 or plot.axis or plot.against


def test_every_column_of_a_diagnostic_has_words():
    columns = [column for entry in QUANTITIES.entries for column in entry.columns]
    assert [column.name for column in columns if is_raw(column.words)] == []
    assert column_label("features.drift.3") == "kernel drift of layer 3"
    assert column_label("gauss_newton_eigenvalues.2") == "eigenvalue of G 2"
    assert column_label("lr") == "learning rate η"


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_says_how_its_setting_differs_and_how_to_run_it_in_full(name):
    source = yaml.safe_load(PAPERS[name].read_text(encoding="utf-8"))
    paper = read_paper(source["paper"])
    assert paper.differs
    assert re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
    assert "# Full size: --" in PAPERS[name].read_text(encoding="utf-8")
    assert source["claims"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder like that of Fashion-MNIST, with black images of ten classes."""
    folder = tmp_path_factory.mktemp("fashion-mnist")
    for part, count in (("train", 4096), ("t10k", 20)):
        pixels = struct.pack(">4i", 2051, count, 28, 28) + bytes(count * 784)
        classes = struct.pack(">2i", 2049, count) + bytes(row % 10 for row in range(count))
        for kind, content in (("images-idx3", pixels), ("labels-idx1", classes)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, 1))
    return folder


def few(config):
    """A plan does not depend on how much generated data there are, which take long to generate."""
    return dataclasses.replace(config, samples=min(config.samples, 500), features=min(config.features, 50))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_the_full_size_on_the_page_of_a_paper_is_planned(name, images, tmp_path, capsys, monkeypatch):
    shelf = DataShelf()
    monkeypatch.setattr(execution, "DataShelf", lambda: lambda config, seed: shelf(few(config), seed))
    page = (REPOSITORY / f"docs/{name}.md").read_text(encoding="utf-8")
    [line] = re.findall(r"Full size: `scaled-sgd study run (.*)`", page)
    place, *options = shlex.split(line)
    assert place == name
    assert line == f"{name} {yaml.safe_load(PAPERS[name].read_text(encoding='utf-8'))['paper']['full']}"
    options = [str(images) if option == "/usr/share/datasets/fashion-mnist" else option for option in options]
    assert main(["run", name, "--dry-run", "--dir", str(tmp_path), *options]) == 0
    said = capsys.readouterr()
    counted = re.search(r"(\d+) runs, 0 ended", said.out + said.err)
    assert counted is not None, said
    assert int(counted[1]) > 0


def test_the_index_of_papers_names_each():
    index = (REPOSITORY / "docs/papers/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\[(\w+)\]\(\w+\.md\)", index)) == {
        name.removeprefix("papers/") for name in PAPERS
    }
