"""Which way a step takes, by the sizes of a layer and a minibatch. Does not import torch."""

from scaled_sgd.steps.polynomials import Polar

HELD = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Most elements that are held at once so that all layers' directions are computed together.

On a CPU they then stay in its cache; a GPU is spared launches.
"""


def at_once(delta: int, *, device: str, networks: int = 1, gradients: int = 0) -> bool:
    """Whether a step holds what it needs of all layers at once, instead of layer by layer.

    Args:
        delta: elements of δ_1..δ_l of one network.
        device: the type of device.
        networks: how many a stack has; counts on a GPU only.
        gradients: elements of the gradients that are exchanged in the place of factors; likewise.
    """
    return delta <= HELD["cpu"] if device == "cpu" else networks * delta + gradients <= HELD["cuda"]


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
