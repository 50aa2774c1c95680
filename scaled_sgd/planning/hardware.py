"""Hardware of a step: processes, machines and their speed."""

from dataclasses import dataclass, replace

USABLE = 0.9
"""Fraction of a process's memory that a step may fill. The rest is for the data set, the runtime and
fragmentation, which are not predicted."""


@dataclass(frozen=True)
class Group:
    """A group of communicating processes.

    Attributes:
        size: number of processes.
        neighbours: number of them that share a machine.
    """

    size: int
    neighbours: int


@dataclass(frozen=True)
class Hardware:
    """Processes numbered machine by machine, and the rates of one process.

    Attributes:
        ranks: number of processes W.
        per_machine: number of processes on a machine.
        memory: bytes of memory of a process.
        inside: bytes per second that it sends within its machine.
        across: bytes per second that it sends to other machines: its share of the links.
        latency: seconds for an empty message.
        rate: multiplications and additions per second, each counted.
        gloo: collectives use gloo, which implements reduce-scatter by an all-reduce, gathers through a copy
            and, except under DistributedDataParallel, does not overlap with products; else NCCL.
    """

    ranks: int
    per_machine: int
    memory: float
    inside: float
    across: float
    latency: float
    rate: float
    gloo: bool

    @property
    def usable(self) -> float:
        """Bytes that a step may fill."""
        return USABLE * self.memory

    @property
    def everyone(self) -> Group:
        """All processes."""
        return Group(self.ranks, min(self.per_machine, self.ranks))

    def beside(self, size: int) -> Group:
        """``size`` neighbouring processes."""
        return Group(size, min(self.per_machine, size))

    def apart(self, stride: int) -> Group:
        """Every ``stride``-th process."""
        size = self.ranks // stride
        return Group(size, min(max(1, self.per_machine // stride), size))

    def product(self, rows: float, weights: float) -> float:
        """Seconds of the product of ``rows`` samples with a matrix of this many weights."""
        return 2 * rows * weights / self.rate


NOMINAL = {
    "cpu": Hardware(1, 1, 16 * 2**30, inside=1e9, across=1e9, latency=1e-4, rate=5e10, gloo=True),
    "cuda": Hardware(1, 1, 80 * 2**30, inside=1.5e11, across=2.5e10, latency=1e-5, rate=6e13, gloo=False),
}
"""Default rates by kind of device: a core or two with gloo over fast Ethernet; an accelerator with 80 GiB,
float32 products on its matrix units, NVLink within a machine and a 200 Gbit/s adapter per process. They
serve to order strategies; they are not measured."""

HALF_RATE = 4.0
"""Nominal speed-up of 16-bit products on an accelerator."""


def nominal(device: str, *, half: bool = False) -> Hardware:
    """One process on ``cpu`` or ``cuda`` with nominal rates."""
    hardware = NOMINAL[device]
    return replace(hardware, rate=hardware.rate * HALF_RATE) if half and device == "cuda" else hardware
