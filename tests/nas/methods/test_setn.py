"""The evaluator learns apart from the weights, and its candidates are what is scored."""

from dataclasses import replace
from math import prod

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.parts.operation_distribution import OperationDistribution
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.methods.setn import EvaluatorSearcher, TemplateSettings
from kshot_ext.nas.methods.spos import SinglePathSettings
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.spaces.staged_space import Stage, StagedSpace
from kshot_ext.nas.training.settings import TrainingSettings

TRAINING = TrainingSettings(epochs=2, batch_size=8, held_out_share=0.25)


class Noise(nn.Module):
    """Drowns what it gets."""

    def forward(self, input):
        return input + 10 * torch.randn_like(input)


class SomeAreNoise(StagedSpace):
    """Three layers, each with one operation that keeps its input and one that drowns it."""

    def __init__(self, operations=("noise", "keep"), layers=3, channels=4):
        stages = [Stage(channels, layers, 1)]
        super().__init__(
            "some-are-noise",
            image_shape=(1, 8, 8),
            num_classes=3,
            operations=operations,
            stem_channels=channels,
            stages=stages,
        )

    def stem(self, shape):
        return nn.Conv2d(1, shape, 3, padding=1)

    def candidate(self, operation, shape):
        return Noise() if operation == "noise" else nn.Identity()

    def head(self, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape * 64, 3))


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(settings=None, space=tiny_space, training=TRAINING, **options):
        return begin_training(settings or TemplateSettings(), space, tiny_splits, training, **options)

    return make


def values_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def all_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.filterwarnings("ignore:this training will end")
@pytest.mark.parametrize("shots", [1, 2])
def test_each_step_moves_its_own_part_only(begin, shots):
    loop = begin(shots=shots)
    method = loop.method
    weights, logits = values_of(method.supernet), values_of(method.evaluator)
    loop.do.begin_epoch(0)
    method.train_evaluator(*next(loop.do.held_out()), loop.do)
    assert all_equal(weights, values_of(method.supernet))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in method.supernet.parameters())
    moved = values_of(method.evaluator)
    assert not all_equal(logits, moved)
    images, labels = next(iter(loop.random_batches(loop.images, torch.Generator().manual_seed(0))))
    method.train_paths([method.space.largest()], images, labels, loop.do)
    assert all_equal(moved, values_of(method.evaluator))
    assert not all_equal(weights, values_of(method.supernet))


def test_weights_are_trained_as_without_an_evaluator(begin):
    """By uniform paths, the same ones on the same batches: nothing of the evaluator reaches them."""
    template, plain = begin(), begin(SinglePathSettings())
    for _ in range(2):
        assert template.train_epoch().loss == plain.train_epoch().loss
    assert all_equal(values_of(template.method.supernet), values_of(plain.method.supernet))


@pytest.mark.filterwarnings("ignore:this training will end")
def test_the_evaluators_gradient_is_that_of_the_mixtures_loss(begin, monkeypatch):
    loop = begin(shots=2, codes=CodeSettings())
    method, seen = loop.method, []
    method.supernet.double().eval()  # each image by itself: no batch statistics whose kinks finite differences meet
    method.evaluator.double()
    with torch.no_grad():
        for logits in method.evaluator.logits:
            logits.normal_(generator=torch.Generator().manual_seed(1))
    images, labels = next(loop.do.held_out())
    images = images.double()
    apply = method.optimizers["evaluator"]
    monkeypatch.setattr(loop.do, "apply", lambda optimizer: seen.append(optimizer))
    value = method.train_evaluator(images, labels, loop.do)
    assert seen == [apply]

    @torch.no_grad()
    def loss():
        weights = [list(logits.softmax(0)) for logits in method.evaluator.logits]
        with method.supernet.coded_mixture(weights, torch.tensor([0.5, 0.5]).double()) as mixture:
            return F.cross_entropy(mixture(images), labels).item()

    assert value == pytest.approx(loss(), rel=1e-9)
    for logits, choice in [(method.evaluator.logits[0], 1), (method.evaluator.logits[5], 2)]:
        found = logits.grad[choice].item()
        step, ends = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                logits[choice] += sign * step
                ends.append(loss())
                logits[choice] -= sign * step
        assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-9)


