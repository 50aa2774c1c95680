"""Draws the loss along a line, with the cubic of its Taylor coefficients."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from scaled_sgd.study.figures.drawing.style import (
    GREY,
    PNG_DPI,
    STYLE,
    category,
    log_axis,
    set_mathtext,
)
from scaled_sgd.study.figures.reading.words import wrapped
from scaled_sgd.study.line.along import Line

_UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
}
_SPREAD = 50.0
"""Losses of more than this ratio are drawn on a logarithmic axis."""


def draw(path: Path, kind: str, line: Line, at: Sequence[float], losses: Sequence[float]) -> None:
    """Write the figure into ``path`` in the format ``kind``."""
    cubic = [float(line.terms.predicted_loss(t)) for t in at]
    finite = [loss for loss in losses if loss == loss and abs(loss) != float("inf")]
    low, high = min(finite), max(finite)
    with rc_context(STYLE):
        picture = Figure(figsize=(4.6, 3.5), layout="constrained")
        ax = picture.subplots()
        ax.plot(at, losses, color=category(0)["color"], label="loss")
        ax.plot(at, cubic, color=category(1)["color"], linestyle="--", label="c_0 + c_1 t + c_2 t² + c_3 t³")
        for words, t in line.marks.items():
            ax.axvline(t, color=GREY, linewidth=1, linestyle=":")
            ax.annotate(
                words, (t, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                textcoords="offset points", fontsize=8, color=GREY,
            )  # fmt: skip
        room = 0.08 * (high - low) or 1.0
        if low > 0 and high / low > _SPREAD:
            ax.set_ylim(low / 1.3, high * 1.3)
            log_axis(ax, "y")
        else:
            ax.set_ylim(low - room, high + room)
        ax.set_title(wrapped(f"Loss along {line.words}", 50), loc="left")
        ax.set_xlabel(f"t: {line.axis}")
        ax.set_ylabel("loss on the probe")
        for text in picture.legend(loc="outside lower center", ncols=2).get_texts():
            set_mathtext(text, text.get_text())
        picture.savefig(path, format=kind, dpi=PNG_DPI, metadata=_UNDATED[kind])
