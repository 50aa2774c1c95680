"""``fsdp2``, ``tensor`` and ``fsdp2+tensor``: each process holds some rows of each weight."""

from scaled_sgd.planning.cost import Cost, direction_traffic, worst
from scaled_sgd.planning.fused import fused_peak
from scaled_sgd.planning.hardware import Group, Hardware
from scaled_sgd.planning.polar import polar_cost
from scaled_sgd.planning.replicas import autograd_moments
from scaled_sgd.planning.signals import signals
from scaled_sgd.planning.traffic import Traffic, all_gather, all_reduce, reduce_scatter
from scaled_sgd.planning.workload import Workload


def tensor(work: Workload, hardware: Hardware) -> Cost:
    """⌈m_k / W⌉ rows of each weight; activations are gathered before each layer."""
    parts = hardware.ranks
    gradients = work.itemsize * sum(work.rows_of_weights(parts))
    held = gradients * (1 + work.states)
    peak, moment = worst(autograd_moments(work, hardware, data=1, parts=parts, kept=True))
    traffic = direction_traffic(work, hardware) + _signal_traffic(work, hardware, hardware.everyone, data=1)
    multiplying = sum(work.products(hardware, data=1, parts=parts))
    seconds = multiplying + traffic.seconds
    return Cost("tensor", held + gradients, held + peak, moment, traffic, multiplying, seconds)


def fsdp2(work: Workload, hardware: Hardware) -> Cost:
    """An even part of each layer; layers are gathered one by one, in the forward and in the backward pass."""
    return _sharded("fsdp2", work, hardware)


def fsdp2_tensor(work: Workload, hardware: Hardware, *, parts: int) -> Cost:
    """``fsdp2`` on ⌈m_k / parts⌉ rows of each layer, which ``parts`` neighbouring processes share."""
    return _sharded("fsdp2+tensor", work, hardware, parts)


def _sharded(name: str, work: Workload, hardware: Hardware, parts: int | None = None) -> Cost:
    shares = parts or 1
    data = hardware.ranks // shares
    rows = [-(-width // shares) for width in work.widths[1:]]
    even = [data * -(-m // data) * fan_in for m, fan_in in zip(rows, work.widths, strict=False)]
    narrow = 2 if work.half else work.itemsize
    gradients = sum(even) // data * work.itemsize
    held = gradients * (1 + work.states)
    moments = _gathered_moments(work, hardware, even, data=data, parts=shares)
    peak, moment = worst(moments)
    group, gathers, scatters = hardware.apart(shares), Traffic(), Traffic()
    for size in even:
        gathers += all_gather(size * narrow, group, hardware)
        scatters += reduce_scatter(size * work.itemsize, group, hardware)
    forth, back = gathers.times(work.accumulation), (gathers + scatters).times(work.accumulation)
    forward, backward = work.products(hardware, data=data, parts=shares)
    if hardware.gloo:
        seconds = forward + backward + forth.seconds + back.seconds
    else:
        seconds = max(forward, forth.seconds) + max(backward, back.seconds)
    last = direction_traffic(work, hardware)
    last += _signal_traffic(work, hardware, hardware.beside(shares), data=data)
    return Cost(
        name,
        held + gradients,
        held + peak,
        moment,
        last + forth + back,
        forward + backward,
        seconds + last.seconds,
        parts=parts,
    )


def _gathered_moments(
    work: Workload, hardware: Hardware, even: list[int], *, data: int, parts: int
) -> dict[str, float]:
    """Bytes beside what is held while FSDP2 works on ``even`` elements per layer.

    A layer's backward pass holds its gathered weights, the next layer's prefetched ones, its gradient and the
    input of the last reduce-scatter; then the gradient beside the input of its own reduce-scatter. A
    recomputed layer stays gathered. gloo copies what it communicates.
    """
    found, sizes = signals(work, hardware, data=data, parts=parts), work.rows_of_weights(parts)
    several = data > 1
    weights = [size * (2 if work.half else work.itemsize) for size in even]
    reduced = [size * work.itemsize for size in even]
    moments: dict[str, float] = {"loss": found.loss}
    for k, size in enumerate(sizes):
        gradient, own = size * work.signal_size, reduced[k] // data if several else 0
        again = work.checkpointing and k > found.first[k]
        opened = sum(weights[found.first[k] : k]) if again else 0
        ahead = weights[k - 1] if several and k and not again else 0
        before = reduced[k + 1] if k + 1 < len(sizes) else 0
        copies = 2 if (hardware.gloo and several) or even[k] > size else 1
        kept = sum(reduced if work.accumulation > 1 else reduced[k + 1 :]) // data
        using = weights[k] + ahead + before + max(found.flowing[k] + gradient, ahead * hardware.gloo)
        reducing = ahead + own + max(gradient + copies * reduced[k], found.copied[k] + reduced[k])
        moments[f"backward pass, layer {k + 1}"] = found.saved[k] + kept + opened + max(using, reducing)
    return moments


def _signal_traffic(work: Workload, hardware: Hardware, group: Group, *, data: int) -> Traffic:
    """All-gathers of h_1..h_{l−1} and f, reduce-scatters of the gradients of h_1..h_{l−1}, per microbatch."""
    rows, traffic = work.rows(data), Traffic()
    for k, width in enumerate(work.widths[1:], start=1):
        columns = group.size * -(-width // group.size)
        size = rows * columns * work.signal_size
        forth = all_gather(size, group, hardware)
        if k == work.depth:
            traffic += forth
        else:
            traffic += forth.times(2 if work.checkpointing else 1) + reduce_scatter(size, group, hardware)
    return traffic.times(work.accumulation)


def rows_fused(work: Workload, hardware: Hardware) -> Cost:
    """Fused steps on rows of each weight: all samples on every process; only signals are exchanged."""
    ranks, everyone, size = hardware.ranks, hardware.everyone, work.itemsize
    held = size * sum(work.rows_of_weights(ranks)) * (1 + work.states)
    peak, moment = fused_peak(work, hardware, work.batch, parts=ranks, factors=[False] * work.depth)
    traffic = all_reduce(8, everyone, hardware).times(work.depth)
    for k, width in enumerate(work.widths[1:]):
        traffic += all_gather(work.batch * ranks * -(-width // ranks) * size, everyone, hardware)
        if k:
            traffic += all_reduce(work.batch * work.widths[k] * size, everyone, hardware)
    for k in work.factors if work.frobenius else ():
        rank, fan_in = work.widths[k], work.widths[k - 1]
        traffic += all_gather(fan_in * ranks * -(-rank // ranks) * size, everyone, hardware)
        traffic += all_reduce(rank**2 * size, everyone, hardware)
    multiplying = sum(
        hardware.product((3 if k else 2) * work.batch / ranks, size_) for k, size_ in enumerate(work.sizes)
    )
    for k in range(work.depth):
        direction = polar_cost(work, hardware, k, parts=ranks)
        traffic += direction.traffic
        multiplying += hardware.product(1, direction.multiplications)
    return Cost(
        "fsdp2", held, held + peak, moment, traffic, multiplying, multiplying + traffic.seconds, fused=True
    )
