"""The section ``model``."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scaled_sgd.config.sections.marks import SHAPES, STACKED, Count, NonNegative
from scaled_sgd.config.values import Holds, OneOf, Within
from scaled_sgd.core.activations import ACTIVATIONS, normalized
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.parameterization import MAX_DEPTH, PARAMETERIZATIONS


def _is_usable(pair: tuple[float, float]) -> bool:
    try:
        normalized(pair)
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
        Annotated[str, OneOf(ACTIVATIONS)]
        | Annotated[tuple[float, float], Holds(_is_usable, "two finite numbers [a, b], one of them not 0")]
    ) = "relu"
    """φ by name, or [a, b] for a·s + b·|s|, normalised; abs (a = 0) makes f(−x) = f(x), so it fits pixels
    only, tanh f(−x) = −f(x)"""
    parameterization: Annotated[str, OneOf(PARAMETERIZATIONS, also=("auto",)), STACKED] = "auto"
    """how multipliers, initial weights and update sizes depend on widths; auto: nup_relative with
    scaling.rule spectral, nup with any other"""
    output_scale: Annotated[float, Within(1e-6, 1e6), STACKED] = 1.0
    """γ: the network is f/γ; small: lazy, its features hardly move; large: rich. Best rates with scaling.rule
    none, mse and cross_entropy alike: ∝ γ² below 1, γ^(2/l) above; ∝ γ below 1 with norm, unit, spectral"""
    rank: Annotated[Count | None, SHAPES] = None
    """r: layers but the last, both of whose widths are at least r, are U Vᵀ of this rank: two layers without
    activation between, numbered one after the other; null: none is"""
    factor_start: Annotated[Literal["spectral", "drawn"], STACKED] = "spectral"
    """U and V at the start; spectral: the best approximation of the layer without rank (arXiv 2105.01029);
    drawn: each as a layer of its widths"""
    centered: bool = False
    """the network is f − f_0, f_0 its outputs at its initial weights, computed once for every sample; with a
    small output_scale its changes, not its start, are what is learned"""
    dtype: Literal["float32", "float64"] = "float32"
    """of weights and inputs"""
