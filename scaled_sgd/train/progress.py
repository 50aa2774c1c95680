"""Progress of a run: a bar on a terminal, occasional lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm.auto import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress over ``total`` steps on standard error; silent when not ``enabled``."""

    def __init__(self, total: int, *, start: int = 0, enabled: bool = True) -> None:
        self._total = total
        self._enabled = enabled
        self._terminal = enabled and sys.stderr.isatty() and shutil.get_terminal_size((0, 0)).columns > 0
        self._figures: dict[str, float] = {}
        self._next_line = 0.0
        self._bar = tqdm(
            total=total, initial=start, unit="step", dynamic_ncols=True, disable=not self._terminal
        )

    def after_step(self, step: int) -> None:
        """Show ``step`` updates."""
        self._bar.update(step - self._bar.n)

    def after_steps(self) -> None:
        """Show the end."""

    def show(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Show new figures in addition to earlier ones, such as loss, learning rate and accuracy."""
        self._figures |= {name: value for name, value in figures.items() if value is not None}
        if self._terminal:
            self._bar.set_postfix_str(self._line(), refresh=False)
        elif self._enabled and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(f"step {step}/{self._total}  {self._line()}", file=sys.stderr, flush=True)

    def _line(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self._figures.items())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def brief(evaluation: Mapping[str, float]) -> dict[str, float]:
    """Evaluation figures under short names."""
    short = {"eval_loss": "eval", "accuracy": "acc"}
    return {short.get(name, name): value for name, value in evaluation.items()}
