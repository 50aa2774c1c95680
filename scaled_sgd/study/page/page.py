"""The pieces of a report as HTML: everything inside the one file, every text escaped."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from scaled_sgd.study.figures import Drawn
from scaled_sgd.study.figures.words import number

MOST_ROWS = 300
"""Rows of a table on the page; the file beside the figure has all."""

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5a6068; --line: #d8dbe0; --page: #fdfdfd;
  --card: #f3f4f6; --link: #0059a8; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a3abb5; --line: #3a3f46;
  --page: #16181c; --card: #212429; --link: #7cb8f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--text); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 0.5rem; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.about { font-size: 1.1rem; color: var(--soft); margin: 0 0 1.25rem; }
.shows { font-size: 1.05rem; margin: 0.25rem 0 0.75rem; }
.notes, .caption, .files { font-size: 0.9rem; color: var(--soft); margin: 0.5rem 0; }
.notes { padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1.25rem; margin: 1rem 0;
  font-size: 0.92rem; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
code { font: 0.88em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background: var(--card);
  padding: 0.1em 0.35em; border-radius: 3px; }
figure { margin: 0; }
.scroll { overflow-x: auto; }
.picture { background: #fff; border-radius: 6px; padding: 0.4rem; }
.picture img { display: block; height: auto; max-width: 100%; margin: 0 auto; }
table { border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
td.number { text-align: right; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--link); font-size: 0.92rem; }
@media (max-width: 46rem) { .picture img { max-width: none; width: auto; max-height: none; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 0.5rem; } }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --line: #bbb; --page: #fff;
  --card: #fff; --link: #000; } body { max-width: none; padding: 0; font-size: 10.5pt; }
  section { break-inside: avoid; } details, nav { display: none; } .picture { padding: 0; }
  .picture img { max-width: 100%; width: auto; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page that loads nothing and runs nothing."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(title: str, about: str) -> str:
    """The head of the page."""
    said = f'<p class="about">{escape(about)}</p>' if about else ""
    return f"<header>\n<h1>{escape(title)}</h1>\n{said}\n</header>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values; a value in backquotes is shown as code."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{_code(value)}</dd>" for name, value in rows)
    return f"<dl>\n{items}\n</dl>"


def contents(figures: Sequence[Drawn]) -> str:
    """Links to the figures."""
    items = "\n".join(f'<li><a href="#{escape(f.name)}">{escape(f.title)}</a></li>' for f in figures)
    return f'<nav aria-label="Figures">\n<ol>\n{items}\n</ol>\n</nav>' if figures else ""


def remarks(lines: Sequence[str], *, heading: str) -> str:
    """A list of plain sentences; nothing without any."""
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    body = f'<h2>{escape(heading)}</h2>\n<ul class="notes">\n{items}\n</ul>'
    return f'<section class="remarks">\n{body}\n</section>'


def figure(drawn: Drawn, svg: bytes, *, folder: str) -> str:
    """A figure with its sentence, its notes, links to its files below ``folder``, and its table."""
    name = escape(drawn.name)
    width, height = (round(96 * inches) for inches in drawn.picture.get_size_inches())
    source = base64.b64encode(svg).decode()
    notes = "\n".join(f"<li>{_prose(note)}</li>" for note in drawn.notes)
    links = " · ".join(
        f'<a href="{escape(folder)}/{name}.{kind}">{kind.upper()}</a>' for kind in ("png", "svg", "csv")
    )
    return (
        f'<section id="{name}">\n<h2>{escape(drawn.title)}</h2>\n'
        f'<p class="shows">{_prose(drawn.sentence)}</p>\n<figure>\n'
        f'<div class="scroll picture" tabindex="0" role="group" aria-label="{escape(drawn.title)}">'
        f'<img width="{width}" height="{height}" alt="{escape(drawn.alt)}" '
        f'src="data:image/svg+xml;base64,{source}"></div>\n'
        f'<figcaption class="caption">{_prose(drawn.caption)}</figcaption>\n</figure>\n'
        + (f'<ul class="notes">\n{notes}\n</ul>\n' if notes else "")
        + f'<p class="files">{links}</p>\n{table(drawn.table)}\n</section>'
    )


def table(frame: pd.DataFrame) -> str:
    """A table that is closed at first."""
    shown = frame.head(MOST_ROWS)
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in shown.columns)
    body = "\n".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in shown.itertuples(index=False)
    )
    rest = f"<p>The first {len(shown)} of {len(frame):,} rows.</p>" if len(frame) > len(shown) else ""
    return (
        "<details>\n<summary>The numbers</summary>\n"
        '<div class="scroll" tabindex="0" role="group" aria-label="The numbers">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n{rest}\n</details>"
    )


def cell_text(value: object) -> str:
    """A cell of a table in words."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    return number(value)


def _cell(value: object) -> str:
    is_text = isinstance(value, str) or cell_text(value) in ("yes", "no")
    kind = "" if is_text else ' class="number"'
    return f"<td{kind}>{escape(cell_text(value))}</td>"


def _prose(text: str) -> str:
    """Text whose equations do not break."""
    return escape(text).replace(" = ", "\u00a0=\u00a0")


def _code(value: str) -> str:
    parts = escape(value).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
