"""Builds the network that a configuration describes. Does not import torch before it builds one."""

from typing import TYPE_CHECKING

from scaled_sgd.config import Config, ModelConfig
from scaled_sgd.core.errors import UserError
from scaled_sgd.core.factored import Factored
from scaled_sgd.core.parameterization import width_pattern

if TYPE_CHECKING:
    import torch

    from scaled_sgd.core.network import HomogeneousMLP


def factored_of(model: ModelConfig, in_features: int, out_features: int) -> Factored:
    """The layers for m_0 = ``in_features`` and m_l = ``out_features``, and which are factorised.

    Raises:
        UserError: impossible widths.
    """
    try:
        ordinary = width_pattern(
            in_features,
            out_features,
            depth=model.depth,
            base_width=model.base_width,
            exponent=model.width_exponent,
        )
        return Factored(ordinary, model.rank)
    except UserError as error:
        raise UserError(f"model.{error}") from None


def widths_of(config: Config, in_features: int, out_features: int) -> tuple[int, ...]:
    """The widths of all weight matrices, (m_0, …, m_l) without ``model.rank``.

    Raises:
        UserError: impossible widths.
    """
    return factored_of(config.model, in_features, out_features).widths


def network_of(
    config: Config, in_features: int, out_features: int, *, device: "torch.device | str"
) -> "HomogeneousMLP":
    """The network of ``run.seed`` at step 0; on ``meta`` without memory.

    Raises:
        UserError: impossible widths.
    """
    import torch

    from scaled_sgd.core.network import HomogeneousMLP

    model = config.model
    network = HomogeneousMLP(
        in_features,
        out_features,
        depth=model.depth,
        base_width=model.base_width,
        width_exponent=model.width_exponent,
        activation=model.activation,
        parameterization=model.parameterization,
        output_scale=model.output_scale,
        rank=model.rank,
        factor_start=model.factor_start,
        seed=config.run.seed,
        device=device,
        dtype=getattr(torch, model.dtype),
    )
    network.activation_checkpointing = config.sharding.activation_checkpointing
    return network
