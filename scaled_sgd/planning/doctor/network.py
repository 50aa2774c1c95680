"""Connections of this machine: backends, interfaces, links between GPUs."""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

from scaled_sgd.core.errors import UserError

_SIOCGIFADDR = 0x8915
_INTERFACE_NAME = struct.Struct("256s")


@dataclass(frozen=True)
class Network:
    """Availability of the backends of torch.distributed, and IPv4 addresses by interface.

    Attributes:
        chosen: the interface of each of GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME that is set.
        own_address: the address of the host's name, which gloo uses if no interface is chosen.
        gpu_links: the table of ``nvidia-smi topo -m``.
    """

    backends: dict[str, bool]
    interfaces: dict[str, str | None]
    chosen: dict[str, str]
    own_address: str | None
    gpu_links: str | None


def network(environment: Mapping[str, str] = os.environ) -> Network:
    """Facts about this machine's network.

    Raises:
        UserError: GLOO_SOCKET_IFNAME names an interface that does not exist.
    """
    interfaces = {name: _address(name) for _, name in socket.if_nameindex()}
    variables = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    chosen = {name: environment[name] for name in variables if environment.get(name)}
    for name in filter(None, chosen.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if name not in interfaces:
            raise UserError(f"GLOO_SOCKET_IFNAME: no interface {name!r}; allowed: {', '.join(interfaces)}")
    available = dist.is_available()
    return Network(
        backends={
            "gloo": available and dist.is_gloo_available(),
            "nccl": available and dist.is_nccl_available(),
            "mpi": available and dist.is_mpi_available(),
        },
        interfaces=interfaces,
        chosen=chosen,
        own_address=_own_address(),
        gpu_links=_gpu_links(),
    )


def reaches_only_itself(found: Network) -> bool:
    """Whether gloo would announce a loopback address to other machines."""
    return "GLOO_SOCKET_IFNAME" not in found.chosen and (found.own_address or "").startswith("127.")


def _address(interface: str) -> str | None:
    """The IPv4 address of an interface; None if it has none or the system does not report it."""
    try:
        from fcntl import ioctl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = ioctl(probe.fileno(), _SIOCGIFADDR, _INTERFACE_NAME.pack(interface.encode()[:15]))
    except (ImportError, OSError):
        return None
    return socket.inet_ntoa(answer[20:24])


def _own_address() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _gpu_links() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        shown = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None if shown.returncode == 0 else None
