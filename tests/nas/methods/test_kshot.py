import copy
import dataclasses
import io
import math

import pytest
import torch

from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.supernet import path_loss
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_objectives import BalanceAlone, MeanLoss
from kshot_ext.nn import KShotConv2d

SETTINGS = TrainingSettings(epochs=4, batch_size=8, warmup_epochs=1, held_out_share=0.25)
SIMPLEX = {"simplex_every": 2, "paths_per_simplex_step": 2}


@pytest.fixture
def make_trainer(make_loop):
    return lambda seed=0, settings=SETTINGS, **options: make_loop(settings, seed=seed, **SIMPLEX | options)


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


def test_the_learning_rate_of_the_copies_rises_as_settings_say(make_trainer):
    trainer = make_trainer(settings=dataclasses.replace(SETTINGS, rise_steps=9))
    assert trainer.train_epoch().learning_rate == pytest.approx(SETTINGS.learning_rate / 10)
    factor = trainer.settings.learning_rate_factor(trainer.steps_per_epoch, SETTINGS.epochs * trainer.steps_per_epoch)
    assert trainer.train_epoch().learning_rate == pytest.approx(SETTINGS.learning_rate * factor)
    assert 0.1 < factor < 0.5


def test_reports_each_step_and_epoch(make_trainer):
    trainer, steps = make_trainer(), []
    report = trainer.train_epoch(steps.append)
    assert [(step.step, step.num_steps) for step in steps] == [(number, 4) for number in range(1, 5)]
    assert report.epoch == 1
    assert report.loss == pytest.approx(sum(step.loss for step in steps) / 4)
    assert report.learning_rate == SETTINGS.learning_rate
    assert sum(report.operation_shares.values()) == pytest.approx(1)
    assert sum(report.numbers[f"entry_share_{k}"] for k in (1, 2)) == pytest.approx(1)


def test_warm_up_keeps_codes_equal_and_later_epochs_part_them(make_trainer):
    trainer = make_trainer()
    start = weights_of(trainer.method.simplex_net)
    warm_up = trainer.train_epoch()
    assert "simplex_loss" not in warm_up.numbers
    assert warm_up.numbers["code_distance"] == 0
    assert equal(start, trainer.method.simplex_net.state_dict())
    trained = trainer.train_epoch()
    assert "simplex_loss" in trained.numbers
    assert trained.numbers["code_distance"] > 0


def test_dictionary_steps_leave_the_simplex_net_alone(make_trainer, tiny_splits):
    trainer = make_trainer()
    weights, codes = weights_of(trainer.method.supernet), weights_of(trainer.method.simplex_net)
    trainer.train_epoch()
    assert not equal(weights, trainer.method.supernet.state_dict())
    assert equal(codes, trainer.method.simplex_net.state_dict())


def test_simplex_steps_use_images_that_dictionary_steps_never_see(make_trainer, tiny_splits):
    trainer = make_trainer()
    held_out = {image.numpy().tobytes() for image in trainer.held_out.images}
    trained_on = {image.numpy().tobytes() for image in trainer.images.images}
    assert len(held_out) == 12
    assert len(trained_on) == 36
    assert held_out.isdisjoint(trained_on)


def test_codes_stay_fixed_for_the_first_epochs_and_their_free_share_grows(make_trainer):
    codes = CodeSettings(
        start="cost", spread=2.0, fixed_epochs=1, free_share_at_start=0.0, free_share=0.5, temperature_at_start=4.0
    )
    trainer = make_trainer(codes=codes, simplex_objective="loss")
    start = {name: p.detach().clone() for name, p in trainer.method.simplex_net.named_parameters()}
    reports = [trainer.train_epoch()]
    assert reports[0].numbers["code_distance"] == 0
    assert float(trainer.method.simplex_net.temperature) == 4
    reports.append(trainer.train_epoch())
    assert equal(start, dict(trainer.method.simplex_net.named_parameters()))
    assert float(trainer.method.simplex_net.free_share) == pytest.approx(0.5 / 3)
    reports += [trainer.train_epoch(), trainer.train_epoch()]
    assert not equal(start, dict(trainer.method.simplex_net.named_parameters()))
    assert ["simplex_loss" not in report.numbers for report in reports] == [True, True, False, False]
    assert (float(trainer.method.simplex_net.free_share), float(trainer.method.simplex_net.temperature)) == (0.5, 1.0)
    distances = [report.numbers["code_distance"] for report in reports]
    assert distances == sorted(distances)
    assert distances[1] > 0


