"""Widths and parameterizations: numbers only, no tensors.

Terjék, arXiv 2502.13110; the νP table is our own derivation and matches the published goals.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.numbers import check_integer, check_number
from scaled_sgd.core.registry import Registry

MAX_WIDTH = 2**31 - 1
"""The largest width that matrix libraries can index."""
MAX_DEPTH = 100_000


def width_pattern(
    in_features: int,
    out_features: int,
    *,
    depth: int,
    base_width: int,
    exponent: float = 2.0,
) -> tuple[int, ...]:
    """Widths (m_0, …, m_l) with m_k = max(1, round(m·k^r)) for 1 ≤ k < l and l = ``depth`` layers.

    ``exponent`` r = 0 gives constant, 1 linear, 2 quadratic widths. The concentration theory requires r = 2.

    Raises:
        UserError: a width, the depth or the exponent is impossible.
    """
    for name, value, most in (
        ("in_features", in_features, MAX_WIDTH),
        ("out_features", out_features, MAX_WIDTH),
        ("depth", depth, MAX_DEPTH),
        ("base_width", base_width, None),
    ):
        check_integer(name, value, most=most)
    check_number("width_exponent", exponent)
    widest = (depth - 1) ** float(exponent) * base_width if exponent < 64 else math.inf
    if widest > MAX_WIDTH:
        raise UserError(
            f"base_width: {base_width!r} at depth {depth} and width_exponent {exponent} gives a layer of "
            f"{widest:.3g}; allowed: widths up to {MAX_WIDTH}"
        )
    hidden = (max(1, round(base_width * k**exponent)) for k in range(1, depth))
    return (in_features, *hidden, out_features)


def count_weights(widths: tuple[int, ...]) -> int:
    """Σ_k m_k m_{k−1}."""
    return sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))


@dataclass(frozen=True)
class LayerConstants:
    """Constants of one layer: α_k, the standard deviation of W_k at step 0, ω_k."""

    multiplier: float
    init_std: float
    layer_weight: float


Constants = Callable[[int, int, bool, bool], LayerConstants]
"""Constants of a layer from m_{k−1}, m_k, and whether it is the first or the last."""


@dataclass(frozen=True)
class Parameterization:
    """The dependence of multipliers, initial weights and update sizes on widths (theory §1).

    Attributes:
        name: its name in ``model.parameterization``.
        label: its name in tables and figures.
        constants: computes the constants of a layer.
        alpha: formula of α_k.
        std: formula of the standard deviation of W_k at step 0.
        omega: formula of ω_k.
        remark: addition to the label in the documentation.
    """

    name: str
    label: str
    constants: Constants
    alpha: str
    std: str
    omega: str
    remark: str = ""


def layer_constants(
    parameterization: str, k: int, widths: tuple[int, ...], output_scale: float = 1.0
) -> LayerConstants:
    """Constants of layer k (1 ≤ k ≤ l) of a network with ``widths`` (m_0, …, m_l), theory §1.

    ``output_scale`` γ divides the multiplier of the last layer.

    Raises:
        UserError: an unknown parameterization.
    """
    entry, depth = PARAMETERIZATIONS[parameterization], len(widths) - 1
    if not 1 <= k <= depth:
        raise UserError(f"layer: {k} is out of range; allowed: 1 to {depth}")
    constants = entry.constants(widths[k - 1], widths[k], k == 1, k == depth)
    return replace(constants, multiplier=constants.multiplier / output_scale) if k == depth else constants


def _nup(fan_in: int, fan_out: int, _is_input: bool, is_output: bool) -> LayerConstants:
    """Our derivation: α_k ω_k = √(m_k / m_{k−1}), so that a unit scaled step moves z_k by O(1)."""
    if is_output:
        return LayerConstants(1 / fan_in, 1.0, fan_in**0.5)
    return LayerConstants(fan_in**-0.5, 1.0, fan_out**0.5)


def _nup_relative(fan_in: int, fan_out: int, _is_input: bool, is_output: bool) -> LayerConstants:
    """Our derivation: a step whose singular values all are ω_k / l has at most 1/l of the norm of W_k(0).

    They are √(m_k m_{k−1}) and ω_k √min(m_k, m_{k−1}) / l. Equal to νP if widths grow, from m_1 ≥ m_0 on.
    """
    found = _nup(fan_in, fan_out, False, is_output)
    return replace(found, layer_weight=max(fan_in, fan_out) ** 0.5)


def _ntp(fan_in: int, _fan_out: int, _is_input: bool, _is_output: bool) -> LayerConstants:
    return LayerConstants(fan_in**-0.5, 1.0, 1.0)


def _sp(fan_in: int, _fan_out: int, _is_input: bool, _is_output: bool) -> LayerConstants:
    return LayerConstants(1.0, fan_in**-0.5, 1.0)


def _mup(fan_in: int, fan_out: int, is_input: bool, is_output: bool) -> LayerConstants:
    """μP for SGD, in the form with one learning rate for all layers (Yang & Hu, arXiv 2011.14522, Table 1).

    Equal to Table 3 of arXiv 2203.03466, whose per-layer learning rates are folded into α. ω is ours:
    as for νP, α_k ω_k = √(m_k / m_{k−1}), and 1/√m_{l−1} at the output.
    """
    if is_output:
        return LayerConstants(fan_in**-0.5, fan_in**-0.5, 1.0)
    if is_input:
        return LayerConstants(fan_out**0.5, (fan_in * fan_out) ** -0.5, fan_in**-0.5)
    return LayerConstants(1.0, fan_in**-0.5, (fan_out / fan_in) ** 0.5)


def _mup_normalized(fan_in: int, fan_out: int, is_input: bool, is_output: bool) -> LayerConstants:
    """μP for inputs of norm √m_0 divided by it: the first layer's kernel does not grow with m_0 (ours)."""
    if is_input:
        return LayerConstants((fan_out / fan_in) ** 0.5, fan_out**-0.5, 1.0)
    return _mup(fan_in, fan_out, is_input, is_output)


