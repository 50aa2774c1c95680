"""Signal memory of an autograd step (torch 2.9 to 2.13).

A product saves its input α_k h_{k−1}, an activation its input z_k; tanh saves h_k instead, which the next
product has if α_{k+1} = 1. Between factors there is no activation. In the backward pass a layer
holds δ_k, the new gradient and δ_k W_k beside what the layers below have saved; the forward pass never needs
more.
"""

import math
from dataclasses import dataclass
from itertools import accumulate

from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.workload import Workload


@dataclass(frozen=True)
class SignalBytes:
    """Bytes on one process, by layer k − 1.

    Attributes:
        samples: samples of the whole step.
        first: index of the first layer whose saved signals exist: 0 without recomputed activations.
        saved: samples and what layers up to k have saved, without z_k, when the backward pass is at k.
        flowing: δ_k and δ_k W_k.
        copied: at another time, instead of ``flowing`` and the gradient: the gradient of h_{k−1} while the
            processes that share layers sum it, or 16-bit signals and the float32 copy for norms on a CPU.
        loss: everything saved, f and its gradients; or the samples before conversion to 16 bits.
    """

    samples: float
    first: tuple[int, ...]
    saved: tuple[float, ...]
    flowing: tuple[float, ...]
    copied: tuple[float, ...]
    loss: float


def signals(work: Workload, hardware: Hardware, *, data: int, parts: int = 1) -> SignalBytes:
    """Signals of one microbatch over ``data`` processes with different samples, each layer over ``parts``."""
    depth, rows, size = work.depth, work.rows(data), work.signal_size
    whole = [rows * width * size for width in work.widths]
    own = [rows * -(-width // parts) * size for width in work.widths]
    inputs = [whole[k] if k or work.multiplied[0] else 0 for k in range(depth)]
    segment = math.ceil(math.sqrt(depth)) if work.checkpointing else depth
    first = [k // segment * segment for k in range(depth)]
    shared = work.activation.saves_value and parts == 1
    z = [
        0 if k in work.factors or (shared and not multiplied) else own[k]
        for k, multiplied in enumerate(work.multiplied)
        if k
    ]
    layers = [0, *accumulate(a + b for a, b in zip(inputs, [*z, own[-1]], strict=True))]
    kept = [0, *accumulate(own[start] for start in range(segment, depth, segment))]
    samples = work.samples_of_a_rank(data) * work.widths[0] * work.itemsize
    saved = [
        samples + kept[start // segment] + layers[k] - layers[start] + inputs[k]
        for k, start in enumerate(first)
    ]
    flowing = [own[k + 1] + (whole[k] if k else 0) for k in range(depth)]
    copies = 2 if hardware.gloo else 1
    copied = [copies * whole[k] + own[k] if k and parts > 1 else 0 for k in range(depth)]
    if work.half and hardware.gloo:
        copied = [
            max(count, 3 * own[k + 1], own[k + 1] + (own[k] + 2 * whole[k] if k else 0))
            for k, count in enumerate(copied)
        ]
    outputs = 3 * rows * work.widths[-1] * max(work.itemsize, size)
    loss = (samples + kept[-1] if work.checkpointing else saved[-1]) + outputs
    wide = saved[0] + 4 * rows * work.widths[0] if work.half else 0
    return SignalBytes(samples, tuple(first), tuple(saved), tuple(flowing), tuple(copied), max(loss, wide))
