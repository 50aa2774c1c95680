"""Ids of runs: the same for the same numbers, whenever and wherever a run is made."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from scaled_sgd.config import KEYS, Config, flat
from scaled_sgd.config.keys import value_of
from scaled_sgd.config.sections import Decides
from scaled_sgd.config.stored import ABSENT


def deciding(config: Config) -> dict[str, Any]:
    """Values that affect more than rounding, by key, without those that mean what earlier versions did."""
    values = {key.name: value_of(config, key.name) for key in KEYS.values()}
    return {
        name: value
        for name, value in values.items()
        if KEYS[name].decides is not Decides.NOTHING and not (name in ABSENT and value == ABSENT[name])
    }


def run_id(config: Config, data: Mapping[str, Any]) -> str:
    """12 hexadecimal digits from a resolved configuration and facts about its data, including a digest."""
    plain = flat(deciding(config))
    plain |= {f"data: {key}": value for key, value in data.items()}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
