"""A ``train`` for tests of what runs studies: quick, and with the faults that a test asks for.

A file ``hold-SEED`` in the folder of the study keeps runs of that seed from ending.
"""

import json
import os
import signal
import time


def train(configs, data, folders):
    found = []
    for config, folder in zip(configs, folders, strict=True):
        (folder / "metrics.jsonl").write_text('{"step": 0}\n')
        time.sleep(0.02)
        while (folder.parents[1] / f"hold-{config.run.seed}").exists():
            time.sleep(0.01)
        if config.optim.lr == 13:
            raise ZeroDivisionError("by design")
        if config.optim.lr == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        summary = {"status": "diverged" if config.optim.lr > 50 else "finished", "seed": config.run.seed}
        with open(folder.parents[1] / "log", "a") as log:
            log.write(f"{folder.name}\n")
        (folder / "summary.json").write_text(json.dumps(summary))
        found.append(summary)
    return found


def nothing(config):
    return None
