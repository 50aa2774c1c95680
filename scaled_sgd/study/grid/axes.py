"""The ``axes`` of a study file: each is a list of labelled changes to the configuration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from scaled_sgd.config import KEYS
from scaled_sgd.config.dotted import unknown_key
from scaled_sgd.config.stored import renamed
from scaled_sgd.core.errors import UserError

_SPECS = "a list such as [4, 8], {powers: 2, from: -2, to: 5} or {range: [0, 3]}"
MOST_VALUES = 10_000
"""Largest number of values of one axis."""


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        labels: its labels in tables, by column.
        changes: configuration keys, dotted, and their values.
    """

    labels: Mapping[str, Any]
    changes: Mapping[str, Any]


Axis = Sequence[AxisValue]


def read_axes(entries: object) -> list[Axis]:
    """The axes of a study file, in order.

    An entry is ``{key: values}`` for one configuration key, ``{zip: {key: values, …}}`` for several that vary
    together, or ``{name: {label: {key: value, …}, …}}`` for named choices, in which a key may have
    ``{powers: …}`` or ``{range: …}`` for values of its own.

    Raises:
        UserError: an entry is none of these, or two set the same key.
    """
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and len(entry) == 1 for entry in entries
    ):
        raise UserError("axes: not a list of single entries; allowed: - model.base_width: [4, 8]")
    axes, seen = [], dict[str, str]()
    for entry in entries:
        ((name, spec),) = dict([renamed(*each) for each in entry.items()]).items()
        axis = _axis(str(name), spec)
        for key in dict.fromkeys(key for choice in axis for key in (*choice.labels, *choice.changes)):
            if key in seen:
                raise UserError(
                    f"axes.{name}: {key} is varied by axis {seen[key]} too; allowed: one axis a key"
                )
        seen |= {key: str(name) for choice in axis for key in (*choice.labels, *choice.changes)}
        axes.append(axis)
    return axes


def replace_values(entries: list[Any], key: str, spec: Any) -> bool:
    """Replace the values of the axis of ``key``, single or in a zip; returns whether there is one.

    For named choices, the values are the names to keep.

    Raises:
        UserError: there is no choice with this name.
    """
    for entry in entries if isinstance(entries, list) else ():
        for inner in (entry, entry.get("zip")) if isinstance(entry, dict) else ():
            if isinstance(inner, dict) and key in inner and key != "zip":
                given = spec if isinstance(spec, list | dict) else [spec]
                named = key not in KEYS and isinstance(inner[key], dict)
                inner[key] = _kept(key, inner[key], given) if named else given
                return True
    return False


def _kept(name: str, choices: Mapping[Any, Any], labels: object) -> dict[str, Any]:
    known = {str(label): changes for label, changes in choices.items()}
    wanted = [str(label) for label in labels] if isinstance(labels, list) else []
    for label in wanted:
        if label not in known or wanted.count(label) > 1:
            raise UserError(f"{name}: {label!r} is not usable; allowed: {', '.join(known)}, each once")
    if not wanted:
        raise UserError(f"{name}: {labels!r} names no choice; allowed: {', '.join(known)}")
    return {label: known[label] for label in wanted}


def _axis(name: str, spec: object) -> Axis:
    if name == "zip":
        return _zipped(spec)
    if name in KEYS:
        return [AxisValue({name: value}, {name: value}) for value in _values(name, spec)]
    if isinstance(spec, dict) and spec and all(isinstance(inner, dict) for inner in spec.values()):
        return list(_named(name, spec))
    raise UserError(f"axes.{unknown_key(name)}, or choices with names: {{label: {{key: value}}}}")


def _zipped(spec: object) -> Axis:
    if not isinstance(spec, dict) or not spec:
        raise UserError("axes.zip: it has no keys; allowed: {model.depth: [4, 8], optim.steps: [200, 300]}")
    spec = dict([renamed(str(key), values) for key, values in spec.items()])
    columns = {_known("zip", key): _values(f"zip.{key}", values) for key, values in spec.items()}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise UserError(f"axes.zip: {counts} values; allowed: as many each")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [AxisValue(row, row) for row in rows]


