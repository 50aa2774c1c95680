"""Predicted against measured bytes: resident memory and connections of real gloo processes."""

import os
import sys

import pytest

from benchmarks.measuring import ENVIRONMENT, Work, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc and TCP_INFO"),
]

QUADRATIC = ("--model.depth=7", "--model.base_width=56", "--optim.batch_size=64", "--optim.momentum=0.9")
EVEN = (
    "--model.depth=6",
    "--model.base_width=800",
    "--model.width_exponent=0",
    "--optim.batch_size=1500",
    "--model.activation=abs",
)


@pytest.mark.parametrize(
    ("options", "processes", "strategies"),
    [
        (QUADRATIC, 2, ("ddp", "ddp+fused", "fsdp2", "fsdp2+fused", "tensor")),
        (EVEN, 4, ("fsdp2+tensor",)),
        (QUADRATIC, 2, ("zero3",)),
    ],
)
def test_peaks_and_traffic_are_predicted_to_a_tenth(options, processes, strategies, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setitem(os.environ, name, value)
    work = Work(options, processes, steps=2)
    for name, measured in run(strategies, work).items():
        planned = work.planned(name, measured.exchange)
        ratios = planned.peak_bytes / measured.peak, planned.traffic.sent / measured.sent
        print(f"{name} on {processes}: peak {ratios[0]:.3f}, sent {ratios[1]:.3f}")
        assert planned.peak_bytes == pytest.approx(measured.peak, rel=0.1), name
        assert planned.traffic.sent == pytest.approx(measured.sent, rel=0.02), name
