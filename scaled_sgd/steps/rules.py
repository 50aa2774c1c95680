"""Rules: the direction of a step from statistics of the global minibatch (theory §3, §3b).

A rule is one function, registered with its formula and label; configuration, help, hook, fused steps, stacks
and diagnostics read the registry. Plugins add rules with :func:`register_rule`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaled_sgd.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from scaled_sgd.steps.direction import Direction
    from scaled_sgd.steps.statistics import Statistics

FLOOR = 1e-30
"""If the denominator of a rule is at most this, ξ_k = 0: float32 cannot hold such a layer's gradient."""

RuleFunction = Callable[["Statistics"], "Tensor | Direction"]
"""ξ (…, layers) in float64, or a direction, for the layers of the statistics."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: its name in ``scaling.rule``.
        formula: formula of K_k, for tables and help.
        label: a short description.
        function: computes ξ or the direction.
        scalar: whether every K_k is a number.
    """

    name: str
    formula: str
    label: str
    function: RuleFunction
    scalar: bool = True

    def __call__(self, statistics: "Statistics") -> "Direction":
        """The direction for the layers of ``statistics``."""
        from scaled_sgd.steps.direction import Direction

        found = self.function(statistics)
        return found if isinstance(found, Direction) else Direction(found)


RULES: Registry[Rule] = Registry("rule")


def register_rule(
    name: str, *, formula: str, label: str, scalar: bool = True
) -> Callable[[RuleFunction], RuleFunction]:
    """Decorator that adds a rule.

    Raises:
        UserError: the name is taken.
    """

    def add(function: RuleFunction) -> RuleFunction:
        RULES.add(name, Rule(name, formula, label, function, scalar))
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
