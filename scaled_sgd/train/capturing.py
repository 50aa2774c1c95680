"""Decides whether the steps of a run are captured as CUDA graphs."""

from scaled_sgd.config import Config
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.steps.captured import Capture, CudaGraphs
from scaled_sgd.steps.rules import RULES
from scaled_sgd.train.strategies.base import Strategy


def capture_for(config: Config, strategy: Strategy) -> Capture | None:
    """Captures the fused steps of a run; None: they run as they are.

    Args:
        config: resolved.
        strategy: the network in its layout.
    """
    return CudaGraphs() if _could_be(config, strategy) and not why_not(config, strategy) else None


def why_not(config: Config, strategy: Strategy) -> str | None:
    """Why fused steps on a GPU are not captured; None if they are, or are no such steps."""
    if not _could_be(config, strategy):
        return None
    if config.run.cuda_graphs == "no":
        return "run.cuda_graphs is no"
    if strategy.data.size * strategy.tensor.size > 1:
        if STRATEGIES[strategy.name].rows:
            return f"processes share the layers of {strategy.name}"
        backend = strategy.data.backend(strategy.device)
        if backend != "nccl":
            return f"collectives of {backend} cannot be captured"
    if RULES[config.scaling.rule].polar and config.scaling.settings.coefficients is None:
        return f"scaling.polar {config.scaling.polar!r} factorises on the host"
    return None


def _could_be(config: Config, strategy: Strategy) -> bool:
    return strategy.device.type == "cuda" and config.optim.update == "fused"
