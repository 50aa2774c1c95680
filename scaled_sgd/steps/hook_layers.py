"""The layers of a network that the hook scales."""

from dataclasses import dataclass

from torch import Tensor, nn

from scaled_sgd.core.errors import UserError
from scaled_sgd.core.network import ScaledLinear
from scaled_sgd.parallel import unwrap


@dataclass(frozen=True)
class MeasuredLayer:
    """A trainable linear layer: z_k = α_k h_{k−1} W_kᵀ (+ bias).

    Attributes:
        name: its name in the network.
        module: the layer itself.
        multiplier: α_k.
        layer_weight: ω_k.
        has_bias: whether a trainable bias adds a feature of value 1 to F_k.
    """

    name: str
    module: nn.Linear | ScaledLinear
    multiplier: float
    layer_weight: float
    has_bias: bool

    @property
    def weight(self) -> Tensor:
        """W_k."""
        return self.module.weight

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weight and the bias, if any; without frozen ones."""
        held = (self.module._parameters.get(name) for name in ("weight", "bias"))
        return [p for p in held if isinstance(p, nn.Parameter) and p.requires_grad]


def measured_layers(model: nn.Module) -> list[MeasuredLayer]:
    """The trainable linear layers of ``model`` in registration order.

    Raises:
        UserError: there are none, a trainable parameter lies outside them, or one computes something else.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model: {type(model).__name__} does not fit; allowed: a torch.nn.Module")
    layers: list[MeasuredLayer] = []
    owned: set[nn.Parameter] = set()
    for name, module in unwrap(model).named_modules():
        if not isinstance(module, ScaledLinear | nn.Linear):
            continue
        bias = getattr(module, "bias", None)
        layer = MeasuredLayer(
            name,
            module,
            float(getattr(module, "multiplier", 1.0)),
            float(getattr(module, "layer_weight", 1.0)),
            bias is not None and bool(bias.requires_grad),
        )
        weight = module._parameters.get("weight")
        if weight is None and any(p.requires_grad for p in module.parameters()):
            raise UserError(
                f"model: layer {name} computes its weight from others (parametrized or pruned); "
                "allowed: nn.Linear layers with a weight of their own"
            )
        if weight is None or not weight.requires_grad:
            continue
        if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
            raise UserError(
                f"model: layer {name} is a {type(module).__name__} with a forward pass of its own; "
                "allowed: nn.Linear layers (freeze the rest with requires_grad_(False))"
            )
        shared = owned.intersection(layer.parameters)
        if shared:
            raise UserError(
                f"model: layer {name} shares a weight with another layer; allowed: one layer each"
            )
        layers.append(layer)
        owned.update(layer.parameters)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in owned:
            raise UserError(
                f"model: trainable parameter {name} is not in an nn.Linear layer; allowed: nn.Linear "
                "layers applied in order (freeze the rest with requires_grad_(False))"
            )
    if not layers:
        raise UserError("model: no trainable nn.Linear layer; allowed: at least one")
    return layers
