"""Runs that hold still until a signal comes, so that what stops them never races with their end."""

import textwrap
from pathlib import Path

SCRIPT = '''
import select
import signal
import socket
from pathlib import Path

from scaled_sgd.data.metrics import modules


class Hold(modules.Accuracy):
    """Accuracy; the first time, once this process has had a signal."""

    def _compute(self, predictions, references):
        held = Path({held!r})
        if not held.exists():
            here, there = socket.socketpair()
            there.setblocking(False)
            before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
            held.touch()
            select.select([here], [], [], {seconds})
            signal.set_wakeup_fd(before)
        return super()._compute(predictions, references)
'''


class Hold:
    """A metric script, for ``run.metrics``, in whose first computation a run waits for a signal.

    Args:
        folder: for the script, and for the file that says that the run holds.
        seconds: after which it goes on in any case, so that nothing is left behind.
    """

    def __init__(self, folder: Path, *, seconds: float = 300.0) -> None:
        self.script = folder / "hold.py"
        self._held = folder / "held"
        text = SCRIPT.format(held=str(self._held), seconds=seconds)
        self.script.write_text(textwrap.dedent(text), encoding="utf-8")

    @property
    def holds(self) -> bool:
        """Whether the run has come to it, or past it."""
        return self._held.exists()
