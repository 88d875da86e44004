import math
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import DataSplits, channel_statistics
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.networks.calibration import recalibrate_batch_norm
from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.networks.evaluation import (
    EvaluationSettings,
    InheritedEvaluation,
    Scores,
    evaluate_architecture,
    evaluate_network,
)
from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nn import KShotBatchNorm2d
from kshot_ext.nn.code import KShotModule
from tests.nas.conftest import striped_images

SPACES = ("nas-bench-macro", "mobilenet-v2-se", "shufflenet-v2", "nas-bench-201")


class Lookup(nn.Module):
    """Logits that make the class win that each image's first pixel names."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()


def test_scores_are_means_over_images_not_batches():
    right, wrong = torch.tensor([0, 1, 2]), torch.tensor([0])
    images = [labels.view(-1, 1, 1, 1).float() for labels in (right, wrong)]
    scores = evaluate_network(Lookup(), [(images[0], right), (images[1], wrong + 1)])
    others = math.log(math.e + 2)  # of the three exponentials one is e, two are 1
    assert scores == Scores(0.75, pytest.approx((3 * (others - 1) + others) / 4))


def test_a_network_that_has_diverged_is_the_worst():
    def diverged(images):
        return torch.full((len(images), 3), math.nan)

    network = Lookup()
    network.forward = diverged
    scores = evaluate_network(network, [(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]))])
    assert scores == Scores(accuracy=0.0, loss=math.inf)
    assert not scores.finite


def test_one_image_without_numbers_spoils_the_loss_and_counts_as_wrong():
    def forward(images):
        return torch.tensor([[math.nan, 0.0, 0.0], [1.0, 0.0, 0.0]])

    network = Lookup()
    network.forward = forward
    assert evaluate_network(network, [(torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]))]) == Scores(0.5, math.inf)


def test_the_scores_are_not_finite_where_a_supernet_has_diverged(tiny_space, tiny_splits, seeded):
    supernet, simplex_net = Supernet(tiny_space, 2, seeded(0)), SimplexNet(tiny_space, 2, seeded(1))
    images = (tiny_splits.train, tiny_splits.validation, tiny_splits.mean, tiny_splits.std)
    evaluation = InheritedEvaluation(CodedSupernet(supernet, simplex_net), *images)
    assert evaluation(tiny_space.cheapest()).finite
    for parameter in supernet.parameters():
        parameter.data.fill_(math.nan)
    assert not evaluation(tiny_space.cheapest()).finite


def test_the_merit_rises_with_what_is_better_and_is_least_without_numbers():
    good, poor, none = Scores(0.9, 0.1), Scores(0.8, 0.5), Scores(1.0, math.inf)
    assert [good.merit("accuracy"), good.merit("loss")] == [0.9, -0.1]
    for score in ("loss", "accuracy"):
        assert good.merit(score) > poor.merit(score) > none.merit(score) == -math.inf


def test_means_are_of_those_with_numbers():
    assert Scores.mean([Scores(0.5, 1.0), Scores(0.0, math.inf), Scores(1.0, 2.0)]) == Scores(0.75, 1.5)
    assert not Scores.mean([Scores(0.0, math.inf)]).finite


def test_evaluation_restores_the_mode():
    network = Lookup().train()
    evaluate_network(network, [(torch.zeros(1, 1, 1, 1), torch.tensor([0]))])
    assert network.training


def test_evaluation_needs_an_image():
    with pytest.raises(ValueError, match="at least one image"):
        evaluate_network(Lookup(), [])


@dataclass
class FixedCode:
    """Networks that all have one code."""

    supernet: Supernet
    code: torch.Tensor

    def network(self, architecture):
        return self.supernet.coded_path(architecture, self.code)


def _supernet(seeded, name, *, widths=None, mixed_batch_norm=True, side=8):
    """A supernet with statistics and scales that no new one has, in training mode but for its stem."""
    space = create_space(name, image_shape=(1, side, side), num_classes=3, channels=4, widths=widths)
    supernet = Supernet(space, 2, seeded(0), perturbation=0.5, mixed_batch_norm=mixed_batch_norm).train()
    supernet.stem.eval()
    for module in supernet.modules():
        if isinstance(module, KShotBatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor += torch.rand(tensor.shape, generator=seeded(1))
    return space, supernet


def _batches(images, splits):
    return list(batches(images, 5, mean=splits.mean, std=splits.std))


def _left_as_it_was(supernet, before):
    state, modes = before
    layers = [module for module in supernet.modules() if isinstance(module, KShotModule)]
    after = supernet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert [module.training for module in supernet.modules()] == modes
    assert all(layer._code is None and not layer._forward_pre_hooks for layer in layers)


def _as_it_is(supernet):
    state = {name: value.clone() for name, value in supernet.state_dict().items()}
    return state, [module.training for module in supernet.modules()]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("widths", "per_layer", "mixed_batch_norm"), [(None, False, True), ((0.5, 1.0), True, False)])
def test_scores_are_those_of_the_network_on_its_own(seeded, tiny_splits, name, widths, per_layer, mixed_batch_norm):
    space, supernet = _supernet(seeded, name, widths=widths, mixed_batch_norm=mixed_batch_norm)
    train, validation = _batches(tiny_splits.train, tiny_splits), _batches(tiny_splits.validation, tiny_splits)
    before = _as_it_is(supernet)
    architecture = space.sample(seeded(3))
    code = torch.rand(space.num_layers, 2, generator=seeded(4))
    code = code / code.sum(dim=1, keepdim=True)
    code = code if per_layer else code[0]
    recalibrated, batchwise = (
        evaluate_architecture(FixedCode(supernet, code), architecture, s, validation) for s in (train, None)
    )
    _left_as_it_was(supernet, before)
    network = extract(supernet, architecture, code)
    network.load_state_dict(recalibrate_batch_norm(network, train), strict=False)
    expected = evaluate_network(network, validation)
    # Both mix and sum in float32, in orders of their own: an error of some 1e-7 in each of dozens of layers.
    assert recalibrated == Scores(expected.accuracy, pytest.approx(expected.loss, rel=1e-4))
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(network.train()(images), labels) for images, labels in validation]
    assert batchwise.loss == pytest.approx(float(sum(losses)) / len(losses), rel=1e-4)


def test_statistics_are_neither_the_supernets_nor_the_same_either_way(seeded, tiny_splits):
    space, supernet = _supernet(seeded, "nas-bench-macro")
    train, validation = _batches(tiny_splits.train, tiny_splits), _batches(tiny_splits.validation, tiny_splits)
    architecture, code = space.largest(), torch.tensor([0.3, 0.7])
    with supernet.coded_path(architecture, code) as path:
        inherited = evaluate_network(path, validation).loss
    losses = [
        inherited,
        *(evaluate_architecture(FixedCode(supernet, code), architecture, s, validation).loss for s in (train, None)),
    ]
    assert all(abs(one - other) > 0.01 for one, other in combinations(losses, 2))


def test_an_error_leaves_the_supernet_as_it_was(seeded, tiny_splits):
    space, supernet = _supernet(seeded, "nas-bench-macro")
    before = _as_it_is(supernet)
    validation = _batches(tiny_splits.validation, tiny_splits)

    def interrupted():
        yield from validation
        raise KeyboardInterrupt

    for statistics, scored in ((interrupted(), validation), (validation, interrupted()), (None, interrupted())):
        with pytest.raises(KeyboardInterrupt):
            evaluate_architecture(FixedCode(supernet, torch.tensor([0.3, 0.7])), space.cheapest(), statistics, scored)
        _left_as_it_was(supernet, before)


@pytest.mark.parametrize(
    ("count", "side", "sizes"), [(15, 8, [15]), (1030, 8, [344, 343, 343]), (130, 128, [44, 43, 43])]
)
def test_batches_of_statistics_are_large_even_and_mixed(seeded, tiny_splits, count, side, sizes):
    space, supernet = _supernet(seeded, "nas-bench-macro", side=side)
    labels = torch.arange(count) * 3 // count  # sorted by class, and each class of one grey
    images = ImageSet(99 * labels.byte().view(-1, 1, 1, 1).expand(-1, 1, side, side), labels)
    seen = []
    supernet.stem.register_forward_pre_hook(lambda stem, inputs: seen.append(inputs[0]))
    simplex_net = SimplexNet(space, 2, seeded(1))
    evaluation = InheritedEvaluation(
        CodedSupernet(supernet, simplex_net), images, images, tiny_splits.mean, tiny_splits.std, statistics="batch"
    )
    evaluation(space.cheapest())
    assert [len(batch) for batch in seen] == sizes
    pixels = (images.images[:, 0, 0, 0] / 255 - tiny_splits.mean) / tiny_splits.std
    torch.testing.assert_close(torch.cat(seen)[:, 0, 0, 0].sort().values, pixels.sort().values)
    means = torch.stack([batch.mean() for batch in seen])
    assert float(means.max() - means.min()) < 0.3 * float(torch.cat(seen).std())


def test_batch_statistics_rank_as_recalibration_does(seeded):
    train, validation = striped_images(384, seed=0), striped_images(384, seed=1)
    splits = DataSplits(train, validation, validation, ("one", "two", "three"), *channel_statistics(train.images))
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4)
    loop = begin_training(KShotSettings(), space, splits, TrainingSettings(epochs=4, batch_size=32), shots=2)
    while not loop.finished:
        loop.train_epoch()
    paths = [space.sample(seeded(seed)) for seed in range(40)]
    losses = {}
    for statistics in ("recalibrated", "batch"):
        evaluation = InheritedEvaluation(
            loop.method.networks, train, validation, splits.mean, splits.std, statistics=statistics
        )
        losses[statistics] = [evaluation(path).loss for path in paths]
    assert kendalltau(*losses.values()).statistic > 0.85


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="score: expected one of loss, accuracy, got 'luck'"):
        EvaluationSettings(score="luck")
    with pytest.raises(ValueError, match="statistics: expected one of recalibrated, batch, got 'running'"):
        EvaluationSettings(statistics="running")
    with pytest.raises(ValueError, match="images: expected at least 2, got 1"):
        EvaluationSettings(images=1)
