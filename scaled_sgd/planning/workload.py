"""The workload of a step: a network and a minibatch, as numbers."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from scaled_sgd.config import Config
from scaled_sgd.config.network import factored_of
from scaled_sgd.core.activations import Activation
from scaled_sgd.core.parameterization import layer_constants
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.steps.optimizers import OPTIMIZERS
from scaled_sgd.steps.polynomials import Polar
from scaled_sgd.steps.rules import RULES


@dataclass(frozen=True)
class Workload:
    """The network, the minibatch and the kind of step.

    Attributes:
        widths: (m_0..m_l), of all weight matrices.
        batch: n, number of samples of the global minibatch.
        activation: φ.
        parameterization: determines which multipliers α_k are 1, whose products α_k h need no memory.
        output_scale: γ, likewise.
        dtype: type of the weights.
        precision: precision of products, as in ``run.precision``.
        states: number of tensors of each weight's size that the optimizer keeps.
        accumulation: microbatches per step.
        checkpointing: activations are recomputed in the backward pass.
        loss: ``cross_entropy`` or ``mse``.
        limited: the whole gradient is clipped or normalised; a fused step then holds all layers' factors.
        exchange: what is exchanged for a layer under ``ddp`` with fused steps.
        polar: settings of a rule of polar factors; None for a rule with a number per layer.
        factors: places k of the Vᵀ of factorised layers U Vᵀ, behind which there is no activation.
        frobenius: products of factors decay.
    """

    widths: tuple[int, ...]
    batch: int
    activation: Activation = Activation.of("relu")  # noqa: RUF009 (frozen)
    parameterization: str = "nup"
    output_scale: float = 1.0
    dtype: str = "float32"
    precision: str = "no"
    states: int = 0
    accumulation: int = 1
    checkpointing: bool = False
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    limited: bool = False
    exchange: Literal["auto", "factors", "gradients"] = "auto"
    polar: Polar | None = None
    factors: tuple[int, ...] = ()
    frobenius: bool = False

    @classmethod
    def of(cls, config: Config, in_features: int, out_features: int) -> "Workload":
        """The workload of a checked configuration on data with m_0 inputs and m_l outputs.

        Raises:
            UserError: impossible widths.
        """
        model, optim = config.model, config.optim
        rule, exchange = RULES[config.scaling.rule], config.sharding.exchange
        factored = factored_of(model, in_features, out_features)
        return cls(
            factored.widths,
            optim.batch,
            Activation.of(model.activation),
            model.parameterization,
            model.output_scale,
            dtype=model.dtype,
            precision=config.run.precision,
            states=OPTIMIZERS[optim.optimizer].kept(optim).held,
            accumulation=optim.accumulation,
            checkpointing=config.sharding.activation_checkpointing,
            loss="mse" if config.loss == "mse" else "cross_entropy",
            limited=optim.limits_gradient,
            exchange="factors" if exchange == "auto" and not rule.scalar else exchange,
            polar=config.scaling.settings if rule.polar else None,
            factors=tuple(factored.pairs),
            frobenius=optim.frobenius_decay > 0,
        )

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return len(self.widths) - 1

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """m_k m_{k−1} for k = 1..l."""
        return tuple(fan_in * fan_out for fan_in, fan_out in pairwise(self.widths))

    @cached_property
    def weights(self) -> int:
        """Σ_k m_k m_{k−1}."""
        return sum(self.sizes)

    def rows_of_weights(self, parts: int) -> tuple[int, ...]:
        """⌈m_k / parts⌉ m_{k−1} for k = 1..l: the largest part of each layer over ``parts`` processes."""
        return tuple(-(-rows // parts) * fan_in for fan_in, rows in pairwise(self.widths))

    @property
    def itemsize(self) -> int:
        """Bytes of a weight."""
        return {"float32": 4, "float64": 8}[self.dtype]

    @property
    def half(self) -> bool:
        """Whether products are in a 16-bit precision."""
        return self.precision in ("bf16", "fp16")

    @property
    def signal_size(self) -> int:
        """Bytes per element of h, z or δ; of h and δ in a fused step."""
        return 2 if self.half else self.itemsize

    @cached_property
    def multiplied(self) -> tuple[bool, ...]:
        """Whether α_k ≠ 1, for k = 1..l."""
        constants = (
            layer_constants(self.parameterization, k, self.widths, self.output_scale)
            for k in range(1, self.depth + 1)
        )
        return tuple(layer.multiplier != 1 for layer in constants)

    def samples_of_a_rank(self, ranks: int) -> int:
        """Largest number of samples of a minibatch on one of ``ranks`` processes."""
        return -(-self.batch // ranks)

    def rows(self, ranks: int) -> int:
        """Largest number of samples of a microbatch on one of ``ranks`` processes."""
        return -(-self.samples_of_a_rank(ranks) // self.accumulation)

    def products(self, hardware: Hardware, *, data: int, parts: int = 1) -> tuple[float, float]:
        """Seconds of a process's products in the forward and backward passes by autograd.

        z_k = h_{k−1} W_kᵀ; then δ_kᵀ h_{k−1} and, for k > 1, δ_k W_k; with recomputed activations z_k again.
        """
        rows = self.samples_of_a_rank(data) / parts
        forward = hardware.product(rows, self.weights)
        backward = hardware.product(rows, 2 * self.weights - self.sizes[0])
        return forward, backward + (forward if self.checkpointing else 0.0)
