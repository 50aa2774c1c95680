"""The name of a run: the same for the same numbers, whenever and wherever it is made."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from scaled_sgd.config import Config, as_dict, flat

WITHOUT_EFFECT = (
    "run.name", "run.dir", "run.resume", "run.accept_changes", "run.processes", "run.timeout_seconds",
    "run.trackers", "run.device", "checkpoint.", "sharding.", "optim.accumulation",
    "optim.fused_update",
)  # fmt: skip
"""Keys, and beginnings of keys, that change no number, or only its rounding."""


def run_id(config: Config, data: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of a resolved configuration and of facts of its data, a digest among them."""
    plain = {k: v for k, v in flat(as_dict(config)).items() if not k.startswith(WITHOUT_EFFECT)}
    plain |= {f"data: {key}": value for key, value in data.items()}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
