"""Every kind of work, on its smallest rows: the forms agree, and a whole row can be measured."""

import pytest
import torch

from benchmarks.check import available
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.measure import Settings, measure
from benchmarks.works import WORKS

SMALL = LayerSet(
    "small",
    batch=3,
    num_shots=2,
    convolutions=[
        ConvLayer("dense", 6, 10, 1, 5),
        ConvLayer("strided", 3, 4, 3, 7, stride=2),
        ConvLayer("depthwise", 8, 8, 5, 6, groups=8),
    ],
)


@pytest.fixture(autouse=True)
def _one_thread():
    """Shapes this small gain nothing from threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("work", list(WORKS))
def test_forms_agree_and_are_measured(work):
    for row in WORKS[work].rows(SMALL):
        result = measure(work, "small", row, Settings(pairs=2, compiled=False, memory=False))
        assert result.name == row.name
        assert result.ours.seconds > 0
        assert set(result.rivals) == set(row.contest().rivals)


def test_per_sample_and_shared_codes_meet_pytorch_in_all_forms():
    for work, count in (("shared_code", 8), ("per_sample_code", 8)):
        contest = available(WORKS[work].rows(SMALL)[0].contest(), compiled=True)
        assert len(contest.rivals["pytorch"]) == count
