import pytest
import torch

from kshot_ext.nas.training.retrain import NetworkTrainer, RetrainSettings

SETTINGS = RetrainSettings(epochs=3, batch_size=8)


@pytest.fixture
def make_trainer(tiny_space, tiny_splits, seeded):
    def make(seed=0, settings=SETTINGS):
        network = tiny_space.build(tiny_space.largest(), seeded(seed))
        return NetworkTrainer(network, tiny_splits, settings, seeded(seed + 1))

    return make


def test_learns_the_stripes(make_trainer):
    trainer = make_trainer(settings=RetrainSettings(epochs=12, batch_size=8))
    first = trainer.train_epoch()
    while not trainer.finished:
        last = trainer.train_epoch()
    assert last.loss < first.loss
    assert trainer.test_accuracy() > 0.8


def test_trains_on_train_and_validation_images_only(make_trainer, tiny_splits):
    images = make_trainer().images
    assert torch.equal(images.images, torch.cat([tiny_splits.train.images, tiny_splits.validation.images]))
    assert torch.equal(images.labels, torch.cat([tiny_splits.train.labels, tiny_splits.validation.labels]))


def test_resumed_training_equals_an_uninterrupted_one(make_trainer):
    whole = make_trainer()
    reports = [whole.train_epoch() for _ in range(3)]
    first = make_trainer()
    first.train_epoch()
    resumed = make_trainer(seed=50)
    resumed.load_state_dict(first.state_dict())
    assert [resumed.train_epoch() for _ in range(2)] == reports[1:]
    weights = whole.network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in resumed.network.state_dict().items())


def test_learning_rate_falls_along_half_a_cosine(make_trainer):
    trainer = make_trainer()
    rates = [trainer.train_epoch().learning_rate for _ in range(3)]
    assert rates == pytest.approx([0.1, 0.1 * 0.75, 0.1 * 0.25])
    assert trainer.schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-9)


def test_too_few_images_for_a_batch(make_trainer):
    with pytest.raises(ValueError, match=r"batch_size: expected at most the 63 .*got 64"):
        make_trainer(settings=RetrainSettings(batch_size=64))