def _named(name: str, choices: Mapping[Any, Mapping[str, Any]]) -> Iterator[AxisValue]:
    read = {
        label: {_known(f"{name}.{label}", key): value for key, value in dotted(changes).items()}
        for label, changes in choices.items()
    }
    # A key with several values in one choice is a column of all.
    columns = {key for fixed in read.values() for key, value in fixed.items() if _is_spec(value)}
    for label, fixed in read.items():
        varied = {
            key: _values(f"{name}.{label}.{key}", value) if _is_spec(value) else [value]
            for key, value in fixed.items()
            if key in columns
        }
        for values in product(*varied.values()):
            own = dict(zip(varied, values, strict=True))
            yield AxisValue({name: str(label)} | own, fixed | own)


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted keys as one level of dotted ones."""
    found: dict[str, Any] = {}
    groups = {key.rpartition(".")[0] for key in KEYS}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = (
            dotted(value, f"{name}.")
            if name in groups and isinstance(value, dict)
            else dict([renamed(name, value)])
        )
        if both := sorted(found.keys() & inner.keys()):
            raise UserError(f"{both[0]}: it is there twice, nested and dotted; allowed: once")
        found |= inner
    return found


def _is_spec(value: object) -> bool:
    return isinstance(value, dict) and (value.keys() == {"range"} or {"from", "to"} <= value.keys())


def _known(place: str, key: str) -> str:
    if key not in KEYS:
        raise UserError(f"axes.{place}.{unknown_key(key)}")
    return key


def _values(place: str, spec: object) -> list[Any]:
    """The values of a specification."""
    values: list[Any] | None = None
    if isinstance(spec, list):
        values = spec
    elif (
        isinstance(spec, dict)
        and spec.keys() <= {"powers", "from", "to", "step"}
        and {"from", "to"} <= spec.keys()
    ):
        values = _powers(place, spec)
    elif isinstance(spec, dict) and spec.keys() == {"range"}:
        values = _range(place, spec["range"])
    if values is None:
        raise UserError(f"axes.{place}: {spec!r} is not understood; allowed: {_SPECS}")
    if not values:
        raise UserError(f"axes.{place}: {spec!r} has no values; allowed: at least one")
    if len(values) > MOST_VALUES:
        raise UserError(f"axes.{place}: it has {len(values)} values; allowed: up to {MOST_VALUES}")
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise UserError(f"axes.{place}: it has {twice[0]!r} twice; allowed: each value once")
    return values


def _powers(place: str, spec: Mapping[str, Any]) -> list[float]:
    base, start, stop, step = spec.get("powers", 2), spec["from"], spec["to"], spec.get("step", 1)
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (base, start, stop, step))
    if not numbers or base <= 0 or step <= 0 or stop < start or (stop - start) / step > MOST_VALUES:
        raise UserError(
            f"axes.{place}: {dict(spec)!r} is not usable; allowed: a base and a step above 0, from at most to"
        )
    return [float(base) ** (start + step * index) for index in range(int((stop - start) / step + 1e-9) + 1)]


def _range(place: str, bounds: object) -> list[int]:
    if (
        not isinstance(bounds, list)
        or len(bounds) not in (1, 2, 3)
        or any(type(n) is not int for n in bounds)
    ):
        raise UserError(
            f"axes.{place}: range {bounds!r} is not usable; allowed: [stop], [start, stop(, step)]"
        )
    if len(bounds) == 3 and bounds[2] == 0:
        raise UserError(f"axes.{place}: range {bounds!r} is not usable; allowed: a step that is not 0")
    numbers = range(*bounds)
    if len(numbers) > MOST_VALUES:
        raise UserError(f"axes.{place}: it has {len(numbers)} values; allowed: up to {MOST_VALUES}")
    return list(numbers)
