"""A program goes on when nobody reads what it says."""

import os
import sys

import pytest

from scaled_sgd.parallel.streams import prepare_streams


@pytest.fixture
def prepared(monkeypatch):
    """Prepares standard output and error that lead to two descriptors."""
    opened = []

    def prepare(out, err, encoding="utf-8"):
        for name, descriptor in (("stdout", out), ("stderr", err)):
            opened.append(None if descriptor is None else os.fdopen(descriptor, "w", encoding=encoding))
            monkeypatch.setattr(sys, name, opened[-1])
        prepare_streams()

    yield prepare
    for stream in filter(None, opened):
        stream.close()


def pipe_without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full():
    return os.open("/dev/full", os.O_WRONLY)


def test_a_closed_pipe_drops_what_is_written(prepared):
    prepared(pipe_without_reader(), pipe_without_reader())
    for stream in (sys.stdout, sys.stderr):
        print("lost", file=stream, flush=True)


def test_a_full_disk_is_an_error_of_standard_output_once_and_never_of_standard_error(prepared):
    prepared(full(), full())
    print("lost", file=sys.stderr, flush=True)
    with pytest.raises(OSError, match="No space left"):
        print("lost", flush=True)
    print("lost", flush=True)


def test_closed_streams_lead_nowhere(prepared):
    prepared(None, None)
    for stream in (sys.stdout, sys.stderr):
        print("lost", file=stream, flush=True)
        assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))


def test_what_a_terminal_cannot_show_is_written_as_escapes(prepared):
    reader, writer = os.pipe()
    prepared(writer, pipe_without_reader(), encoding="ascii")
    print("64 × 10 \udcff", flush=True)
    assert os.read(reader, 100) == b"64 \\xd7 10 \\udcff\n"
