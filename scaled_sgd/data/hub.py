"""Finds out in seconds whether the Hugging Face hub answers; its clients retry for half a minute."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def hub_is_reachable(timeout: float = 5.0) -> bool:
    """Whether the configured endpoint (HF_ENDPOINT, proxies) answers; False at once under HF_HUB_OFFLINE.

    Any HTTP status counts as an answer. The request runs in a thread because no socket time-out covers an
    unresponsive name server.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def probe() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=timeout)
        except Exception:
            return
        answered.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


@contextmanager
def offline(*switches: tuple[ModuleType, str]) -> Iterator[None]:
    """Set module flags such as HF_HUB_OFFLINE, so that clients use only their local cache."""
    before = [getattr(module, name) for module, name in switches]
    for module, name in switches:
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)
