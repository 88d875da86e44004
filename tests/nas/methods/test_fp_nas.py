"""Importance-weighted samples of a distribution: shares, gradients, samples, hand-over, costs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.fp_nas import FPNASSettings, path_shares
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = TrainingSettings(epochs=4, batch_size=8, held_out_share=0.25, label_smoothing=0.0, clip_norm=0.0)


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(space=tiny_space, training=TRAINING, **own):
        return begin_training(FPNASSettings(**own), space, tiny_splits, training)

    return make


def test_shares_are_those_of_likelihoods():
    losses = [0.5, 0.7, 1.5]
    likelihoods = [math.exp(-8 * loss) for loss in losses]
    expected = [likelihood / sum(likelihoods) for likelihood in likelihoods]
    assert path_shares(losses, 8.0) == pytest.approx(expected)
    assert path_shares([1000.0, 1001.0], 8.0)[0] == pytest.approx(1 / (1 + math.exp(-8)))
    assert path_shares(losses, 0.0) == pytest.approx([1 / 3] * 3)


def test_the_gradient_of_weights_is_that_of_the_log_of_the_mean_likelihood(begin, tiny_splits):
    """Of -log (1/K) sum_k exp(-m loss_k), differentiated by autograd in one graph; ours is m times smaller."""
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 3
    loop = begin(counted_images=4.0, weights_only=1.0)
    method = loop.method
    paths = method.distribution.sample(3, torch.Generator().manual_seed(1))
    code = torch.ones(1)
    losses = torch.stack([F.cross_entropy(method.supernet(images, path, code), labels) for path in paths])
    (losses.mul(-4).logsumexp(dim=0) / -4).backward()
    expected = {name: p.grad.clone() for name, p in method.supernet.named_parameters() if p.grad is not None}
    method.supernet.zero_grad()
    found = {}

    def keep(optimizer, **options):
        found.update({name: p.grad.clone() for name, p in method.supernet.named_parameters() if p.grad is not None})
        optimizer.zero_grad()

    loop.do.apply = keep
    method.train_paths(paths, images, labels, loop.do)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_the_gradient_of_logits_by_hand(begin, tiny_space):
    """sum_k (v_k - b c_k) (onehot(a_k) - P), for a target that two of the three paths exceed."""
    macs = [tiny_space.count_macs(path) for path in (tiny_space.cheapest(), tiny_space.largest())]
    loop = begin(target=str(macs[0]), cost_weight=0.5, counted_images=2.0)
    method = loop.method
    middle = tiny_space.cheapest().with_operation(7, 2)
    paths = [tiny_space.cheapest(), tiny_space.largest(), middle]
    excess = [0, macs[1] / macs[0] - 1, tiny_space.count_macs(middle) / macs[0] - 1]
    method._losses = lambda *call: [1.0, 0.5, 0.25]
    likelihoods = [math.exp(-2 * loss) for loss in (1.0, 0.5, 0.25)]
    worth = [v / sum(likelihoods) - 0.5 * c / sum(excess) for v, c in zip(likelihoods, excess)]
    expected = torch.zeros(8, 3)
    for path, value in zip(paths, worth):
        expected -= value * (F.one_hot(torch.tensor(path.operations), 3) - 1 / 3)
    found = []
    loop.do.apply = lambda optimizer, **options: found.append(method.distribution.factors.grad.clone())
    method._move_distribution(paths, loop.do)
    torch.testing.assert_close(found[0].view(8, 3), expected)
    assert method._excess_shares([tiny_space.cheapest()] * 2) == [0, 0]  # none beyond: the term is off


def test_samples_follow_the_entropy(begin):
    method = begin(samples_per_nat=1.0, most_samples=8).method
    assert method.num_samples == 8  # of 8 log 3 = 8.8
    method.distribution.factors.data.view(8, 3)[:4, 0] = 50.0
    assert method.num_samples == 4  # of 4 log 3 = 4.4
    method.distribution.factors.data.view(8, 3)[:, 0] = 50.0
    assert method.num_samples == 2
    assert begin(samples=5).method.num_samples == 5


def test_an_epoch_tells_how_many_samples_its_own_steps_drew(begin):
    loop = begin(samples_per_nat=1.0, most_samples=4, weights_only=1.0)
    assert loop.train_epoch().numbers["samples"] == 4
    loop.method.distribution.factors.data.view(8, 3)[:, 0] = 50.0
    assert loop.train_epoch().numbers["samples"] == 2


def test_it_joins_once_and_finds_what_explains_the_images(begin):
    loop = begin(weights_only=0.25, factorised=0.5, samples_per_nat=0.5)
    joint, moved = [], []
    for _ in range(4):
        report = loop.train_epoch()
        joint.append(bool(loop.method.distribution.is_joint))
        moved.append(bool(loop.method.distribution.factors.any()))
        assert report.numbers["samples"] >= 2
    assert joint == [False, False, True, True]
    assert moved == [False, True, True, True]
    assert loop.method.distribution.own.abs().max() > 0
    assert loop.method.found == loop.method.distribution.most_probable()
    assert report.numbers["entropy"] < 8 * math.log(3)


def test_the_distribution_leaves_costly_paths(begin, tiny_space):
    mean = {}
    for target in (None, "20%"):
        training = TrainingSettings(epochs=6, batch_size=8, held_out_share=0.25)
        loop = begin(training=training, target=target, cost_weight=4.0, weights_only=0.0, learning_rate=0.3, samples=8)
        while not loop.finished:
            numbers = loop.train_epoch().numbers
        mean[target] = numbers["mean_macs"]
    assert mean["20%"] < 0.8 * mean[None]


def test_beyond_the_limits_the_most_probable_one_within_them_is_found(begin, tiny_space):
    loop = begin()
    with torch.no_grad():
        factors = loop.method.distribution.factors.view(8, 3)
        factors.normal_(std=0.5, generator=torch.Generator().manual_seed(0))[:, 2] += 3
    limits = SearchLimits(tiny_space.count_macs(tiny_space.largest()) - 1)
    archive = Archive(lambda path: Scores(0.0, 1.0), tiny_space, limits)
    stage = loop.method.selection(SelectionTools(archive=archive, settings=SearchSettings(), loop=loop))
    stage.step(lambda position: None)
    rows = [row.softmax(dim=0).tolist() for row in factors.detach()]
    everything = {path: math.prod(map(list.__getitem__, rows, path)) for path in itertools.product(range(3), repeat=8)}
    ordered = sorted(everything, key=everything.get, reverse=True)
    assert ordered[0] == tiny_space.largest().operations
    [found] = loop.method.selected(stage).architectures
    assert found.operations == next(path for path in ordered if limits.admit(tiny_space, Architecture(path)))


def test_targets_out_of_reach_are_refused(begin, tiny_space):
    least = tiny_space.count_macs(tiny_space.cheapest())
    with pytest.raises(ValueError, match=rf"target: no architecture .* at most 10 .*; the cheapest has {least:,}"):
        begin(target="10")
    with pytest.raises(ValueError, match="target: expected multiply-accumulates"):
        FPNASSettings(target="much")


def test_a_target_is_text_or_a_number_as_a_budget_is(tmp_path):
    for written, target in (('"1.5M"', "1.5M"), ("1500000", 1500000), ("1.5e6", 1.5e6)):
        (tmp_path / "settings.toml").write_text(f'[method]\nname = "fp-nas"\ntarget = {written}\n')
        settings = gather_settings(RunSettings(), tmp_path / "settings.toml", {})
        assert settings.method.target == target
        assert Budget.parse(settings.method.target).amount == 1_500_000


@pytest.mark.parametrize("name", ["weights_only", "factorised"])
def test_shares_of_the_training_go_up_to_all_of_it(name):
    assert getattr(FPNASSettings(**{name: 1.0}), name) == 1
    with pytest.raises(ValueError, match=f"{name}: expected at most 1, got 1.1"):
        FPNASSettings(**{name: 1.1})


def test_a_step_of_copies_under_codes(tiny_splits):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
    with pytest.warns(UserWarning, match="one-shot"):
        loop = begin_training(FPNASSettings(), space, tiny_splits, TRAINING, shots=2)
    assert loop.train_epoch().loss > 0
    assert len(loop.method.found.widths) == 8
