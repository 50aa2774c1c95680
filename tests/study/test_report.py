import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from scaled_sgd.core.errors import UserError
from scaled_sgd.study.figures import draw_figures
from scaled_sgd.study.figures.drawing.drawn import Drawn
from scaled_sgd.study.figures.drawing.style import STYLE
from scaled_sgd.study.grid.figures import all_figures
from scaled_sgd.study.page import report
from scaled_sgd.study.page.report import write_report
from tests.study.browser import BROWSER, look
from tests.study.folders import diagnosed, diverged, finished, identifier, make_study

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
AXES = {
    "method": ["νP norm", HOSTILE],
    "model.base_width": [4, 8],
    "optim.lr": [1.0, 2.0, 4.0],
    "run.seed": [0, 1],
}

PNG, PDF = b"\x89PNG", b"%PDF-"
DRAWN = ("loss_against_lr", "taylor")
"""Figures whose panels are placed, with files of every kind; the page shows the SVG of each."""
LACKING = ("best_lr_against_depth", "cycle")
"""Figures that the study has no runs for: one depth, no measurement at every step."""

LOST = {"method": "νP norm", "model.base_width": 4, "optim.lr": 1.0, "run.seed": 1}


def outcome(axes):
    if axes["optim.lr"] == 4.0 and axes["method"] == HOSTILE:
        return diverged() if axes["run.seed"] else None
    rows = [diagnosed(s, lr=axes["optim.lr"]) for s in (0, 10, 20)]
    return finished(axes["optim.lr"] / axes["model.base_width"] + 0.01 * axes["run.seed"], rows=rows)


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The page of a study, and its figures."""
    folder = tmp_path_factory.mktemp("studies") / "hostile"
    study = {"title": f"Does η·λ <stay> at 2? {HOSTILE}", "about": "Widths m·k² & 'quotes' \"too\"."}
    make_study(folder, AXES, outcome, study=study)
    (folder / "runs" / identifier(LOST) / "summary.json").write_text("<b>{")
    drawn = []

    def draw(*arguments):
        drawn.append(draw_figures(*arguments))
        return drawn[-1]

    def rendered(figure, kind, **options):
        as_it_is = kind == "svg" or figure.name in DRAWN
        return really(figure, kind, **options) if as_it_is else {"png": PNG, "pdf": PDF}[kind]

    def placed(figure):
        """Placing panels takes as long as drawing them; test_figures.py places those of all figures."""
        if figure.name in DRAWN:
            return settled(figure)
        figure.picture.set_layout_engine(None)
        return figure

    really, settled = Drawn._rendered, Drawn.settled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_figures", draw)
        patch.setattr(Drawn, "_rendered", rendered)
        patch.setattr(Drawn, "settled", placed)
        # Parts of TrueType fonts take as long as all else; test_figures.py has them.
        patch.setitem(STYLE, "pdf.fonttype", 3)
        return write_report(folder), drawn[0].figures


@pytest.fixture(scope="module")
def page(reported):
    return reported[0]


def test_every_figure_says_what_it_shows_and_how_to_read_it(reported):
    for figure in reported[1]:
        assert figure.title.endswith("?")
        assert figure.sentence.endswith(".")
        assert figure.sentence[0].isupper()
        assert any(character.isdigit() for character in figure.sentence)
        assert figure.caption.endswith(".")
        assert len(figure.table) > 0
        assert figure.sentence in figure.alt


def test_a_report_is_a_page_a_text_and_the_files_of_its_figures(page):
    text = page.read_text(encoding="utf-8")
    drawn = re.findall(r'<section id="(\w+)">', text)
    assert drawn == [name for name in all_figures() if name not in LACKING]
    files = sorted(file.name for file in (page.parent / "figures").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in drawn for kind in ("png", "svg", "pdf", "csv"))
    summary = (page.parent / "summary.md").read_text(encoding="utf-8")
    for name in drawn:
        assert f"](figures/{name}.png)" in summary
        assert f'href="figures/{name}.svg"' in text
        ElementTree.fromstring((page.parent / "figures" / f"{name}.svg").read_bytes())
        assert (page.parent / "figures" / f"{name}.png").read_bytes().startswith(PNG)
    assert "Which learning rate is best at which depth? It would take runs at two depths or more." in text
    assert "third_order at every step of a run of plain SGD that passes 2/η where α &gt; 0." in text


@pytest.mark.full
def test_every_figure_is_drawn_in_every_kind(reported):
    for figure in reported[1]:
        assert figure.png().startswith(PNG)
        assert figure.pdf().startswith(PDF)


def test_a_page_loads_nothing_and_runs_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"url\(|@import", text)
    tags = Tags()
    tags.feed(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in tags.found
    }
    attributes = [pair for _, pairs in tags.found for pair in pairs]
    assert not [name for name, _ in attributes if name.startswith("on")]
    sources = {value.partition(",")[0] for name, value in attributes if name == "src"}
    assert sources == {"data:image/svg+xml;base64"}
    links = [value for name, value in attributes if name == "href"]
    assert links
    assert all(re.fullmatch(r"#\w+|figures/\w+\.(png|svg|pdf|csv)", link) for link in links)


def test_names_and_titles_are_shown_as_they_were_written(page):
    text = page.read_text(encoding="utf-8")
    assert "<h1>Does η·λ &lt;stay&gt; at 2? &lt;script&gt;document" in text
    assert "Widths m·k² & 'quotes' \"too\"." in unescape(text)
    assert text.count("<script>") == 0 < unescape(text).count("<script>document.title='owned'</script>")
    summary = (page.parent / "summary.md").read_text(encoding="utf-8")
    assert "<script" not in summary
    assert "<img" not in summary


def test_the_facts_of_a_study_head_its_page(page):
    text = page.read_text(encoding="utf-8")
    assert "24 planned: 19 finished, 2 diverged, 2 pending, 1 damaged" in text
    assert "torch 2.13.0" in text
    assert "abc123" in text
    assert "<code>scaled-sgd study run hostile/study.yaml</code>" in text
    # 21 runs of a second.
    assert "21 s in sum" in text
    assert f"runs/{identifier(LOST)}: left out: " in text


def test_nothing_of_the_machine_is_in_what_one_commits(page):
    for file in (page, page.parent / "summary.md", *(page.parent / "figures").glob("*.svg")):
        assert str(page.parent.parent) not in file.read_text(encoding="utf-8")


def test_a_report_written_twice_is_the_same(tmp_path):
    folder = make_study(tmp_path / "s", AXES, outcome)
    path = write_report(folder, ["methods"])
    files = [path, folder / "summary.md", *sorted((folder / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    write_report(folder, ["methods"])
    assert [file.read_bytes() for file in files] == before


def test_the_tables_of_the_text_have_a_cell_a_column(page):
    summary = (page.parent / "summary.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n)+", summary, flags=re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


@pytest.mark.usefixtures("unseen_pictures")
def test_a_study_names_its_figures_and_older_ones_go(tmp_path):
    study = {"report": ["methods", "loss_against_lr"]}
    folder = make_study(tmp_path / "s", AXES, outcome, study=study)
    (folder / "figures").mkdir()
    for name in ("taylor.png", "notes.txt"):
        (folder / "figures" / name).write_text("old")
    text = write_report(folder).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', text) == ["methods", "loss_against_lr"]
    assert not (folder / "figures" / "taylor.png").exists()
    assert (folder / "figures" / "notes.txt").exists()
    assert re.findall(r'<section id="(\w+)">', write_report(folder, ["taylor"]).read_text()) == ["taylor"]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (["pie"], "report: 'pie' is unknown; allowed: loss_against_lr,"),
        ("methods", "report: 'methods' is no list; allowed: a list of loss_against_lr,"),
    ],
)
def test_figures_that_a_study_cannot_mean_are_refused_before_anything_is_written(tmp_path, report, message):
    folder = make_study(tmp_path / "s", {"run.seed": [0]}, outcome=lambda _: None, study={"report": report})
    with pytest.raises(UserError, match=re.escape(message)):
        write_report(folder)
    assert not (folder / "runs.parquet").exists()


@pytest.mark.parametrize("text", [None, "- a\n", "a: [", "\x00"])
def test_a_folder_without_a_readable_study_file_is_no_study(tmp_path, text):
    if text is not None:
        (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^study: .*study\.yaml.*; allowed: "):
        write_report(tmp_path)


@pytest.mark.usefixtures("unseen_pictures")
@pytest.mark.parametrize("how", ["nothing has ended", "all diverged", "one run"])
def test_a_study_with_little_to_show_has_a_page_all_the_same(tmp_path, how):
    if how == "one run":
        folder = make_study(tmp_path / "s", {"run.seed": [0]}, lambda _: finished(0.1))
    else:
        folder = make_study(
            tmp_path / "s", AXES, lambda _: None if how == "nothing has ended" else diverged()
        )
    text = write_report(folder, ["loss_against_lr", "methods"]).read_text(encoding="utf-8")
    assert "What the study has no data for" in text
    if how != "all diverged":
        assert "There is nothing to draw yet." in text
    else:
        assert "Every method diverged at every rate." in text


@pytest.mark.usefixtures("unseen_pictures")
def test_a_revision_that_differs_between_runs_is_counted(tmp_path):
    folder = make_study(
        tmp_path / "s",
        {"run.seed": [0, 1, 2]},
        lambda a: finished(0.1, git_revision=f"r{a['run.seed'] // 2}"),
    )
    assert "r0 (2 runs), r1 (1 run)" in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.usefixtures("unseen_pictures")
def test_networks_matched_by_their_weights_are_said_to_have_widths_of_their_own(tmp_path):
    axes = {"matching": ["equal_base_width", "equal_parameters"], "model.base_width": [8], "run.seed": [0]}
    folder = make_study(tmp_path / "s", axes, lambda _: finished(0.1))
    assert "config.model.base_width" not in write_report(folder).read_text(encoding="utf-8")
    plan = (folder / "plan.jsonl").read_text().replace('"base_width": 8, "act', '"base_width": 31, "act', 1)
    (folder / "plan.jsonl").write_text(plan)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "matched networks have their own, <code>config.model.base_width</code>" in text
    assert "equal base width and equal parameters" in text


@pytest.mark.usefixtures("unseen_pictures")
def test_the_text_shows_marks_of_markdown_as_they_are(tmp_path):
    title = "`*a_b*` [x](y) \\ <i>"
    folder = make_study(tmp_path / "s", {"run.seed": [0]}, lambda _: None, study={"title": title})
    write_report(folder)
    head = (folder / "summary.md").read_text(encoding="utf-8").splitlines()[0]
    assert head == r"# \`\*a\_b\*\` \[x\](y) \\ &lt;i&gt;"


@pytest.mark.usefixtures("unseen_pictures")
def test_no_text_of_a_table_is_a_formula(tmp_path, capsys):
    labels = ['=HYPERLINK("x")', "+1", "-2", "@SUM(1)", "plain"]
    axes = {"method": labels, "optim.lr": [0.5, 1.0, 2.0]}
    folder = make_study(
        tmp_path, axes, lambda a: finished(a["optim.lr"]), study={"report": ["loss_against_lr"]}
    )
    hurt = next((folder / "runs").iterdir())
    (hurt / "summary.json").write_text("{")
    write_report(folder)
    table = pd.read_csv(folder / "figures/loss_against_lr.csv")
    texts = {value for value in table.to_numpy().ravel() if isinstance(value, str)}
    assert {f"'{label}" for label in labels[:4]} | {"plain"} <= texts
    assert not any(text.startswith(("=", "+", "-", "@")) for text in (*texts, *table.columns))
    assert capsys.readouterr().err.startswith(f"warning: runs/{hurt.name}: left out: ")


def test_the_documentation_names_every_figure():
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    documented = [name for row in rows for name in row.replace(",", " ").split() if name in all_figures()]
    assert sorted(documented) == sorted(all_figures())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_shows_every_figure_and_sentence_within_wide_and_narrow_windows(page, tmp_path):
    seen = look(page, widths=(1280, 400), folder=tmp_path / "browser")
    assert seen.console == []
    assert sorted(seen.facts) == [400, 1280]
    for facts in seen.facts.values():
        assert facts["overflow"] <= 0
        assert facts["escaping"] == []
        assert len(facts["images"]) == len(facts["sentences"]) == len(all_figures()) - len(LACKING)
        for natural_width, natural_height, shown_width, alt in facts["images"]:
            assert min(natural_width, natural_height) > 0
            assert shown_width > 300
            assert alt > 0
        assert all(sentence.endswith(".") for sentence in facts["sentences"])
        # The probe is the only script, and what the page shows is inside it.
        assert facts["scripts"] == 1
        assert [name for name in facts["resources"] if not name.startswith("data:")] == []
