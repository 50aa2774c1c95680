"""Plain commands on tables beside scikit-learn's MLP and gradient boosting: held-out R², or accuracy.

A seed also draws the quarter of the rows that is held out; each cell is the mean and, over several seeds, the
range.

Run: ``python -m benchmarks.tables --seeds 3 [--tables iris,wine]``; further options go to every training, as
``--optim.lr 2``.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scaled_sgd.cli import main as command
from scaled_sgd.runs.records import read_metrics


def houses(n: int = 4000) -> pd.DataFrame:
    """A generated table: prices around 1e5, columns of scales 1 to 1e4, a constant, a text, gaps."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "income": draw.lognormal(1.2, 0.4, n),
            "age": draw.integers(1, 52, n).astype(float),
            "people": draw.lognormal(7, 0.7, n),
            "north": draw.uniform(32, 42, n),
            "one": 1.0,
            "shore": draw.choice(["bay", "inland", "ocean"], n),
        }
    )
    value = 5e4 * rows["income"] + 300 * rows["age"] - 3 * rows["people"] - 9e3 * (rows["north"] - 37) ** 2
    rows["target"] = value + 4e4 * (rows["shore"] == "ocean") + draw.normal(0, 2e4, n)
    rows.loc[draw.choice(n, n // 100, replace=False), "age"] = np.nan
    return rows


def tables() -> Iterator[tuple[str, pd.DataFrame, bool]]:
    """Name, rows with the column ``target``, and whether it holds classes."""
    for name, classes in (
        ("iris", True),
        ("wine", True),
        ("breast_cancer", True),
        ("digits", True),
        ("diabetes", False),
    ):
        options: dict[str, Any] = {"scaled": False} if name == "diabetes" else {}
        yield name, getattr(datasets, f"load_{name}")(as_frame=True, **options).frame, classes
    yield "houses", houses(), False


def ours(train: pd.DataFrame, test: pd.DataFrame, seed: int, options: list[str]) -> float:
    """The held-out figure of ``scaled-sgd train``."""
    with tempfile.TemporaryDirectory() as folder:
        for split, rows in (("train", train), ("test", test)):
            rows.to_csv(Path(folder, f"{split}.csv"), index=False)
        arguments = ["train", "--data.source", folder, "--run.dir", folder, "--run.name", "run"]
        if command([*arguments, "--data.target", "target", "--run.seed", str(seed), *options]) != 0:
            return float("nan")
        (*_, last) = read_metrics(Path(folder, "run", "metrics.jsonl"))
        return float(last.get("accuracy", last.get("r2", float("nan"))))


def theirs(train: pd.DataFrame, test: pd.DataFrame, seed: int, *, classes: bool) -> tuple[float, float]:
    """The same of scikit-learn's MLP, its columns standardised, and of its gradient boosting."""
    both = pd.get_dummies(pd.concat([train, test]).drop(columns="target"))
    x, z = both[: len(train)], both[len(train) :]
    y, truth = train["target"], test["target"]
    network = (MLPClassifier if classes else MLPRegressor)(random_state=seed, max_iter=1000)
    trees = (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(random_state=seed)
    fitted = make_pipeline(SimpleImputer(), StandardScaler(), network)
    scaled = [y, truth] if classes else [(column - y.mean()) / y.std() for column in (y, truth)]
    return float(fitted.fit(x, scaled[0]).score(z, scaled[1])), float(trees.fit(x, y).score(z, truth))


def _cell(figures: Sequence[float]) -> str:
    """Mean and range."""
    one = f"{np.mean(figures):.3f}"
    return one if len(figures) == 1 else f"{one} ({min(figures):.3f} to {max(figures):.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; ``arguments`` go to every training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", type=lambda names: names.split(","), help="those to measure; all without")
    asked, options = parser.parse_known_args(arguments)
    print("| table | rows | figure | scaled-sgd | MLP | gradient boosting |\n" + "| --- " * 6 + "|")
    for name, rows, classes in tables():
        if asked.tables and name not in asked.tables:
            continue
        found = []
        for seed in range(asked.seeds):
            train, test = train_test_split(
                rows, test_size=0.25, random_state=seed, stratify=rows["target"] if classes else None
            )
            found.append((ours(train, test, seed, options), *theirs(train, test, seed, classes=classes)))
        figure = "accuracy" if classes else "R²"
        cells = " | ".join(map(_cell, zip(*found, strict=True)))
        print(f"| {name} | {len(rows):,} | {figure} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
