"""Keys of earlier versions: their current names, and the meaning of a key that a stored file lacks."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaled_sgd.config.keys import KEYS
from scaled_sgd.config.values import allowed, read, shown
from scaled_sgd.core.errors import UserError
from scaled_sgd.steps.polynomials import POLAR


@dataclass(frozen=True)
class Renamed:
    """A renamed key: its new name, its former type and the new names of its values."""

    name: str
    hint: Any
    values: Mapping[Any, Any]


RENAMED: Mapping[str, Renamed] = {
    "optim.fused_update": Renamed("optim.update", bool, {True: "fused", False: "autograd"})
}
ABSENT: Mapping[str, Any] = {
    "optim.update": "autograd",
    "optim.optimizer": "sgd",
    "optim.options": {},
    "optim.edge_ratio": 1.0,
    "optim.edge_every": 5,
    "optim.drift_power": 1.0,
    "optim.lr_in_edges": None,
    "optim.lr_factors": [],
    "optim.adas_decay": 0.8,
    "optim.adas_growth": 1.0,
    "optim.clip_layers": "all",
    "model.output_scale": 1.0,
    "model.centered": False,
    "model.rank": None,
    "model.factor_start": "spectral",
    "optim.frobenius_decay": 0.0,
    "run.plugins": [],
    "diagnostics.quantities": [],
    "diagnostics.minibatches": 4,
    "diagnostics.keep_vectors": False,
    "data.samples": 4096,
    "data.features": 50,
    "data.random_features": None,
    "data.parity_bits": 3,
    "data.spectrum": 1.5,
    "data.signal": 2.0,
    "data.noise": 0.0,
    "data.seed": 0,
    "data.separator": ",",
    "data.header": True,
    "data.codes": "number",
    "data.categories": 0,
    "data.missing": "refuse",
    "data.constant": False,
    "data.standardize_target": False,
    "scaling.polar": POLAR.polynomials,
    "scaling.iterations": POLAR.iterations,
}
"""What versions without a key did. A key not listed means its default."""
FORMER: Mapping[str, Any] = {
    "scaling.rule": "norm",
    "model.parameterization": "nup",
    "optim.lr": 4.0,
    "diagnostics.samples": 256,
    "data.standardize": False,
    "data.eval_split": None,
} | {
    name: value for name, value in ABSENT.items() if name.startswith("data.") and value != KEYS[name].default
}
"""Keys whose default is not what versions did before, with what they did."""

_said: set[str] = set()


def renamed(name: str, value: Any, *, say: bool = True) -> tuple[str, Any]:
    """The current name and value of a dotted key; prints a line about it once per process.

    A list is a list of values, as in studies.

    Raises:
        UserError: the key never had such a value.
    """
    if name not in RENAMED:
        return name, value
    old = RENAMED[name]
    try:
        new = [old.values[read(old.hint, each)] for each in (value if isinstance(value, list) else [value])]
    except TypeError:
        raise UserError(
            f"{name}: {shown(value)} does not fit; allowed: {allowed(old.hint)}; it is now {old.name}"
        ) from None
    if say and name not in _said:
        _said.add(name)
        print(f"{name}: it is now {old.name}, read as {new[0]}", file=sys.stderr, flush=True)
    return old.name, new if isinstance(value, list) else new[0]


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored, nested configuration converted to this version: dotted, with every key.

    Lists are kept whole. Keys of other versions are kept unchanged.
    """
    found = {key.name: ABSENT.get(key.name, key.default) for key in KEYS.values()}
    for name, value in _leaves(stored).items():
        new, meant = renamed(name, value, say=False)
        found[new] = meant
    return found


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    level: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and name not in KEYS
        level |= _leaves(value, f"{name}.") if nested else {name: value}
    return level
