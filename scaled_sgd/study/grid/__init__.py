"""The grid of a study: its file, its axes and its runs."""

from typing import TYPE_CHECKING

from scaled_sgd.core.lazy import attach

if TYPE_CHECKING:
    from scaled_sgd.study.grid.expansion import Run, expand
    from scaled_sgd.study.grid.study_file import Study, find_study, read_study

__all__ = ["Run", "Study", "expand", "find_study", "read_study"]

_HOMES = {"Run": "expansion", "expand": "expansion"}
__getattr__, __dir__ = attach(
    __name__, {name: f"study.grid.{_HOMES.get(name, 'study_file')}" for name in __all__}
)