def test_where_no_objective_is_named_codes_that_start_equal_get_the_loss_and_others_what_costs_nothing(make_trainer):
    few = dataclasses.replace(SETTINGS, held_out_share=0.02)  # no image at all
    assert isinstance(make_trainer().method.simplex_training.objective, MeanLoss)
    with pytest.raises(ValueError, match="held_out_share: expected at least 2"):
        make_trainer(settings=few)
    trainer = make_trainer(settings=few, codes=CodeSettings(start="cost", spread=1.0))
    assert isinstance(trainer.method.simplex_training.objective, BalanceAlone)
    start = weights_of(trainer.method.simplex_net)
    reports = [trainer.train_epoch() for _ in range(2)]
    assert not any("simplex_loss" in report.numbers for report in reports)
    assert not equal(start, weights_of(trainer.method.simplex_net))  # the penalties are there all the same
    with pytest.raises(ValueError, match="held_out_share: expected at least 2"):
        make_trainer(settings=few, codes=CodeSettings(start="cost", spread=1.0), simplex_objective="loss")


def test_warm_up_has_equal_codes_whatever_the_simplex_net_says(make_trainer):
    trainer, codes = make_trainer(codes=CodeSettings(start="cost", spread=3.0)), []
    forward = trainer.method.supernet.forward
    trainer.method.supernet.forward = lambda images, path, code: codes.append(code) or forward(images, path, code)
    trainer.train_epoch()
    assert torch.equal(torch.stack(codes), torch.full((len(codes), 2), 0.5))
    codes.clear()
    trainer.train_epoch()
    assert not torch.allclose(codes[0], torch.full((2,), 0.5))


