import dataclasses
import math

import pytest
import torch
from torch import nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.divergence import DivergedError, check_path_losses, check_weights
from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=2, batch_size=8, warmup_epochs=0, held_out_share=0.25)
STEPS = 4  # 36 of 48 images, by 8


@pytest.fixture
def trainer(make_loop):
    return make_loop(SETTINGS, simplex_every=2)


def _spoil(module):
    for parameter in module.parameters():
        parameter.data.fill_(math.nan)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_the_path_and_its_code_are_named(loss):
    paths = [Architecture((0, 1)), Architecture((2, 10), widths=(1,))]
    codes = [torch.tensor([1.0, 0.0]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])]
    check_path_losses([1.0, 2.0], paths, codes)
    message = rf"path 2a 1 under the code \[0\.25, 0\.75; 0\.5, 0\.5\] is {loss}"
    with pytest.raises(DivergedError, match=message):
        check_path_losses([1.0, loss], paths, codes)


def test_weights_and_norm_statistics_are_looked_at_and_other_buffers_are_not():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network.register_buffer("mask", torch.full((2,), -math.inf))  # as attention has
    check_weights({"network": network})
    network[1].running_var[1] = math.inf
    with pytest.raises(DivergedError, match=r"network\.1\.running_var is no longer finite"):
        check_weights({"network": network})
    network[0].bias.data[0] = math.nan
    with pytest.raises(DivergedError, match=r"network\.0\.bias is no longer finite"):
        check_weights({"network": network})


def test_a_supernet_that_diverges_stops_at_the_step_that_shows_it(trainer):
    trainer.train_epoch()
    steps = []

    def spoil_after_two(report):
        steps.append(report.step)
        if len(steps) == 2:
            _spoil(trainer.method.supernet)

    message = rf"epoch 2, step 3 of {STEPS}: the loss of path [012]{{8}} under the code \[.+, .+\] is nan"
    with pytest.raises(DivergedError, match=message) as caught:
        trainer.train_epoch(spoil_after_two)
    assert "lower learning_rate (0.1), lower clip_norm (5), or raise rise_steps (0)" in str(caught.value)
    assert steps == [1, 2]
    assert trainer.epoch == 1


def test_weights_that_the_last_step_spoils_do_not_make_an_epoch(trainer):
    def spoil_at_last(report):
        if report.step == STEPS:
            next(trainer.method.simplex_net.parameters()).data[0] = math.nan

    with pytest.raises(DivergedError, match=rf"epoch 1, step {STEPS} of {STEPS}: simplex_net\..* no longer finite"):
        trainer.train_epoch(spoil_at_last)
    assert trainer.epoch == 0


def test_a_simplex_step_names_its_path_too(trainer):
    training = trainer.method.simplex_training
    before = [parameter.clone() for parameter in training.simplex_net.parameters()]
    _spoil(trainer.method.supernet)
    with pytest.raises(DivergedError, match=r"the loss of path [012]{8} under the code \[.+, .+\] is nan"):
        training.step(trainer.do.held_out(), trainer.gradient_steps, trainer.processes)
    assert all(torch.equal(old, new) for old, new in zip(before, training.simplex_net.parameters()))


def test_an_absurd_learning_rate_is_an_error_and_no_result(make_loop):
    settings = dataclasses.replace(SETTINGS, learning_rate=1e12, clip_norm=0.0, epochs=8)
    trainer = make_loop(settings)
    with pytest.raises(DivergedError, match=r"set clip_norm \(0: no limit\)"):
        [trainer.train_epoch() for _ in range(settings.epochs)]


def test_a_network_that_diverges_stops(tiny_space, tiny_splits, seeded):
    network = tiny_space.build(tiny_space.cheapest(), seeded(0))
    trainer = NetworkTrainer(network, tiny_splits, RetrainSettings(epochs=2, batch_size=8), seeded(1))
    with pytest.raises(DivergedError, match=r"epoch 1, step 2 of 7: the loss is nan; to mend that"):
        trainer.train_epoch(lambda report: _spoil(network))
    assert trainer.epoch == 0
