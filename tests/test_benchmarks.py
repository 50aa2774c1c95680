"""Benchmarks run, on tiny networks."""

import json

import pytest

from benchmarks.gpu import main
from benchmarks.methods import METHODS, random_data, steps_of


@pytest.mark.slow
def test_every_part_of_the_benchmark_of_a_gpu_runs_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--small", "--device", "cpu", "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    names = {name for table in found["tables"] for name in table["figures"]}
    assert {"fused, captured", "hook, both captured", "one product", "one by one over together"} <= names
    assert {table["case"].get("precision") for table in found["tables"]} >= {"no", "tf32", "bf16"}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_steps_on_random_data(method):
    steps_of((2, 3, 8), method, random_data(16))()
