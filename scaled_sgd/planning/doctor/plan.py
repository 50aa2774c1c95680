"""``scaled-sgd doctor --plan``: the cost of each strategy per process, and a recommendation.

Nothing is run: the network comes from the ordinary configuration keys, the hardware from ``--plan.`` keys.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from scaled_sgd.config import Config, DataConfig
from scaled_sgd.config.combinations import with_strategy
from scaled_sgd.config.parsing import parse
from scaled_sgd.core.errors import USAGE_STATUS, UserError
from scaled_sgd.core.numbers import check_integer
from scaled_sgd.parallel.strategies import STRATEGIES
from scaled_sgd.planning import Cost, Hardware, Workload, advise, nominal, predict, rows
from scaled_sgd.planning.choice import World, obstacle, tensor_processes
from scaled_sgd.planning.doctor.cost_table import CostTable
from scaled_sgd.planning.memory import fitting_batch
from scaled_sgd.planning.units import DURATIONS, OPERATIONS, SIZES
from scaled_sgd.planning.units import parse as quantity

DIGITS = (64, 10)
"""Features and classes of the embedded data set, known without loading it."""

_KEYS = {
    "memory": ("bytes of memory of a process: 80GiB", SIZES),
    "bandwidth": ("bytes a second that a process sends within its machine: 150GB", SIZES),
    "network": ("bytes a second that a process sends to other machines: 25GB", SIZES),
    "latency": ("of a message: 10us", DURATIONS),
    "rate": ("operations a second of matrix products: 60T", OPERATIONS),
}
PLAN_KEYS = tuple(f"plan.{key}" for key in ("ranks", "ranks_per_machine", "device", *_KEYS))
_FIELDS = {"bandwidth": "inside", "network": "across"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; allowed: what scaled-sgd doctor --plan --help lists")


def main(arguments: Sequence[str]) -> int:
    """Plan and print; returns the exit status."""
    try:
        parser = _parser()
        asked, rest = parser.parse_known_args([a for a in arguments if a != "--plan"])
        if unknown := [option for option in rest if option.startswith("--plan.")]:
            key = unknown[0].removeprefix("--").partition("=")[0]
            raise UserError(f"{key}: unknown key; allowed: {', '.join(PLAN_KEYS)}")
        table = make_table(parse(rest, prog="scaled-sgd doctor --plan"), asked)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return USAGE_STATUS
    print(table.json() if asked.json else table.text(layers=asked.layers), flush=True)
    return 0


def make_table(config: Config, asked: argparse.Namespace) -> CostTable:
    """All strategies that can train ``config`` on the given hardware.

    Raises:
        UserError: impossible widths or numbers, or data that need ``--features`` and ``--outputs``.
    """
    for key in ("features", "outputs"):
        if getattr(asked, key) is not None:
            check_integer(key, getattr(asked, key))
    if config.optim.batch_size == "all":
        raise UserError(
            "optim.batch_size: 'all' is a number for a run's data only; allowed here: integers from 1"
        )
    work = Workload.of(config, *_features(config.data, asked.features, asked.outputs))
    device = asked.device or ("cpu" if config.run.device == "cpu" else "cuda")
    hardware = _hardware(config, asked, nominal(device, half=work.half))
    world = World(hardware.ranks, hardware.per_machine, device == "cuda", int(hardware.memory))
    shared = (can.name for can in STRATEGIES.entries if can.shares_layers)
    parts = max(tensor_processes(with_strategy(config, name).sharding, world) for name in shared)
    costs: list[Cost] = []
    left_out: dict[str, list[str]] = {}
    for name, fused in rows(hardware, parts=parts):
        cost = predict(name, work, hardware, fused=fused, parts=parts)
        why = obstacle(config, name, fused=fused)
        if why is None:
            costs.append(cost)
        else:
            left_out.setdefault(why, []).append(cost.label)
    advice, otherwise = advise(costs, hardware), ""
    if advice.cost is None:
        least = min(costs, key=lambda cost: cost.peak_bytes)
        batch = fitting_batch(
            work,
            hardware,
            lambda part: predict(least.strategy, part, hardware, fused=least.fused, parts=parts),
        )
        otherwise = "more processes (--plan.ranks) or more memory (--plan.memory)"
        if batch is not None:
            otherwise = f"{least.options} --optim.batch_size {batch}"
    return CostTable(work, hardware, tuple(costs), left_out, advice, otherwise)


def _hardware(config: Config, asked: argparse.Namespace, rates: Hardware) -> Hardware:
    """The given processes, with nominal rates where none are given."""
    ranks = (config.run.processes or 1) if asked.ranks is None else asked.ranks
    per_machine = min(max(ranks, 1), 8) if asked.ranks_per_machine is None else asked.ranks_per_machine
    for key, count, most in (("ranks", ranks, 10**7), ("ranks_per_machine", per_machine, ranks)):
        if not 1 <= count <= most:
            raise UserError(f"plan.{key}: {count} is not usable; allowed: integers from 1 to {most:,}")
    given: dict[str, Any] = {
        _FIELDS.get(key, key): quantity(f"plan.{key}", getattr(asked, key), units)
        for key, (_, units) in _KEYS.items()
        if getattr(asked, key) is not None
    }
    return replace(rates, ranks=ranks, per_machine=per_machine, **given)


def _features(data: DataConfig, features: int | None, outputs: int | None) -> tuple[int, int]:
    """m_0 and m_l, given or those of the digits or of generated data."""
    if data.source in ("parity", "teacher"):
        classes = data.source == "parity" and data.task != "regression"
        seen = data.random_features if data.source == "teacher" else None
        return features or seen or data.features, outputs or (2 if classes else 1)
    if data.source == "digits" and data.inputs is None and data.target is None:
        return DIGITS[0] if features is None else features, DIGITS[1] if outputs is None else outputs
    if features is None or outputs is None:
        raise UserError(
            f"features: {features}, outputs: {outputs} with data.source {data.source!r}, which a plan does "
            "not read; allowed: --features M0 --outputs ML"
        )
    return features, outputs


def _parser() -> _Parser:
    parser = _Parser(
        prog="scaled-sgd doctor --plan",
        allow_abbrev=False,
        description="Predict memory, traffic and time of every strategy and recommend one. The network and "
        "the step are those of the keys of scaled-sgd train: --config, --model.depth, --optim.batch_size, …",
    )
    parser.add_argument("--features", type=int, metavar="M0", help="inputs (those of the digits)")
    parser.add_argument("--outputs", type=int, metavar="ML", help="outputs (those of the digits)")
    parser.add_argument(
        "--plan.ranks", dest="ranks", type=int, metavar="N", help="processes (run.processes, 1)"
    )
    parser.add_argument(
        "--plan.ranks_per_machine",
        dest="ranks_per_machine",
        type=int,
        metavar="N",
        help="of them on a machine (8)",
    )
    parser.add_argument(
        "--plan.device", dest="device", choices=("cpu", "cuda"), help="whose nominal rates hold (cuda)"
    )
    for key, (meaning, _) in _KEYS.items():
        parser.add_argument(f"--plan.{key}", dest=key, metavar="X", help=meaning)
    parser.add_argument("--layers", action="store_true", help="also say what moves of each layer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
