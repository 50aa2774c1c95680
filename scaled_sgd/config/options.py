"""Command-line options: names, and values as text or YAML."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from scaled_sgd.config.dotted import leaves, not_a_group, unknown_key
from scaled_sgd.config.keys import KEYS, SECTIONS
from scaled_sgd.config.stored import RENAMED, renamed
from scaled_sgd.config.values import takes_none, takes_text
from scaled_sgd.config.yaml_files import load_plain
from scaled_sgd.core.errors import UserError


def options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values as typed.

    Raises:
        UserError: an argument is not an option, or an option has no value.
    """
    waiting = [*arguments]
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument in ("-h", "--help"):
            yield "help", ""
        elif argument == "--debug":
            continue
        elif not argument.startswith("--") or not name:
            raise UserError(
                f"argument: {argument!r} is not understood; allowed: options such as --model.depth 8"
            )
        elif name == "print_config" or equals:
            yield name, value
        elif name not in (*KEYS, *SECTIONS, *RENAMED, "config"):
            raise UserError(unknown_key(name))
        elif not waiting or waiting[0].startswith("--"):
            raise UserError(_no_value(name))
        else:
            yield name, waiting.pop(0)


def _no_value(name: str) -> str:
    if name == "config":
        return "--config: no value given; allowed: a YAML file"
    if name in SECTIONS:
        return not_a_group(name, "nothing")
    return f"{name}: no value given; allowed: {KEYS[RENAMED[name].name if name in RENAMED else name].allowed}"


def option_value(name: str, text: str) -> dict[str, Any]:
    """What an option sets, by dotted key: as text if the key accepts it, else as YAML.

    Raises:
        UserError: there is no such key.
    """
    try:
        value = load_plain(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if name in SECTIONS:
        return dict(leaves({name: value}))
    if name in RENAMED:
        return dict([renamed(name, value)])
    if name not in KEYS:
        raise UserError(unknown_key(name))
    hint = KEYS[name].hint
    if value is None:
        return {name: None if text and takes_none(hint) else text}
    return {name: text if takes_text(hint, text) else value}
