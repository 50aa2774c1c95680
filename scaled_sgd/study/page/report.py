"""Writes the report of a study: a self-contained page, figures as files, and a short text to commit."""

import base64
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from scaled_sgd.config.resumed import refuse_foreign_code
from scaled_sgd.config.yaml_files import read_yaml
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.own_files import delete, make_folder
from scaled_sgd.runs.records import replace_file, write_atomically
from scaled_sgd.study.claims.paper import PaperClaim, read_claims, read_paper
from scaled_sgd.study.claims.verdict import judge, verdict_of
from scaled_sgd.study.figures import Drawn, draw_figures
from scaled_sgd.study.figures.reading.view import WIDTH
from scaled_sgd.study.figures.reading.words import axis_label, count, listing, number, value_label
from scaled_sgd.study.grid.axes import dotted
from scaled_sgd.study.grid.figures import all_figures, check_figures
from scaled_sgd.study.grid.study_file import load_study_plugins
from scaled_sgd.study.tables.collect import Collected, collect

_FIGURES = "figures"
_KINDS = ("svg", "png", "pdf", "csv")
_MOST_ROWS, _MOST_ROWS_OF_TEXT = 300, 40
"""Largest number of rows of a table in the page; the figure's file has all."""


def write_report(folder: Path, names: Sequence[str] | None = None, *, accepted: Sequence[str] = ()) -> Path:
    """Collect a study and write ``report.html``, ``summary.md`` and ``figures/``; returns the page's path.

    Runs that could not be read completely are named on stderr and in the page. Plugins that the study names
    are loaded if ``accepted`` has them.

    The figures are the named ones, else those of ``report`` in study.yaml, else all that the data allow.
    The same runs give the same files, except for seconds.

    Raises:
        UserError: the folder does not belong to a study, a figure is unknown, or a plugin is not accepted.
    """
    folder = Path(folder)
    study = read_yaml(folder / "study.yaml", option="study")
    base = study.get("base")
    plugins = {
        key: v for key, v in dotted(base if isinstance(base, dict) else {}).items() if key == "run.plugins"
    }
    refuse_foreign_code(plugins, [], accepted)
    load_study_plugins(plugins)
    chosen = names if names is not None else study.get("report")
    check_figures(chosen)
    paper = read_paper(study.get("paper"))
    collected = collect(folder)
    judged = judge(read_claims(study.get("claims"), collected.axes), collected)
    for warning in collected.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    drawings = draw_figures(collected, chosen)
    facts = {
        "title": escaped(str(study.get("title") or folder.resolve().name)),
        "about": escaped(" ".join(str(study.get("about") or "").split())),
        "facts": _facts(folder, collected),
        "warnings": collected.warnings,
        "paper": paper,
        "claims": judged,
        "verdict": verdict_of(judged),
        "figures": drawings.figures,
        "pictures": _write_figures(folder / _FIGURES, drawings.figures),
        "folder": _FIGURES,
        "lacking": [f"{title} It would take {reason}." for title, reason in drawings.lacking],
    }
    templates = _templates()
    for name, most in (("report.html", _MOST_ROWS), ("summary.md", _MOST_ROWS_OF_TEXT)):
        write_atomically(folder / name, templates.get_template(name).render(facts, most=most))
    return folder / "report.html"


def _templates() -> Environment:
    """The templates. The page escapes every text; the short text uses the filter ``plain``."""
    templates = Environment(
        loader=PackageLoader("scaled_sgd.study.page"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "cell": cell_text,
        "range": range_text,
        "prose": lambda text: text.replace(" = ", "\u00a0=\u00a0"),
        "base64": lambda source: base64.b64encode(source).decode(),
        "plain": _plain,
        "row": _row,
    }
    templates.filters |= filters
    return templates


def _write_figures(folder: Path, figures: Sequence[Drawn]) -> dict[str, bytes]:
    """Write the files of every figure and delete those of an earlier report; returns the SVGs by name."""
    make_folder(folder)
    for name in all_figures().keys() - {drawn.name for drawn in figures}:
        for kind in _KINDS:
            delete(folder / f"{name}.{kind}")
    pictures = {}
    for drawn in figures:
        pictures[drawn.name] = drawn.svg()
        sources = {"svg": pictures[drawn.name], "png": drawn.png(), "pdf": drawn.pdf()}
        for kind, source in sources.items():
            replace_file(folder / f"{drawn.name}.{kind}", partial(Path.write_bytes, data=source))
        write_atomically(folder / f"{drawn.name}.csv", _without_formulas(drawn.table).to_csv(index=False))
    return pictures


def _without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before texts that a spreadsheet would compute."""
    quoted = table.set_axis([_quoted(name) for name in table.columns], axis="columns")
    for place, kind in enumerate(quoted.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            quoted.isetitem(place, quoted.iloc[:, place].map(_quoted))
    return quoted


def _quoted(value: object) -> object:
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )


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
    words = [value_label(axis, v) if v is None or isinstance(v, str) else cell_text(v) for v in distinct]
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
    """The study's folder as a user would type it, without parts specific to this machine."""
    relative = Path(os.path.relpath(folder.resolve()))
    return folder.resolve().name if ".." in relative.parts else relative.as_posix()


def range_text(claim: PaperClaim) -> str:
    """The numbers that agree with a claim."""
    if claim.low == -math.inf:
        return f"up to {number(claim.high)}"
    return f"from {number(claim.low)}" + ("" if claim.high == math.inf else f" to {number(claim.high)}")


def cell_text(value: object) -> str:
    """A table cell as text."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    return number(value)


def _plain(text: str) -> str:
    """Text that Markdown shows unchanged."""
    escaped = escape(text, quote=False)
    return "".join(f"\\{character}" if character in "\\*_`[]" else character for character in escaped)


def _row(cells: Iterable[object]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(_plain(str(cell)).replace('|', '&#124;') for cell in cells)} |"
