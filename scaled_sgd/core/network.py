"""The homogeneous multilayer perceptron of theory §1."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scaled_sgd.core.activations import Activation
from scaled_sgd.core.arguments import FLOATS
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.factored import Factored
from scaled_sgd.core.numbers import check_integer, check_number
from scaled_sgd.core.parameterization import MAX_WIDTH, layer_constants, width_pattern
from scaled_sgd.core.piecewise_linear import LINEAR
from scaled_sgd.core.registry import load
from scaled_sgd.core.start import outputs_at_start, rows_at_start
from scaled_sgd.core.storage import STORAGE

_COPIED_ELEMENTS = 1 << 23


def _check_kind(device: object, dtype: object) -> None:
    if dtype is not None and dtype not in FLOATS:
        allowed = ", ".join(str(kind) for kind in FLOATS)
        raise UserError(f"dtype: {dtype!r} is not usable; allowed: {allowed}")
    try:
        torch.empty(0, device=device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, AssertionError):
        raise UserError(
            f"device: {device!r} is not here; allowed: cpu, meta or a device of torch's"
        ) from None


class ScaledLinear(nn.Module):
    """z = α h Wᵀ, no bias.

    Attributes:
        weight: W_k, shape (m_k, m_{k−1}).
        multiplier: α_k.
        init_std: standard deviation of the entries of W_k at step 0, if they are drawn.
        layer_weight: ω_k of the scaling rules (theory §3).

    Raises:
        UserError: impossible widths, constants, device or dtype.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        multiplier: float = 1.0,
        init_std: float = 1.0,
        layer_weight: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, width in (("in_features", in_features), ("out_features", out_features)):
            check_integer(name, width, most=MAX_WIDTH)
        for name, constant in (
            ("multiplier", multiplier),
            ("init_std", init_std),
            ("layer_weight", layer_weight),
        ):
            check_number(name, constant)
        _check_kind(device, dtype)
        self.in_features = in_features
        self.out_features = out_features
        self.multiplier = multiplier
        self.init_std = init_std
        self.layer_weight = layer_weight
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))

    def forward(self, h: Tensor) -> Tensor:
        """Preactivations z (…, m_k) of h (…, m_{k−1})."""
        return F.linear(h if self.multiplier == 1 else self.multiplier * h, self.weight)

    def extra_repr(self) -> str:
        """Shape and constants, for ``print(model)``."""
        return (
            f"{self.in_features} -> {self.out_features}, multiplier={self.multiplier:.4g}, "
            f"init_std={self.init_std:.4g}, layer_weight={self.layer_weight:.4g}"
        )


