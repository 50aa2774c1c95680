"""What test processes are copies of: everything imported, the parser made, which takes a new one seconds."""

import importlib

from scaled_sgd.config.parsing import parse

for name in (
    "pytest",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    # torch's optimizers import it when the first is made.
    "torch._dynamo",
    "torch.distributed.launcher.api",
    "accelerate.commands.launch",
    "scaled_sgd.cli",
    "scaled_sgd.train.main",
    "scaled_sgd.study.small.engine",
    "tests.training",
    "tests.programs",
    "tests.faults.runs",
):
    importlib.import_module(name)

parse([])
