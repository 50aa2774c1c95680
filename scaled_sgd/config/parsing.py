"""Reads a configuration from a command line, YAML or a dictionary; every mistake becomes one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaled_sgd.config.combinations import check_combinations, with_rule
from scaled_sgd.config.dotted import leaves
from scaled_sgd.config.help import PRINTING, help_text, printed
from scaled_sgd.config.keys import KEYS, build
from scaled_sgd.config.options import option_value, options
from scaled_sgd.config.plugins import load_plugins
from scaled_sgd.config.resumed import (
    of_checkpoint,
    of_named_run,
    place_of,
    refuse_foreign_code,
    resumed_files,
)
from scaled_sgd.config.sections import Config
from scaled_sgd.config.stored import ABSENT
from scaled_sgd.config.values import MisfitError, plain, read, shown
from scaled_sgd.config.yaml_files import read_yaml
from scaled_sgd.core.errors import UserError


def parse(arguments: Sequence[str], *, prog: str = "scaled_sgd.train") -> Config:
    """The checked configuration that a command line asks for.

    ``--config FILE`` is read first regardless of position, so that options always win.
    ``--print_config`` and ``--help`` print and exit with status 0.

    Raises:
        UserError: any mistake, in one line that names the key, the value and what is allowed.
    """
    files: list[str] = []
    given: list[dict[str, Any]] = []
    resumed = "no"
    printing: dict[str, str] = {}
    for option, value in options(arguments):
        if option == "config":
            files.append(value)
        elif option in PRINTING:
            printing[option] = value
        else:
            given.append(option_value(option, value))
            resumed = value if option == "run.resume" else resumed
    own = [*map(_from_file, files), *given]
    sources = _over_resumed(own, resumed)
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
    return _checked([dict(leaves(values))])


def for_training(values: Mapping[str, Any]) -> Config:
    """As :func:`from_dict`, over the configuration of the run or checkpoint that ``run.resume`` names.

    Raises:
        UserError: likewise, or there is no such run, or it names code that is not accepted.
    """
    own = dict(leaves(values))
    return _checked(_over_resumed([own], read_key("run.resume", own.get("run.resume", "no"))))


def read_key(name: str, value: Any) -> Any:
    """Convert a plain value to the type of its dotted key.

    Raises:
        UserError: the value has the wrong type or is outside the key's limits.
    """
    key, value = KEYS[name], plain(value)
    try:
        return read(key.hint, value)
    except MisfitError as error:
        found, allowed = error.args
        raise UserError(f"{name}: {shown(found)} is not usable; allowed: {allowed}") from None
    except TypeError:
        text = shown(value) if value is None or isinstance(value, bool) else str(value)
        raise UserError(f"{name}: {shown(text)} does not fit; allowed: {key.allowed}") from None


def _checked(sources: Sequence[Mapping[str, Any]]) -> Config:
    """The checked configuration from values by dotted key; later sources win, but all of them are checked."""
    _load_plugins(sources)
    values = {name: read_key(name, value) for source in sources for name, value in source.items()}
    config = with_rule(build(values))
    check_combinations(config)
    return config


def _load_plugins(sources: Sequence[Mapping[str, Any]]) -> None:
    """Plugins are loaded first, because they may register what other keys name."""
    named = [source["run.plugins"] for source in sources if "run.plugins" in source]
    load_plugins(read_key("run.plugins", named[-1] if named else []))


def _over_resumed(own: Sequence[Mapping[str, Any]], resumed: str) -> list[Mapping[str, Any]]:
    """``own`` sources, before them what the run sets that they resume."""
    stored = of_named_run(own) | _of_resumed(resumed)
    accepted = [source["run.accept_code"] for source in own if "run.accept_code" in source]
    refuse_foreign_code(stored, own, read_key("run.accept_code", accepted[-1] if accepted else []))
    return [stored, *own]


def _of_resumed(path: str) -> dict[str, Any]:
    """What the run or checkpoint that ``run.resume`` names sets; all other sources override it."""
    if path in ("", "no", "auto"):
        return {}
    config, state = resumed_files(path)
    of_run = {} if config is None else _from_file(str(config)) | place_of(config)
    return of_run | ({} if state is None else of_checkpoint(state))


def _from_file(file: str) -> dict[str, Any]:
    """What a YAML file sets, by dotted key; beside a run's metrics it is that run's file, with every key."""
    before = ABSENT if (Path(file).parent / "metrics.jsonl").is_file() else {}
    return {**before, **dict(leaves(read_yaml(file, option="--config")))}
