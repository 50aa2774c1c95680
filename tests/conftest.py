"""Settings of the whole suite."""

import os

import torch
from hypothesis import settings

# Two or four processes share the machine in many tests; nothing here is large enough for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)

settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("suite")
