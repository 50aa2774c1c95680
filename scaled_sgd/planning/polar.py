"""Work, memory and traffic of a layer's polar factor (:mod:`scaled_sgd.steps.polar`)."""

from dataclasses import dataclass

from scaled_sgd.planning.hardware import Hardware
from scaled_sgd.planning.traffic import Traffic, all_gather, all_reduce
from scaled_sgd.planning.workload import Workload
from scaled_sgd.steps.sizes import in_sample_space, multiplications


@dataclass(frozen=True)
class PolarCost:
    """Of one layer on one process.

    Attributes:
        multiplications: beyond those of a step with a number for K.
        held_bytes: K or the rows of the polar factor, until the update.
        peak_bytes: the most that exists at once.
        traffic: between processes that hold rows of the layer.
    """

    multiplications: float
    held_bytes: float
    peak_bytes: float
    traffic: Traffic


NO_POLAR = PolarCost(0.0, 0.0, 0.0, Traffic())


def polar_cost(
    work: Workload, hardware: Hardware, k: int, *, factors: bool = True, parts: int = 1
) -> PolarCost:
    """The cost of layer k + 1; every process repeats what depends on all samples.

    Args:
        work: the network and the minibatch.
        hardware: the processes.
        k: the layer, from 0.
        factors: whether factors of all samples are known, or only the gradient.
        parts: number of processes that share the layer's rows.
    """
    if work.polar is None:
        return NO_POLAR
    n, size = work.batch, work.itemsize
    m_in, m_out = work.widths[k : k + 2]
    inside = factors and in_sample_space(n, m_out, m_in, work.polar)
    count = multiplications(n if inside else 0, m_out, m_in, work.polar)
    if inside:
        traffic = all_reduce(n * n * size, hardware.beside(parts), hardware) if parts > 1 else Traffic()
        return PolarCost(count, n * n * size, 9 * n * n * size, traffic)
    small, rows = min(m_in, m_out), -(-m_out // parts) * m_in
    traffic = Traffic()
    if parts > 1 and m_in <= m_out:
        traffic = all_reduce(small * small * size, hardware.beside(parts), hardware)
    elif parts > 1:
        traffic = all_gather(n * parts * -(-m_out // parts) * size, hardware.beside(parts), hardware)
    whole = m_out * m_in if m_in > m_out else rows
    return PolarCost(count, (whole + rows) * size, (whole + rows + 7 * small * small) * size, traffic)
