"""Build the wheel and use it as a user does: in an environment of its own, in a folder that is no clone.

    python .ci/wheel.py [FOLDER of the wheel]

Dependencies come from the environment that runs this file. Leaves with the status of the first command that
fails.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("--optim.steps", "4")
COMMANDS: tuple[tuple[str, ...], ...] = (
    (
        "scaled-sgd",
        "train",
        "--data.source",
        "old.csv",
        "--data.target",
        "kind",
        "--run.name",
        "table",
        *SMALL,
    ),
    ("scaled-sgd", "predict", "runs/table", "--data.source", "new.csv", "--out", "predictions.csv"),
    ("scaled-sgd", "study", "list"),
    ("scaled-sgd", "study", "run", "smoke", "--workers", "1", *SMALL),
    ("scaled-sgd", "study", "report", "smoke"),
    ("scaled-sgd", "launch-files", "."),
    ("launch/local.sh", "--run.name", "launched", *SMALL),
    ("env", "COMMAND=doctor", "launch/local.sh"),
)


def main(wheels: Path) -> int:
    """Build and use it; returns the exit status."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT],
        check=True,
    )
    (wheel,) = wheels.glob("scaled_sgd-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        venv.create(place / "venv", symlinks=True)
        found = sysconfig.get_paths(vars={"base": str(place / "venv"), "platbase": str(place / "venv")})
        # A path in such a file is searched for modules; the editable installation there is not followed.
        Path(found["purelib"], "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = str(place / "venv/bin/python")
        # The package may be among these dependencies, which would count as installed here, without commands.
        options = ("--quiet", "--no-deps", "--ignore-installed")
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True
        )
        scripts = place / "venv/bin"
        # The launcher of the environment below, started by the interpreter above it.
        (scripts / "accelerate").write_text(
            f"#!{python}\nfrom accelerate.commands.accelerate_cli import main\nmain()\n"
        )
        (scripts / "accelerate").chmod(0o755)
        work = place / "work"
        work.mkdir()
        (work / "old.csv").write_text("height,weight,kind\n" + "1.5,2,cat\n3,4.5,dog\n" * 20)
        (work / "new.csv").write_text("weight,height\n2,1.5\n")
        search = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "VENV": str(place / "venv")}
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | search
        for command in COMMANDS:
            print(f"$ {' '.join(command)}", flush=True)
            done = subprocess.run(command, cwd=work, env=environment)
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
