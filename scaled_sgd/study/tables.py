"""Tables of the beyond-the-edge study, from its rows of JSON."""

import json
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The finished sweeps of a table; none where there is no file.

    JSON has no infinity: null stands for a loss that overflowed, and for what such a run does not have.
    """
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for one in row["runs"]:
                for name, value in one.items():
                    if value is None:
                        one[name] = math.inf if name == "max_loss" else math.nan
            yield row


def write_table(table: str, out: Path) -> None:
    """Write ``<table>.md`` from ``<table>.jsonl``."""
    rows = [{**row, **_digest(row)} for row in read_rows(out / f"{table}.jsonl")]
    rows.sort(key=_order)
    columns = COLUMNS[table]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]
    (out / f"{table}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _order(row: Row) -> tuple[Any, ...]:
    spec = row["spec"]
    names = ("loss", "schedule", "depth", "width_exponent")
    return (*(spec[name] for name in names), row["label"], spec["parameterization"], spec["base_width"])


def _digest(row: Row) -> Row:
    """Means over seeds at the largest stable and at the best learning rate."""
    by_rate: dict[float, list[Row]] = {}
    for one in row["runs"]:
        by_rate.setdefault(one["lr"], []).append(one)
    stable: float | None = None
    for lr in sorted(by_rate):
        if not all(one["max_loss"] <= 2 * one["initial_loss"] for one in by_rate[lr]):
            break
        stable = lr
    best = min(by_rate, key=lambda lr: _nan_last(_mean(one["train_loss"] for one in by_rate[lr])))
    digest: Row = {"stable_lr": stable, "best_lr": best, "top_lr": max(by_rate)}
    for name, chosen in (("at_stable", stable), ("at_best", best)):
        runs = [] if chosen is None else by_rate[chosen]
        ratios = sorted(ratio for one in runs for ratio in one["edge_ratios"])
        digest[name] = {
            "edge_median": statistics.median(ratios) if ratios else math.nan,
            "edge_high": ratios[int(0.9 * (len(ratios) - 1))] if ratios else math.nan,
            **{
                key: _mean(one[key] for one in runs)
                for key in ("train_loss", "eval_loss", "accuracy", "sharpness", "stable_rank")
            },
            "spread": _spread(one["train_loss"] for one in runs),
            "largest_increase": max(
                (one["max_loss"] / one["initial_loss"] for one in runs), default=math.nan
            ),
        }
    return digest


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def _spread(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.stdev(found) if len(found) > 1 else math.nan


def _nan_last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _rate(name: str) -> Any:
    """A learning rate, as a lower bound where the grid ended with it."""
    return lambda row: ("≥ " if row[name] == row["top_lr"] else "") + _number(row[name])


def _at(place: str, key: str, digits: int = 3) -> Any:
    return lambda row: _number(row[place][key], digits)


def _method(row: Row) -> str:
    names = {"nup": "νP", "ntp": "NTP", "sp": "SP", "mup": "μP"}
    return f"{names[row['spec']['parameterization']]} {row['spec']['rule']}"


_SHARED: Row = {
    "loss": lambda row: {"cross_entropy": "CE", "mse": "MSE"}[row["spec"]["loss"]],
    "l": lambda row: str(row["spec"]["depth"]),
}
COLUMNS: dict[str, Row] = {
    "edge": _SHARED
    | {
        "r": lambda row: f"{row['spec']['width_exponent']:g}",
        "m": lambda row: str(row["spec"]["base_width"]),
        "matched by": lambda row: row["label"],
        "weights": lambda row: f"{row['parameters']:,}",
        "method": _method,
        "initial edge 2/λ₀": lambda row: _number(row["edge"]),
        "largest stable lr": _rate("stable_lr"),
        "edge ratio there, median": _at("at_stable", "edge_median"),
        "90 %": _at("at_stable", "edge_high"),
        "train loss there": _at("at_stable", "train_loss"),
        "best lr": _rate("best_lr"),
        "train loss": _at("at_best", "train_loss"),
        "test loss": _at("at_best", "eval_loss"),
        "accuracy": _at("at_best", "accuracy"),
        "edge ratio": _at("at_best", "edge_median"),
        "largest loss / first": _at("at_best", "largest_increase"),
        "raw sharpness": _at("at_best", "sharpness"),
        "stable rank": _at("at_best", "stable_rank"),
    },
    "transfer": _SHARED
    | {
        "m": lambda row: str(row["spec"]["base_width"]),
        "weights": lambda row: f"{row['parameters']:,}",
        "method": _method,
        "seeds": lambda row: str(len({one["seed"] for one in row["runs"]})),
        "largest stable lr": _rate("stable_lr"),
        "best lr": _rate("best_lr"),
        "train loss": _at("at_best", "train_loss"),
        "test loss": _at("at_best", "eval_loss"),
        "accuracy": _at("at_best", "accuracy"),
    },
    "rules": _SHARED
    | {
        "m": lambda row: str(row["spec"]["base_width"]),
        "schedule": lambda row: row["spec"]["schedule"],
        "method": lambda row: row["label"],
        "largest stable lr": _rate("stable_lr"),
        "best lr": _rate("best_lr"),
        "train loss": _at("at_best", "train_loss"),
        "± over seeds": _at("at_best", "spread", 2),
        "test loss": _at("at_best", "eval_loss"),
        "accuracy": _at("at_best", "accuracy"),
        "largest loss / first": _at("at_best", "largest_increase"),
    },
}
COLUMNS["output"] = COLUMNS["rules"]


def write_summary(out: Path) -> None:
    """Write ``summary.md``: for each loss and method of the edge table, how far rates reach and what for.

    "alike" is the largest over the smallest of the largest stable rates of all networks: 1 when one
    learning rate serves every depth, width and width pattern. "wins" counts the networks on which the
    method's best rate has the lowest train loss.
    """
    rows = [row | _digest(row) for row in read_rows(out / "edge.jsonl")]
    networks: dict[str, list[Row]] = {}
    for row in rows:
        spec = row["spec"]
        shape = [spec[name] for name in ("loss", "depth", "width_exponent", "base_width")]
        networks.setdefault(json.dumps(shape), []).append(row)
    winners = [
        min(found, key=lambda row: _nan_last(row["at_best"]["train_loss"])) for found in networks.values()
    ]
    columns = (
        "loss", "method", "networks", "largest stable lr", "alike", "edge ratio there, median",
        "from", "to", "best lr", "median train loss", "wins",
    )  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for loss in ("cross_entropy", "mse"):
        for method in ("νP norm", "νP none", "NTP none"):
            mine = [row for row in rows if row["spec"]["loss"] == loss and _method(row) == method]
            if mine:
                won = sum(row["spec"]["loss"] == loss and _method(row) == method for row in winners)
                lines.append("| " + " | ".join(_summary_cells(loss, method, mine, won)) + " |")
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summary_cells(loss: str, method: str, rows: list[Row], won: int) -> Iterator[str]:
    stable = [row["stable_lr"] for row in rows if row["stable_lr"] is not None]
    best = [row["best_lr"] for row in rows]
    ratios = [row["at_stable"]["edge_median"] for row in rows if row["stable_lr"] is not None]
    yield {"cross_entropy": "CE", "mse": "MSE"}[loss]
    yield method
    yield str(len(rows)) if len(stable) == len(rows) else f"{len(rows)} ({len(rows) - len(stable)} without)"
    yield f"{min(stable):g} to {max(stable):g}"
    yield f"{max(stable) / min(stable):g}"
    yield _number(statistics.median(ratios))
    yield _number(min(ratios))
    yield _number(max(ratios))
    yield f"{min(best):g} to {max(best):g}"
    yield _number(statistics.median(row["at_best"]["train_loss"] for row in rows))
    yield str(won)
