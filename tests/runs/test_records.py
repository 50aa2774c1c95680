import errno
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from scaled_sgd.core.errors import UserError
from scaled_sgd.runs.records import MetricsStream, read_metrics, versions, write_atomically
from scaled_sgd.runs.revision import git_revision

WRITER = """
import sys
from pathlib import Path
from scaled_sgd.runs.records import MetricsStream
stream = MetricsStream(Path(sys.argv[1]))
row = 0
while True:
    stream.write({"row": row, "scales": [0.1] * 50})
    row += 1
    if row == 200:
        print("ready", flush=True)
"""


@pytest.mark.slow
def test_every_written_row_survives_a_kill(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "ready\n"
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rows = [row["row"] for row in read_metrics(path)]
    assert rows == list(range(len(rows)))
    assert len(rows) >= 200


def test_a_half_written_last_line_is_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":0}\n{"step":1}\n{"st')
    assert [row["step"] for row in read_metrics(path)] == [0, 1]


def test_rows_that_wait_for_room_are_no_end_of_a_run(tmp_path, monkeypatch, capfd):
    stream = MetricsStream(tmp_path / "metrics.jsonl")
    write = os.write

    def fail(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    stream.write({"row": 0})
    with pytest.raises(OSError, match="No space left"):
        stream.flush()
    monkeypatch.setattr(os, "write", write)
    stream.flush()
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == [{"row": 0}]
    assert capfd.readouterr().err.count("rows wait until they can") == 1


def test_numbers_that_json_lacks_become_null(tmp_path):
    stream = MetricsStream(tmp_path / "metrics.jsonl")
    stream.write({"loss": math.nan, "scales": [1.0, math.inf], "taylor": {"c0": -math.inf}})
    stream.close()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row == {"loss": None, "scales": [1.0, None], "taylor": {"c0": None}}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["summary.json"]
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none/summary.json", "new")
    assert caught.value.filename == str(tmp_path / "none/summary.json")


def test_a_missing_metrics_file_is_named(tmp_path):
    with pytest.raises(UserError, match="metrics: cannot read"):
        list(read_metrics(tmp_path / "none.jsonl"))


def test_versions_name_what_decides_the_numbers():
    assert versions()["torch"]
    assert set(versions()) >= {"scaled-sgd", "torch", "numpy"}


def test_outside_git_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() is None


def test_rows_wait_for_a_disk_with_room_and_are_never_left_in_half(tmp_path, monkeypatch, capsys):
    stream, write, full = MetricsStream(tmp_path / "metrics.jsonl"), os.write, [True]

    def half(descriptor, lines):
        if not full[0]:
            return write(descriptor, lines)
        if len(lines) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, lines[: len(lines) // 2])

    monkeypatch.setattr(os, "write", half)
    for row in range(3):
        stream.write({"row": row})
        assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    full[0] = False
    stream.write({"row": 3})
    assert [row["row"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("warning: metrics: cannot be written: No space left on device") == 1
