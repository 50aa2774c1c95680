"""The report of a study: a page that opens anywhere, its figures as files, and a short text to commit."""

import os
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.records import replace_file, write_atomically
from scaled_sgd.study import page
from scaled_sgd.study.figures import RECIPES, Drawings, Drawn, draw_figures
from scaled_sgd.study.figures.view import WIDTH
from scaled_sgd.study.figures.words import axis_label, count, listing, number, value_label
from scaled_sgd.study.grid.figure_names import check_names
from scaled_sgd.study.tables.collect import Collected, collect

_FIGURES = "figures"
_SMALL = 40
"""Rows of a table that the short text still has."""


def write_report(folder: Path, names: Sequence[str] | None = None) -> Path:
    """Collect a study and write ``report.html``, ``summary.md`` and ``figures/``; returns the page.

    The figures are the named ones, else those of ``report`` in study.yaml, else all that the data allows.
    The same runs give the same files, seconds aside.

    Raises:
        UserError: the folder is no study's, or a figure has no such name.
    """
    folder = Path(folder)
    study = _read_study(folder / "study.yaml")
    chosen = names if names is not None else study.get("report")
    if chosen is not None:
        check_names(chosen)
    collected = collect(folder)
    drawings = draw_figures(collected, chosen)
    title = str(study.get("title") or folder.resolve().name)
    about = " ".join(str(study.get("about") or "").split())
    facts = _facts(folder, collected)
    pictures = _write_figures(folder / _FIGURES, drawings.figures)
    parts = [
        page.heading(title, about),
        page.facts(facts),
        page.contents(drawings.figures),
        page.remarks(collected.warnings, heading="Runs that could not be read"),
        *([] if drawings.figures else ["<p>There is nothing to draw yet.</p>"]),
        *(page.figure(f, svg, folder=_FIGURES) for f, svg in zip(drawings.figures, pictures, strict=True)),
        page.remarks(_lacking(drawings), heading="What the study has no data for"),
    ]
    path = folder / "report.html"
    write_atomically(path, page.document(title, [part for part in parts if part]))
    write_atomically(folder / "summary.md", _summary(title, about, facts, drawings.figures))
    return path


def _read_study(path: Path) -> dict[str, Any]:
    try:
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"study: cannot read {str(path)!r}: {error.strerror}; allowed: the folder of a study"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"study: {str(path)!r} is not valid YAML: {error}; allowed: a study file") from error
    if not isinstance(study, dict):
        raise UserError(f"study: {str(path)!r} holds a {type(study).__name__}; allowed: a study file")
    report = study.get("report")
    if report is not None and not isinstance(report, list):
        raise UserError(f"report: {report!r} is no list; allowed: a list of {', '.join(RECIPES)}")
    return study


