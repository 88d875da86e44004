"""The measurement of few samples runs, and its bandit is what it says."""

import itertools

import pytest

from benchmarks.methods.fp_nas import bandit, bandit_loss, run
from kshot_ext.nas.spaces.architecture import Architecture


@pytest.mark.usefixtures("one_thread")
def test_the_quick_form_counts_samples():
    found = run([0], quick=True)
    fixed, adaptive = (found["supernets"][arm]["samples"]["mean"] for arm in found["supernets"])
    assert adaptive <= fixed
    assert found["bandits"]["8 samples, joint"]["samples"]["mean"] == 8 * 20
    assert found["bandits"]["adaptive, factorised then joint"]["change at the hand-over"]["mean"] < 1e-6


def test_the_best_bets_by_themselves_do_not_fit():
    loss = {pair: bandit_loss(Architecture(pair[:1], pair[1:])) for pair in itertools.product(range(3), range(2))}
    assert min(loss, key=loss.get) == (1, 1)
    by_operation = [sum(loss[operation, width] for width in range(2)) / 2 for operation in range(3)]
    by_width = [sum(loss[operation, width] for operation in range(3)) / 3 for width in range(2)]
    bets = by_operation.index(min(by_operation)), by_width.index(min(by_width))
    assert loss[bets] > loss[0, 0] > loss[1, 1]


def test_fewer_samples_are_drawn_as_it_grows_sure():
    found = bandit(0, 100, samples=8, adaptive=True, joined_at=0.0)
    assert 2 * 100 <= found["samples"] < 8 * 100
