"""A configuration from a command line, YAML or a dictionary; every mistake becomes one line."""

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from scaled_sgd.config import Config, describe, key_types
from scaled_sgd.config.checks import check
from scaled_sgd.core.errors import UserError

_PLAIN = "allowed: keys and values in plain YAML"


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
    except BaseException as error:
        # What --print_config asked for stays with a parser that then found a mistake.
        _parser.cache_clear()
        if isinstance(error, ArgumentError | TypeError):
            raise UserError(_one_line(str(error))) from error
        raise
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


@cache
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
    values = read_yaml(name, option="--config")
    _check_keys(values, Config, "")
    return bool(values)


def read_yaml(name: str | Path, *, option: str = "file") -> dict[str, Any]:
    """The mapping that a YAML file holds, empty where it holds nothing: plain values, each key once.

    Raises:
        UserError: there is no such file, or it holds anything else; ``option`` is what the message names.
    """
    path, name = Path(name), str(name)
    if not path.is_file():
        raise UserError(f"{option}: no file {name!r}; allowed: a YAML file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise UserError(f"{option}: cannot read {name!r}: {error.strerror}; {_PLAIN}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {name!r} is not valid YAML: {error}; {_PLAIN}") from error
    except RecursionError:
        raise UserError(f"{option}: {name!r} nests too deeply; {_PLAIN}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{option}: {name!r} holds a {type(values).__name__}; {_PLAIN}")
    return values


class _PlainLoader(yaml.SafeLoader):
    """Neither tags, nor aliases, whose expansion may be endless, nor keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.YAMLError(f"it has the key {twice[0]} twice")
        return super().construct_mapping(node, deep)


def _check_keys(values: dict[str, Any], schema: type, prefix: str) -> None:
    hints = get_type_hints(schema)
    for key, value in values.items():
        if not prefix and key in key_types() and key not in hints:
            group, _, leaf = key.partition(".")
            raise UserError(f"{key}: {value!r} is not nested; allowed in a file: {group}: {{{leaf}: …}}")
        if key not in hints:
            raise UserError(unknown_key(f"{prefix}{key}"))
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(_not_a_group(f"{prefix}{key}", repr(value)))
            _check_keys(value, hints[key], f"{prefix}{key}.")
        elif value is None and type(None) not in get_args(hints[key]):
            # jsonargparse lets a null pass where a file has it.
            raise UserError(f"{prefix}{key}: 'null' does not fit; allowed: {describe(hints[key])}")


def _not_a_group(key: str, value: str) -> str:
    inner = ", ".join(name.removeprefix(f"{key}.") for name in key_types() if name.startswith(f"{key}."))
    return f"{key}: {value} is not a group; allowed: the keys {inner}"


def unknown_key(key: str) -> str:
    """What is wrong with a dotted key that no configuration has, with the nearest ones that it has."""
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
    unknown = re.search(r"unrecognized arguments?: (\S*)", message, re.IGNORECASE)
    if unknown:
        name = unknown.group(1)
        if name.startswith("--") and name != "--":
            return unknown_key(name[2:].partition("=")[0])
        return f"argument: {name!r} is not understood; allowed: options such as --model.depth 8"
    missing = re.search(r"argument --([\w.]+)\S*: expected one argument", message)
    if missing:
        name = missing.group(1)
        if name == "config":
            return "--config: no value given; allowed: a YAML file"
        if name not in key_types():
            return _not_a_group(name, "nothing")
        return f"{name}: no value given; allowed: {describe(key_types()[name])}"
    group = re.search(r"""key "(\w+)":\s+Unable to load config '(.*?)'\s""", message, re.DOTALL)
    if group:
        return _not_a_group(group.group(1), repr(group.group(2)))
    key = re.search(r'key "([\w.]+)"', message)
    # Of a union every member complains, and the last complaint has the whole value as it was given.
    given = re.findall(r"(?:Got|Given) value: (.*)", message)
    if key and given and key.group(1) in key_types():
        allowed = describe(key_types()[key.group(1)])
        value = {"True": "true", "False": "false", "None": "null"}.get(given[-1].strip(), given[-1].strip())
        return f"{key.group(1)}: {value!r} does not fit; allowed: {allowed}"
    printing = re.search(r'Invalid option "(.*)" for --print_config', message)
    if printing:
        return f"--print_config: {printing.group(1)!r} is unknown; allowed: comments, skip_default, skip_null"
    file = re.search(r"Problems parsing config: (.*)", message, re.DOTALL)
    if file:
        return f"--config: it is not valid YAML: {file.group(1)}; {_PLAIN}"
    option = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if option:
        return unknown_key(f"{option.group(1)}.{option.group(2)}")
    return message
