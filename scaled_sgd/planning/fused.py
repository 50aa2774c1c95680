"""Signal memory of a fused step (:mod:`scaled_sgd.steps.step`), which holds no gradient."""

from collections.abc import Sequence
from itertools import compress

from scaled_sgd.planning.cost import worst
from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.polar import polar_cost
from scaled_sgd.planning.workload import Workload
from scaled_sgd.steps.sizes import at_once


def fused_peak(
    work: Workload, hardware: Hardware, rows: int, *, parts: int = 1, factors: Sequence[bool]
) -> tuple[float, str]:
    """The largest number of bytes beside what is held, and its moment.

    The inputs of a layer's update (δ_k, h_{k−1}, gathered factors or the summed gradient) live until those of
    the next layer exist; in small steps, and if the whole gradient is limited, until all exist. Logged steps
    measure ‖G_k‖ by a product of a layer's factors or by their Gram matrices. Under bf16 h, δ and copies of
    the weights have 16 bits; z and δ_k W_k, sums of their products, have the weights' own.

    Args:
        work: the network and the minibatch.
        hardware: the processes.
        rows: number of samples of this process.
        parts: number of processes that share each layer.
        factors: for each layer, whether its factors are gathered instead of its gradient summed.
    """
    depth, size, several = work.depth, work.itemsize, hardware.ranks // parts
    wide = [rows * width * size for width in work.widths]
    whole = [rows * width * work.signal_size for width in work.widths]
    own = [rows * -(-width // parts) * work.signal_size for width in work.widths]
    own_wide = [rows * -(-width // parts) * size for width in work.widths]
    copies = 2 if hardware.gloo else 1
    phi = work.activation
    kept_apart = not phi.from_value or (work.half and phi.curved)
    gates = [kept_apart and k not in work.factors for k in range(depth)]
    rounded = work.rows_of_weights(parts) if work.half else (0,) * depth
    together = work.limited or at_once(
        work.batch,
        work.widths,
        device="cpu" if hardware.gloo else "cuda",
        factors=factors if several > 1 else None,
    )
    outputs, waiting, turned = 2 * wide[-1], 0, 0.0

    def kept(k: int) -> int:
        """Bytes that the forward pass up to h_k has left: h, gates and rounded weights."""
        weights = work.signal_size * sum(rounded[1 : k + 1])
        return whole[0] + sum(whole[1 : k + 1]) + sum(compress(wide[1 : k + 1], gates[1 : k + 1])) + weights

    moments: dict[str, float] = {"loss": kept(depth - 1) + wide[-1] * (3 if work.loss == "mse" else 2)}
    for k in reversed(range(depth)):
        inputs = kept(k)
        if parts > 1:
            before = wide[k] if k and not gates[k] else 0
            moments[f"forward pass, layer {k + 1}"] = inputs + before + 2 * (1 + parts) * own_wide[k + 1]
        delta = own[k + 1] if parts > 1 or k + 1 < depth else 0
        flowing = wide[k] + own_wide[k] if k else 0
        moved = gathering = 0
        if factors[k]:
            gathered = several * (whole[k] + whole[k + 1])
            moved = gathered if several * rows == work.batch else 2 * gathered
            gathering = max(copies * gathered, moved + flowing)
        elif several > 1:
            moved = work.sizes[k] * size
            gathering = max(flowing, (own[k] if k else 0) + moved)
        else:
            gathering = flowing
        if work.half and hardware.gloo:
            # A CPU multiplies copies of the factors in float32.
            gathering = max(
                gathering + (size * rounded[k] + own_wide[k + 1] if k else 0),
                (own[k] if k else 0) + moved + wide[k] + own_wide[k + 1],
            )
        moments[f"backward pass, layer {k + 1}"] = inputs + outputs + waiting + delta + gathering
        needed = delta + moved + (whole[k] if k else 0)
        waiting = waiting + needed if together else needed
        if factors[k] or several == 1:
            held = whole[0] + waiting if together else inputs + delta + moved + (own[k] if k else 0)
            m, fan_in = -(-work.widths[k + 1] // parts), work.widths[k]
            by_product = work.batch * (m + fan_in) > m * fan_in
            measured = size * (m * fan_in if by_product else 3 * work.batch**2)
            moments[f"gradient measured, layer {k + 1}"] = held + outputs + measured
        if work.polar is not None:
            direction = polar_cost(work, hardware, k, factors=factors[k] or several == 1, parts=parts)
            turned += direction.held_bytes if together else 0
            beside = whole[0] + waiting if together else inputs + delta + moved + (own[k] if k else 0)
            moments[f"direction, layer {k + 1}"] = beside + outputs + turned + direction.peak_bytes
    peak, moment = worst(moments)
    return peak + _decayed(work, parts), moment


def _decayed(work: Workload, parts: int) -> float:
    """Gram matrices of all factors, what is added to one of them, and each V gathered from its rows."""
    if not work.frobenius:
        return 0.0
    pairs = [(k, work.widths[k]) for k in work.factors]
    grams = sum(2 * rank**2 for _, rank in pairs)
    largest = max(rank * max(work.widths[k - 1], work.widths[k + 1]) for k, rank in pairs)
    gathered = sum(rank * work.widths[k - 1] for k, rank in pairs) if parts > 1 else 0
    return float(work.itemsize * (grams + largest + gathered))
