"""The callback after each step of a trainer's run: saves due checkpoints, stops on a signal."""

from pathlib import Path

from scaled_sgd.core.errors import StoppedError
from scaled_sgd.runs import rows
from scaled_sgd.train.interrupts import Consensus, Interrupts, Wish
from scaled_sgd.train.loop import Loop
from scaled_sgd.train.recording import RunRecord
from scaled_sgd.train.saver import Saver


class Saving:
    """Saves ``loop`` by ``saver`` into ``folder``, also when any process gets ``interrupts``.

    Attributes:
        problem: why the newest checkpoint could not be written, or None.
    """

    def __init__(
        self, loop: Loop, saver: Saver, record: RunRecord, interrupts: Interrupts, folder: Path
    ) -> None:
        self._loop, self._saver, self._record = loop, saver, record
        self._interrupts, self._folder = interrupts, folder
        self._consensus = Consensus()
        self.problem: str | None = None

    def after_step(self, step: int) -> None:
        """Save if due or requested.

        Raises:
            StoppedError: a signal came.
            DivergedError: what was to be saved is not finite.
        """
        wish = self._consensus(max(self._interrupts.wish, self._saver.wish()))
        if wish > Wish.SAVE:
            self._consensus.finish()
            self._stop(wish, step)
        if wish == Wish.SAVE or self._saver.due(step):
            self._save()

    def after_steps(self) -> None:
        """Wait for what processes tell each other. Collective."""
        self._consensus.finish()

    def _save(self) -> Path | None:
        """Save the run as it is; None, with a warning, where it cannot be written. Collective."""
        self._loop.look()
        progressed = self._loop.progressed()
        path, warning = self._saver.save(self._folder, progressed, self._record)
        self.problem = warning if path is None else None
        if warning is not None:
            self._record.say(f"warning: {warning}; the run continues")
        return path

    def _stop(self, wish: Wish, step: int) -> None:
        """Save, and end the run as its signal asks. Collective."""
        assert wish.signal is not None
        path = self._save()
        saved = f"saved in {path}; --run.resume {self._folder} resumes it" if path else "not saved"
        self._record.end(rows.interrupted(step, seconds=self._record.seconds))
        raise StoppedError(f"{wish.signal.name} after step {step}, {saved}", wish.signal)
