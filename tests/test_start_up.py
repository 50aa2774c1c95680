"""What takes seconds to import is imported where it is needed only."""

import json
import re
import sys

import pytest

from scaled_sgd.cli import main
from tests.launching import finished
from tests.study.folders import finished as ended
from tests.study.folders import make_study

COMMANDS = {
    "": 2,
    "nothing": 2,
    "--help": 0,
    "--version": 0,
    "train --help": 0,
    "train --print_config": 0,
    "train --model.deph=3": 2,
    "train --optim.lr=fast": 2,
    "train --config=none.yaml": 2,
    "predict --help": 0,
    "predict": 2,
    "predict runs/wide --out=table.xlsx --data.source=new.csv": 2,
    "evaluate --help": 0,
    "export --help": 0,
    "export runs/wide --format=none": 2,
    "flow --help": 0,
    "flow runs/wide --lr=0": 2,
    "flow runs/none": 2,
    "line runs/none --along=eigenvector": 2,
    "predict runs/none --data.source=new.csv --out=table.csv": 2,
    "evaluate runs/none --data.source=new.csv": 2,
    "export runs/none --format=onnx": 2,
    "runs": 0,
    "runs --help": 0,
    "runs --run.dir=none": 2,
    "launch-files": 2,
    "launch-files copied": 0,
    "launch-files --help": 0,
    "line --help": 0,
    "doctor --help": 0,
    "doctor --processes=none": 2,
    "doctor --plan --help": 0,
    "doctor --plan --plan.ranks=64": 0,
    "study --help": 0,
    "study": 2,
    "study run --help": 0,
    "study status --help": 0,
    "study collect --help": 0,
    "study report --help": 0,
    "study list --help": 0,
    "study list": 0,
    "study status planned": 0,
    "study status none": 2,
    "study run none": 2,
    "study report none": 2,
    "study collect none": 2,
    "study run smoke --model.deph=3": 2,
    "study run smoke --worker=2": 2,
    "-m scaled_sgd.train --help": 0,
    "-m scaled_sgd.train --print_config": 0,
    "-m scaled_sgd.train --optim.lr=fast": 2,
}
HEAVY = (
    "accelerate", "datasets", "deepspeed", "evaluate", "huggingface_hub", "matplotlib", "numpy", "pandas",
    "pyarrow", "safetensors", "sklearn", "torch",
)  # fmt: skip
TRAIN = ["--model.depth=2", "--model.base_width=2", "--optim.steps=1"]
UNUSED = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy", "pandas", "sklearn")
"""What a run of one process has no use for: torch.compile, shards, tables."""
MISSING = ("datasets", "evaluate")
"""Packages that such a run on the digits does without."""
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
import scaled_sgd.planning.doctor
launchers = [name for name in ("accelerate", "deepspeed") if name in sys.modules]
sys.modules |= dict.fromkeys({MISSING})
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    status = module({TRAIN})
print(json.dumps([found, launchers, [status, [name for name in {UNUSED} if name in sys.modules]]]))
"""


def test_the_list_of_commands_that_only_print_has_every_command(capsys):
    def named():
        return re.findall(r"^ +([a-z-]+)  ", capsys.readouterr().out, re.MULTILINE)

    main(["--help"])
    commands = named()
    assert {"train", "runs", "study", "launch-files"} <= {*commands}
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    of_study = named()
    assert {"run", "status", "collect"} <= {*of_study}
    asked = {f"{command} --help" for command in [*commands, *(f"study {name}" for name in of_study)]}
    assert asked <= COMMANDS.keys()


@pytest.mark.slow
def test_what_only_prints_and_a_run_of_one_process_import_no_more_than_they_need(tmp_path):
    make_study(tmp_path / "studies/planned", {"model.depth": [2, 3]}, lambda axes: ended(0.5))
    (tmp_path / "runs/wide").mkdir(parents=True)
    (tmp_path / "runs/wide/config.yaml").write_text("{}\n")
    done = finished(sys.executable, "-c", CODE, json.dumps([*COMMANDS]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, launchers, of_run = json.loads(done.stdout)
    assert found == {command: [status, []] for command, status in COMMANDS.items()}
    assert (launchers, of_run) == ([], [0, []])
