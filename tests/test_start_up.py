"""Commands that only print import nothing that takes seconds."""

import json
import sys

import pytest

from tests.launching import finished
from tests.study.folders import finished as ended
from tests.study.folders import make_study

COMMANDS = {
    "--help": 0,
    "--version": 0,
    "train --help": 0,
    "train --print_config": 0,
    "train --model.deph=3": 2,
    "train --optim.lr=fast": 2,
    "train --config=none.yaml": 2,
    "predict --help": 0,
    "predict runs/wide --out=table.xlsx --data.source=new.csv": 2,
    "evaluate --help": 0,
    "export --help": 0,
    "flow --help": 0,
    "flow runs/wide --lr=0": 2,
    "flow runs/none": 2,
    "line runs/none --along=eigenvector": 2,
    "predict runs/none --data.source=new.csv --out=table.csv": 2,
    "evaluate runs/none --data.source=new.csv": 2,
    "export runs/none --format=onnx": 2,
    "runs": 0,
    "launch-files --help": 0,
    "line --help": 0,
    "doctor --help": 0,
    "doctor --processes=none": 2,
    "doctor --plan --help": 0,
    "doctor --plan --plan.ranks=64": 0,
    "study --help": 0,
    "study run --help": 0,
    "study list": 0,
    "study status planned": 0,
    "study status none": 2,
    "study run none": 2,
    "study report none": 2,
    "study collect none": 2,
    "study run smoke --model.deph=3": 2,
    "-m scaled_sgd.train --help": 0,
    "-m scaled_sgd.train --print_config": 0,
    "-m scaled_sgd.train --optim.lr=fast": 2,
}
HEAVY = (
    "accelerate", "datasets", "evaluate", "huggingface_hub", "matplotlib", "numpy", "pandas", "pyarrow",
    "safetensors", "sklearn", "torch",
)  # fmt: skip
CODE = f"""
import contextlib, io, json, sys
from scaled_sgd.cli import main
from scaled_sgd.train.main import main as module
found = {{}}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            of_module, own = command.startswith("-m "), command.split()
            status = module(own[2:]) if of_module else main(own)
        except SystemExit as leaving:
            status = leaving.code
    found[command] = [status, [name for name in {HEAVY} if name in sys.modules]]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_commands_that_only_print_import_nothing_heavy(tmp_path):
    make_study(tmp_path / "studies/planned", {"model.depth": [2, 3]}, lambda axes: ended(0.5))
    (tmp_path / "runs/wide").mkdir(parents=True)
    (tmp_path / "runs/wide/config.yaml").write_text("{}\n")
    done = finished(sys.executable, "-c", CODE, json.dumps([*COMMANDS]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {command: [status, []] for command, status in COMMANDS.items()}
