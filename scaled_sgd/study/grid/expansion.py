"""Expands a study into its runs."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scaled_sgd.config import Config, DataConfig
from scaled_sgd.config.checks import check
from scaled_sgd.config.combinations import with_rule
from scaled_sgd.config.network import widths_of
from scaled_sgd.config.parsing import from_dict, read_key
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import count_weights
from scaled_sgd.data import Data
from scaled_sgd.data.facts import data_facts
from scaled_sgd.planning.choice import World
from scaled_sgd.study.grid.identity import run_id
from scaled_sgd.study.grid.matching import matching_base_width
from scaled_sgd.study.grid.study_file import Study, load_study_plugins
from scaled_sgd.train.resolution import resolve

_HERE = World(size=1, local_size=1, cuda=False, memory=2**62)
"""A world for expansion: where a study is expanded need not be where its runs take place."""

LoadData = Callable[[DataConfig, int], Data]
"""Gives the data for a ``data.`` section and a seed."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        id: id of its resolved configuration.
        axes: its labels in tables, by column.
        config: its configuration, resolved except for what a launch decides.
        weights: number of weights of its network.
    """

    id: str
    axes: Mapping[str, Any]
    config: Config
    weights: int

    @property
    def work(self) -> float:
        """Approximate number of multiplications."""
        return 3.0 * self.weights * self.config.optim.batch * (self.config.optim.steps or 1)


def expand(study: Study, load: LoadData) -> list[Run]:
    """All runs, resolved, in the order of the axes. Equal runs have the same id.

    Raises:
        UserError: a value does not fit its key, the data or another key.
    """
    load_study_plugins(study.base)
    start = from_dict({})
    for place, keys in (("defaults", study.defaults), ("base", study.base)):
        for key, value in keys.items():
            start = _put(start, key, _typed(key, value, place))
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
        # What a plan needs from the data does not depend on the seed.
        data = load(config.data, 0)
        known = next((found for seen, found in facts if seen is data), None)
        if known is None:
            known = data_facts(data)
            facts.append((data, known))
        runs += _matched(study, with_rule(config), labels, data, known)
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
            if model.rank is not None:
                raise UserError(
                    f"matching: 'equal_parameters' is not usable; allowed: equal_base_width with model.rank "
                    f"{model.rank} (weights are counted without factors)"
                )
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
    """A value of the study file, converted to the type of its key."""
    try:
        return read_key(key, value)
    except UserError as error:
        raise UserError(f"{place}.{error}") from None


def _put(config: Any, key: str, value: Any) -> Any:
    """A copy with one dotted key replaced."""
    group, _, rest = key.partition(".")
    changed: Any = replace(config, **{group: _put(getattr(config, group), rest, value) if rest else value})
    return changed
