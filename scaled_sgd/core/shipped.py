"""The files that come with the package: experiments, studies, launch configurations and scripts."""

import shutil
from pathlib import Path

from scaled_sgd.core.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = ("configs", "launch")


def shipped(folder: str) -> Path:
    """``configs`` or ``launch``: inside an installed package, or at the top of a clone."""
    inside = _PACKAGE / "shipped" / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def copy_shipped(target: Path) -> list[Path]:
    """Copy ``configs/`` and ``launch/`` into a folder, made if missing; returns the files.

    Raises:
        UserError: the folder has a file of that name with other contents; nothing is copied then.
        OSError: the folder cannot be written.
    """
    copies = {
        target / name / path.relative_to(shipped(name)): path
        for name in _FOLDERS
        for path in sorted(shipped(name).rglob("*"))
        if path.is_file()
    }
    for copy, path in copies.items():
        if copy.exists() and copy.read_bytes() != path.read_bytes():
            raise UserError(
                f"launch-files: {str(copy)!r} exists and differs, so that nothing was copied; allowed: "
                "a folder without it"
            )
    for copy, path in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return list(copies)