def test_probability_moves_to_what_lowers_the_held_out_loss(tiny_splits):
    space = SomeAreNoise()
    training = TrainingSettings(epochs=12, batch_size=8, learning_rate=0.02, held_out_share=0.25)
    loop = begin_training(TemplateSettings(evaluator_learning_rate=0.05), space, tiny_splits, training)
    while not loop.finished:
        numbers = loop.train_epoch().numbers
    assert numbers["evaluator_keep"] > 0.75
    assert numbers["evaluator_noise"] == pytest.approx(1 - numbers["evaluator_keep"])
    assert numbers["evaluator_entropy"] < 0.6
    archive = Archive(lambda a: Scores(0.0, 1.0), space, SearchLimits(), torch.Generator().manual_seed(0))
    drawn = [loop.method.evaluator.sample(archive.generator).operations for _ in range(200)]
    assert sum(map(sum, drawn)) / 600 == pytest.approx(numbers["evaluator_keep"], abs=0.07)


@pytest.fixture
def evaluator(tiny_space, seeded):
    """Prefers costly operations by far."""
    evaluator = OperationDistribution(tiny_space, seeded(0), spread=0.1)
    with torch.no_grad():
        for logits in evaluator.logits:
            logits[2] += 3
    return evaluator


@pytest.mark.parametrize("selection", ["sampled", "likeliest"])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_candidates_meet_the_limits_and_are_new(evaluator, tiny_space, seeded, selection, share):
    limits = SearchLimits(int(share * tiny_space.count_macs(tiny_space.largest())))
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, limits, seeded(1))
    searcher, asked = EvaluatorSearcher(evaluator, selection), []
    for _ in range(3):
        asked += searcher.ask(archive, 10)
        archive.evaluate(asked)
    assert len(set(asked)) == 30
    assert all(limits.admit(tiny_space, one) for one in asked)


def test_the_likeliest_candidates_are_those_of_highest_probability_within_the_limits(evaluator, tiny_space, seeded):
    limits = SearchLimits(tiny_space.count_macs(tiny_space.largest()) // 2)
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, limits, seeded(1))
    asked = EvaluatorSearcher(evaluator, "likeliest").ask(archive, 5)
    everything = [Architecture(tuple(int(d) for d in _in_base_three(number))) for number in range(3**8)]
    legal = [one for one in everything if limits.admit(tiny_space, one)]
    rows = [row.tolist() for row in evaluator.probabilities()]
    best = sorted(legal, key=lambda one: -prod(map(list.__getitem__, rows, one.operations)))[:5]
    assert set(asked) == set(best)


def _in_base_three(number):
    return [number // 3**place % 3 for place in range(8)]


def test_drawn_candidates_follow_the_evaluator_and_not_chance(evaluator, tiny_space, seeded):
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, SearchLimits(), seeded(1))
    asked = EvaluatorSearcher(evaluator, "sampled").ask(archive, 40)
    share = sum(one.operations.count(2) for one in asked) / (8 * 40)
    assert share > 0.75  # by chance a third
    assert sum(one.operations.count(2) for one in archive.random(40)) / (8 * 40) < 0.45


