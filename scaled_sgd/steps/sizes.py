"""Which way a step takes, by the sizes of a layer and a minibatch. Does not import torch."""

from collections.abc import Sequence
from itertools import pairwise

from scaled_sgd.steps.polynomials import Polar

HELD = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Most elements that are held at once so that all layers' directions are computed together.

On a CPU they then stay in its cache; a GPU is spared launches.
"""


def at_once(
    n: int,
    widths: Sequence[int],
    *,
    device: str,
    networks: int = 1,
    factors: Sequence[bool] | None = None,
) -> bool:
    """Whether a step holds what it needs of all layers at once, instead of layer by layer.

    Args:
        n: number of samples.
        widths: (m_0, …, m_l).
        device: the type of device.
        networks: how many a stack has; counts on a GPU only.
        factors: for each layer, whether its factors are exchanged instead of its gradient, whose elements
            count too on a GPU; None: no gradient is.
    """
    delta = n * sum(widths[1:])
    if device == "cpu":
        return delta <= HELD["cpu"]
    layers = [] if factors is None else zip(pairwise(widths), factors, strict=True)
    gradients = sum(m_in * m_out for (m_in, m_out), gathered in layers if not gathered)
    return networks * delta + gradients <= HELD["cuda"]


def in_sample_space(n: int, m_out: int, m_in: int, polar: Polar) -> bool:
    """Whether K (n, n) takes fewer multiplications than the smaller side of a gradient (m_out, m_in) does.

    Sample space: two Gram matrices, the iteration and the product with the narrower factor. The gradient's
    own space: one Gram matrix, the iteration and the product with the gradient. In a sample space larger than
    that, rounding grows from step to step.
    """
    sizes = m_out, m_in, polar
    return 0 < n <= min(m_out, m_in) and multiplications(n, *sizes) <= multiplications(0, *sizes)


def multiplications(n: int, m_out: int, m_in: int, polar: Polar) -> int:
    """Of a layer's polar factor in the space of n samples; for n = 0 in the gradient's own."""
    small, large = sorted((m_out, m_in))
    products = 4 * polar.iterations - 2
    if n:
        return n * n * (m_out + m_in + small) + products * n**3
    return 2 * small * small * large + products * small**3
