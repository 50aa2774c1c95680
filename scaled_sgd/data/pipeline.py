"""The way from a row of a source to a row of inputs, as a trained network needs it; stored as JSON values."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import MAX_WIDTH
from scaled_sgd.data.columns import Columns
from scaled_sgd.data.encoding import Encoding
from scaled_sgd.data.images import ImageKind
from scaled_sgd.data.normalization import Array, Normalization, Standardization, finite_row
from scaled_sgd.data.texts import Texts


@dataclass(frozen=True)
class Pipeline:
    """Columns → numbers → inputs of norm √m_0, and outputs → predictions; all fitted on the training rows.

    Attributes:
        encoding: of columns; its images may lie in the folders of the training data.
        width: m_0.
        outputs: number of classes, or width of a target.
        normalization: of the numbers of a row.
        scale: of targets; None: in the column's unit, or classes.
    """

    encoding: Encoding
    width: int
    outputs: int
    normalization: Normalization
    scale: Standardization | None = None

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

    def unknown(self, table: Any) -> Iterator[str]:
        """A line for each text column of ``table`` with texts that training has not."""
        return self.encoding.unknown(table)

    def array(self, rows: Array) -> Tensor:
        """Inputs (N, m_0), float32, from the numbers of the input columns (N, …).

        Raises:
            UserError: they are no finite float32 numbers, NaN aside where gaps are filled, or too many a row,
                or a column of training is text.
        """
        if self.encoding.texts:
            raise UserError(f"array: column {next(iter(self.encoding.texts))!r} is text; allowed: a table")
        if not (np.issubdtype(rows.dtype, np.number) or rows.dtype == bool) or not rows.ndim:
            raise UserError(f"array: numbers of type {rows.dtype} do not fit; allowed: real numbers")
        x = rows.reshape(len(rows), -1).astype(np.result_type(rows.dtype, np.float32), copy=False)
        with np.errstate(over="ignore"):
            finite = np.isfinite(x.astype(np.float32)) if not np.iscomplexobj(x) else np.array(False)
            if not (finite | (self.encoding.gaps & np.isnan(x))).all():
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
        if targets.ndim == 1:
            return torch.from_numpy(targets)
        if targets.shape[1] != self.outputs:
            raise UserError(f"data.target: rows of {targets.shape[1]} numbers; allowed: {self.outputs}")
        return self.scaled(targets)

    def scaled(self, targets: Array) -> Tensor:
        """Numbers (n, t) in the column's unit, as the network learns them, float32."""
        z = targets if self.scale is None else self.scale.apply(targets)
        return torch.from_numpy(np.array(z, np.float32))

    def in_unit(self, outputs: Tensor) -> Tensor:
        """Outputs or targets (n, t) of the network in the column's unit; in float64 where they differ."""
        if self.scale is None:
            return outputs
        return torch.from_numpy(self.scale.undo(outputs.detach().double().cpu().numpy()))

    def _finished(self, x: Array) -> Tensor:
        own = self.width - (self.normalization.constant is not None)
        if x.shape[1] != own:
            raise UserError(f"data.inputs: rows of {x.shape[1]} numbers; allowed: {own} as in training")
        return self.normalization.apply(x)

    def as_dict(self) -> dict[str, Any]:
        """JSON values from which :meth:`from_dict` makes the same pipeline, bit for bit."""
        encoding, normalization = self.encoding, self.normalization
        z, scale, fills = normalization.standardization, self.scale, normalization.fills
        return {
            "inputs": list(encoding.columns.inputs),
            "images": {
                name: {"mode": kind.mode, "white": kind.white} for name, kind in encoding.images.items()
            },
            "texts": {name: list(texts) for name, texts in encoding.texts.items()},
            "target": encoding.columns.target,
            "classes": None if encoding.classes is None else list(encoding.classes),
            "class_names": None if encoding.class_names is None else list(encoding.class_names),
            "width": self.width,
            "outputs": self.outputs,
            "fills": None if fills is None else fills.tolist(),
            "standardization": None if z is None else z.as_dict(),
            "constant": normalization.constant,
            "norm": "sqrt(width)",
            "target_standardization": None if scale is None else scale.as_dict(),
        }

    @classmethod
    def from_dict(cls, stored: Any) -> "Pipeline":
        """The pipeline of :meth:`as_dict`, which may come from a stranger; earlier versions stored less.

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
            texts: dict[str, Texts] = {name: tuple(each) for name, each in stored.get("texts", {}).items()}
            classes, constant, fills = stored["classes"], stored.get("constant"), stored.get("fills")
            tests = {
                "inputs": _are_texts(inputs) and len(inputs) > 0,
                "target": isinstance(target, str),
                "width": _is_count(width),
                "outputs": _is_count(outputs),
                "images": all(
                    name in inputs and kind.white in (None, 255, 65535) for name, kind in images.items()
                ),
                "texts": all(name in inputs and _are_categories(each) for name, each in texts.items()),
                "classes": classes is None or (_are_of_one_kind(classes) and len(classes) == outputs),
                "class_names": (names is None) == (classes is None)
                and (names is None or (_are_texts(names) and len(set(names)) == outputs)),
                "constant": constant is None or (type(constant) is float and math.isfinite(constant)),
                "norm": stored["norm"] == "sqrt(width)",
            }
            for name, holds in tests.items():
                if not holds:
                    raise ValueError(f"its pipeline has unusable {name}")
            own = width - (constant is not None)
            normalization = Normalization(
                None if fills is None else finite_row(fills, own, "fills"),
                _standardization(stored, "standardization", own),
                constant,
            )
            scale = None if classes else _standardization(stored, "target_standardization", outputs)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its pipeline lacks a field or has one of another kind: {error}") from error
        encoding = Encoding(
            Columns(tuple(inputs), target),
            images,
            classes and tuple(classes),
            names and tuple(names),
            texts,
            gaps=fills is not None,
        )
        return cls(encoding, width, outputs, normalization, scale)


def _standardization(stored: Any, name: str, count: int) -> Standardization | None:
    found = stored.get(name)
    return None if found is None else Standardization.from_dict(found, count, name)


def _mode(name: str) -> str:
    from PIL import ImageMode

    return ImageMode.getmode(name).mode


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_WIDTH


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _are_categories(texts: Texts) -> bool:
    return len(set(texts)) == len(texts) > 0 and all(text is None or isinstance(text, str) for text in texts)


def _are_of_one_kind(values: object) -> bool:
    kinds = {type(value) for value in values} if isinstance(values, list) else set()
    return len(kinds) == 1 and kinds <= {str, int, bool}
