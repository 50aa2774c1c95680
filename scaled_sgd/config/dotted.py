"""Dotted keys: flattens nested mappings and explains unknown keys."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from scaled_sgd.config.keys import KEYS, SECTIONS
from scaled_sgd.config.stored import RENAMED, renamed
from scaled_sgd.config.values import shown
from scaled_sgd.core.errors import UserError


def leaves(values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested mapping read from YAML.

    Raises:
        UserError: an unknown key, or a key in the wrong place.
    """
    for name, value in values.items():
        if name in SECTIONS:
            if not isinstance(value, Mapping):
                raise UserError(not_a_group(name, shown(value)))
            for leaf, inner in value.items():
                key, meant = renamed(f"{name}.{leaf}", inner)
                if key not in KEYS:
                    raise UserError(unknown_key(key))
                yield key, meant
        elif name in KEYS and "." not in name:
            yield name, value
        elif name in KEYS or name in RENAMED:
            group, _, leaf = name.partition(".")
            raise UserError(
                f"{name}: {shown(value)} is not nested; allowed in a file: {group}: {{{leaf}: …}}"
            )
        else:
            raise UserError(unknown_key(str(name)))


def unknown_key(key: str) -> str:
    """The message for an unknown dotted key, with the nearest known keys."""
    known = list(KEYS)
    group, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    candidates = siblings if group and siblings else {name: name for name in known}
    close = difflib.get_close_matches(leaf if candidates is siblings else key, candidates, n=1)
    if close:
        return f"{key}: unknown key; did you mean {candidates[close[0]]}?"
    if alike := [name for name in known if leaf in (name.rpartition(".")[2], name.partition(".")[2])]:
        return f"{key}: unknown key; did you mean {', '.join(alike)}?"
    return f"{key}: unknown key; allowed: {', '.join(candidates.values())}"


def not_a_group(name: str, value: str) -> str:
    """The message for a value where a group of keys is expected."""
    inner = ", ".join(key.removeprefix(f"{name}.") for key in KEYS if key.startswith(f"{name}."))
    return f"{name}: {value} is not a group; allowed: the keys {inner}"
