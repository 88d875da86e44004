import math

import pytest
import torch
from torch import nn

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.networks.calibration import recalibrate_batch_norm
from kshot_ext.nas.networks.evaluation import Scores, SupernetEvaluation, evaluate_architecture, evaluate_network
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet


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


def test_a_search_sees_no_accuracy_where_a_supernet_has_diverged(tiny_space, tiny_splits, seeded):
    supernet, simplex_net = Supernet(tiny_space, 2, seeded(0)), SimplexNet(tiny_space, 2, seeded(1))
    images = (tiny_splits.train, tiny_splits.validation, tiny_splits.mean, tiny_splits.std)
    evaluation = SupernetEvaluation(supernet, simplex_net, *images)
    assert 0 <= evaluation(tiny_space.cheapest()) <= 1
    for parameter in supernet.parameters():
        parameter.data.fill_(math.nan)
    assert math.isnan(evaluation(tiny_space.cheapest()))


def test_evaluation_restores_the_mode():
    network = Lookup().train()
    evaluate_network(network, [(torch.zeros(1, 1, 1, 1), torch.tensor([0]))])
    assert network.training


def test_evaluation_needs_an_image():
    with pytest.raises(ValueError, match="at least one image"):
        evaluate_network(Lookup(), [])


def test_architecture_is_scored_with_its_own_statistics(tiny_space, tiny_splits, seeded):
    supernet = Supernet(tiny_space, 2, seeded(0))
    architecture, code = tiny_space.largest(), torch.tensor([0.3, 0.7])
    train, validation = (
        list(batches(images, 16, mean=tiny_splits.mean, std=tiny_splits.std))
        for images in (tiny_splits.train, tiny_splits.validation)
    )
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    scores = evaluate_architecture(supernet, architecture, code, train, validation)
    assert all(torch.equal(supernet.state_dict()[name], value) for name, value in before.items())
    path = supernet.path(architecture)
    plain = tiny_space.build(architecture, seeded(1))
    weights = {name: torch.tensordot(code, value, dims=1) for name, value in path.named_parameters()}
    plain.load_state_dict({name: value.detach() for name, value in weights.items()}, strict=False)
    plain.load_state_dict(recalibrate_batch_norm(plain, train), strict=False)
    expected = evaluate_network(plain, validation)
    # Both sides mix and sum in float32, in orders that versions of torch choose: an error of some 1e-7 in each of a
    # dozen layers. The loss with the supernet's own statistics, where those of the path belong, is far beyond that.
    assert scores.accuracy == expected.accuracy
    assert scores.loss == pytest.approx(expected.loss, rel=1e-5)
    plain.load_state_dict({name: value for name, value in path.state_dict().items() if "running" in name}, strict=False)
    assert evaluate_network(plain, validation).loss != pytest.approx(expected.loss, rel=1e-2)
