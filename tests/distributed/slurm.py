"""A real Slurm of two nodes on this machine's loopback address, in a folder of its own."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from tests.launching import PATIENCE, free_ports, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "srun", "squeue")

_CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
ReturnToService=2
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        return f"{missing[0]} is not installed; on Debian: apt-get install slurm-wlm munge"
    return None


def find(program: str) -> str | None:
    """Where a program is, daemons' folders included."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class LoopbackCluster:
    """Munge, a controller and nodes n1 and n2, from entering to leaving the context.

    Args:
        folder: for configuration, state and logs; short, since a socket lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "LoopbackCluster":
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = dict(zip(("controller", "first", "second"), free_ports(3), strict=True))
        host = socket.gethostname().split(".")[0]
        text = _CONFIGURATION.format(folder=self.folder, host=host, **ports)
        (self.folder / "slurm.conf").write_text(text)
        names = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        files = [f"--{option}={self.folder}/munge.{name}" for option, name in names.items()]
        self._start("munged", "--foreground", "--force", *files)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        self._wait(lambda: self.run("sinfo", "-h", "-o", "%t %D", check=False) == "idle 2", "slurm")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if len(self._daemons) == 4:
            self.run("scancel", "--user=root", check=False)
            self._wait(lambda: self.run("squeue", "-h", check=False) == "", "the queue to empty")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *command: str, check: bool = True) -> str:
        """The output of a command that talks to the cluster."""
        finished = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert finished.returncode == 0 or not check, finished.stderr
        return finished.stdout.strip()

    def submit(self, script: Path, *arguments: str, cwd: Path, variables: Mapping[str, str]) -> str:
        """The id of the job of ``script``, whose output goes to ``<id>.log`` in ``cwd``."""
        command = ["sbatch", "--parsable", f"--output={cwd}/%j.log", str(script), *arguments]
        environment = dict(variables) | self.environment
        finished = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    def start_again(self, job: str) -> None:
        """Start a requeued job without the two minutes that Slurm waits by itself.

        Not at once: a node refuses what was submitted in the second in which it ended the job, and Slurm
        then calls the job FAILED.
        """
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+5")

    def state(self, job: str) -> str:
        """Slurm's word for how the job is, such as PENDING."""
        found = re.search(r"JobState=(\S+)", self.run("scontrol", "--oneliner", "show", "job", job))
        assert found is not None
        return found[1]

    def end(self, job: str, *, seconds: float = PATIENCE) -> str:
        """The state in which the job ended."""
        running = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
        wait_until(lambda: self.state(job) not in running, seconds=seconds, what=f"job {job} to end")
        return self.state(job)

    def _start(self, program: str, *arguments: str) -> None:
        path = find(program)
        assert path is not None, program
        with open(self.folder / f"{program}-output.log", "ab") as output:
            daemon = subprocess.Popen(
                [path, *arguments],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        wait_until(reached, what=f"{what}; see the logs in {self.folder}")
