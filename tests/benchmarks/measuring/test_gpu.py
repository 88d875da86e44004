"""What a report says of the GPU, on a stand-in for one."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from benchmarks.measuring import gpu

PROPERTIES = SimpleNamespace(
    name="A GPU",
    major=9,
    minor=0,
    total_memory=80,
    L2_cache_size=50,
    multi_processor_count=132,
    uuid="12-34",
    clock_rate=1980,
)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: PROPERTIES)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def tool(folder, body):
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_all_is_json_and_said(stand_in):
    tool(stand_in, 'test "$1" = --id=GPU-12-34 && echo "580.1, 1755 MHz, 700.00 W"')
    found = json.loads(json.dumps(gpu.description()))
    assert (found["name"], found["capability"], found["l2_cache_bytes"]) == ("A GPU", "9.0", 50)
    assert (found["driver"], found["clock_now"], found["power_limit"]) == ("580.1", "1755 MHz", "700.00 W")
    assert (found["highest_clock_khz"], found["memory_bus_bits"]) == (1980, None)


@pytest.mark.parametrize("body", ["exit 9", None])
def test_without_an_answer_of_the_driver(stand_in, body, monkeypatch):
    if body:
        tool(stand_in, body)
    else:
        monkeypatch.setenv("PATH", str(stand_in))
    assert gpu.description()["driver"] is None
