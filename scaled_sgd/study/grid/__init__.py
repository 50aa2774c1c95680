"""The grid of a study: its file, its axes and its runs."""

from scaled_sgd.study.grid.expansion import Run, expand
from scaled_sgd.study.grid.study_file import Study, find_study, read_study

__all__ = ["Run", "Study", "expand", "find_study", "read_study"]
