"""The figure of three paths: losses above, largest eigenvalues below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaled_sgd.study.figures.drawing.style import GREY, PNG_DPI, STYLE, category, log_axis, step_axis

_NAMES = {
    "descent": "gradient descent",
    "gradient_flow": "gradient flow",
    "central_flow": "central flow",
}


def draw_paths(rows: Sequence[dict[str, Any]], lr: float, path: Path) -> None:
    """Write the figure of the rows of :func:`~scaled_sgd.diagnostics.flow.follow.follow` as PNG."""
    with rc_context(STYLE):
        picture = Figure(figsize=(4.6, 5.2), layout="constrained")
        losses, curvatures = picture.subplots(2, 1, sharex=True)
        for place, (key, name) in enumerate(_NAMES.items()):
            color = category(place)["color"]
            thin = {"linewidth": 0.9, "alpha": 0.8} if key == "descent" else {}
            _line(losses, [(row["step"], row[key]["loss"]) for row in rows], color, name, thin)
            for i in range(max(len(row[key]["eigenvalues"]) for row in rows)):
                values = [
                    (row["step"], row[key]["eigenvalues"][i])
                    for row in rows
                    if len(row[key]["eigenvalues"]) > i
                ]
                _line(
                    curvatures,
                    values,
                    color,
                    None,
                    thin | ({} if i == 0 else {"alpha": 0.4, "linewidth": 0.9}),
                )
        means = [(row["step"], row["central_flow"].get("descent_loss")) for row in rows]
        _line(losses, means, category(2)["color"], "mean of descent, predicted", {"linestyle": (0, (1.5, 1))})
        curvatures.axhline(2 / lr, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label="2/η")
        log_axis(losses, "y")
        losses.set_ylabel("loss")
        curvatures.set_ylabel("largest eigenvalues of H")
        curvatures.set_xlabel("step")
        step_axis(curvatures)
        losses.legend()
        curvatures.legend()
        picture.savefig(path, dpi=PNG_DPI)


def _line(
    ax: Axes, points: Sequence[tuple[int, Any]], color: str, name: str | None, look: dict[str, Any]
) -> None:
    known = [(step, value) for step, value in points if value is not None]
    if known:
        ax.plot(*zip(*known, strict=True), color=color, label=name, **look)
