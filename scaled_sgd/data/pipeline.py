"""The way from a row of a source to a row of inputs, as a trained network needs it; stored as JSON values."""

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import MAX_WIDTH
from scaled_sgd.data.columns import Columns
from scaled_sgd.data.encoding import Encoding
from scaled_sgd.data.examples import Array, Examples, Standardization, to_tensors, unit_rows
from scaled_sgd.data.images import ImageKind


@dataclass(frozen=True)
class Pipeline:
    """Columns → numbers → standardised (optional) → norm √m_0, with everything fitted on the training rows.

    Attributes:
        encoding: of columns; its images may lie in the folders of the training data.
        width: m_0.
        outputs: number of classes, or width of a target.
        standardization: None: the numbers as they are.
    """

    encoding: Encoding
    width: int
    outputs: int
    standardization: Standardization | None

    def inputs(self, table: Any, folders: tuple[str, ...] = ()) -> Tensor:
        """Inputs (N, m_0), float32, from the input columns of a `pyarrow.Table`.

        Args:
            table: the rows.
            folders: beginnings of the paths that their images may have.

        Raises:
            UserError: a value or the number of values does not fit.
        """
        import pyarrow.types as arrow

        for name in self.encoding.images:
            if not arrow.is_struct(table.column(name).type):
                raise UserError(f"data.inputs: column {name!r} is {table.column(name).type}; allowed: images")
        images = {name: replace(kind, folders=folders) for name, kind in self.encoding.images.items()}
        return self._finished(replace(self.encoding, images=images).inputs(table))

    def array(self, rows: Array) -> Tensor:
        """Inputs (N, m_0), float32, from the numbers of the input columns (N, …).

        Raises:
            UserError: they are no finite float32 numbers, or not m_0 a row.
        """
        if not (np.issubdtype(rows.dtype, np.number) or rows.dtype == bool) or not rows.ndim:
            raise UserError(f"array: numbers of type {rows.dtype} do not fit; allowed: real numbers")
        x = rows.reshape(len(rows), -1).astype(np.result_type(rows.dtype, np.float32), copy=False)
        with np.errstate(over="ignore"):
            if np.iscomplexobj(x) or not np.isfinite(x.astype(np.float32)).all():
                raise UserError("array: a number is not finite in float32; allowed: finite float32 numbers")
        return self._finished(x)

    def targets(self, table: Any) -> Tensor:
        """Class ids (N,) or targets (N, d) from the target column, where classes may be given by name.

        Raises:
            UserError: a value is missing or does not fit.
        """
        import pyarrow.types as arrow

        encoding, kind = self.encoding, table.column(self.encoding.columns.target).type
        if encoding.class_names is not None and (arrow.is_string(kind) or arrow.is_large_string(kind)):
            encoding = replace(encoding, classes=encoding.class_names)
        targets = encoding.targets(table)
        if targets.ndim == 2 and targets.shape[1] != self.outputs:
            raise UserError(f"data.target: rows of {targets.shape[1]} numbers; allowed: {self.outputs}")
        return to_tensors(Examples(np.ones((len(targets), 1)), targets))[1]

    def _finished(self, x: Array) -> Tensor:
        if x.shape[1] != self.width:
            raise UserError(
                f"data.inputs: rows of {x.shape[1]} numbers; allowed: {self.width} as in training"
            )
        return unit_rows(x if self.standardization is None else self.standardization.apply(x))

    def as_dict(self) -> dict[str, Any]:
        """JSON values from which :meth:`from_dict` makes the same pipeline, bit for bit."""
        encoding, scale = self.encoding, self.standardization
        return {
            "inputs": list(encoding.columns.inputs),
            "images": {
                name: {"mode": kind.mode, "white": kind.white} for name, kind in encoding.images.items()
            },
            "target": encoding.columns.target,
            "classes": None if encoding.classes is None else list(encoding.classes),
            "class_names": None if encoding.class_names is None else list(encoding.class_names),
            "width": self.width,
            "outputs": self.outputs,
            "standardization": None
            if scale is None
            else {"means": scale.means.tolist(), "deviations": scale.deviations.tolist()},
            "norm": "sqrt(width)",
        }

    @classmethod
    def from_dict(cls, stored: Any) -> "Pipeline":
        """The pipeline of :meth:`as_dict`, which may come from a stranger.

        Raises:
            ValueError: names a field that is missing or wrong.
        """
        try:
            inputs, target, width, outputs, names = (
                stored[key] for key in ("inputs", "target", "width", "outputs", "class_names")
            )
            images = {
                name: ImageKind(_mode(kind["mode"]), kind["white"], ())
                for name, kind in stored["images"].items()
            }
            classes, scale = stored["classes"], stored["standardization"]
            tests = {
                "inputs": _are_texts(inputs) and len(inputs) > 0,
                "target": isinstance(target, str),
                "width": _is_count(width),
                "outputs": _is_count(outputs),
                "images": all(
                    name in inputs and kind.white in (None, 255, 65535) for name, kind in images.items()
                ),
                "classes": classes is None or (_are_of_one_kind(classes) and len(classes) == outputs),
                "class_names": (names is None) == (classes is None)
                and (names is None or (_are_texts(names) and len(set(names)) == outputs)),
                "standardization": scale is None
                or (_are_finite(scale["means"], width) and _are_finite(scale["deviations"], width)),
                "norm": stored["norm"] == "sqrt(width)",
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its pipeline lacks a field or has one of another kind: {error}") from error
        for name, holds in tests.items():
            if not holds:
                raise ValueError(f"its pipeline has unusable {name}")
        columns = Columns(tuple(inputs), target)
        encoding = Encoding(columns, images, classes and tuple(classes), names and tuple(names))
        if scale is None:
            return cls(encoding, width, outputs, None)
        means, deviations = (np.array(scale[key], np.float64) for key in ("means", "deviations"))
        return cls(encoding, width, outputs, Standardization(means, deviations))


def _mode(name: str) -> str:
    from PIL import ImageMode

    return ImageMode.getmode(name).mode


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_WIDTH


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _are_of_one_kind(values: object) -> bool:
    kinds = {type(value) for value in values} if isinstance(values, list) else set()
    return len(kinds) == 1 and kinds <= {str, int, bool}


def _are_finite(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values)
    )