def test_only_what_the_evaluator_proposes_is_scored_from_the_first_generation_on(begin, tiny_space, seeded):
    loop = begin()
    with torch.no_grad():
        for logits in loop.method.evaluator.logits:
            logits[:] = torch.tensor([-30.0, 0.0, 0.0])  # never an identity
    archive = Archive(lambda a: Scores(0.0, float(sum(a.operations))), tiny_space, SearchLimits(), seeded(1))
    settings = SearchSettings(population=5, generations=3)
    stage = loop.method.selection(SelectionTools(archive=archive, settings=settings, loop=loop))
    while stage.done < stage.total:
        stage.step(lambda position: None)
    assert len(archive) == 15
    assert all(0 not in result.architecture.operations for result in archive.history)
    [selected] = loop.method.selected(stage).architectures
    assert sum(selected.operations) == min(sum(result.architecture.operations) for result in archive.history)


def test_what_limits_forbid_is_drawn_anew_and_not_changed_at_random(tiny_space, seeded):
    """So candidates have the evaluator's probabilities among those within the limits."""
    evaluator = OperationDistribution(tiny_space, seeded(0), spread=0.0)
    with torch.no_grad():
        for logits in evaluator.logits:
            logits[1] = -30.0  # a change at random would bring it in
    limits = SearchLimits(tiny_space.count_macs(tiny_space.largest()) // 2)
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, limits, seeded(1))
    asked = EvaluatorSearcher(evaluator, "sampled").ask(archive, 30)
    assert len(asked) == 30
    assert all(1 not in one.operations for one in asked)


def test_each_mixture_has_widths_that_are_drawn(begin, tiny_splits, monkeypatch):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
    loop, seen = begin(space=space), []
    coded_mixture = loop.method.supernet.coded_mixture

    def recorded(*arguments, widths):
        seen.append(widths)
        return coded_mixture(*arguments, widths=widths)

    monkeypatch.setattr(loop.method.supernet, "coded_mixture", recorded)
    loop.train_epoch()
    assert len(set(seen)) == len(seen) == loop.steps_per_epoch
    assert {width for widths in seen for width in widths} == {0, 1}


def test_an_epoch_tells_the_mean_loss_of_its_own_steps(begin):
    loop, losses = begin(), []
    train = loop.method.train_evaluator
    loop.method.train_evaluator = lambda *call: losses.append(train(*call)) or losses[-1]
    for _ in range(2):
        losses.clear()
        numbers = loop.train_epoch().numbers
        assert numbers["evaluator_loss"] == pytest.approx(sum(losses) / len(losses))


def test_the_settings_are_those_of_the_optimiser(begin):
    settings = TemplateSettings(evaluator_learning_rate=0.1, evaluator_weight_decay=0.2)
    [group] = begin(settings).method.optimizers["evaluator"].param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.1, 0.2, (0.5, 0.999))


def test_nothing_new_ends_the_list(seeded):
    space = SomeAreNoise()
    archive = Archive(lambda a: Scores(0.0, 1.0), space, SearchLimits(), seeded(1))
    for selection in ("sampled", "likeliest"):
        searcher = EvaluatorSearcher(OperationDistribution(space, seeded(0), 0.0), selection)
        archive.evaluate(searcher.ask(archive, 20))
        assert len(archive) == 8
        assert searcher.ask(archive, 20) == []


def test_what_it_cannot_do_is_refused_before_training(begin, tiny_splits):
    with pytest.raises(ValueError, match=r"method setn: expected a space of two or more architectures, got some-are-n"):
        begin(space=SomeAreNoise(operations=("keep",)))
    few = ImageSet(tiny_splits.train.images[:16], tiny_splits.train.labels[:16])
    with pytest.raises(ValueError, match=r"held_out_share: expected at least 2 of the 16 training images .* got 0"):
        begin_training(
            TemplateSettings(),
            SomeAreNoise(),
            replace(tiny_splits, train=few),
            replace(TRAINING, held_out_share=0.05),
        )
    for options, message in (
        ({"selection": "best"}, "selection: expected one of sampled, likeliest, got 'best'"),
        ({"evaluator_learning_rate": -1.0}, "evaluator_learning_rate: expected at least 0"),
        ({"evaluator_weight_decay": -1.0}, "evaluator_weight_decay: expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TemplateSettings(**options)
