import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from scaled_sgd.runs.checkpoint.dtypes import DTYPES
from scaled_sgd.runs.checkpoint.files import write_file, write_tensors


def test_files_are_what_the_library_reads(tmp_path):
    g = torch.Generator().manual_seed(0)
    tensors = {str(dtype): torch.randint(0, 2, (3, 5), generator=g).to(dtype) for dtype in DTYPES.values()}
    tensors |= {"scalar": torch.tensor(0.1), "empty": torch.zeros(4, 0), "text é": torch.ones(1)}
    facts = write_tensors(tmp_path / "x.safetensors", tensors)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert (facts.size, facts.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for key, t in tensors.items():
        assert read[key].dtype == t.dtype
        assert read[key].shape == t.shape
        assert torch.equal(read[key], t)


def test_views_are_written_as_the_numbers_they_show(tmp_path):
    base = torch.arange(24.0).reshape(4, 6).requires_grad_()
    views = {"rows": base[1:3], "columns": base[:, 2], "turned": base.T, "again": base[1:3]}
    write_tensors(tmp_path / "x.safetensors", views)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[key], view) for key, view in views.items())


def test_numbers_keep_their_bits(tmp_path):
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324, 0.1], dtype=torch.float64)
    write_tensors(tmp_path / "x.safetensors", {"odd": odd})
    read = load_file(tmp_path / "x.safetensors")["odd"]
    assert torch.equal(read.view(torch.int64), odd.view(torch.int64))


def test_a_file_without_tensors_is_a_file(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert list(file.keys()) == []


def test_a_file_is_never_written_over_and_the_error_names_it(tmp_path):
    write_file(tmp_path / "x", [b"first"])
    with pytest.raises(FileExistsError) as error:
        write_file(tmp_path / "x", [b"second"])
    assert error.value.filename == str(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"first"
