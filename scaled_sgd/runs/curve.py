"""Draws the loss of a run as SVG, for its model card."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 44
_MOST_POINTS = 1000
_LINES = (("loss", "minibatch", "#9aa5b1"), ("eval_loss", "held out", "#c2410c"))


def loss_curve(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """An SVG of the losses over steps; None if there are not two rows with one.

    Args:
        rows: of ``metrics.jsonl``; losses are drawn on a logarithmic axis, those that are 0 are left out.
    """
    points: dict[str, list[tuple[int, float]]] = {key: [] for key, _, _ in _LINES}
    for row in rows:
        for key, found in points.items():
            step, value = row.get("step"), row.get(key)
            if isinstance(step, int) and isinstance(value, float) and 0 < value < math.inf:
                found.append((step, math.log10(value)))
    steps = [step for found in points.values() for step, _ in found]
    losses = [loss for found in points.values() for _, loss in found]
    if len({*steps}) < 2:
        return None
    low, high = min(losses), max(losses)
    high = max(high, low + 0.1)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(steps)
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (loss - low) / (high - low)

    parts = [_text(_WIDTH / 2, _HEIGHT - 8, "step", "middle")]
    for share in (0.0, 0.5, 1.0):
        step, loss = round(share * max(steps)), low + share * (high - low)
        (x, bottom), (left, y) = place(step, low), place(0, loss)
        parts.append(_text(x, bottom + 18, f"{step:,}", "middle"))
        parts.append(_text(left - 8, y + 4, f"{10**loss:.3g}", "end"))
        parts.append(f'<path d="M{left} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#e4e7eb"/>')
    drawn = [(points[key], label, colour) for key, label, colour in _LINES if len(points[key]) > 1]
    for place_of_label, (found, label, colour) in enumerate(drawn):
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in _thinned(found)))
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_text(_WIDTH - _RIGHT, _TOP + 14 + 16 * place_of_label, f"loss, {label}", "end", colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Every so-many-th point, and the last."""
    stride = -(-len(points) // _MOST_POINTS)
    return [*points[:-1:stride], points[-1]]


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#3e4c59") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'