class HomogeneousMLP(nn.Module):
    """f = z_l with z_k = α_k φ(z_{k−1}) W_kᵀ and φ(s) = a·s + b·|s| or smooth, without biases.

    With φ(s) = a·s + b·|s| it is l-homogeneous in its weights and 1-homogeneous in its input; with a smooth φ
    it is neither (theory §8). Give it samples with ‖x‖ = √m_0, as :mod:`scaled_sgd.data` does: preactivations
    then have unit second moment at step 0 in every parameterization, up to the output multiplier of νP and
    μP; those behind a smooth φ drift from it.

    Args:
        in_features: m_0.
        out_features: m_l.
        depth: number of weight matrices l.
        base_width: m of the width pattern m·k^r.
        width_exponent: r.
        activation: a registered name: ``"relu"``, ``"abs"``, ``"linear"``, ``"tanh"``, ``"gelu"``,
            ``"softplus"``, ``"swish"``, …, or a pair (a, b), normalised to a² + b² = 1.
        parameterization: a registered name: ``"nup"``, ``"ntp"``, ``"sp"``, ``"mup"``, …
        output_scale: γ; the network is f/γ, as the last multiplier is α_l/γ (theory §1).
        rank: r of layers W_j = U_j V_jᵀ, two weight matrices with the identity between them, where j < l and
            both widths are at least r (theory §11); None: no layer is factorised.
        factor_start: ``"spectral"``: factors start as the best approximation of rank r of the W_j that is
            drawn without ``rank``; ``"drawn"``: each like an ordinary layer.
        seed: fixes the initial weights for any processes, devices and precision; None draws a seed from
            torch's global generator.
        device: ``"meta"`` leaves weights empty until :meth:`reset_parameters`.
        dtype: of the weights; torch's default dtype when None.

    Attributes:
        widths: (m_0, …, m_l); with ``rank`` those of all weight matrices, (m_0, r, m_1, …).
        factored: which of them are factors.
        centered: subtract the outputs f_0 at step 0, whose weights are drawn again for each call; set it
            before training.
        activation_checkpointing: keep the signals of every √l-th layer only and recompute the others in the
            backward pass; set it before training.

    Raises:
        UserError: impossible widths, activation, parameterization or seed.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        depth: int,
        base_width: int,
        width_exponent: float = 2.0,
        activation: str | tuple[float, float] | Activation = "relu",
        parameterization: str = "nup",
        output_scale: float = 1.0,
        rank: int | None = None,
        factor_start: Literal["spectral", "drawn"] = "spectral",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ordinary = width_pattern(
            in_features, out_features, depth=depth, base_width=base_width, exponent=width_exponent
        )
        self.factored = Factored(ordinary, rank)
        self.widths = self.factored.widths
        if factor_start not in ("spectral", "drawn"):
            raise UserError(f"factor_start: {factor_start!r} is unknown; allowed: spectral, drawn")
        self.factor_start = factor_start
        self.base_width, self.width_exponent = base_width, width_exponent
        self.activation = Activation.of(activation)
        self.parameterization = parameterization
        check_number("output_scale", output_scale, positive=True)
        self.output_scale = output_scale
        if seed is None:
            seed = int(torch.randint(2**63 - 1, ()))
        check_integer("seed", seed, least=0, most=2**63 - 1)
        self.seed = seed
        layers: list[ScaledLinear] = []
        for k in range(1, len(self.widths)):
            constants = layer_constants(parameterization, k, self.widths, output_scale)
            behind = LINEAR if k == 1 else self.activation_at(k - 1)
            layers.append(
                ScaledLinear(
                    self.widths[k - 1],
                    self.widths[k],
                    multiplier=constants.multiplier,
                    init_std=constants.init_std * behind.scale,
                    layer_weight=constants.layer_weight,
                    device=device,
                    dtype=dtype,
                )
            )
        self.layers = nn.ModuleList(layers)
        self.activation_checkpointing = self.centered = False
        if not layers[0].weight.is_meta:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set every weight to its value at step 0."""
        for k, layer in enumerate(self.scaled_layers, start=1):
            rows_per_copy = max(1, _COPIED_ELEMENTS // layer.in_features)
            for start in range(0, layer.out_features, rows_per_copy):
                stop = min(start + rows_per_copy, layer.out_features)
                layer.weight[start:stop].copy_(rows_at_start(self, k, start, stop))

    @property
    def depth(self) -> int:
        """Number of weight matrices l."""
        return len(self.widths) - 1

    @property
    def scaled_layers(self) -> list[ScaledLinear]:
        """The layers in order of application."""
        return [layer for layer in self.layers if isinstance(layer, ScaledLinear)]

    def activation_at(self, k: int) -> Activation:
        """What is applied to z_k: φ, or the identity between two factors."""
        return LINEAR if k in self.factored.pairs else self.activation

    @property
    def product_squares(self) -> dict[int, float]:
        """c² for the place k of each Vᵀ, where c U Vᵀ is the W that the factors stand for (theory §11)."""
        found = {}
        for k, j in self.factored.pairs.items():
            alpha = layer_constants(self.parameterization, j, self.factored.ordinary).multiplier
            both = self.scaled_layers[k - 1].multiplier * self.scaled_layers[k].multiplier
            found[k] = (both / alpha) ** 2
        return found

    def apply_activation(self, z: Tensor) -> Tensor:
        """φ(z)."""
        return self.activation.value(z)

    def activation_derivative(self, z: Tensor) -> Tensor:
        """φ′(z); for φ(s) = a·s + b·|s| it is a + b·sign(z), with the left slope a − b at 0."""
        phi = self.activation
        return phi.pulled(torch.ones_like(z), phi.value(z) if phi.from_value else z)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs f (…, m_l), f − f_0 if ``centered``, of samples x (…, m_0)."""
        if not x.ndim or x.shape[-1] != self.widths[0]:
            raise UserError(f"x: shape {tuple(x.shape)} does not fit; allowed: (n, {self.widths[0]})")
        f = self.uncentered(x)
        return f - outputs_at_start(self, x) if self.centered else f

    def uncentered(self, x: Tensor) -> Tensor:
        """Outputs f (…, m_l) of samples x (…, m_0)."""
        if not (self.activation_checkpointing and torch.is_grad_enabled()):
            return self._run(x, 0, self.depth)
        segment = math.ceil(math.sqrt(self.depth))
        for start in range(0, self.depth, segment):
            stop = min(start + segment, self.depth)
            x = checkpoint(self._run, x, start, stop, use_reentrant=False, preserve_rng_state=False)
        return x

    def save_pretrained(self, folder: str | Path, **options: Any) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card into ``folder`` (docs/models.md).

        Args:
            folder: made if missing.
            options: of ``huggingface_hub.PyTorchModelHubMixin.save_pretrained``, such as ``push_to_hub``.

        Returns:
            The address of the commit, if it is pushed.

        Raises:
            UserError: the weights are sharded.
            OSError: the folder cannot be written.
        """
        address: str | None = load(STORAGE["save_pretrained"])(self, folder, **options)
        return address

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "HomogeneousMLP":
        """The network that :meth:`save_pretrained`, or a run, wrote.

        Args:
            name: a folder, or a repository on the Hugging Face hub.
            options: of ``huggingface_hub.snapshot_download``, such as ``revision``.

        Raises:
            UserError: there is none, or it is damaged.
        """
        network: HomogeneousMLP = load(STORAGE["from_pretrained"])(name, **options)
        return network

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Write as :meth:`save_pretrained` to a repository on the hub; returns the address of the commit.

        Args:
            repository: ``owner/name``, made if missing.
            options: of ``huggingface_hub.PyTorchModelHubMixin.push_to_hub``, such as ``private``.

        Raises:
            UserError: the weights are sharded.
        """
        address: str = load(STORAGE["push_to_hub"])(self, repository, **options)
        return address

    def _run(self, z: Tensor, start: int, stop: int) -> Tensor:
        """z_stop from z_start; z_0 is the input."""
        for k in range(start, stop):
            z = self.layers[k](self.apply_activation(z) if k and k not in self.factored.pairs else z)
        return z
