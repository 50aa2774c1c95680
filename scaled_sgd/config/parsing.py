"""A configuration from a command line, YAML or a dictionary; every mistake becomes one line."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scaled_sgd.config.combinations import check_combinations
from scaled_sgd.config.help import PRINTING, help_text, printed
from scaled_sgd.config.keys import KEYS, SECTIONS, build
from scaled_sgd.config.plugins import load_plugins
from scaled_sgd.config.sections import Config
from scaled_sgd.config.stored import ABSENT, RENAMED, renamed
from scaled_sgd.config.values import MisfitError, read, shown, takes_none, takes_text
from scaled_sgd.config.yaml_files import load_plain, read_yaml
from scaled_sgd.core.errors import UserError


def parse(arguments: Sequence[str], *, prog: str = "scaled_sgd.train") -> Config:
    """The checked configuration that a command line asks for.

    ``--config FILE`` is read first wherever it stands, so that options beside it always win.
    ``--print_config`` and ``--help`` print and leave with status 0.

    Raises:
        UserError: any mistake, one line that names the key, the value and what is allowed.
    """
    files: list[str] = []
    given: list[dict[str, Any]] = []
    resumed = "no"
    printing: dict[str, str] = {}
    for option, value in _options(arguments):
        if option == "config":
            files.append(value)
        elif option in PRINTING:
            printing[option] = value
        else:
            given.append(_option(option, value))
            resumed = value if option == "run.resume" else resumed
    sources = [_from_file(file) for file in [*_of_resumed(resumed), *files]] + given
    if "help" in printing:
        _load_plugins(sources)
        print(help_text(prog), end="")
        raise SystemExit(0)
    config = _checked(sources)
    if "print_config" in printing:
        print(printed(config, printing["print_config"]), end="")
        raise SystemExit(0)
    return config


def from_dict(values: Mapping[str, Any]) -> Config:
    """The checked configuration with ``values`` (nested, as in YAML) over the defaults.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value.
    """
    return _checked([dict(_leaves(values))])


def read_key(name: str, value: Any) -> Any:
    """A plain value of a dotted key, as its type has it.

    Raises:
        UserError: it is of another type or outside the key's limits.
    """
    key = KEYS[name]
    try:
        return read(key.hint, value)
    except MisfitError as error:
        found, allowed = error.args
        raise UserError(f"{name}: {shown(found)} is not usable; allowed: {allowed}") from None
    except TypeError:
        text = shown(value) if value is None or isinstance(value, bool) else str(value)
        raise UserError(f"{name}: {text!r} does not fit; allowed: {key.allowed}") from None


def unknown_key(key: str) -> str:
    """What is wrong with a dotted key that no configuration has, with the nearest ones that it has."""
    known = list(KEYS)
    group, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    candidates = siblings if group and siblings else {name: name for name in known}
    close = difflib.get_close_matches(leaf if candidates is siblings else key, candidates, n=1)
    if close:
        return f"{key}: unknown key; did you mean {candidates[close[0]]}?"
    return f"{key}: unknown key; allowed: {', '.join(candidates.values())}"


def _checked(sources: Sequence[Mapping[str, Any]]) -> Config:
    """Of values by dotted key; later sources win, and mistakes of earlier ones are mistakes."""
    _load_plugins(sources)
    config = build({name: read_key(name, value) for source in sources for name, value in source.items()})
    check_combinations(config)
    return config


def _load_plugins(sources: Sequence[Mapping[str, Any]]) -> None:
    """They come first, for they may register what other keys name."""
    named = [source["run.plugins"] for source in sources if "run.plugins" in source]
    load_plugins(read_key("run.plugins", named[-1] if named else []))


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values as they were typed."""
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
        return _not_a_group(name, "nothing")
    return f"{name}: no value given; allowed: {KEYS[RENAMED[name].name if name in RENAMED else name].allowed}"


def _not_a_group(name: str, value: str) -> str:
    inner = ", ".join(key.removeprefix(f"{name}.") for key in KEYS if key.startswith(f"{name}."))
    return f"{name}: {value} is not a group; allowed: the keys {inner}"


def _option(name: str, text: str) -> dict[str, Any]:
    """What an option sets, by dotted key."""
    try:
        value = load_plain(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if name in SECTIONS:
        return dict(_leaves({name: value}))
    if name in RENAMED:
        return dict([renamed(name, value)])
    if name not in KEYS:
        raise UserError(unknown_key(name))
    hint = KEYS[name].hint
    if value is None:
        return {name: None if text and takes_none(hint) else text}
    return {name: text if takes_text(hint, text) else value}


def _of_resumed(path: str) -> list[str]:
    """The configuration of the run that ``run.resume`` names, which comes before all others."""
    if path in ("", "no", "auto"):
        return []
    places = [place / "config.yaml" for place in (Path(path), Path(path).parent.parent)]
    return [str(place) for place in places if place.is_file()][:1]


def _from_file(file: str) -> dict[str, Any]:
    """What a YAML file sets, by dotted key; beside a run's metrics it was stored by a run, with every key."""
    before = ABSENT if (Path(file).parent / "metrics.jsonl").is_file() else {}
    return {**before, **dict(_leaves(read_yaml(file, option="--config")))}


def _leaves(values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in values.items():
        if name in SECTIONS:
            if not isinstance(value, Mapping):
                raise UserError(_not_a_group(name, shown(value)))
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
