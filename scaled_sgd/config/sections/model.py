"""The section ``model``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scaled_sgd.config.sections.marks import SHAPES, STACKED, Count, NonNegative
from scaled_sgd.config.values import Holds, OneOf, Within
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import MAX_DEPTH, PARAMETERIZATIONS, Activation


def _is_activation(value: object) -> bool:
    try:
        Activation.of(value)  # type: ignore[arg-type]
    except UserError:
        return False
    return True


@dataclass
class ModelConfig:
    """The network."""

    depth: Annotated[int, Within(1, MAX_DEPTH), SHAPES] = 6
    """number of weight matrices l"""
    base_width: Annotated[Count, SHAPES] = 32
    """m of the hidden widths m·k^r"""
    width_exponent: Annotated[NonNegative, SHAPES] = 2.0
    """r: 0 constant, 1 linear, 2 quadratic widths"""
    activation: (
        Literal["relu", "abs", "linear"]
        | Annotated[
            tuple[float, float], Holds(_is_activation, "two finite numbers [a, b], one of them not 0")
        ]
    ) = "relu"
    """a·s + b·|s|: a name, or [a, b], normalised; abs (a = 0) makes f(−x) = f(x), so it fits pixels only"""
    parameterization: Annotated[str, OneOf(PARAMETERIZATIONS), STACKED] = "nup"
    """how multipliers and initial weights depend on widths"""
    dtype: Literal["float32", "float64"] = "float32"
    """of weights and inputs"""
