"""Settings of the whole suite."""

import os

import pytest
import torch
from hypothesis import settings

# Two or four processes share the machine in many tests; nothing here is large enough for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)

settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("suite")


@pytest.fixture
def fresh_world(tmp_path, monkeypatch):
    """An empty working folder, no launcher, and an Accelerator that nobody has made before."""
    from accelerate.state import AcceleratorState

    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
