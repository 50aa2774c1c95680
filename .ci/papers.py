"""``python .ci/papers.py STUDIES [NAMES]``: docs/papers from the folders of studies that repeat papers.

Every study of configs/studies/papers that was run in STUDIES (``scaled-sgd study run papers/NAME``) gets a
page with its claims, its figures and how long it took; the index names each paper.
"""

import argparse
import shutil
import sys
from pathlib import Path

import yaml

from scaled_sgd.study.claims.paper import Paper, read_claims, read_paper
from scaled_sgd.study.claims.verdict import Judged, judge, verdict_of
from scaled_sgd.study.figures import Drawn, draw_figures
from scaled_sgd.study.figures.reading.words import number
from scaled_sgd.study.grid.study_file import named_studies
from scaled_sgd.study.page.report import cell_text, range_text
from scaled_sgd.study.tables.collect import Collected, collect

PAGES = Path(__file__).resolve().parents[1] / "docs/papers"
HEAD = """# Papers in one command each

Each of these studies repeats what a paper found, in a setting that two cores train in minutes, on the
embedded digits or generated data: `scaled-sgd study run papers/NAME`, then `scaled-sgd study report
papers/NAME`. A page has the paper's own axes, the sentences that the paper claims, the number that came out
here for each, and whether it lies in the range that the study file declared as agreement. A claim that did
not come out stays, with the reason where it is known. Options for the full size are in each study's file and
on its page.

The ranges are ours, and not all were set before the numbers were known: the range 3 to 4.5 of the largest
rate in lewkowycz2020 was set after its number, and claims of cohen2021, haas2025, lewkowycz2020, kalra2024,
terjek2025, damian2022, hosseini2020, khodak2021, gilmer2021, noci2024, roulet2024, yang2022, atanasov2024 and
andreyev2024 were reworded, or measured by another quantity, setting or range, after first results. Networks
and rates of cohen2024, and the GELU network of damian2022, were chosen after trials that showed where λ
rises, and the ranges of the cycle in damian2022 were set after numbers of such trials.

This folder is made by `python .ci/papers.py studies` from the folders of the studies. Minutes are of
training, summed over runs, on one core that other work kept busy: upper bounds. Those marked CPU are
processor minutes, on a machine with many programs per core.

In the full sizes `/usr/share/datasets/fashion-mnist` stands for a folder with the files of Fashion-MNIST; any
source of 28 × 28 images in ten classes does. They are planned by a test and were not run. μP is the table
`mup`, whose first layer's kernel grows with the number of inputs m₀: to carry a rate of these pages to other
data, divide it by m₀/64. Under `mup_normalized` rates do not depend on m₀.

"""


def main() -> int:
    """Write the pages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", type=Path, help="folder of all studies")
    parser.add_argument("names", nargs="*", help="papers whose pages are made again; none: all")
    options = parser.parse_args()
    folder = options.studies
    rows = []
    for name, path in named_studies().items():
        key = name.removeprefix("papers/")
        if key == name:
            continue
        if not (folder / key / "plan.jsonl").is_file():
            print(f"{name}: not run in {folder}", file=sys.stderr)
            continue
        # Claims and figures are those of the file, the runs those of the folder.
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
        collected = collect(folder / key)
        judged = judge(read_claims(study["claims"], collected.axes), collected)
        paper = read_paper(study["paper"])
        assert paper is not None
        time = spent(folder / key, collected)
        rows.append(row(key, paper, judged, time))
        if not options.names or key in options.names:
            page(key, study, paper, judged, collected, time)
    PAGES.mkdir(exist_ok=True)
    minutes = sum(float(line[-1].split()[0]) for line in rows)
    lines = [["paper", "what it claims, and the number here", "verdict", "minutes"], ["---"] * 4, *rows]
    end = f"\nAll together: {number(minutes, 2)} minutes on one core.\n"
    (PAGES / "README.md").write_text(HEAD + table(lines) + end, encoding="utf-8")
    return 0


def row(key: str, paper: Paper, judged: list[Judged], time: str) -> list[str]:
    """The paper in the index."""
    said = "<br>".join(f"{one.claim.says} **{cell_text(one.value)}**: {one.verdict}" for one in judged)
    authors = paper.cite.split(",")[0] + (" et al." if paper.cite.count(",") > 2 else "")
    name = f"[{key}]({key}.md): {authors}, arXiv {paper.arxiv}"
    return [name, said, str(verdict_of(judged)), time]


def spent(folder: Path, collected: Collected) -> str:
    """Minutes of training, summed over runs; or the processor minutes that a file of the folder says."""
    measured = folder / "processor_minutes"
    if measured.is_file():
        return f"{float(measured.read_text(encoding='utf-8')):.1f} CPU"
    return f"{collected.runs.drop_duplicates('id')['seconds'].sum() / 60:.1f}"


def page(key: str, study: dict, paper: Paper, judged: list[Judged], collected: Collected, time: str) -> None:
    """The page of a paper, with its figures."""
    figures = draw_figures(collected, study["report"]).figures
    place = PAGES / "figures" / key
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for figure in figures:
        (place / f"{figure.name}.png").write_bytes(figure.png())
    claims = [["the paper", "quantity", "agrees", "here", "verdict"], ["---"] * 5]
    claims += [
        [
            one.claim.says,
            one.claim.quantity.words,
            range_text(one.claim),
            f"**{cell_text(one.value)}**",
            str(one.verdict),
        ]
        for one in judged
    ]
    parts = [
        f"# {study['title']}",
        f"{paper.cite}, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}).",
        f"Here: {paper.differs} {study['about']}",
        f"```console\n$ scaled-sgd study run papers/{key} && scaled-sgd study report papers/{key}\n```",
        f"{collected.describe()}; {minutes_text(time)}. Verdict: **{verdict_of(judged)}**.",
        table(claims).strip(),
        *([paper.remark] if paper.remark else []),
        *(shown(key, figure) for figure in figures),
    ]
    if paper.full:
        parts.append(f"Full size: `scaled-sgd study run papers/{key} {paper.full}`")
    (PAGES / f"{key}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def minutes_text(time: str) -> str:
    """The time as words of a page."""
    number, *cpu = time.split()
    return f"{number} processor minutes" if cpu else f"{number} minutes of training, summed over runs"


def shown(key: str, figure: Drawn) -> str:
    """A figure with its sentence and caption."""
    notes = "".join(f" {note}" for note in figure.notes)
    picture = f"![{figure.title}](figures/{key}/{figure.name}.png)"
    return f"## {figure.title}\n\n**{figure.sentence}**\n\n{picture}\n\n{figure.caption}{notes}"


def table(lines: list[list[str]]) -> str:
    """Rows in Markdown."""
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
