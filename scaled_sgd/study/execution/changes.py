"""Describes how a plan differs from the previous one."""

from collections.abc import Sequence
from typing import Any

from scaled_sgd.config.resumed import code_of
from scaled_sgd.core.errors import UserError
from scaled_sgd.study.folder import StudyFolder
from scaled_sgd.study.grid import Run, Study, read_study

_SHOWN = 8


def changes(folder: StudyFolder, study: Study, runs: Sequence[Run]) -> str | None:
    """A line about how this plan differs from the folder's; None if that is missing or has the same runs."""
    try:
        before = {entry["id"] for entry in folder.planned()}
        earlier = _facts(read_study(folder.path / "study.yaml", accepted=code_of(study.base)))
    except UserError:
        return None
    now = {run.id for run in runs}
    if before == now:
        return None
    facts = _facts(study)
    keys = [key for key in earlier | facts if earlier.get(key) != facts.get(key)]
    said = [f"{key} {_brief(earlier.get(key))} → {_brief(facts.get(key))}" for key in keys]
    left = sum(path.name not in now for path in (folder.path / "runs").glob("*"))
    return (
        f"plan: changed ({'; '.join(said) or 'by the data or another version'}); {len(before & now)} of its "
        f"{len(now)} runs were in it before; {left} of earlier plans stay and are not counted"
    )


def _facts(study: Study) -> dict[str, Any]:
    """The values that determine the runs of a study: by key, by axis."""
    axes: dict[str, list[Any]] = {}
    for axis in study.axes:
        for choice in axis:
            for column, label in choice.labels.items():
                settings = () if column in choice.changes else tuple(map(str, choice.changes.items()))
                axes.setdefault(column, []).append((label, settings))
    return dict(study.defaults) | dict(study.base) | axes | {"match": (study.matchings, study.like)}


def _brief(value: Any) -> str:
    if not isinstance(value, list):
        return "default" if value is None else str(value)
    shown = [str(item[0]) if isinstance(item, tuple) else str(item) for item in value]
    return f"[{', '.join(shown[:_SHOWN])}{', …' if len(shown) > _SHOWN else ''}]"
