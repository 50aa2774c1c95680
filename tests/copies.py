"""The server whose copies are the processes of tests: it imports everything, once for a session."""

import contextlib
import multiprocessing
import os
from multiprocessing import forkserver

from tests.launching import REPOSITORY

SHARED = "SCALED_SGD_COPIES"
"""Variable that names the server of the session: its address, and where the end is that keeps it."""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.preloaded"])
_server = forkserver._forkserver


def ready() -> None:
    """Have a server: that of the session, or one of this process."""
    if _server._forkserver_address is None and SHARED in os.environ:
        address, _, end = os.environ[SHARED].partition(" ")
        _server._forkserver_address = address
        _server._forkserver_alive_fd = os.open(end, os.O_WRONLY)
        _server.ensure_running = lambda: None
    # Its modules are found in this folder, whatever folder the test is in.
    with contextlib.chdir(REPOSITORY):
        _server.ensure_running()


def serve_workers() -> None:
    """Start the server of a session, for processes that this one starts."""
    ready()
    end = f"/proc/{os.getpid()}/fd/{_server._forkserver_alive_fd}"
    os.environ[SHARED] = f"{_server._forkserver_address} {end}"
