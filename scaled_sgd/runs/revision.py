"""The git revision of the working folder, found without running anything that the folder names."""

import os
import subprocess
from collections.abc import Mapping, Sequence

_SECONDS = 10
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
}
"""Nothing is written or fetched; a remote of the folder's configuration could name a program."""
_OPTIONS = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}


def git_revision() -> str | None:
    """Commit of the working folder, with ``-dirty`` if tracked files differ from it; None outside git.

    The configuration of a folder may name programs: a monitor of its files, hooks, filters of their contents.
    They are all switched off, so that a filtered file whose time stamp has changed counts as different.
    """
    try:
        commit = _git(["rev-parse", "--verify", "HEAD"]).strip()
        names = _git(["config", "-z", "--name-only", "--get-regexp", r"^filter\."], fails=1).split("\0")
        drivers = {name.rpartition(".")[0] for name in names if name}
        off = {
            f"{driver}.{key}": value
            for driver in drivers
            for key, value in (("clean", ""), ("process", ""), ("required", "false"))
        }
        changed = _git(
            ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"], options=off
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(arguments: Sequence[str], *, options: Mapping[str, str] | None = None, fails: int = 0) -> str:
    """What git says; status ``fails`` means nothing to say."""
    settings = _OPTIONS | dict(options or {})
    configuration = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        configuration |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    ended = subprocess.run(
        ["git", *arguments],
        env=os.environ | _ENVIRONMENT | configuration,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if ended.returncode not in (0, fails):
        raise subprocess.CalledProcessError(ended.returncode, "git")
    return ended.stdout
