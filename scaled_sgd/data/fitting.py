"""What is fitted on the training rows: texts of columns, filled gaps, standardisation, the constant."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scaled_sgd.config.sections import DataConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.data.columns import DATES, Columns, kind_of, listed, no_inputs
from scaled_sgd.data.dialect import Dialect
from scaled_sgd.data.normalization import Moments, Normalization, Standardization
from scaled_sgd.data.texts import Seen, Texts

See = Callable[[str], Seen]
"""Gives what a column of text holds in the training split."""


def settled(
    config: DataConfig,
    *,
    table: bool,
    held_out: str | None,
    dialect: Dialect | None = None,
    texts: bool = False,
) -> DataConfig:
    """The configuration with what it leaves to the data.

    Args:
        config: as given.
        table: whether all inputs are columns of numbers and text.
        held_out: the split to evaluate on; None: a part of the training split.
        dialect: of its CSV files; None: there are none.
        texts: whether some input is a column of text, beside images or lists too.
    """
    return replace(
        config,
        separator="," if dialect is None else dialect.separator,
        header=dialect is None or dialect.header,
        codes="number" if dialect is None else config.codes,
        standardize=table if config.standardize is None else config.standardize,
        constant=table if config.constant is None else config.constant,
        categories=config.categories if table or texts else 0,
        missing=config.missing if table else "refuse",
        # Null stays: it says where the split comes from.
        eval_split=config.eval_split and held_out,
    )


def usable(
    features: Mapping[str, Any], columns: Columns, config: DataConfig, see: See, *, empty: Collection[str]
) -> tuple[Columns, dict[str, Texts], list[str]]:
    """The columns without those that no input can come from, the texts of the others, and warnings.

    Args:
        features: of all columns.
        columns: found or named.
        config: as given.
        see: of columns of text.
        empty: columns of numbers of which no row has one, and that cannot be filled.

    Raises:
        UserError: such a column is named in the configuration, or no other is left.
    """
    seen = {name: see(name) for name in columns.inputs if kind_of(features[name]) == "text"}
    named = config.inputs is not None
    reasons = {name: why for name, found in seen.items() if (why := found.why_not) is not None}
    reasons |= dict.fromkeys(empty, "empty")
    for name, why in reasons.items() if named else ():
        if why == "dates":
            raise UserError(f"data.inputs: column {name!r} holds dates; allowed: {DATES}")
        if why.startswith("more"):
            raise UserError(
                f"data.inputs: column {name!r} holds {why}; allowed: fewer, or a larger data.categories"
            )
    if not named:
        if len(reasons) == len(columns.inputs):
            raise no_inputs(listed(f"{name}: {why}" for name, why in reasons.items()))
        kept = tuple(name for name in columns.inputs if name not in reasons)
        columns = replace(columns, inputs=kept, left_out=(*columns.left_out, *reasons))
        dates = [name for name in columns.left_out if kind_of(features[name]) == "date"]
        reasons |= dict.fromkeys(dates, "dates")
    warnings = [*_left_out(reasons, config.categories)] if not named else []
    return columns, {name: seen[name].sorted for name in columns.inputs if name in seen}, warnings


def _left_out(reasons: Mapping[str, str], most: int) -> Iterator[str]:
    if dates := [name for name, why in reasons.items() if why == "dates"]:
        yield f"data.inputs: dates are no inputs: {listed(dates, 5)}; allowed: {DATES}"
    if empty := [name for name, why in reasons.items() if why == "empty"]:
        yield f"data.inputs: columns without any number are left out: {listed(empty, 5)}"
    if many := [name for name, why in reasons.items() if why.startswith(("more", "different"))]:
        yield (
            f"data.inputs: columns of text with more than data.categories {most:,} texts, or another in most "
            f"rows, are left out: {listed(many, 5)}"
        )


def fit_normalization(
    moments: Moments, layout: Sequence[str], texts: Mapping[str, Texts], config: DataConfig
) -> Normalization:
    """Fills, standardisation and constant of the numbers of a row.

    Args:
        moments: of the numbers that come from no text, over the training rows.
        layout: for each number of a row the column that it comes from.
        texts: columns of text.
        config: settled.

    Raises:
        UserError: a column has no number to take the mean of.
    """
    own = np.array([name not in texts for name in layout], bool)
    if config.missing == "mean":
        if len(empty := np.flatnonzero(moments.counts == 0)):
            name = [name for name, is_own in zip(layout, own, strict=True) if is_own][empty[0]]
            raise UserError(
                f"data.missing: 'mean' is not known of column {name!r}, which no training row has; "
                "allowed: a number, or data.inputs without it"
            )
        values = moments.means
    else:
        values = np.full(moments.means.shape, 0.0 if config.missing == "refuse" else config.missing)
    moments = moments.filled(values)
    z = Standardization.of(moments) if config.standardize else None
    squares = (
        moments.means**2 + moments.variances if z is None else (z.deviations > 0).astype(np.float64)
    ).sum() + len(texts)
    return Normalization(
        None if config.missing == "refuse" else _spread(values, own, 0.0),
        None if z is None else Standardization(_spread(z.means, own, 0.0), _spread(z.deviations, own, 1.0)),
        None if not config.constant else float(np.sqrt(squares)) or 1.0,
    )


def lost(normalization: Normalization, layout: Sequence[str]) -> Iterator[str]:
    """A line about constants that standardising makes 0, unless another one is appended.

    Args:
        normalization: of a row's numbers.
        layout: for each of them the column that it comes from.
    """
    z = normalization.standardization
    if z is None or normalization.constant is not None:
        return
    found = np.flatnonzero((z.deviations == 0) & (z.means != 0))
    if len(found):
        names = (
            f"{len(found)} features"
            if len(set(layout)) < len(layout)
            else listed(layout[i] for i in found.tolist())
        )
        yield f"data.standardize: true makes constants 0, so no row keeps its magnitude by them: {names}"


def filled_note(moments: Moments, names: Sequence[str], config: DataConfig) -> Iterator[str]:
    """A line about empty cells that are filled, if there are any.

    Args:
        moments: of the columns of numbers over the training rows.
        names: theirs.
        config: settled.
    """
    missing = moments.rows - moments.counts
    filled = [f"{name} ({count:,})" for name, count in zip(names, missing, strict=True) if count]
    if filled and config.missing != "refuse":
        fill = "the mean" if config.missing == "mean" else config.missing
        yield f"data.missing: empty cells of training rows are filled with {fill}: {listed(filled, 5)}"


def _spread(values: Any, own: Any, rest: float) -> Any:
    """``values`` in the places of ``own``, and ``rest`` in the others."""
    spread = np.full(len(own), rest)
    spread[own] = values
    return spread
