"""The doctor's report as text and as JSON."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from scaled_sgd.planning.doctor.launch import Launch
from scaled_sgd.planning.doctor.machine import Disk, Machine
from scaled_sgd.planning.doctor.network import Network, reaches_only_itself
from scaled_sgd.planning.doctor.strategies import Availability

_INDENT = 13


@dataclass(frozen=True)
class Report:
    """Findings about rank 0's machine and about the world."""

    machine: Machine
    network: Network
    strategies: tuple[Availability, ...]
    world: Launch
    disk: Disk

    @property
    def problems(self) -> list[str]:
        """Why this launch is not what was requested; empty if it is."""
        return [] if self.world.problem is None else [self.world.problem]

    @property
    def warnings(self) -> list[str]:
        """Facts that will stop or slow down some runs."""
        world, found = self.world, []
        if self.disk.problem is not None:
            found.append(f"run.dir: {self.disk.problem}")
        if world.device == "cpu" and self.machine.gpus:
            found.append(f"not one GPU for each process ({len(self.machine.gpus)} here): the CPU is used")
        machines = {member.host for member in world.members}
        if len(machines) > 1 and world.device == "cpu" and reaches_only_itself(self.network):
            found.append(
                f"this host's name leads to {self.network.own_address}, which other machines do not reach; "
                "set GLOO_SOCKET_IFNAME to an interface that they share"
            )
        if len(versions := sorted({member.torch for member in world.members})) > 1:
            found.append(f"machines differ in torch: {', '.join(versions)}")
        return found

    def json(self) -> str:
        """One object, indented."""
        found = asdict(self) | {"problems": self.problems, "warnings": self.warnings}
        return json.dumps(found, indent=2)

    def text(self) -> str:
        """Labelled lines of text."""
        lines = []
        for name, contents in self._lines():
            first = f"{name:<{_INDENT}}" + contents
            lines.append(textwrap.fill(first, 110, subsequent_indent=" " * _INDENT, break_on_hyphens=False))
        if self.network.gpu_links is not None:
            lines += ["", self.network.gpu_links, ""]
        lines += [f"{'warning':<{_INDENT}}{warning}" for warning in self.warnings]
        verdicts = [f"no: {problem}" for problem in self.problems] or [f"yes: {self._people()}"]
        return "\n".join([*lines, *(f"{'as asked':<{_INDENT}}{verdict}" for verdict in verdicts)])

    def _lines(self) -> Iterator[tuple[str, str]]:
        machine, network, world = self.machine, self.network, self.world
        yield "python", f"{machine.python} on {machine.system}"
        yield "packages", ", ".join(f"{k} {v or 'not installed'}" for k, v in machine.packages.items())
        yield "cpu", f"{machine.cores} of {machine.cores_of_machine} cores, {machine.memory_gib} GiB memory"
        for gpu in machine.gpus:
            yield "gpu", f"{gpu.name}, {gpu.memory_gib} GiB, {'bf16' if gpu.bf16 else 'no bf16'}"
        if not machine.gpus:
            yield "gpu", "none"
        yield "backends", ", ".join(f"{k} {'yes' if v else 'no'}" for k, v in network.backends.items())
        yield "interfaces", ", ".join(f"{k} {v or '(no IPv4)'}" for k, v in network.interfaces.items())
        chosen = ", ".join(f"{k}={v}" for k, v in network.chosen.items())
        yield "links use", chosen or f"{network.own_address}, where the host's name leads (gloo)"
        for strategy in self.strategies:
            yield (
                "strategy",
                f"{strategy.name:<13} {'yes' if strategy.problem is None else f'no, {strategy.problem}'}",
            )
        yield "runs", f"{self.disk.folder!r}: {self.disk.free_gib} GiB free"
        yield "launch", " ".join(f"{k}={v}" for k, v in world.variables.items()) or "no launcher"
        if world.all_reduce is not None:
            yield "all-reduce", _speed(world)

    def _people(self) -> str:
        hosts = Counter(member.host for member in self.world.members)
        each = ", ".join(f"{count} on {host}" for host, count in hosts.items())
        size = self.world.size
        return f"{size} process{'' if size == 1 else 'es'} on {self.world.device}: {each}"


def _speed(world: Launch) -> str:
    measured = world.all_reduce
    assert measured is not None
    return (
        f"{measured.backend} over {world.size} processes: {measured.latency_us:.0f} µs for 4 bytes, "
        f"{measured.bandwidth_gb_s:.2f} GB/s for {measured.large_mib:.0f} MiB"
    )
