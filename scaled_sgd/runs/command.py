"""``scaled-sgd predict``, ``evaluate``, ``export`` and ``runs``: what to do with runs after training."""

import argparse
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scaled_sgd.core.errors import USAGE_STATUS, UserError, error_line
from scaled_sgd.core.text import escaped
from scaled_sgd.runs.locks import holder
from scaled_sgd.runs.own_files import read_file, run_folder
from scaled_sgd.runs.records import replace_file

if TYPE_CHECKING:
    from scaled_sgd.runs.trained import Predictions

FORMATS = ("safetensors", "onnx", "pt2")
_ENDS = (".parquet", ".csv", ".jsonl")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; allowed: see {self.prog} --help")


def main(command: str, arguments: Sequence[str]) -> int:
    """Run one of the commands; returns its exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _COMMANDS[command](_options(command, [a for a in arguments if a != "--debug"]))
    except (UserError, OSError) as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error_line(error)}", file=sys.stderr, flush=True)
        return USAGE_STATUS
    except KeyboardInterrupt:
        return 130
    return 0


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    print(f"warning: {escaped(str(message))}", file=sys.stderr, flush=True)


def _options(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"scaled-sgd {command}", allow_abbrev=False, description=_COMMANDS[command].__doc__)
    if command == "runs":
        parser.add_argument("--run.dir", dest="dir", metavar="FOLDER", default="runs", help="of all runs")
        return parser.parse_args(arguments)
    parser.add_argument("run", metavar="RUN", help="run directory, checkpoint or model folder")
    if command == "export":
        parser.add_argument("--format", required=True, choices=FORMATS)
        parser.add_argument("--out", metavar="FILE", help="the run's name and the format")
        found = parser.parse_args(arguments)
        _check_folder(found.out or ".")
        run_folder(found.run)
        return found
    parser.add_argument("--data.source", dest="source", metavar="DATA", required=True, help="as for training")
    parser.add_argument("--data.split", dest="split", metavar="SPLIT", help="train, or the only one")
    if command == "predict":
        parser.add_argument("--out", metavar="FILE", required=True, help=f"ends in {', '.join(_ENDS)}")
    found = parser.parse_args(arguments)
    if command == "predict" and not found.out.endswith(_ENDS):
        raise UserError(f"--out: {found.out!r} is not usable; allowed: names that end in {', '.join(_ENDS)}")
    if command == "predict":
        _check_folder(found.out)
    run_folder(found.run)
    return found


def _check_folder(out: str) -> None:
    """Refuse what cannot be written before it is computed."""
    if not os.access(Path(out).absolute().parent, os.W_OK):
        raise UserError(f"--out: {out!r} cannot be made; allowed: a file in a folder that can be written")


def _predict(options: argparse.Namespace) -> None:
    """Predict every row of a source: the class's name and probabilities, or the value."""
    from scaled_sgd.runs.trained import load_run

    run = load_run(options.run)
    rows = run.read(options.source, split=options.split)
    predictions = run.predict(rows, progress=True)
    _write(_columns(predictions, run.classes), Path(options.out))
    print(f"{len(predictions.outputs):,} rows in {escaped(options.out)}")
    if rows.has_target:
        try:
            _print_figures(run.evaluate(rows, predictions=predictions))
        except UserError as error:
            print(f"warning: no metrics: {error}", file=sys.stderr, flush=True)


def _evaluate(options: argparse.Namespace) -> None:
    """Loss and metric over the rows of a source that has the target column."""
    from scaled_sgd.runs.trained import load_run

    run = load_run(options.run)
    rows = run.read(options.source, split=options.split)
    _print_figures(run.evaluate(rows, predictions=run.predict(rows, progress=True)))


def _export(options: argparse.Namespace) -> None:
    """Write the network as one file: weights (safetensors), or a program with the fitted part of the
    pipeline inside, of torch.export (pt2) or in ONNX, that takes the numbers of the input columns."""
    from scaled_sgd.runs.exporting import export
    from scaled_sgd.runs.trained import load_run

    out = options.out or f"{Path(options.run).absolute().name}.{options.format}"
    contents = export(load_run(options.run), Path(out), options.format)
    print(f"{escaped(out)}: {escaped(contents)}")


def _print_figures(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name:<8}  {value:.6g}")


def _columns(predictions: "Predictions", classes: Sequence[str] | None) -> dict[str, Any]:
    """Columns by name; several numbers a row are ``prediction.1``, ``prediction.2``, …"""
    values = predictions.values
    if values.ndim == 2:
        return {f"prediction.{k}": values[:, k - 1] for k in range(1, values.shape[1] + 1)}
    columns: dict[str, Any] = {"prediction": values}
    if predictions.probabilities is not None and classes is not None:
        shares = predictions.probabilities.double().numpy()
        columns |= {f"probability.{name}": shares[:, i] for i, name in enumerate(classes)}
    return columns


def _write(columns: dict[str, Any], path: Path) -> None:
    import pyarrow as pa

    table = pa.table(columns)

    def write(place: Path) -> None:
        if path.name.endswith(".parquet"):
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, place)
        elif path.name.endswith(".csv"):
            import pyarrow.csv

            pyarrow.csv.write_csv(table, place)
        else:
            with place.open("w", encoding="utf-8") as stream:
                for batch in table.to_batches(max_chunksize=1000):
                    stream.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in batch.to_pylist())

    replace_file(path, write)


def _runs(options: argparse.Namespace) -> None:
    """List runs with their status, their last figures and how to go on."""
    folder = Path(options.dir)
    if not folder.is_dir():
        raise UserError(f"run.dir: no folder {options.dir!r}; allowed: the folder of all runs")
    found = sorted(path for path in folder.iterdir() if (path / "config.yaml").is_file())
    for path in found:
        status, figures = _summary(path)
        who = holder(path / ".lock") if (path / ".lock").is_file() else None
        if who is not None:
            status, way = "running", f"in use by {who}"
        elif status == "finished":
            way = f"scaled-sgd predict {shlex.quote(str(path))} --data.source DATA --out predictions.parquet"
        elif (path / "checkpoints").is_dir():
            way = f"scaled-sgd train --run.resume {shlex.quote(str(path))}"
        else:
            way = "no checkpoint to resume"
        print(escaped(f"{path.name}  {status}{figures}  {way}"))
    if not found:
        print(f"no runs in {escaped(options.dir)}")


def _summary(run: Path) -> tuple[str, str]:
    """Status and figures of a run, which may come from a stranger."""
    try:
        summary = json.loads(read_file(run / "summary.json"))
    except FileNotFoundError:
        return "not finished", ""
    except (OSError, ValueError, RecursionError):
        return "summary.json is damaged", ""
    if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
        return "summary.json is damaged", ""
    figures = {name: summary.get(name) for name in ("train_loss", "eval_loss", "accuracy", "mse", "r2")}
    shown = (f"  {name} {value:.4g}" for name, value in figures.items() if isinstance(value, float))
    return summary["status"], "".join(shown)


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "predict": _predict,
    "evaluate": _evaluate,
    "export": _export,
    "runs": _runs,
}
