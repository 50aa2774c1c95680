"""The configuration of a run: typed, read from YAML and the command line, checked before anything starts."""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from scaled_sgd.data import DataConfig
from scaled_sgd.errors import UserError
from scaled_sgd.parameterization import Activation, Parameterization


@dataclass
class ModelConfig:
    """The network."""

    depth: int = 6
    """number of weight matrices l"""
    base_width: int = 32
    """m of the hidden widths m·k^r"""
    width_exponent: float = 2.0
    """r: 0 constant, 1 linear, 2 quadratic widths"""
    activation: Literal["relu", "abs", "linear"] | tuple[float, float] = "relu"
    """a·s + b·|s|: a name, or [a, b], normalised; abs (a = 0) makes f(−x) = f(x), so it fits pixels only"""
    parameterization: Parameterization = "nup"
    """how multipliers and initial weights depend on widths"""
    dtype: Literal["float32", "float64"] = "float32"
    """of weights and inputs"""


@dataclass
class OptimConfig:
    """Steps."""

    lr: float = 4.0
    """learning rate η at its peak"""
    batch_size: int = 256
    """samples of one step over all processes"""
    steps: int | None = None
    """number of steps; null: take epochs"""
    epochs: float | None = None
    """passes over the training data; 20 when steps is null too"""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """decay of the learning rate to 0 after warm-up"""
    warmup_steps: int = 0
    """steps over which the learning rate grows linearly from 0"""
    momentum: float = 0.0
    """μ of v ← μ v + ξ G"""
    weight_decay: float = 0.0
    """λ of v ← v + λ W, not scaled by ξ"""
    accumulation: int = 1
    """microbatches a step; the step stays the same"""
    clip_norm: float | None = None
    """largest norm of the whole gradient, before scaling; null: no clipping"""


@dataclass
class ScalingConfig:
    """Depthwise gradient scaling."""

    rule: Literal["none", "norm", "gain", "kernel"] = "norm"
    """how ξ_k comes from forward and backward norms"""
    static: bool = False
    """keep the scales of the first step"""


@dataclass
class RunConfig:
    """Where, how often and on what."""

    name: str | None = None
    """folder below run.dir; null: made from the data and the time"""
    dir: str = "runs"
    """folder of all runs"""
    seed: int = 0
    """of weights, order of samples and hold-out"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is one"""
    processes: int | None = None
    """refuse to run with another number of processes; null: take what the launcher gives"""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """mixed precision of forward and backward passes"""
    eval_every: int | None = None
    """steps between evaluations; null: once an epoch; 0: at the end only"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""
    metrics: list[str] | None = None
    """evaluate metrics by name or local script; null: accuracy for classes, mse for numbers"""
    trackers: list[str] = field(default_factory=list)
    """experiment trackers by Accelerate's names, such as [tensorboard]"""


@dataclass
class Config:
    """A run."""

    loss: Literal["auto", "cross_entropy", "mse"] = "auto"
    """auto: cross_entropy for classes, mse (½‖f − y‖²) for numbers"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    run: RunConfig = field(default_factory=RunConfig)


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


def check(config: Config) -> None:
    """Refuse values that have the right type but cannot be meant.

    Raises:
        UserError: names the first such key.
    """
    for key, value, fits, allowed in _constraints(config):
        if not fits:
            raise UserError(f"{key}: {value!r} is not usable; allowed: {allowed}")
    try:
        Activation.of(config.model.activation)
    except UserError as error:
        raise UserError(f"model.{error}") from None


def _constraints(config: Config) -> Iterator[tuple[str, object, bool, str]]:
    model, optim, run, data = config.model, config.optim, config.run, config.data
    positive = "integers from 1"
    for key, count in (
        ("model.depth", model.depth),
        ("model.base_width", model.base_width),
        ("optim.batch_size", optim.batch_size),
        ("optim.accumulation", optim.accumulation),
        ("run.log_every", run.log_every),
        ("data.shuffle_buffer", data.shuffle_buffer),
    ):
        yield key, count, count >= 1, positive
    for key, limit in (
        ("optim.steps", optim.steps),
        ("run.processes", run.processes),
        ("data.limit", data.limit),
    ):
        yield key, limit, limit is None or limit >= 1, f"{positive}, or null"
    yield (
        "run.eval_every",
        run.eval_every,
        run.eval_every is None or run.eval_every >= 0,
        "integers from 0, or null",
    )
    for key, count in (("optim.warmup_steps", optim.warmup_steps), ("run.seed", run.seed)):
        yield key, count, count >= 0, "integers from 0"
    for key, number in (
        ("model.width_exponent", model.width_exponent),
        ("optim.lr", optim.lr),
        ("optim.weight_decay", optim.weight_decay),
    ):
        yield key, number, 0 <= number < math.inf, "finite numbers from 0"
    yield "optim.momentum", optim.momentum, 0 <= optim.momentum < 1, "numbers from 0 to below 1"
    for key, bound in (("optim.clip_norm", optim.clip_norm), ("optim.epochs", optim.epochs)):
        yield key, bound, bound is None or 0 < bound < math.inf, "finite numbers above 0, or null"
    yield (
        "optim.steps",
        optim.steps,
        optim.steps is None or optim.epochs is None,
        f"null beside optim.epochs {optim.epochs!r}; give one of the two",
    )
    yield "data.eval_fraction", data.eval_fraction, 0 < data.eval_fraction < 1, "numbers between 0 and 1"
    yield (
        "run.name",
        run.name,
        run.name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", run.name) is not None,
        "letters, digits, '.', '_' and '-', the first a letter or digit, or null",
    )


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, as ``config.yaml`` holds them."""
    plain: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            value = as_dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[entry.name] = value
    return plain


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
    return [f"--config={file}" for file in files if _holds_keys(file)] + rest


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


def key_types(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted configuration key with its type."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            types |= key_types(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            types[f"{prefix}{name}"] = hint
    return types


def _unknown_key(key: str) -> str:
    known = list(key_types())
    group, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    candidates = siblings if group and siblings else {name: name for name in known}
    close = difflib.get_close_matches(leaf if candidates is siblings else key, candidates, n=1)
    if close:
        return f"{key}: unknown key; did you mean {candidates[close[0]]}?"
    return f"{key}: unknown key; allowed: {', '.join(candidates.values())}"


def describe(hint: Any) -> str:
    """What a configuration type allows, in words."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is list:
        return "a list such as [a, b]"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    return str(hint)


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
