"""Python programs whose interpreters are copies of one that has imported everything: they start at once.

A program, the interpreters that it starts and those that these start are real processes: each has the
parent, group, variables, working folder, files and signals that ``fork`` and ``exec`` would give it. Only the
start of an interpreter and its imports are left out, which take longer than all else in most tests of
launchers. The scripts of ``launch/``, ``make train`` and ``test_start_up.py`` start interpreters as users do.
"""

import _posixsubprocess
import atexit
import concurrent.futures.thread
import contextlib
import gc
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, process, resource_tracker, util
from pathlib import Path
from typing import Any, NoReturn

from tests.copies import context, ready
from tests.launching import CPU, PATIENCE, environment


class Program:
    """``python`` with these arguments, in a session of its own; used like a ``Popen``.

    Args:
        variables: besides those of :func:`~tests.launching.environment`.

    Attributes:
        stdout: the file to which it writes; by default one of its own.
        stderr: likewise.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        stdout: Path | None = None,
        stderr: Path | None = None,
        **variables: str,
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="program-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.stdout, self.stderr = stdout or folder / "stdout", stderr or folder / "stderr"
        ready()
        self._process = context.Process(
            target=_begin, args=(arguments, cwd, environment() | variables, self.stdout, self.stderr)
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has written, once it has ended."""
        self.wait(timeout)
        return self.stdout.read_text(), self.stderr.read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def finished(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """A program that has run to its end, its output as text."""
    program = Program(*arguments, cwd=cwd)
    try:
        output, errors = program.communicate(PATIENCE)
    finally:
        program.kill()
    return subprocess.CompletedProcess([sys.executable, *arguments], program.wait(), output, errors)


def launch(
    processes: int, *arguments: str, cwd: Path, options: tuple[str, ...] = ("--config_file", str(CPU))
) -> "subprocess.CompletedProcess[str]":
    """The finished process of ``accelerate launch`` of ``scaled_sgd.train`` with so many ranks."""
    launcher = ("-m", "accelerate.commands.launch", *options, "--num_processes", str(processes))
    return finished(*launcher, "-m", "scaled_sgd.train", *arguments, cwd=cwd)


def _begin(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path
) -> NoReturn:
    os.setsid()
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # Both modules of the standard library that start interpreters call it.
    _posixsubprocess.fork_exec = subprocess._fork_exec = _start
    _interpret(arguments)


_exec = _posixsubprocess.fork_exec
(_MAIN,) = (kind for kind in process.BaseProcess.__subclasses__() if kind.__name__ == "_MainProcess")


def _start(
    command: Sequence[Any], executables: Any, close_fds: bool, keep: Sequence[int], cwd: Any, env: Any,
    p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
    told_read: int, told_write: int, restore_signals: bool, new_session: bool, *others: Any,
) -> int:  # fmt: skip
    """``_posixsubprocess.fork_exec`` that copies this process where it would start another interpreter."""
    words = [os.fsdecode(word) for word in command]
    own = words[0] == sys.executable and not any("resource_tracker" in word for word in words)
    if not own or (pid := os.fork()) != 0:
        return pid if own else _exec(
            command, executables, close_fds, keep, cwd, env, p2cread, p2cwrite, c2pread, c2pwrite, errread,
            errwrite, told_read, told_write, restore_signals, new_session, *others,
        )  # fmt: skip
    try:
        _as_after_exec()
        if new_session:
            os.setsid()
        streams = (p2cread, c2pwrite, errwrite)
        # Above those that they replace, whatever their order.
        above = [-1 if fd == -1 else os.dup(fd) for fd in streams]
        for number, fd in enumerate(above):
            if fd != -1:
                os.dup2(fd, number)
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(entry.decode(errors="surrogateescape").split("=", 1) for entry in env)
        kept = {int(fd) for fd in keep} - {told_write}
        for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in kept:
                with contextlib.suppress(OSError):
                    os.close(fd)
        _interpret(words[1:])
    finally:
        traceback.print_exc()
        os._exit(1)


def _as_after_exec() -> None:
    """Forget what the parent has open, has started or is told: nothing of it is this process's."""
    # Its garbage would close files that have new owners here.
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    concurrent.futures.thread._threads_queues.clear()
    process._children.clear()
    process._current_process, process._parent_process = _MAIN(), None
    util._finalizer_registry.clear()
    util._run_after_forkers()
    tracker, server = resource_tracker._resource_tracker, forkserver._forkserver
    tracker._fd = tracker._pid = None
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
    subprocess._active.clear()


def _interpret(words: Sequence[str]) -> NoReturn:
    """What ``python`` does with these words, to the end of this process."""
    flag = next(i for i, word in enumerate(words) if word in ("-m", "-c"))
    what, arguments = words[flag + 1], words[flag + 2 :]
    run = _module if words[flag] == "-m" else _code
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    sys.path.insert(0, os.getcwd())
    status = _status(lambda: run(what, arguments))
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _module(name: str, arguments: Sequence[str]) -> None:
    sys.argv = ["-m", *arguments]
    if not hasattr(sys.modules.get(name), "__path__"):
        # It would warn that it is there already.
        sys.modules.pop(name, None)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _code(text: str, arguments: Sequence[str]) -> None:
    sys.argv = ["-c", *arguments]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(text, "<string>", "exec"), main.__dict__)


def _status(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
