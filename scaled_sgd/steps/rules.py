"""Rules: the direction of a step from statistics of the global minibatch (theory §3, §3b).

A rule is one function, registered with its formula and label; configuration, help, hook, fused steps, stacks
and diagnostics read the registry. Plugins add rules with :func:`register_rule`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.registry import Registry
from scaled_sgd.steps.polynomials import POLAR, Polar

if TYPE_CHECKING:
    from torch import Tensor

    from scaled_sgd.steps.direction import Direction
    from scaled_sgd.steps.statistics import Statistics

FLOOR = 1e-30
"""If the denominator of a rule is at most this, ξ_k = 0: float32 cannot hold such a layer's gradient."""

RuleFunction = Callable[..., "Tensor | Direction"]
"""ξ (…, layers) in float64, or a direction, for the layers of the statistics, the only argument but for a
:class:`~scaled_sgd.steps.polynomials.Polar`."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: its name in ``scaling.rule``.
        formula: formula of K_k, for tables and help.
        label: a short description.
        function: computes ξ or the direction.
        scalar: whether every K_k is a number.
        polar: whether ``function`` takes a :class:`~scaled_sgd.steps.polynomials.Polar`, and needs no factors
            but only gradients.
        settings: that Polar.
    """

    name: str
    formula: str
    label: str
    function: RuleFunction
    scalar: bool = True
    polar: bool = False
    settings: Polar = POLAR

    @property
    def parameterization(self) -> str:
        """What ``model.parameterization: auto`` means with it: equal singular values suit relative νP."""
        return "nup_relative" if self.polar else "nup"

    def with_settings(self, polar: Polar) -> "Rule":
        """The rule with other settings; they matter to rules that take a Polar."""
        return replace(self, settings=polar)

    def __call__(self, statistics: "Statistics") -> "Direction":
        """The direction for the layers of ``statistics``."""
        from scaled_sgd.steps.direction import Direction

        found = self.function(statistics, self.settings) if self.polar else self.function(statistics)
        if isinstance(found, Direction):
            return found
        if getattr(found, "shape", None) != statistics.omega.shape:
            raise UserError(
                f"scaling.rule: {self.name!r} gave {type(found).__name__} instead of a number a layer; "
                "allowed: a tensor with the shape of statistics.omega, or a Direction"
            )
        return Direction(found)


RULES: Registry[Rule] = Registry("rule")


def register_rule(
    name: str, *, formula: str, label: str, scalar: bool = True, polar: bool = False
) -> Callable[[RuleFunction], RuleFunction]:
    """Decorator that adds a rule.

    Raises:
        UserError: the name is taken.
    """

    def add(function: RuleFunction) -> RuleFunction:
        RULES.add(name, Rule(name, formula, label, function, scalar, polar))
        return function

    return add


def _ratio(numerator: "Tensor", denominator: "Tensor") -> "Tensor":
    return (numerator / denominator).masked_fill_((denominator > FLOOR).logical_not_(), 0.0)


@register_rule("none", formula="1", label="plain SGD")
def none(s: "Statistics") -> "Tensor":
    """1."""
    return s.omega.new_ones(s.omega.shape)


@register_rule("norm", formula="ω_k / (l √(F_k D_k))", label="cancels forward and backward norms")
def norm(s: "Statistics") -> "Tensor":
    """ω / (l √(F D)), so that ‖ξ_k G_k‖_F ≤ ω_k / l."""
    return _ratio(s.omega, s.depth * (s.F * s.D).sqrt())


@register_rule("gain", formula="ω_k / (l √(F_k B_k))", label="as norm, but keeps the residual's scale")
def gain(s: "Statistics") -> "Tensor":
    """ω / (l √(F B)) with B = D / R."""
    return _ratio(s.omega * s.R[..., None].sqrt(), s.depth * (s.F * s.D).sqrt())


@register_rule("kernel", formula="ω_k / (l F_k B_k)", label="unit-trace layer kernels: function-space steps")
def kernel(s: "Statistics") -> "Tensor":
    """ω / (l F B) with B = D / R."""
    return _ratio(s.omega, s.depth * s.F * _ratio(s.D, s.R[..., None]))


@register_rule("unit", formula="ω_k / (l ‖G_k‖_F)", label="‖ξ_k G_k‖_F = ω_k / l, whatever the soft rank")
def unit(s: "Statistics") -> "Tensor":
    """ω / (l ‖G‖_F): √S_k times ``norm`` (ours)."""
    return _ratio(s.omega, s.depth * s.gradient_squares.sqrt())


@register_rule(
    "spectral",
    formula="(ω_k / l) polar(G_k) for ξ_k G_k",
    label="all singular values of a layer's step equal",
    scalar=False,
    polar=True,
)
def spectral(s: "Statistics", polar: Polar) -> "Direction":
    """(ω / l) U Vᵀ of the thin SVD G = U Σ Vᵀ, up to ``polar``; ‖U_k‖_2 = ω / l (ours)."""
    from scaled_sgd.steps.direction import Direction
    from scaled_sgd.steps.polar import polar_factors

    factors = polar_factors(s, polar)
    numbers = _ratio(s.omega, s.depth * s.gradient_squares.sqrt() * factors.largest)
    return Direction(numbers, factors.matrices, factors.dense)