PARAMETERIZATIONS: Registry[Parameterization] = Registry("parameterization")
for _entry in (
    Parameterization(
        "nup",
        "νP",
        _nup,
        alpha="m_{k−1}^{−1/2}; output 1/m_{l−1}",
        std="1",
        omega="√m_k; output √m_{l−1}",
        remark="ours, after the published goals",
    ),
    Parameterization(
        "nup_relative",
        "νP relative",
        _nup_relative,
        alpha="m_{k−1}^{−1/2}; output 1/m_{l−1}",
        std="1",
        omega="√max(m_k, m_{k−1})",
        remark="ours, for `spectral` in networks with m_1 < m_0",
    ),
    Parameterization("ntp", "NTP", _ntp, alpha="m_{k−1}^{−1/2}", std="1", omega="1"),
    Parameterization("sp", "SP", _sp, alpha="1", std="m_{k−1}^{−1/2}", omega="1"),
    Parameterization(
        "mup",
        "μP",
        _mup,
        alpha="1; input √m_1; output m_{l−1}^{−1/2}",
        std="m_{k−1}^{−1/2}; input (m_0 m_1)^{−1/2}",
        omega="√(m_k/m_{k−1}); input m_0^{−1/2}; output 1",
        remark="SGD, one learning rate for all layers",
    ),
    Parameterization(
        "mup_normalized",
        "μP normalised",
        _mup_normalized,
        alpha="1; input √(m_1/m_0); output m_{l−1}^{−1/2}",
        std="m_{k−1}^{−1/2}; input m_1^{−1/2}",
        omega="√(m_k/m_{k−1}); input and output 1",
        remark="as μP, for inputs of norm 1: the first layer's kernel does not grow with m_0",
    ),
):
    PARAMETERIZATIONS.add(_entry.name, _entry)
