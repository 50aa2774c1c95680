"""Whether constraints.txt, requirements-locked.txt and what is installed are the same versions.

Prints what differs, one line each, and leaves with status 1 if anything does.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNLOCKED = {"torch", "scaled-sgd", "pip", "setuptools", "wheel"}
CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What a CUDA build of torch brings along."""


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: Path) -> dict[str, str]:
    """Versions by name."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {normal(name): version for name, version in found}


def without_hash(file: Path) -> list[str]:
    """Pinned names that no hash follows."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
    return [line.split("==")[0] for line in lines if not re.search(r"--hash=sha256:[0-9a-f]{64}", line)]


def differences(constraints: dict[str, str], locked: dict[str, str], installed: dict[str, str]) -> list[str]:
    """One line for every version that is not the same everywhere."""
    lines = []
    for name in sorted((constraints.keys() | locked.keys()) - UNLOCKED):
        wanted, found = constraints.get(name), locked.get(name)
        if wanted != found:
            lines.append(f"{name}: constraints.txt has {wanted}, requirements-locked.txt {found}")
    for name, version in sorted(installed.items()):
        if name not in UNLOCKED and not CUDA.fullmatch(name) and locked.get(name) != version:
            lines.append(f"{name}: {version} is installed, requirements-locked.txt has {locked.get(name)}")
    return lines


def main() -> int:
    """Compare; returns the exit status."""
    lock = ROOT / "requirements-locked.txt"
    installed = {normal(d.metadata["Name"]): d.version for d in metadata.distributions()}
    found = differences(pins(ROOT / "constraints.txt"), pins(lock), installed)
    found += [f"{name}: no hash in {lock.name}" for name in without_hash(lock)]
    print("\n".join(found) or f"{len(pins(lock))} locked versions, all the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
