"""``zero1``, ``zero2`` and ``zero3``: state in flat partitions (DeepSpeed 0.17 to 0.19).

DeepSpeed copies gradients into a bucket of B elements, allocated in full however small the network is; on a
CPU only written pages take memory. It averages a bucket through a flat copy, by an all-reduce.
"""

from itertools import accumulate

from scaled_sgd.planning.cost import Cost, direction_traffic, worst
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.signals import signals
from scaled_sgd.planning.traffic import all_gather, all_reduce, reduce_scatter
from scaled_sgd.planning.workload import Workload

BUCKET = 500_000_000
"""``reduce_bucket_size``: elements that are reduced at a time."""
AHEAD, LIVE = 50_000_000, 1_000_000_000
"""Elements that stage 3 prefetches (``prefetch_bucket_size``) and the most that it keeps gathered
(``max_live_parameters``)."""
MASTER = 4
"""Bytes of a master element, of its momentum, and of a summed element."""


def zero1(work: Workload, hardware: Hardware) -> Cost:
    """Full gradients until the step; masters and momentum in parts."""
    return _replicated(1, work, hardware)


def zero2(work: Workload, hardware: Hardware) -> Cost:
    """Like ``zero1``, but each microbatch's gradients are averaged immediately and kept in parts."""
    return _replicated(2, work, hardware)


def _replicated(stage: int, work: Workload, hardware: Hardware) -> Cost:
    ranks, narrow, largest, everyone = hardware.ranks, work.signal_size, max(work.sizes), hardware.everyone
    part, filled = -(-work.weights // ranks), min(BUCKET, work.weights)
    widened = narrow + (MASTER if work.half else 0)
    held = narrow * work.weights + MASTER * part * (1 + work.states)
    bucket = narrow * (filled if hardware.gloo else BUCKET)
    # A process keeps the average of every layer that its part overlaps.
    average = narrow * min(work.weights, part + largest)
    earlier = average if stage == 2 and work.accumulation > 1 else 0
    gradients = narrow * work.weights if stage == 1 and not hardware.gloo else 0
    found = signals(work, hardware, data=ranks)
    moments = {
        "loss": found.loss + earlier,
        "gradients averaged": earlier
        + bucket
        + max(filled * widened if ranks > 1 else 0, average, gradients),
        "step": average + max(8 * min(part, largest), widened * part),
    }
    for k, size in enumerate(work.sizes):
        there = narrow * sum(work.sizes if stage == 1 and work.accumulation > 1 else work.sizes[k + 1 :])
        if not hardware.gloo:
            there = bucket + (there if stage == 1 else 0)
        using = found.saved[k] + found.flowing[k] + narrow * size
        moments[f"backward pass, layer {k + 1}"] = using + there + earlier
    for moment in ("gradients averaged", "step"):
        moments[moment] += found.samples
    peak, moment = worst(moments)
    buckets = -(-work.weights // BUCKET)
    average_traffic = all_reduce(MASTER * work.weights / buckets, everyone, hardware).times(buckets)
    traffic = direction_traffic(work, hardware) + all_gather(narrow * work.weights, everyone, hardware)
    traffic += average_traffic.times(work.accumulation if stage == 2 else 1)
    multiplying = sum(work.products(hardware, data=ranks))
    seconds = multiplying + traffic.seconds
    return Cost(f"zero{stage}", held, held + peak, moment, traffic, multiplying, seconds)


def zero3(work: Workload, hardware: Hardware) -> Cost:
    """An even flat part of each layer, its gradient, master and momentum.

    Layers of less than ``AHEAD`` elements are gathered together in a buffer and copied out of it. Networks of
    less than ``LIVE`` elements stay gathered until the backward pass; of larger ones only the last layers do,
    ``LIVE`` / 2 elements in total, and the others are gathered twice per microbatch.
    """
    ranks, narrow, everyone = hardware.ranks, work.signal_size, hardware.everyone
    copies, several, largest = 2 if hardware.gloo else 1, ranks > 1, max(work.sizes)
    own, filled = sum(-(-size // ranks) for size in work.sizes), min(BUCKET, work.weights)
    summed = MASTER if work.half else narrow
    bucket = summed * (filled if hardware.gloo else BUCKET)
    held = (2 * narrow + MASTER * (1 + work.states)) * own + bucket
    buffers = narrow * min(sum(size for size in work.sizes if size < AHEAD), LIVE) * several
    gathered = [narrow * min(numbers, LIVE + largest) * several for numbers in accumulate(work.sizes)]
    found = signals(work, hardware, data=ranks)
    moments = {
        "first layers gathered": found.samples
        + copies * narrow * min(work.weights, AHEAD + largest) * several,
        "forward pass": found.saved[-1] + gathered[-1] + buffers,
        "loss": found.loss + gathered[-1],
        "gradients averaged": found.samples + gathered[0] + summed * filled * copies,
        "step": found.samples + max(8 * -(-largest // ranks), narrow * own),
    }
    for k, size in enumerate(work.sizes):
        using = found.saved[k] + found.flowing[k] + narrow * size
        moments[f"backward pass, layer {k + 1}"] = using + gathered[k]
    peak, moment = worst(moments)
    moved = work.weights if work.weights < LIVE else 2 * work.weights - LIVE // 2
    gathers, buckets = -(-moved // (AHEAD + largest)), -(-work.weights // BUCKET)
    traffic = all_gather(narrow * moved / gathers, everyone, hardware).times(gathers)
    traffic += reduce_scatter(summed * work.weights / buckets, everyone, hardware).times(buckets)
    traffic = traffic.times(work.accumulation)
    multiplying, last = sum(work.products(hardware, data=ranks)), direction_traffic(work, hardware)
    seconds = multiplying + traffic.seconds if hardware.gloo else max(multiplying, traffic.seconds)
    return Cost("zero3", held, held + peak, moment, traffic + last, multiplying, seconds + last.seconds)
