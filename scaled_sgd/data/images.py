"""Converts image columns to rows of numbers: decoded once, in one mode, of one depth and one size."""

import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaled_sgd.core.errors import UserError

GREY_MODES = {"1", "L", "LA", "La"}
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}

_ALLOWED = "allowed: whole images in a format that Pillow reads"


@dataclass(frozen=True)
class ImageKind:
    """The form of all images of a column.

    Attributes:
        mode: Pillow mode: "L", "F" (more than 8 bits), "RGB" or what the data set declares.
        white: value of a white pixel; None: not known, so that no other depth can be converted.
        folders: beginnings of the paths that may be opened.
    """

    mode: str
    white: int | None
    folders: tuple[str, ...]


def image_kind(column: Any, name: str, declared: str | None, folders: tuple[str, ...]) -> ImageKind:
    """The simplest form that holds all images; reads headers only."""
    if declared is not None and declared not in DEEP_MODES:
        return ImageKind(declared, 255, folders)
    found = {(image.mode, _white(image)) for image in _images(column, name, folders, 0)}
    modes, whites = {mode for mode, _ in found}, {white for _, white in found}
    if None in whites and len(whites) > 1:
        raise UserError(
            f"data.inputs: column {name!r} has images of {', '.join(sorted(modes))}; "
            "allowed: 8 and 16 bits together, other depths only by themselves"
        )
    white = None if None in whites else max(value for value in whites if value)
    if declared is not None:
        return ImageKind(declared, white, folders)
    if modes <= GREY_MODES:
        return ImageKind("L", 255, folders)
    return (
        ImageKind("F", white, folders) if modes <= GREY_MODES | DEEP_MODES else ImageKind("RGB", 255, folders)
    )


def _white(image: Any) -> int | None:
    """The value of a white pixel; None if the format does not say."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 65535
    return None if image.mode in ("I", "F") else 255


def pixels(column: Any, kind: ImageKind, name: str, first_row: int) -> NDArray[np.float32]:
    """Decoded images as rows (N, height · width · channels)."""
    rows: NDArray[np.float32] | None = None
    shape: tuple[int, ...] = ()
    for i, image in enumerate(_images(column, name, kind.folders, first_row)):
        try:
            values = _values(image, kind)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: {error}; {_ALLOWED}"
            ) from error
        if rows is None:
            shape = values.shape
            rows = np.empty((len(column), values.size), dtype=np.float32)
        if values.shape != shape:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: image of {_by(values.shape)} pixels; "
                f"allowed: {_by(shape)} as in the first row"
            )
        rows[i] = values.reshape(-1)
    if rows is None:
        raise UserError(f"data.inputs: column {name!r} has no rows; allowed: at least one")
    return rows


def _values(image: Any, kind: ImageKind) -> NDArray[np.float32]:
    """The pixels of an image, (height, width) or with channels, where white is the kind's.

    Raises:
        ValueError: the image's depth or mode cannot be converted.
    """
    from PIL import ImageMode, ImageOps

    white = _white(image)
    if (white is None) != (kind.white is None):
        raise ValueError(f"image of mode {image.mode} among images of another depth")
    turned = ImageOps.exif_transpose(image)
    # Pillow itself would cut values above 255 off instead of scaling them.
    if turned.mode in DEEP_MODES:
        values = np.asarray(turned, dtype=np.float32)
        channels = len(ImageMode.getmode(kind.mode).bands)
        if channels > 1:
            if kind.mode != "RGB":
                raise ValueError(f"image of mode {turned.mode} among {kind.mode}")
            values = np.repeat(values[..., None], channels, axis=-1)
    else:
        values = np.asarray(_drawn(turned).convert(kind.mode), dtype=np.float32)
    if white is not None and kind.white is not None and white != kind.white:
        values = values * np.float32(kind.white / white)
    return values


def _drawn(image: Any) -> Any:
    """A shape of one colour in the alpha channel as colour · alpha, black as white; else the image."""
    from PIL import Image

    if image.mode not in ALPHA_MODES and "transparency" not in image.info:
        return image
    *colours, alpha = image.convert("RGBA").split()
    ranges = [band.getextrema() for band in colours]
    lowest, highest = alpha.getextrema()
    if lowest == highest or any(low != high for low, high in ranges):
        return image
    colour = tuple(low for low, _ in ranges)
    shape = Image.new("RGB", image.size, colour if any(colour) else (255, 255, 255))
    return Image.composite(shape, Image.new("RGB", image.size), alpha)


def _images(column: Any, name: str, folders: tuple[str, ...], first_row: int) -> Iterator[Any]:
    """Opened images, not yet decoded."""
    from PIL import Image, UnidentifiedImageError

    for i, cell in enumerate(cell for chunk in column.chunks for cell in chunk):
        row = cell.as_py()
        try:
            if row is None:
                raise ValueError("there is no image")
            data = row["bytes"]
            if data is None:
                data = _read(row["path"], folders)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data))
            if image.format == "EPS":
                raise ValueError("an EPS file is a program, which is not run")
            yield image
        except UnidentifiedImageError as error:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: not an image; {_ALLOWED}"
            ) from error
        except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UserError(
                f"data.inputs: column {name!r}, row {first_row + i}: {error}; {_ALLOWED}"
            ) from error


def _read(path: str, folders: tuple[str, ...]) -> bytes:
    """The file at a path, relative to the data's own folder, if it is inside that or inside their cache.

    Raises:
        ValueError: it is elsewhere: it may be private, or the reading itself a message to a stranger.
    """
    where = path if "://" in path else os.path.normpath(os.path.join(*folders[:1], path))
    if not where.startswith(folders) or "::" in where or "/../" in where:
        raise ValueError(f"{path!r} is not inside the folder of the data")
    if "://" not in where:
        with open(where, "rb") as file:
            return file.read()
    import fsspec

    with fsspec.open(where, "rb") as remote:
        content: bytes = remote.read()
        return content


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
