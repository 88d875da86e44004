"""The contrastive task, and that no label is there to be read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from kshot_ext.nas.datasets.augmentation import Views
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.methods import METHODS, begin_training
from kshot_ext.nas.methods.csnas import ContrastiveScore, ContrastiveSettings, view_similarities
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation, Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.settings import TrainingSettings

TRAINING = TrainingSettings(epochs=2, batch_size=8, held_out_share=0.25)
SETTINGS = ContrastiveSettings(features=16)


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(settings=SETTINGS, space=tiny_space, splits=tiny_splits, training=TRAINING, **options):
        return begin_training(settings, space, splits, training, **options)

    return make


def loss_by_hand(first, second, temperature):
    """The definition, in plain Python: the mean over both views of all images."""
    views = [row.tolist() for row in (*first, *second)]
    count, losses = len(views), []
    cosine = lambda a, b: sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)  # noqa: E731
    for i, view in enumerate(views):
        partner = (i + count // 2) % count
        powers = {j: math.exp(cosine(view, other) / temperature) for j, other in enumerate(views) if j != i}
        losses.append(-math.log(powers[partner] / sum(powers.values())))
    return sum(losses) / count


def test_the_loss_is_that_of_the_definition(begin, seeded, monkeypatch):
    loop = begin()
    method, features = loop.method, torch.randn(10, 16, generator=seeded(0))
    monkeypatch.setattr(method.supernet, "forward", lambda *_: features)
    method._of_all_processes = lambda rows: rows
    partners = torch.arange(10).roll(5)
    loss, similarities = method.path_loss(method.space.cheapest(), torch.ones(1), torch.zeros(10), partners)
    assert loss.item() == pytest.approx(loss_by_hand(features[:5], features[5:], 0.07), rel=1e-5)
    assert similarities.shape == (10, 10)
    assert similarities.diagonal().tolist() == [-math.inf] * 10


def test_a_part_of_the_batch_is_compared_with_the_whole(seeded):
    """As in several processes: rows of the whole matrix, with the partners where they are in the whole."""
    features = torch.randn(12, 5, generator=seeded(0))
    partners = torch.arange(12).roll(6)
    whole = view_similarities(features, features, partners, 0.5)
    part = torch.tensor([2, 3, 8, 9])
    torch.testing.assert_close(view_similarities(features[part], features, partners[part], 0.5), whole[part])


def test_a_score_is_the_loss_on_the_same_views_for_every_network(tiny_splits, seeded):
    images = tiny_splits.validation.images.float() / 255
    batches = [(images[:8], None), (images[8:], None)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Dropout())
    views = Views()
    score = ContrastiveScore(views, 0.2)
    found = score(network, batches)
    assert found == score(network, batches)
    assert network[2].training
    generator, losses = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for part, _ in batches:
            drawn = [views.draw(len(part), 1, generator) for _ in range(2)]
            first, second = (network[1](network[0](views(part, numbers))) for numbers in drawn)
            losses.append(loss_by_hand(first, second, 0.2) * len(part))
    assert found.loss == pytest.approx(sum(losses) / len(images), rel=1e-5)
    assert 0 <= found.accuracy <= 1


def test_a_network_that_tells_nothing_apart_scores_like_chance(tiny_splits):
    class Constant(nn.Module):
        def forward(self, images):
            return images.new_ones(len(images), 4) / 0 if self.broken else images.new_ones(len(images), 4)

    constant, images = Constant(), tiny_splits.validation.images[:10].float()
    constant.broken = False
    scores = ContrastiveScore(Views(), 0.07)(constant, [(images, None)])
    assert scores.loss == pytest.approx(math.log(19))
    assert scores.accuracy <= 0.1
    constant.broken = True
    scores = ContrastiveScore(Views(), 0.07)(constant, [(images, None)])
    assert not scores.finite
    with pytest.raises(ValueError, match="expected at least one image to score the network on, got none"):
        ContrastiveScore(Views(), 0.07)(constant, [])


def test_training_learns_to_recognise_images(begin, tiny_splits, seeded):
    """Of images that differ: those of one class in the usual ones are much the same."""
    squares = torch.randint(256, (48, 1, 2, 2), generator=seeded(0)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    splits = replace(tiny_splits, train=ImageSet(squares.to(torch.uint8), tiny_splits.train.labels))
    training = TrainingSettings(epochs=16, batch_size=12, held_out_share=0.05, learning_rate=0.05)
    loop = begin(splits=splits, training=training)
    reports = [loop.train_epoch() for _ in range(16)]
    chance = math.log(23)
    assert reports[-1].loss < chance - 0.15
    assert reports[-1].accuracy > 5 / 23


def test_a_step_takes_two_views_of_each_image_in_the_place_of_labels(begin):
    loop, seen = begin(), []
    path_loss = loop.method.path_loss

    def recorded(path, code, images, partners):
        seen.append((images, partners))
        assert loop.method.supernet(images, path, code).shape == (16, 16)  # views, features
        return path_loss(path, code, images, partners)

    loop.method.path_loss = recorded
    loop.train_epoch()
    for images, partners in seen:
        assert partners.tolist() == [*range(8, 16), *range(8)]
        assert not torch.equal(images[:8], images[8:])


def test_its_own_option_says_what_searches(begin, tiny_space, seeded):
    loop = begin(replace(SETTINGS, search="random"))
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, SearchLimits(), seeded(0))
    tools = SelectionTools(archive=archive, settings=SearchSettings(population=2, method="nsga2"), loop=loop)
    assert loop.method.selection(tools).work.settings == replace(tools.settings, method="random")


def test_similarities_are_not_rounded_in_a_low_precision(seeded):
    features, partners = torch.randn(10, 16, generator=seeded(0)), torch.arange(10).roll(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = view_similarities(features, features, partners, 0.07)
    assert torch.equal(found, view_similarities(features, features, partners, 0.07))


def test_labels_are_not_there(begin, tiny_splits):
    """Those that somebody gives make no difference, and a method that reads one fails."""
    other = replace(tiny_splits, train=ImageSet(tiny_splits.train.images, tiny_splits.train.labels.flip(0) * 0))
    one, two = begin(), begin(splits=other)
    assert [one.train_epoch() for _ in range(2)] == [two.train_epoch() for _ in range(2)]
    ours, theirs = one.method.supernet.state_dict(), two.method.supernet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for images in (one.images, one.held_out, one.splits.train, one.splits.validation, one.splits.test):
        assert images.labels.is_meta
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            images.labels.tolist()


def test_a_method_that_reads_labels_it_said_it_needs_not_fails(tiny_space, tiny_splits, monkeypatch):
    monkeypatch.setattr(METHODS["spos"], "needs_labels", False)
    loop = begin_training(METHODS["spos"].Settings(), tiny_space, tiny_splits, TRAINING)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        loop.train_epoch()
    parts = tiny_splits.unlabelled()
    evaluation = InheritedEvaluation(loop.method.networks, parts.train, parts.validation, parts.mean, parts.std)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        evaluation(tiny_space.cheapest())


def test_what_it_cannot_do_is_refused_before_training(begin):
    codes = CodeSettings(start="decision", per_layer=True, free_share_at_start=0.0)
    with pytest.raises(ValueError, match=r"codes.start: expected one that reads no labels, .* got 'decision'"):
        begin(shots=2, codes=codes)
    with pytest.raises(ValueError, match="search: expected one of nsga2, evolution, tpe, random, got 'luck'"):
        ContrastiveSettings(search="luck")
    for options, message in (
        ({"features": 1}, "features: expected at least 2, got 1"),
        ({"temperature": 0.0}, "temperature: expected at least 0.001"),
    ):
        with pytest.raises(ValueError, match=message):
            ContrastiveSettings(**options)