def test_simplex_steps_are_counted_over_the_whole_training(make_trainer):
    """Four dictionary steps an epoch, the first epoch without: after steps 5, 10, 15."""
    reports = [trainer.train_epoch() for trainer in [make_trainer(simplex_every=5)] for _ in range(4)]
    assert ["simplex_loss" not in report.numbers for report in reports] == [True, False, False, False]
    rarely = make_trainer(simplex_every=16)
    assert [rarely.train_epoch().numbers.get("simplex_loss") is None for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_the_gradient_is_clipped_as_that_of_the_mixed_weight(make_trainer, tiny_splits, clip_norm):
    trainer = make_trainer(settings=dataclasses.replace(SETTINGS, clip_norm=clip_norm, weight_decay=0.0))
    images = (tiny_splits.train.images[:8].float() / 255, tiny_splits.train.labels[:8])
    trainer.method.train_paths([trainer.method.space.largest()], *images, trainer.do)
    gradient = torch.cat([state["momentum_buffer"].flatten() for state in trainer.optimizer.state.values()])
    if clip_norm:
        assert float(gradient.norm()) == pytest.approx(clip_norm / math.sqrt(2), rel=1e-4)
    else:
        assert float(gradient.norm()) > 0.1


@pytest.mark.parametrize(("sampling", "count"), [("uniform", 1), ("fair", 3), ("sandwich", 4)])
def test_a_step_adds_up_the_gradients_of_its_paths(make_trainer, tiny_splits, monkeypatch, sampling, count):
    settings = dataclasses.replace(SETTINGS, path_sampling=sampling, clip_norm=0.0, weight_decay=0.0)
    trainer, drawn = make_trainer(settings=settings), []
    images, labels = tiny_splits.train.images[:8].float() / 255, tiny_splits.train.labels[:8]
    step = trainer.method.train_paths
    monkeypatch.setattr(trainer.method, "train_paths", lambda paths, *_: drawn.append(paths) or pytest.fail("drawn"))
    with pytest.raises(pytest.fail.Exception):
        trainer.train_epoch()
    assert len(drawn[0]) == count
    expected = copy.deepcopy(trainer.method.supernet).eval()
    for path in drawn[0]:
        path_loss(expected, path, torch.full((2,), 0.5), images, labels, settings.label_smoothing)[0].backward()
    trainer.method.supernet.eval()  # so that batch norm keeps no trace of the order
    step(drawn[0], images, labels, trainer.do)
    for (name, parameter), other in zip(trainer.method.supernet.named_parameters(), expected.parameters()):
        found = trainer.optimizer.state[parameter].get("momentum_buffer")
        assert (found is None) == (other.grad is None), name
        if found is not None:
            torch.testing.assert_close(found, other.grad, rtol=1e-4, atol=1e-6)


def test_the_average_of_all_steps_is_what_training_ends_with(make_trainer):
    settings = dataclasses.replace(SETTINGS, average_decay=0.9)
    trainer, plain = make_trainer(settings=settings), make_trainer()
    modules = torch.nn.ModuleList([plain.method.supernet, plain.method.simplex_net])
    average = [p.detach().clone() for p in modules.parameters()]

    def follow(_):
        average_steps.append(None)
        kept = min(0.9, (1 + len(average_steps)) / (10 + len(average_steps)))
        for mean, parameter in zip(average, modules.parameters()):
            mean.lerp_(parameter.detach(), 1 - kept)

    average_steps = []
    for epoch in range(4):
        plain.train_epoch(follow)
        trainer.train_epoch()
        ours = torch.nn.ModuleList([trainer.method.supernet, trainer.method.simplex_net])
        if epoch < 3:
            assert equal(plain.method.supernet.state_dict(), trainer.method.supernet.state_dict())
            assert equal(plain.method.simplex_net.state_dict(), trainer.method.simplex_net.state_dict())
        with trainer.averaged():
            for mean, parameter in zip(average, ours.parameters()):
                torch.testing.assert_close(parameter.detach(), mean, rtol=1e-4, atol=1e-5)
    assert not equal(plain.method.supernet.state_dict(), trainer.method.supernet.state_dict())


def test_mixed_precision_trains_float32_weights(make_trainer):
    trainer, dtypes = make_trainer(settings=dataclasses.replace(SETTINGS, precision="bfloat16")), []
    first = next(m for m in trainer.method.supernet.modules() if isinstance(m, KShotConv2d))
    first.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    reports = [trainer.train_epoch() for _ in range(2)]
    assert set(dtypes) == {torch.bfloat16}
    assert {p.dtype for p in trainer.method.supernet.parameters()} == {torch.float32}
    assert all(math.isfinite(report.loss) for report in reports)
    assert "simplex_loss" in reports[1].numbers
    with pytest.raises(ValueError, match="float16 needs a CUDA device"):
        make_trainer(settings=dataclasses.replace(SETTINGS, precision="float16"))


def test_weights_decay_as_the_mixed_weight_does_and_others_do_not(make_trainer):
    decays = {True: [2e-3, 2e-3], False: [2e-3, 0.0]}
    for decay_norms, expected in decays.items():
        settings = dataclasses.replace(SETTINGS, weight_decay=4e-3, decay_norms=decay_norms)
        groups = make_trainer(settings=settings).optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == expected


EVERYTHING = (
    dataclasses.replace(SETTINGS, path_sampling="fair", average_decay=0.9, precision="bfloat16"),
    CodeSettings(per_layer=True, start="cost", spread=1.0, free_share_at_start=0.0, temperature_at_start=2.0),
    {"simplex_rate_at_end": 0.1},
)


OBJECTIVES = {
    name: (SETTINGS, CodeSettings(start="cost", spread=1.0), {"simplex_objective": name, "simplex_every": 1})
    for name in ("relative", "ranking", "agreement", "balance")
}


@pytest.mark.parametrize(
    ("settings", "codes", "simplex"),
    [(SETTINGS, None, {}), EVERYTHING, *OBJECTIVES.values()],
    ids=["default", "everything", *OBJECTIVES],
)
def test_resumed_training_equals_an_uninterrupted_one(make_trainer, settings, codes, simplex):
    whole = make_trainer(settings=settings, codes=codes, **simplex)
    for _ in range(2):
        whole.train_epoch()
    state = through_a_file(whole.state_dict())
    resumed = make_trainer(seed=50, settings=settings, codes=codes, **simplex)
    resumed.load_state_dict(state)
    assert [resumed.train_epoch() for _ in range(2)] == [whole.train_epoch() for _ in range(2)]
    assert resumed.finished
    assert equal(whole.method.supernet.state_dict(), resumed.method.supernet.state_dict())
    assert equal(whole.method.simplex_net.state_dict(), resumed.method.simplex_net.state_dict())


def test_seed_decides_everything(make_trainer):
    reports = [make_trainer(seed=seed).train_epoch() for seed in (3, 3, 4)]
    assert reports[0] == reports[1] != reports[2]


def test_a_seed_draws_the_same_paths_and_batches_for_every_number_of_shots_and_form_of_codes(make_trainer):
    """Else a comparison of K with one copy would also compare two random orders."""

    def drawn(num_shots, codes=None, **simplex):
        trainer, seen = make_trainer(shots=num_shots, codes=codes, **simplex), []
        step = trainer.method.train_paths
        trainer.method.train_paths = lambda paths, images, labels, do: (
            seen.append((paths, images.sum().item(), labels.tolist())) or step(paths, images, labels, do)
        )
        reports = [trainer.train_epoch() for _ in range(3)]
        return seen, ["simplex_loss" not in report.numbers for report in reports]

    one, without_steps = drawn(1)
    assert without_steps == [True, True, True]  # one copy has one code, and nothing to train
    many, without_steps = drawn(
        3,
        CodeSettings(per_layer=True, start="cost", spread=1.0),
        simplex_objective="loss",
        simplex_every=1,
        paths_per_simplex_step=3,
    )
    assert without_steps == [True, False, False]
    assert one == many
    assert len(one) == 12


@pytest.mark.filterwarnings("ignore:this training will end with a one-shot supernet")
def test_training_lowers_the_loss(make_trainer):
    # Two channels at a high rate explode: whole layers die and batch norm divides by nothing. Tiny batches make each
    # run depend on rounding, so the mean of several runs counts: single ones ended at 0.64 to 0.77 of where they began.
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=8)
    settings = TrainingSettings(epochs=40, batch_size=12, warmup_epochs=40, learning_rate=0.1)
    first = last = 0.0
    for seed in (0, 10, 20):
        trainer = make_trainer(seed, settings, space=space)
        losses = [trainer.train_epoch().loss for _ in range(40)]
        first, last = first + sum(losses[:10]), last + sum(losses[-10:])
    assert last < 0.9 * first


