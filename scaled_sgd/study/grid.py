"""A study: from its file to the runs that it asks for."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scaled_sgd.config import KEYS, Config, DataConfig
from scaled_sgd.config.checks import check
from scaled_sgd.config.dotted import unknown_key
from scaled_sgd.config.network import widths_of
from scaled_sgd.config.parsing import from_dict, read_key
from scaled_sgd.config.plugins import load_plugins
from scaled_sgd.config.stored import renamed
from scaled_sgd.config.yaml_files import read_yaml
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import count_weights
from scaled_sgd.data import Data
from scaled_sgd.planning.choice import World
from scaled_sgd.study.axes import Axis, dotted, read_axes, replace_values
from scaled_sgd.study.figure_names import check_names
from scaled_sgd.study.identity import run_id
from scaled_sgd.study.matching import MATCHINGS, matching_base_width
from scaled_sgd.train.resolution import resolve
from scaled_sgd.train.resuming import data_facts

_KEYS = ("title", "about", "base", "axes", "match", "report", "large_weights")
_HERE = World(size=1, local_size=1, cuda=False, memory=2**62)
"""Where a plan is made says nothing of where its runs will be."""

LoadData = Callable[[DataConfig, int], Data]
"""The data of a ``data.`` section and a seed."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        id: of its resolved configuration.
        axes: what tables call it, by column.
        config: resolved, but for what a launch decides.
        weights: of its network.
    """

    id: str
    axes: Mapping[str, Any]
    config: Config
    weights: int

    @property
    def work(self) -> float:
        """Multiplications of its steps, roughly."""
        return 3.0 * self.weights * self.config.optim.batch_size * (self.config.optim.steps or 1)


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        name: of the file.
        title: a question.
        about: a sentence or two.
        base: keys of all runs, dotted.
        axes: what is varied, crossed in order.
        matchings: how base widths of other width exponents are chosen.
        like: the width exponent that they are matched to.
        figures: of the report; None: all that apply.
        large_weights: networks with more weights are runs of their own.
        source: all of it as plain values.
    """

    name: str
    title: str
    about: str
    base: Mapping[str, Any]
    axes: Sequence[Axis]
    matchings: tuple[str, ...]
    like: float
    figures: tuple[str, ...] | None
    large_weights: float
    source: Mapping[str, Any]

    @property
    def size(self) -> int:
        """How many combinations it has."""
        return math.prod(len(axis) for axis in self.axes) * len(self.matchings)


def find_study(name: str) -> Path:
    """The file of a study: ``configs/studies/NAME.yaml`` here, a path, or a folder that a study was run in.

    Raises:
        UserError: there is none.
    """
    places = [Path("configs/studies") / f"{name}.yaml", Path(name), Path(name) / "study.yaml"]
    for place in places:
        if place.is_file():
            return place
    known = sorted(path.stem for path in Path("configs/studies").glob("*.yaml"))
    shown = ", ".join(known) or "a YAML file"
    raise UserError(f"study: no study {name!r}; allowed: {shown}, or the path of a YAML file")


