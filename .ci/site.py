"""Hooks of mkdocs: tables made from the code, and links to files that are not pages."""

import html
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaled_sgd.config.keys import KEYS, SECTIONS
from scaled_sgd.config.values import labels, shown
from scaled_sgd.diagnostics.registry import QUANTITIES

ROOT = Path(__file__).resolve().parents[1]


def table(heads: list[str], rows: Iterator[list[str]]) -> str:
    """A table; a cell may contain bars."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def code(text: str) -> str:
    """Text as code, in a table too."""
    return f"<code>{html.escape(text)}</code>"


def configuration_keys() -> str:
    """A table for each section of the configuration."""
    sections: dict[str, list[list[str]]] = {}
    for name, key in KEYS.items():
        meaning = f"{html.escape(key.help)} {_choices(labels(key.hint))}".strip()
        row = [f"`{name}`", html.escape(key.allowed), code(shown(key.default)), meaning]
        sections.setdefault(name.rpartition(".")[0], []).append(row)
    return "\n\n".join(
        f"## {group or 'loss'}\n\n{SECTIONS[group].__doc__ if group else ''}\n\n"
        + table(["key", "allowed", "default", "meaning"], iter(rows))
        for group, rows in sections.items()
    )


def _choices(known: dict[str, str]) -> str:
    return "".join(f"<br>`{name}`: {html.escape(label)}" for name, label in known.items())


def metrics_columns() -> str:
    """A table for each quantity that a run can measure."""
    return "\n\n".join(
        f"## {name}\n\n{entry.label[0].upper()}{entry.label[1:]}. Cost: about {entry.cost:g} gradients. "
        f"Source: {entry.source}.\n\n"
        + table(
            ["column", "meaning", "layers"],
            ([f"`{column.name}`", html.escape(column.meaning), column.layers] for column in entry.columns),
        )
        for name, entry in ((name, QUANTITIES[name]) for name in QUANTITIES)
    )


MADE: dict[str, Callable[[], str]] = {
    "configuration keys": configuration_keys,
    "metrics columns": metrics_columns,
}
"""What stands for ``<!-- made from the code: NAME -->`` in a page."""


def filled(markdown: str) -> str:
    """A page with its tables, and with the files of ``<!-- code: FILE -->``."""

    def source(found: re.Match[str]) -> str:
        return f"```python\n{(ROOT / found[1]).read_text(encoding='utf-8')}```"

    markdown = re.sub(r"<!-- code: (.+?) -->", source, markdown)
    return re.sub(r"<!-- made from the code: (.+?) -->", lambda found: MADE[found[1]](), markdown)


def linked(markdown: str, page: str, repository: str) -> str:
    """A page whose links to files outside docs/ lead to the repository, or nowhere without one.

    A link to another page that is called by its file's name gets the page's title.
    """

    def link(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if re.fullmatch(r"[\w-]+\.md", text) and path.startswith("docs/"):
            title = (ROOT / path.partition("#")[0]).read_text(encoding="utf-8").partition("\n")[0]
            return f"[{title.removeprefix('# ')}]({target})"
        if re.match(r"\w+:|#", target) or path.startswith("docs/"):
            return found[0]
        return f"[{text}]({repository.rstrip('/')}/blob/main/{path})" if repository else text

    return re.sub(r"(?<!!)\[([^][]*)\]\(([^)\s]+)\)", link, markdown)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Called by mkdocs for the text of each page."""
    return linked(filled(markdown), page.file.src_uri, config.repo_url or "")


_RAISED = {"_": "sub", "^": "sup"}
_SINGLE = re.compile(
    r"(?:(?<=[^\W\d_])(?<![A-Za-z0-9_].)|(?<=[‖)\]]))([_^])"  # behind one letter, which ends no word
    r"(max|min|−?\d+(?:\.\d+)?|−?[^\W\d_]|½|\([^()<]*\))(?![A-Za-z0-9_]|\.\d)"
)


def typeset(text: str) -> str:
    """Text with indices and powers below and above the line: h_k, γ^{2/l}, W ∈ R^{m_k × m_{k-1}}."""

    def placed(found: re.Match[str]) -> str:
        tag = _RAISED[found[1]]
        return f"<{tag}>{found[2]}</{tag}>"

    text = _SINGLE.sub(placed, text)
    while (inner := re.sub(r"([_^])\{([^{}]*)\}", placed, text)) != text:
        text = inner
    return text


def on_page_content(content: str, **_: Any) -> str:
    """Formulas outside code typeset, and roles of docstrings, which mkdocs does not know, as plain code."""
    content = re.sub(
        r":\w+:<code>~?([^<]+)</code>", lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", content
    )
    # Code, and tags with their attributes, stay as they are.
    parts = re.split(r"(<pre.*?</pre>|<code.*?</code>|<[^>]*>)", content, flags=re.DOTALL)
    return "".join(part if i % 2 else typeset(part) for i, part in enumerate(parts))