def test_misuse_is_refused(make_trainer):
    trainer = make_trainer(settings=TrainingSettings(epochs=1, batch_size=8))
    trainer.train_epoch()
    with pytest.raises(RuntimeError, match="finished its 1 epochs"):
        trainer.train_epoch()
    with pytest.raises(ValueError, match=r"batch_size: expected at most the 39 .*got 64"):
        make_trainer(settings=TrainingSettings(epochs=1, batch_size=64))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"simplex_learning_rate": -1.0}, "simplex_learning_rate"),
        ({"simplex_every": 0}, "simplex_every"),
        ({"paths_per_simplex_step": 0}, "paths_per_simplex_step"),
        (
            {"simplex_objective": "ranking", "paths_per_simplex_step": 1},
            "paths_per_simplex_step: expected at least 2, since the simplex_objective 'ranking' compares paths, got 1",
        ),
        ({"simplex_objective": "tau"}, "expected one of loss, relative, ranking, agreement, balance, got 'tau'"),
        ({"simplex_rate_at_end": 1.1}, "simplex_rate_at_end"),
    ],
)
def test_rejects_settings_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        KShotSettings(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"held_out_share": 1.0}, "held_out_share"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"path_sampling": "best"}, "path_sampling: expected one of uniform, fair, sandwich, got 'best'"),
    ],
)
def test_rejects_settings_of_training_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**changed)


def test_too_few_held_out_images_are_refused_before_training(make_trainer):
    """None at all would be waited for without end; of one, batch norm has no variance."""
    for share, count in ((0.02, 0), (0.03, 1)):
        with pytest.raises(ValueError, match=rf"held_out_share: expected at least 2 of the 48 .* got {count} by"):
            make_trainer(settings=dataclasses.replace(SETTINGS, held_out_share=share))
    make_trainer(settings=dataclasses.replace(SETTINGS, held_out_share=0.02), simplex_every=1000)
