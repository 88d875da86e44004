"""A K-shot training that begins from the warm-up of one copy is the one that does the warm-up itself."""

import dataclasses

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.warm_up import copied_warm_up

SETTINGS = TrainingSettings(
    epochs=3, batch_size=8, warmup_epochs=1, held_out_share=0.25,
    rise_steps=2, learning_rate=0.002, average_decay=0.9,
)  # fmt: skip
CODES = CodeSettings(start="count", perturbation=0.0, free_share_at_start=0.0, free_share=0.6)


@pytest.fixture
def make_trainer(make_loop):
    def make(shots, settings=SETTINGS, codes=CODES):
        return make_loop(settings, shots=shots, codes=codes, simplex_every=2, paths_per_simplex_step=2)

    return make


def warm(state, loop):
    return copied_warm_up(state, loop, loop.method.coded)


@pytest.mark.parametrize("settings", [SETTINGS, dataclasses.replace(SETTINGS, average_decay=0.0)], ids=["average", ""])
def test_it_goes_on_as_if_it_had_done_the_warm_up(make_trainer, settings):
    one, whole, forked = make_trainer(1, settings), make_trainer(3, settings), make_trainer(3, settings)
    one.train_epoch()
    forked.load_state_dict(warm(one.state_dict(), forked))
    whole.train_epoch()
    assert forked.epoch == 1
    for name, weight in whole.method.supernet.state_dict().items():
        torch.testing.assert_close(forked.method.supernet.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    ours, theirs = forked.train_epoch(), whole.train_epoch()
    assert ours.learning_rate == theirs.learning_rate
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
    distance = ours.numbers["code_distance"]
    assert distance == pytest.approx(theirs.numbers["code_distance"], rel=1e-3)
    assert distance > 0.05
    assert ours.operation_shares == theirs.operation_shares  # the same paths
    forked.train_epoch(), whole.train_epoch()
    assert forked.finished
    for name, weight in whole.method.supernet.state_dict().items():
        torch.testing.assert_close(forked.method.supernet.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


def test_one_copy_goes_on_to_the_same_bits(make_trainer):
    one, forked = make_trainer(1), make_trainer(1)
    one.train_epoch()
    forked.load_state_dict(warm(one.state_dict(), forked))
    assert [forked.train_epoch().loss, forked.train_epoch().loss] == [one.train_epoch().loss, one.train_epoch().loss]


def test_refuses_what_is_no_warm_up_of_one_copy(make_trainer):
    one, two = make_trainer(1), make_trainer(2)
    with pytest.raises(ValueError, match="expected the state after 1 epochs of warm-up, got 0"):
        warm(one.state_dict(), make_trainer(2))
    one.train_epoch(), two.train_epoch()
    with pytest.raises(ValueError, match="expected a warm-up with one copy, got 2"):
        warm(two.state_dict(), make_trainer(4))
    with pytest.raises(ValueError, match=r"codes\.perturbation: expected 0"):
        warm(one.state_dict(), make_trainer(2, codes=dataclasses.replace(CODES, perturbation=0.1)))
