"""A configuration from a command line, YAML or a dictionary; every mistake becomes one line."""

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from scaled_sgd.config import Config, check, describe, key_types
from scaled_sgd.errors import UserError


def parse(arguments: Sequence[str], *, prog: str = "scaled_sgd.train") -> Config:
    """The checked configuration that a command line asks for.

    ``--config FILE`` is read first wherever it stands, so that options beside it always win.
    ``--print_config`` and ``--help`` print and leave with status 0.

    Raises:
        UserError: any mistake, one line that names the key, the value and what is allowed.
    """
    parser = _parser(prog)
    ordered = _config_first([argument for argument in arguments if argument != "--debug"])
    try:
        namespace = parser.parse_args(ordered)
        config = _build(parser, namespace)
    except (ArgumentError, TypeError) as error:
        raise UserError(_one_line(str(error))) from error
    check(config)
    return config


def from_dict(values: dict[str, Any]) -> Config:
    """The checked configuration with ``values`` (nested, as in YAML) over the defaults.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value.
    """
    _check_keys(values, Config, "")
    parser = _parser("scaled_sgd")
    try:
        config = _build(parser, parser.parse_object(values))
    except (ArgumentError, TypeError) as error:
        raise UserError(_one_line(str(error))) from error
    check(config)
    return config


def _parser(prog: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=prog,
        exit_on_error=False,
        allow_abbrev=False,
        description="Train a wide multilayer perceptron. Any key below may stand in the YAML file too. "
        "--debug shows the traceback of an error.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_class_arguments(Config, nested_key=None)
    return parser


def _build(parser: ArgumentParser, namespace: Namespace) -> Config:
    built = parser.instantiate(namespace)
    return Config(**{entry.name: built[entry.name] for entry in fields(Config)})


def _config_first(arguments: list[str]) -> list[str]:
    files: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--config" and position + 1 < len(arguments):
            files.append(arguments[position + 1])
            position += 1
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
        position += 1
    files = _config_of_resumed(rest) + files
    return [f"--config={file}" for file in files if _holds_keys(file)] + rest


def _config_of_resumed(arguments: list[str]) -> list[str]:
    """The configuration of the run that ``--run.resume PATH`` names, which comes before all others."""
    values = [b for a, b in itertools.pairwise([*arguments, ""]) if a == "--run.resume"]
    values += [a.removeprefix("--run.resume=") for a in arguments if a.startswith("--run.resume=")]
    paths = [Path(value) for value in values if value not in ("", "no", "auto")]
    places = [place for path in paths for place in (path, path.parent.parent)]
    found = [place / "config.yaml" for place in places if (place / "config.yaml").is_file()]
    return [str(found[0])] if found else []


def _holds_keys(name: str) -> bool:
    """Whether a YAML file has anything to say; its mistakes are raised here, with the file's name."""
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--config: no file {name!r}; allowed: a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: cannot read {name!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {name!r} is not valid YAML: {error}") from error
    if values is None:
        return False
    if not isinstance(values, dict):
        raise UserError(f"--config: {name!r} holds a {type(values).__name__}; allowed: keys and values")
    _check_keys(values, Config, "")
    return True


def _check_keys(values: dict[str, Any], schema: type, prefix: str) -> None:
    hints = get_type_hints(schema)
    for key, value in values.items():
        if key not in hints:
            raise UserError(_unknown_key(f"{prefix}{key}"))
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                inner = ", ".join(entry.name for entry in fields(hints[key]))
                raise UserError(f"{prefix}{key}: {value!r} is not a group; allowed: the keys {inner}")
            _check_keys(value, hints[key], f"{prefix}{key}.")


def _unknown_key(key: str) -> str:
    known = list(key_types())
    group, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    candidates = siblings if group and siblings else {name: name for name in known}
    close = difflib.get_close_matches(leaf if candidates is siblings else key, candidates, n=1)
    if close:
        return f"{key}: unknown key; did you mean {candidates[close[0]]}?"
    return f"{key}: unknown key; allowed: {', '.join(candidates.values())}"


def _one_line(message: str) -> str:
    """Say what jsonargparse says in the form key, value, what is allowed."""
    unknown = re.search(r"unrecognized arguments?: (\S+)", message, re.IGNORECASE)
    if unknown:
        name = unknown.group(1)
        if name.startswith("--"):
            return _unknown_key(name[2:].partition("=")[0])
        return f"argument: {name!r} is not understood; options look like --model.depth 8"
    missing = re.search(r"argument --([\w.]+)\S*: expected one argument", message)
    if missing:
        hint = key_types().get(missing.group(1))
        return f"{missing.group(1)}: no value given" + (f"; allowed: {describe(hint)}" if hint else "")
    key = re.search(r'key "([\w.]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message, re.DOTALL)
    if key and value and key.group(1) in key_types():
        allowed = describe(key_types()[key.group(1)])
        return f"{key.group(1)}: {value.group(1).strip()!r} does not fit; allowed: {allowed}"
    option = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if option:
        return _unknown_key(f"{option.group(1)}.{option.group(2)}")
    return message
