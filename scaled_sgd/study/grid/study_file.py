"""Reads study files; every mistake becomes one line."""

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scaled_sgd.config import KEYS
from scaled_sgd.config.dotted import unknown_key
from scaled_sgd.config.parsing import read_key
from scaled_sgd.config.plugins import load_plugins
from scaled_sgd.config.resumed import code_of, refuse_foreign_code
from scaled_sgd.config.stored import FORMER, renamed
from scaled_sgd.config.yaml_files import read_yaml
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.shipped import shipped
from scaled_sgd.study.claims.paper import read_claims, read_paper
from scaled_sgd.study.grid.axes import Axis, dotted, read_axes, replace_values
from scaled_sgd.study.grid.figures import check_figures
from scaled_sgd.study.grid.matching import MATCHINGS

_KEYS = ("title", "about", "paper", "base", "axes", "match", "report", "claims", "large_weights", "defaults")


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        name: name of the file.
        title: a question.
        about: a sentence or two.
        base: dotted keys of all runs.
        defaults: values of keys whose default has changed, where neither base nor axes name them.
        axes: the varied axes, crossed in order.
        matchings: how base widths of other width exponents are chosen.
        like: the width exponent that they are matched to.
        large_weights: networks with more weights are launched separately.
        source: the study as plain values.
    """

    name: str
    title: str
    about: str
    base: Mapping[str, Any]
    defaults: Mapping[str, Any]
    axes: Sequence[Axis]
    matchings: tuple[str, ...]
    like: float
    large_weights: float
    source: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Number of combinations."""
        return math.prod(len(axis) for axis in self.axes) * len(self.matchings)


def find_study(name: str) -> Path:
    """The file of a study: one of :func:`named_studies`, a path, or a folder in which a study was run.

    Raises:
        UserError: there is no such file.
    """
    known = named_studies()
    for place in (known.get(name), Path(name), Path(name) / "study.yaml"):
        if place is not None and place.is_file():
            return place
    raise UserError(f"study: no study {name!r}; allowed: {', '.join(known)}, or the path of a YAML file")


def named_studies() -> dict[str, Path]:
    """Files of studies by name, such as ``smoke`` or ``papers/cohen2021``.

    One of ``configs/studies`` here hides one that comes with the package.
    """
    folders = shipped("configs") / "studies", Path("configs/studies")
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in folders
        for path in folder.rglob("*.yaml")
    }
    return dict(sorted(found.items()))


def is_stored(path: Path) -> bool:
    """Whether a study file is the one in the folder of a study that was run."""
    return path.name == "study.yaml" and (path.parent / "plan.jsonl").is_file()


def own_code(name: str) -> list[str]:
    """Names of code in the user's own file of a study; none if only the study's folder has one."""
    try:
        path = find_study(name)
        base = {} if is_stored(path) else read_yaml(path).get("base")
        return code_of(dotted(base)) if isinstance(base, dict) else []
    except UserError:
        return []


def load_study_plugins(base: Mapping[str, Any]) -> None:
    """Load ``run.plugins`` of a study's base (dotted keys): they register what other keys and figures name.

    Raises:
        UserError: a plugin cannot be loaded.
    """
    try:
        load_plugins(read_key("run.plugins", base.get("run.plugins", [])))
    except UserError as error:
        raise UserError(f"base.{error}") from None


def read_study(
    path: Path, overrides: Mapping[str, Any] | None = None, *, accepted: Sequence[str] = ()
) -> Study:
    """Read a study file and replace some of its keys.

    Args:
        path: the file.
        overrides: dotted configuration keys; a key of an axis gets these values, any other this base value.
        accepted: code that a file in the folder of a study may name.

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
    # A folder keeps the defaults of the version that planned it first.
    now = FORMER if is_stored(path) else {key: KEYS[key].default for key in FORMER}
    defaults = source.get("defaults", {})
    if not isinstance(defaults, dict) or not defaults.keys() <= now.keys():
        raise UserError(f"defaults: {defaults!r} is not usable; allowed: values of {', '.join(now)}")
    source["defaults"] = defaults = dict(now) | defaults
    source["base"] = base
    for key in ("run.name", "run.dir", "run.resume"):
        if key in base:
            raise UserError(f"{key}: {base[key]!r} is not usable; allowed: nothing, a study names its runs")
    if "run.accept_code" in base:
        raise UserError("run.accept_code: it stands in the study's file; allowed: on the command line")
    for key in base:
        if key not in KEYS:
            raise UserError(f"base.{unknown_key(key)}")
    read = read_axes(axes)
    varied = {key for axis in read for choice in axis for key in choice.changes}
    if both := sorted(varied & base.keys()):
        raise UserError(f"base.{both[0]}: it is an axis too; allowed: one of the two")
    if is_stored(path):
        for values in (base, *(choice.changes for axis in read for choice in axis)):
            refuse_foreign_code(values, [overrides or {}], accepted)
    matchings, like = _match(source.get("match"))
    figures = source.get("report")
    if figures is not None:
        load_study_plugins(base)
    names = list(dict.fromkeys(name for axis in read for choice in axis for name in choice.labels))
    read_paper(source.get("paper"))
    read_claims(source.get("claims"), names)
    check_figures(figures, names)
    large = source.get("large_weights", 2e7)
    with contextlib.suppress(ValueError, TypeError):
        large = float(large) if isinstance(large, str) else large  # YAML reads 2e7 as text.
    if isinstance(large, bool) or not isinstance(large, int | float) or not large >= 0:
        raise UserError(f"large_weights: {large!r} is not usable; allowed: numbers from 0")
    return Study(
        name=path.stem,
        title=str(source.get("title", path.stem)),
        about=str(source.get("about", "")),
        base=base,
        defaults=defaults,
        axes=read,
        matchings=matchings,
        like=like,
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
