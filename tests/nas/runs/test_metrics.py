from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kshot_ext.nas.runs.metrics import MetricsLog


def _open(folder: Path) -> MetricsLog:
    return MetricsLog(folder / "metrics.jsonl", folder / "tensorboard")


def _scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Folder of a run that was killed in the second stage, while it wrote a line."""
    log = _open(tmp_path)
    log.begin_stage("train", 0)
    log.record("train", 1, {"loss": 2.0})
    log.record("train", 2, {"loss": 1.0})
    log.begin_stage("search", 0)
    log.record("search", 1, {"best": 0.5})
    log.record("search", 2, {"best": 0.75})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "search", "st')
    return tmp_path


def test_every_record_is_a_line_and_a_tensorboard_scalar(tmp_path: Path) -> None:
    log = _open(tmp_path)
    log.begin_stage("train", 0)
    log.record("train", 1, {"loss": 2.0})
    log.record("train", 2, {"loss": 1.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"stage": "train", "step": 1, "loss": 2.0}', '{"stage": "train", "step": 2, "loss": 1.0}']
    assert _scalars(tmp_path, "train/loss") == [(1, 2.0), (2, 1.0)]


def test_a_torn_line_and_steps_without_checkpoint_are_forgotten(stopped: Path) -> None:
    log = _open(stopped)
    log.begin_stage("train", 2)
    log.begin_stage("search", 1)
    log.record("search", 2, {"best": 0.875})
    log.close()
    assert (stopped / "metrics.jsonl").read_text().splitlines() == [
        '{"stage": "train", "step": 1, "loss": 2.0}',
        '{"stage": "train", "step": 2, "loss": 1.0}',
        '{"stage": "search", "step": 1, "best": 0.5}',
        '{"stage": "search", "step": 2, "best": 0.875}',
    ]
    assert _scalars(stopped, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert _scalars(stopped, "search/best") == [(1, 0.5), (2, 0.875)]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    log = _open(tmp_path)
    log.begin_stage("train", 0)
    log.record("train", 1, {"loss": math.nan, "rate": math.inf, "accuracy": 0.5})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = {"stage": "train", "step": 1, "loss": None, "rate": None, "accuracy": 0.5}
    assert json.loads(line, parse_constant=refuse) == record
    assert _scalars(tmp_path, "train/accuracy") == [(1, 0.5)]
    again = _open(tmp_path)
    again.begin_stage("train", 1)
    again.close()
    assert again.records == log.records == [record]
