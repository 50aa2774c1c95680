"""Opens, makes and deletes what is inside the folder of a run or a study, never through a link.

Such a folder may come from elsewhere, and a link in it may lead to any file of the user. The folder itself
may be a link: whoever uses it chose its path.
"""

import errno
import os
import shutil
import stat
from pathlib import Path

from scaled_sgd.core.errors import UserError

_IS_LINK = "it is a link"


def run_folder(path: str | Path) -> Path:
    """The folder of a run that a user names; looked at before what reads it is imported.

    Raises:
        UserError: there is none.
    """
    folder = Path(path) if isinstance(path, str | os.PathLike) else None
    if folder is None or not folder.is_dir():
        raise UserError(f"load_run: {str(path)!r} is no folder; allowed: a run directory")
    return folder


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a regular file; a file that is opened for writing is no link.

    Pipes and devices, which could block a reader forever, are refused.

    Raises:
        OSError: it is something else, is missing or may not be opened; its reason and file name say so.
    """
    if flags & (os.O_WRONLY | os.O_RDWR):
        flags |= os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, _IS_LINK, str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def read_file(path: Path, *, follow: bool = True) -> bytes:
    """The contents of a regular file.

    Raises:
        OSError: as for :func:`open_file`; without ``follow`` also for a link.
    """
    with os.fdopen(open_file(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW)), "rb") as stream:
        return stream.read()


def read_text(path: Path) -> str:
    """The contents of a regular text file in UTF-8; bytes that are not become ``\\ufffd``.

    Raises:
        OSError: as for :func:`open_file`.
    """
    return read_file(path).decode(errors="replace")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it exists.

    Raises:
        OSError: it is a link, or cannot be made.
    """
    refuse_link(path)
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)


def refuse_link(path: Path) -> None:
    """Raise OSError if ``path`` is a link."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, _IS_LINK, str(path))


def delete(path: Path) -> None:
    """Delete a file, a link itself, or a folder with its contents; nothing if there is none.

    Raises:
        OSError: it cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def reason(error: OSError) -> str:
    """What happened, on one line, with the name of the file."""
    place = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
    return f"{place}{error.strerror or error}"