def read_study(path: Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """A study file, with some of its keys replaced.

    Args:
        path: of the file.
        overrides: configuration keys, dotted; one that is an axis gets these values, another this base value.

    Raises:
        UserError: any mistake in it.
    """
    source = copy.deepcopy(read_yaml(path))
    for key in source:
        if key not in _KEYS:
            raise UserError(f"{path.name}: unknown key {key!r}; allowed: {', '.join(_KEYS)}")
    base, axes = source.setdefault("base", {}), source.setdefault("axes", [])
    if not isinstance(base, dict):
        raise UserError(f"base: {base!r} is not a group; allowed: keys of a run's configuration")
    base = dotted(base)
    if not isinstance(axes, list):
        raise UserError("axes: not a list; allowed: - model.base_width: [4, 8]")
    for key, value in [renamed(*each) for each in (overrides or {}).items()]:
        if replace_values(axes, key, value):
            continue
        if key in _KEYS:
            raise UserError(f"{key}: it stands in the study's file; allowed here: keys of a run, and axes")
        if key not in KEYS:
            labels = [name for axis in read_axes(axes) for choice in axis for name in choice.labels]
            names = [] if "." in key else [name for name in labels if "." not in name]
            if close := get_close_matches(key, names, n=1):
                raise UserError(f"{key}: unknown key; did you mean {close[0]}?")
            raise UserError(unknown_key(key))
        base[key] = value
    source["base"] = base
    for key in ("run.name", "run.dir", "run.resume"):
        if key in base:
            raise UserError(f"{key}: {base[key]!r} is not usable; allowed: nothing, a study names its runs")
    for key in base:
        if key not in KEYS:
            raise UserError(f"base.{unknown_key(key)}")
    read = read_axes(axes)
    varied = {key for axis in read for choice in axis for key in choice.changes}
    if both := sorted(varied & base.keys()):
        raise UserError(f"base.{both[0]}: it is an axis too; allowed: one of the two")
    matchings, like = _match(source.get("match"))
    figures = source.get("report")
    if figures is not None and not (isinstance(figures, list) and all(isinstance(f, str) for f in figures)):
        raise UserError(f"report: {figures!r} is not usable; allowed: a list of figures, or nothing for all")
    check_names(figures or ())
    large = source.get("large_weights", 2e7)
    with contextlib.suppress(ValueError, TypeError):
        large = float(large) if isinstance(large, str) else large  # YAML has 2e7 for text.
    if isinstance(large, bool) or not isinstance(large, int | float) or not large >= 0:
        raise UserError(f"large_weights: {large!r} is not usable; allowed: numbers from 0")
    return Study(
        name=path.stem,
        title=str(source.get("title", path.stem)),
        about=str(source.get("about", "")),
        base=base,
        axes=read,
        matchings=matchings,
        like=like,
        figures=None if figures is None else tuple(figures),
        large_weights=float(large),
        source=source,
    )


def _match(found: object) -> tuple[tuple[str, ...], float]:
    if found is None:
        return ("equal_base_width",), 2.0
    by: Any = found.get("by") if isinstance(found, dict) else None
    like: Any = found.get("exponent", 2.0) if isinstance(found, dict) else None
    by = [by] if isinstance(by, str) else by
    known = isinstance(by, list) and by and all(name in MATCHINGS for name in by)
    known = known and isinstance(found, dict) and found.keys() <= {"by", "exponent"}
    if not known or not isinstance(like, int | float) or isinstance(like, bool) or not 0 <= like < 64:
        raise UserError(
            f"match: {found!r} is not usable; allowed: {{by: {' | '.join(MATCHINGS)}, exponent: 2.0}}, or "
            "both names as a list"
        )
    return tuple(by), float(like)


def expand(study: Study, load: LoadData) -> list[Run]:
    """All runs, resolved, in the order of the axes. Several may be the same: they have the same id.

    Raises:
        UserError: a value does not fit its key, the data or another key.
    """
    load_plugins(_typed("run.plugins", study.base.get("run.plugins", []), "base"))
    start = from_dict({})
    for key, value in study.base.items():
        start = _put(start, key, _typed(key, value, "base"))
    values = {
        (key, repr(value)): _typed(key, value, "axes")
        for axis in study.axes
        for choice in axis
        for key, value in choice.changes.items()
    }
    runs: list[Run] = []
    facts: list[tuple[Data, dict[str, Any]]] = []
    for choices in itertools.product(*study.axes):
        config, labels = start, dict[str, Any]()
        for choice in choices:
            for key, value in choice.changes.items():
                config = _put(config, key, values[key, repr(value)])
            for column, label in choice.labels.items():
                typed = values.get((column, repr(label)), label)
                labels[column] = str(label) if isinstance(typed, list | tuple) else typed
        # Nothing that a plan needs of the data depends on the seed.
        data = load(config.data, 0)
        known = next((found for seen, found in facts if seen is data), None)
        if known is None:
            known = data_facts(data)
            facts.append((data, known))
        runs += _matched(study, config, labels, data, known)
    return runs


def _matched(
    study: Study, config: Config, labels: dict[str, Any], data: Data, facts: Mapping[str, Any]
) -> Iterator[Run]:
    model = config.model
    for matching in study.matchings:
        matched, columns = config, dict(labels)
        if len(study.matchings) > 1:
            columns["matching"] = matching.replace("_", " ")
        if matching == "equal_parameters" and model.width_exponent != study.like:
            width = matching_base_width(
                data.in_features,
                data.out_features,
                depth=model.depth,
                base_width=model.base_width,
                like=study.like,
                exponent=model.width_exponent,
            )
            matched = _put(config, "model.base_width", width)
        check(matched)
        resolved = replace(resolve(matched, data, _HERE), sharding=matched.sharding)
        widths = widths_of(resolved, data.in_features, data.out_features)
        yield Run(run_id(resolved, facts), columns, resolved, count_weights(widths))


def _typed(key: str, value: Any, place: str) -> Any:
    """A value of the study file as its key's type has it."""
    try:
        return read_key(key, value)
    except UserError as error:
        raise UserError(f"{place}.{error}") from None


def _put(config: Any, key: str, value: Any) -> Any:
    """A copy with one dotted key changed."""
    group, _, rest = key.partition(".")
    changed: Any = replace(config, **{group: _put(getattr(config, group), rest, value) if rest else value})
    return changed
