"""``ddp``: all weights on every process. Gradients are averaged; fused steps may exchange factors instead."""

from collections.abc import Sequence

from scaled_sgd.parallel.exchange import Link, choose_factors
from scaled_sgd.planning.cost import Cost, direction_traffic, worst
from scaled_sgd.planning.fused import fused_peak
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.polar import polar_cost
from scaled_sgd.planning.signals import signals
from scaled_sgd.planning.traffic import Traffic, all_gather, all_reduce
from scaled_sgd.planning.workload import Workload

BUCKET = 25 * 2**20
"""Bytes at which DistributedDataParallel closes a bucket."""


def ddp(work: Workload, hardware: Hardware) -> Cost:
    """Replicas by autograd. Several processes keep buckets of the size of the weights, into which gradients
    are copied; with several microbatches gradients exist beside the buckets until the last one."""
    several, size = hardware.ranks > 1, work.weights * work.itemsize
    held, gradients = size * (1 + work.states), size
    kept = not several or work.accumulation > 1
    peak, moment = worst(autograd_moments(work, hardware, data=hardware.ranks, kept=kept))
    peak += gradients if several else 0
    buckets = min(work.depth, 1 + size // BUCKET)
    traffic = all_reduce(size / buckets, hardware.everyone, hardware).times(buckets)
    traffic += direction_traffic(work, hardware)
    forward, backward = work.products(hardware, data=hardware.ranks)
    polar = [polar_cost(work, hardware, k, factors=False) for k in range(work.depth)]
    peak = max(peak, gradients + max(cost.peak_bytes for cost in polar))
    backward += hardware.product(1, sum(cost.multiplications for cost in polar))
    seconds = forward + max(backward, traffic.seconds)
    return Cost("ddp", held + gradients, held + peak, moment, traffic, forward + backward, seconds)


def autograd_moments(
    work: Workload, hardware: Hardware, *, data: int, parts: int = 1, kept: bool
) -> dict[str, float]:
    """Bytes beside what is held, at each layer's backward pass, if weights are not gathered.

    Autocast keeps 16-bit copies of the weights until their gradients exist.

    Args:
        work: the network and the minibatch.
        hardware: the processes.
        data: number of processes that work on different samples.
        parts: number of processes that share each layer.
        kept: whether gradients accumulate beside what is held.
    """
    found, sizes = signals(work, hardware, data=data, parts=parts), work.rows_of_weights(parts)
    all_there = work.itemsize * sum(sizes) if kept and work.accumulation > 1 else 0
    moments = {"loss": found.loss + all_there}
    if work.half and not work.checkpointing:
        moments["loss"] += 2 * sum(sizes)
    for k, size in enumerate(sizes):
        gradients = all_there or (work.itemsize * sum(sizes[k + 1 :]) if kept else 0)
        copies = 2 * sum(sizes[found.first[k] : k + 1]) if work.half else 0
        using = max(found.flowing[k] + size * work.itemsize, found.copied[k])
        moments[f"backward pass, layer {k + 1}"] = found.saved[k] + using + gradients + copies
    return moments


def ddp_fused(work: Workload, hardware: Hardware, factors: Sequence[bool] | None = None) -> Cost:
    """Replicas with fused steps: each layer exchanges its factors or its gradient, by default the faster."""
    factors = exchanged(work, hardware) if factors is None else factors
    held = work.weights * work.itemsize * (1 + work.states)
    rows = work.samples_of_a_rank(hardware.ranks)
    peak, moment = fused_peak(work, hardware, rows, factors=factors)
    traffic = all_reduce(8, hardware.everyone, hardware)
    seconds, multiplying = traffic.seconds, 0.0
    for k, by_factors in enumerate(factors):
        moved = layer_traffic(work, hardware, k, by_factors=by_factors)
        traffic += moved
        forward = hardware.product(rows, work.sizes[k])
        flowing = forward if k else 0.0
        gradient = hardware.product(work.batch if by_factors else rows, work.sizes[k])
        multiplying += forward + flowing + gradient
        # Factors are gathered during the product of δ_k and W_k.
        seconds += max(flowing, moved.seconds) if by_factors else flowing + moved.seconds
        direction = polar_cost(work, hardware, k, factors=by_factors or hardware.ranks == 1)
        turned = hardware.product(1, direction.multiplications)
        multiplying += turned
        seconds += forward + gradient + turned
    moving = tuple(factors) if hardware.ranks > 1 else ()
    return Cost("ddp", held, held + peak, moment, traffic, multiplying, seconds, fused=True, factors=moving)


def exchanged(work: Workload, hardware: Hardware) -> list[bool]:
    """For each layer, whether its factors are exchanged instead of its gradient."""
    if work.exchange != "auto" or hardware.ranks == 1:
        return [work.exchange == "factors" and hardware.ranks > 1] * work.depth
    gigabyte = all_gather(1e9, hardware.everyone, hardware)
    link = Link(gigabyte.sent / gigabyte.seconds, hardware.rate)
    return choose_factors(
        work.widths, work.batch, hardware.ranks, link, itemsize=work.itemsize, factor_size=work.signal_size
    )


def layer_traffic(work: Workload, hardware: Hardware, k: int, *, by_factors: bool) -> Traffic:
    """Traffic of layer k + 1 between replicas: its factors or its gradient."""
    everyone, size = hardware.everyone, work.signal_size
    if not by_factors:
        gradient = all_reduce(work.sizes[k] * work.itemsize, everyone, hardware)
        return gradient + all_reduce(16, everyone, hardware)
    rows = hardware.ranks * work.samples_of_a_rank(hardware.ranks)
    h, delta = (all_gather(rows * width * size, everyone, hardware) for width in work.widths[k : k + 2])
    return h + delta
