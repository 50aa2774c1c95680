"""How far feature kernels move: against width where there are several, else against step."""

from scaled_sgd.study.figures import against_width, layers
from scaled_sgd.study.figures.drawn import Drawn, Recipe
from scaled_sgd.study.figures.view import View

_TITLE = "Do wide networks still learn features?"
_MEANING = "‖K − K at step 0‖ / ‖K at step 0‖ of every hidden layer's feature kernel on a fixed probe"

_ALONG_WIDTH = against_width.PerWidth(
    "kernel_drift", "features.drift", _TITLE, "kernel drift", "the kernel drift", _MEANING
)
_ALONG_STEPS = layers.Layered(
    "kernel_drift",
    "features.drift",
    "How far do features move?",
    "kernel drift",
    "last hidden layer",
    _MEANING,
)


def lacks(view: View) -> str:
    """A study needs the drift in its metrics."""
    return layers.lacks(view, _ALONG_STEPS)


def draw(view: View) -> Drawn:
    """Against width where a study has several."""
    if against_width.lacks(view, _ALONG_WIDTH):
        return layers.draw(view, _ALONG_STEPS)
    return against_width.draw(view, _ALONG_WIDTH)


RECIPE = Recipe("kernel_drift", _TITLE, lacks, draw)