def _write_figures(folder: Path, figures: Sequence[Drawn]) -> list[bytes]:
    """Write the files of every figure, forget those of an earlier report; returns the SVGs."""
    folder.mkdir(exist_ok=True)
    for name in set(RECIPES) - {drawn.name for drawn in figures}:
        for kind in ("png", "svg", "csv"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    pictures = []
    for drawn in figures:
        svg, png = drawn.svg(), drawn.png()
        replace_file(folder / f"{drawn.name}.svg", partial(Path.write_bytes, data=svg))
        replace_file(folder / f"{drawn.name}.png", partial(Path.write_bytes, data=png))
        write_atomically(folder / f"{drawn.name}.csv", drawn.table.to_csv(index=False))
        pictures.append(svg)
    return pictures


def _facts(folder: Path, collected: Collected) -> list[tuple[str, str]]:
    runs = collected.runs.drop_duplicates("id")
    rows = [("Runs", collected.describe().replace(" runs: ", " planned: "))]
    rows += [(axis_label(axis), _values(axis, collected.plan[axis])) for axis in collected.axes]
    if WIDTH in runs and (runs[WIDTH] != runs[f"config.{WIDTH}"]).any():
        rows.append(("Matching", f"m is that of the grid; matched networks have their own, `config.{WIDTH}`"))
    seconds = runs["seconds"].dropna().astype(float)
    if len(seconds):
        rows.append(
            ("Training time", f"{_duration(seconds.sum())} in sum, {_duration(seconds.max())} the longest")
        )
    packages = [name for name in runs if name.startswith("versions.")]
    rows += [
        ("Versions", ", ".join(f"{n.removeprefix('versions.')} {_distinct(runs[n])}" for n in packages)),
        ("Revision", _distinct(runs["git_revision"]) if "git_revision" in runs else "–"),
        ("Device", _distinct(runs["device"]) if "device" in runs else "–"),
        ("Repeat with", f"`scaled-sgd study run {_shown(folder)}/study.yaml`"),
        ("Tables", "`runs.parquet`, `metrics.parquet` beside this file"),
    ]
    return [(name, value) for name, value in rows if value not in ("", "–")]


def _values(axis: str, column: pd.Series) -> str:
    distinct = [None if pd.isna(value) else value for value in column.drop_duplicates()]
    words = [value_label(axis, v) if v is None or isinstance(v, str) else page.cell_text(v) for v in distinct]
    return listing(words, most=14).replace("`", "'")


def _distinct(column: pd.Series) -> str:
    found = column.dropna().astype(str).value_counts(sort=False)
    if len(found) == 1:
        return str(found.index[0]).replace("`", "'")
    return ", ".join(f"{value} ({count(int(runs), 'run')})" for value, runs in sorted(found.items()))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds, 2)} s"
    return f"{number(seconds / 60, 2)} min" if seconds < 7200 else f"{number(seconds / 3600, 3)} h"


def _shown(folder: Path) -> str:
    """The study's folder as one would type it, without what is special to this machine."""
    relative = Path(os.path.relpath(folder.resolve()))
    return folder.resolve().name if ".." in relative.parts else relative.as_posix()


def _lacking(drawings: Drawings) -> list[str]:
    return [f"{title} It would take {reason}." for title, reason in drawings.lacking]


def _summary(title: str, about: str, facts: Sequence[tuple[str, str]], figures: Sequence[Drawn]) -> str:
    """The report as Markdown: sentences, pictures by their files, small tables."""
    lines = [f"# {_plain(title)}", "", *([_plain(about), ""] if about else [])]
    lines += [f"- {_plain(name)}: {_marked(value)}" for name, value in facts]
    for drawn in figures:
        lines += ["", f"## {_plain(drawn.title)}", "", f"**{_plain(drawn.sentence)}**", ""]
        lines += [f"![{_plain(drawn.title)}]({_FIGURES}/{drawn.name}.png)", "", _plain(drawn.caption)]
        lines += ["", *(f"- {_plain(note)}" for note in drawn.notes)] if drawn.notes else []
        if len(drawn.table) <= _SMALL:
            lines += ["", *_rows(drawn.table)]
        else:
            lines += ["", f"[The numbers]({_FIGURES}/{drawn.name}.csv): {len(drawn.table):,} rows."]
    return "\n".join(lines) + "\n"


def _rows(table: pd.DataFrame) -> list[str]:
    cells = [[page.cell_text(value) for value in row] for row in table.itertuples(index=False)]
    rows = [[str(name) for name in table.columns], ["---"] * len(table.columns), *cells]
    return [f"| {' | '.join(_plain(cell).replace('|', '&#124;') for cell in row)} |" for row in rows]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = escape(text, quote=False)
    return "".join(f"\\{character}" if character in "\\*_`[]" else character for character in escaped)


def _marked(text: str) -> str:
    """The same with what stands in backquotes as code."""
    parts = text.split("`")
    return "".join(f"`{part}`" if place % 2 else _plain(part) for place, part in enumerate(parts))
