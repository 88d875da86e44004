import copy
import io

import pytest
import torch

from kshot_ext.nas.simplex_net import SimplexNet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.supernet import Supernet
from kshot_ext.nas.training import SupernetTrainer
from kshot_ext.nas.training_settings import TrainingSettings

SETTINGS = TrainingSettings(
    epochs=4, batch_size=8, warmup_epochs=1, simplex_every=2, paths_per_simplex_step=2, held_out_share=0.25
)


@pytest.fixture
def make_trainer(tiny_space, tiny_splits, seeded):
    def make(seed=0, settings=SETTINGS, codes=None, space=tiny_space):
        supernet = Supernet(space, 2, seeded(seed))
        simplex_net = SimplexNet(space, 2, seeded(seed + 1), settings=codes)
        return SupernetTrainer(supernet, simplex_net, tiny_splits, settings, seeded(seed + 2))

    return make


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def through_a_file(state):
    """The state as it comes back from a checkpoint, loaded without unpickling code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_reports_each_step_and_epoch(make_trainer):
    trainer, steps = make_trainer(), []
    report = trainer.train_epoch(steps.append)
    assert [(step.step, step.num_steps) for step in steps] == [(number, 4) for number in range(1, 5)]
    assert report.epoch == 1
    assert report.loss == pytest.approx(sum(step.loss for step in steps) / 4)
    assert report.learning_rate == SETTINGS.learning_rate
    assert sum(report.operation_shares.values()) == pytest.approx(1)
    assert sum(report.codes.entry_shares) == pytest.approx(1)


def test_warm_up_keeps_codes_equal_and_later_epochs_part_them(make_trainer):
    trainer = make_trainer()
    start = weights_of(trainer.simplex_net)
    warm_up = trainer.train_epoch()
    assert warm_up.simplex_loss is None
    assert warm_up.codes.distance == 0
    assert equal(start, trainer.simplex_net.state_dict())
    trained = trainer.train_epoch()
    assert trained.simplex_loss is not None
    assert trained.codes.distance > 0


def test_simplex_steps_move_only_the_simplex_net(make_trainer):
    trainer = make_trainer(settings=TrainingSettings(epochs=1, batch_size=8, warmup_epochs=0, simplex_every=1))
    trainer.supernet.train()
    weights = {name: p.detach().clone() for name, p in trainer.supernet.named_parameters()}
    codes = weights_of(trainer.simplex_net)
    trainer._simplex_step(trainer._endless_held_out_batches())
    assert equal(weights, dict(trainer.supernet.named_parameters()))
    assert not equal(codes, trainer.simplex_net.state_dict())
    assert all(p.grad is None and p.requires_grad for p in trainer.supernet.parameters())


def test_dictionary_steps_leave_the_simplex_net_alone(make_trainer, tiny_splits):
    trainer = make_trainer(settings=TrainingSettings(epochs=1, batch_size=8, warmup_epochs=1))
    weights, codes = weights_of(trainer.supernet), weights_of(trainer.simplex_net)
    trainer.train_epoch()
    assert not equal(weights, trainer.supernet.state_dict())
    assert equal(codes, trainer.simplex_net.state_dict())


def test_simplex_steps_use_images_that_dictionary_steps_never_see(make_trainer, tiny_splits):
    trainer = make_trainer()
    held_out = {image.numpy().tobytes() for image in trainer.held_out.images}
    trained_on = {image.numpy().tobytes() for image in trainer.images.images}
    assert len(held_out) == 12
    assert len(trained_on) == 36
    assert held_out.isdisjoint(trained_on)


def test_resumed_training_equals_an_uninterrupted_one(make_trainer):
    whole = make_trainer()
    reports = [whole.train_epoch() for _ in range(4)]
    first = make_trainer()
    for _ in range(2):
        first.train_epoch()
    state = through_a_file(first.state_dict())
    resumed = make_trainer(seed=50)
    resumed.load_state_dict(state)
    assert [resumed.train_epoch() for _ in range(2)] == reports[2:]
    assert resumed.finished
    assert equal(whole.supernet.state_dict(), resumed.supernet.state_dict())
    assert equal(whole.simplex_net.state_dict(), resumed.simplex_net.state_dict())


def test_seed_decides_everything(make_trainer):
    reports = [make_trainer(seed=seed).train_epoch() for seed in (3, 3, 4)]
    assert reports[0] == reports[1] != reports[2]


def test_training_lowers_the_loss(tiny_splits, seeded):
    # Two channels at a high rate explode: whole layers die and batch norm divides by nothing. Tiny batches make each
    # run depend on rounding, so the mean of several runs counts.
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=8)
    settings = TrainingSettings(epochs=40, batch_size=12, warmup_epochs=40, learning_rate=0.02)
    first = last = 0.0
    for seed in (0, 10, 20):
        supernet, simplex_net = Supernet(space, 2, seeded(seed)), SimplexNet(space, 2, seeded(seed + 1))
        trainer = SupernetTrainer(supernet, simplex_net, tiny_splits, settings, seeded(seed + 2))
        losses = [trainer.train_epoch().loss for _ in range(40)]
        first, last = first + sum(losses[:10]), last + sum(losses[-10:])
    assert last < 0.9 * first


def test_misuse_is_refused(make_trainer, tiny_space, tiny_splits, seeded):
    trainer = make_trainer(settings=TrainingSettings(epochs=1, batch_size=8))
    trainer.train_epoch()
    with pytest.raises(RuntimeError, match="finished its 1 epochs"):
        trainer.train_epoch()
    with pytest.raises(ValueError, match=r"batch_size: expected at most the 39 .*got 64"):
        make_trainer(settings=TrainingSettings(epochs=1, batch_size=64))
    with pytest.raises(ValueError, match=r"codes of 2 entries.*got 3"):
        SupernetTrainer(
            copy.deepcopy(trainer.supernet),
            SimplexNet(tiny_space, 3, seeded(0)),
            tiny_splits,
            SETTINGS,
            seeded(0),
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"simplex_learning_rate": -1.0}, "simplex_learning_rate"),
        ({"simplex_every": 0}, "simplex_every"),
        ({"paths_per_simplex_step": 0}, "paths_per_simplex_step"),
        ({"held_out_share": 1.0}, "held_out_share"),
        ({"simplex_rate_at_end": 1.1}, "simplex_rate_at_end"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"path_sampling": "best"}, "path_sampling: expected one of uniform, fair, sandwich, got 'best'"),
    ],
)
def test_rejects_settings_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**changed)
