"""A CSV file in, a trained run, predictions of new rows: the command line from Python."""

import os
import tempfile
from pathlib import Path

from sklearn.datasets import load_wine

from scaled_sgd import load_run
from scaled_sgd.cli import main

EPOCHS = os.environ.get("EPOCHS", "60")

with tempfile.TemporaryDirectory() as folder:
    wines = load_wine(as_frame=True).frame.sample(frac=1, random_state=0)
    wines["target"] = wines["target"].map({0: "barolo", 1: "grignolino", 2: "barbera"})
    known, new = wines.iloc[:140], wines.iloc[140:]
    known.to_csv(f"{folder}/known.csv", index=False)
    options = {
        "data.source": f"{folder}/known.csv",
        "data.target": "target",
        "optim.epochs": EPOCHS,
        "run.dir": folder,
        "run.name": "wines",
    }
    assert main(["train", *(f"--{key}={value}" for key, value in options.items())]) == 0

    run = load_run(Path(folder) / "wines")
    predictions = run.predict(new.drop(columns="target"))
    right = (predictions.values == new["target"]).mean()
    print(f"classes {run.classes}; {right:.2f} of {len(new)} new wines are right")
