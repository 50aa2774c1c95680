"""Converts image columns to rows of numbers: decoded once, in one mode, of one size."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaled_sgd.core.errors import UserError

GREY_MODES = {"1", "L", "LA", "La"}
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N", "F"}

_ALLOWED = "allowed: whole images in a format that Pillow reads"


def image_mode(column: Any, name: str) -> str:
    """The simplest lossless mode for all images; reads headers only."""
    modes = {image.mode for image in _images(column, name, 0)}
    if modes <= GREY_MODES:
        return "L"
    return "F" if modes <= GREY_MODES | DEEP_MODES else "RGB"


def pixels(column: Any, mode: str, name: str, first_row: int) -> NDArray[np.float32]:
    """Decoded images as rows (N, height · width · channels)."""
    from PIL import ImageOps

    rows: NDArray[np.float32] | None = None
    size = (0, 0)
    for i, image in enumerate(_images(column, name, first_row)):
        try:
            image = ImageOps.exif_transpose(image).convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: {error}; {_ALLOWED}"
            ) from error
        if rows is None:
            size = image.size
            rows = np.empty((len(column), size[0] * size[1] * len(image.getbands())), dtype=np.float32)
        if image.size != size:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: image of {_by(image.size)} pixels; "
                f"allowed: {_by(size)} as in the first row"
            )
        rows[i] = np.asarray(image).reshape(-1)
    if rows is None:
        raise UserError(f"data.inputs: column {name!r} has no rows; allowed: at least one")
    return rows


def _images(column: Any, name: str, first_row: int) -> Iterator[Any]:
    """Opened images, not yet decoded."""
    import fsspec
    from PIL import Image, UnidentifiedImageError

    for i, cell in enumerate(cell for chunk in column.chunks for cell in chunk):
        row = cell.as_py()
        try:
            if row is None:
                raise ValueError("there is no image")
            data = row["bytes"]
            if data is None:
                with fsspec.open(row["path"], "rb") as file:
                    data = file.read()
            yield Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: not an image; {_ALLOWED}"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: {error}; {_ALLOWED}"
            ) from error


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
