"""Knowledge gain and mapping condition: how much of a weight stands out of noise (arXiv 2006.06587)."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaled_sgd.parallel import Partition
from scaled_sgd.steps.statistics import gram

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Knowledge:
    """The low-rank part of a matrix with singular values s_1 ≥ … ≥ s_p > 0, after shrinkage.

    Attributes:
        gain: Σ_i s_i / (s_1 min(m, m')), 0 where nothing stands out of noise; nan of a matrix that is not
            finite.
        condition: s_1/s_p; None where either holds.
        rank: p / min(m, m'), or nan.
    """

    gain: float
    condition: float | None
    rank: float


def knowledge(values: Array, shape: tuple[int, int]) -> Knowledge:
    """Of a matrix of ``shape`` with singular ``values``, in any order."""
    if not np.isfinite(values).all():
        return Knowledge(math.nan, None, math.nan)
    found = low_rank(values, shape)
    if not len(found):
        return Knowledge(0.0, None, 0.0)
    least = min(shape)
    return Knowledge(float(found.sum() / (found[0] * least)), float(found[0] / found[-1]), len(found) / least)


def low_rank(values: Array, shape: tuple[int, int]) -> Array:
    """Singular values of the low-rank part: the global solution of empirical variational Bayes (EVBMF).

    Nakajima, Sugiyama, Babacan, Tomioka, JMLR 14 (2013), 1–37: W = A Bᵀ + noise of variance σ². Those above
    a threshold remain, shrunk; σ² minimises the free energy, found on a grid that is refined three times.

    Args:
        values: all min(shape) singular values, finite.
        shape: of the matrix.

    Returns:
        Descending; empty where nothing stands out of noise.
    """
    L, M = min(shape), max(shape)
    s = np.sort(np.asarray(values, np.float64))[::-1]
    squares = s**2
    if not squares.sum() > 0:
        return s[:0]
    ratio = L / M
    tau = 2.5129 * math.sqrt(ratio)
    edge = (1 + tau) * (1 + ratio / tau)
    noise = _noise(squares, L, M, ratio, edge)
    above = s[squares > M * noise * edge]
    share = (L + M) * noise / above**2
    root = np.sqrt(np.maximum((1 - share) ** 2 - 4 * L * M * noise**2 / above**4, 0))
    kept = above / 2 * (1 - share + root)
    return kept[kept > 0]


def _noise(squares: Array, L: int, M: int, ratio: float, edge: float) -> float:
    """σ² of least free energy."""
    most = max(min(math.ceil(L / (1 + ratio)) - 1, L) - 1, 0)
    high = squares.sum() / (L * M)
    rest = squares[min(most + 1, L - 1) :]
    low = max(rest[0] / (M * edge), rest.mean() / M, high * 1e-12)
    if low >= high:
        return float(high)
    for _ in range(4):
        grid = np.geomspace(low, high, 128)
        place = int(np.argmin(_energies(squares, M * grid, ratio, edge)))
        low, high = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    return float(grid[place])


def _energies(squares: Array, noise: Array, ratio: float, edge: float) -> Array:
    """The free energy up to a constant at each M σ² in ``noise``, from descending s²."""
    x = np.maximum(squares / noise[:, None], 1e-300)
    energies = x - np.log(x)
    some = slice(int((squares > noise[0] * edge).sum()))
    top = np.maximum(x[:, some], edge)
    shifted = top - (1 + ratio)
    tau = 0.5 * (shifted + np.sqrt(np.maximum(shifted**2 - 4 * ratio, 0)))
    above = top - tau + np.log((tau + 1) / top) + ratio * np.log(tau / ratio + 1)
    energies[:, some] = np.where(x[:, some] > edge, above, energies[:, some])
    found: Array = energies.sum(1)
    return found


@torch.no_grad()
def singular_values(partition: Partition, k: int) -> Array:
    """All min(m_k, m_{k−1}) singular values of W_k, from its smaller Gram matrix in float64. Collective.

    Where W_k has fewer rows than columns and lies in parts, its rows are gathered, m_k m_{k−1} numbers.
    """
    W = partition.local(k).double()
    m_in, m_out = partition.widths[k - 1 : k + 1]
    if m_in <= m_out:
        K = partition.sum(gram(W.T))
    else:
        bounds = partition.offsets[k]
        whole = partition.ranks.gather(W, [b - a for a, b in pairwise(bounds)])
        K = gram(whole)
    values: Tensor = torch.linalg.eigvalsh(K.nan_to_num(0, 0, 0)).clamp(min=0).sqrt() + 0 * K.sum()
    return values.cpu().numpy()


def knowledge_of(partition: Partition) -> list[Knowledge]:
    """Of every W_k. Collective."""
    return [
        knowledge(singular_values(partition, k), (partition.widths[k], partition.widths[k - 1]))
        for k in range(1, partition.depth + 1)
    ]
