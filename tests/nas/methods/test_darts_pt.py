"""Selection by perturbation: what is scored, what is decided when, and what trains what."""

from __future__ import annotations

import pytest
import torch

from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.darts_pt import DartsPTSettings
from kshot_ext.nas.networks.calibration import batch_statistics
from kshot_ext.nas.networks.evaluation import Scores, evaluate_network
from kshot_ext.nas.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = TrainingSettings(epochs=4, batch_size=8, held_out_share=0.25)  # 4 epochs of 4 steps


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(**own):
        return begin_training(DartsPTSettings(**own), tiny_space, tiny_splits, TRAINING)

    return make


def test_a_removal_leaves_the_other_weights_as_they_are(begin, tiny_splits):
    """Against a mixture made here, of weights that then sum to less than 1."""
    loop = begin()
    loop.train_epoch()
    method = loop.method
    with torch.no_grad():
        method.relaxation.logits.copy_(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    images = list(batches(loop.held_out, 6, mean=tiny_splits.mean, std=tiny_splits.std))
    method.relaxation.keep_only(1, 0)
    weights = [list(row) for row in method.relaxation.logits.detach().softmax(dim=1)]
    weights[1] = [torch.tensor(1.0), None, None]
    weights[3][2] = torch.tensor(0.0)
    with method.supernet.coded_mixture(weights) as network, batch_statistics(network):
        expected = evaluate_network(network, images)
    found = method.score_without(3, 2, images, loop.do)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.accuracy == pytest.approx(expected.accuracy)
    renormalised = [weight / sum(weights[3]) for weight in weights[3]]
    weights[3] = renormalised
    with method.supernet.coded_mixture(weights) as network, batch_statistics(network):
        assert evaluate_network(network, images).loss != pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize(("criterion", "choice"), [("accuracy", 2), ("loss", 1)])
def test_each_layer_keeps_what_hurts_most_when_removed(begin, criterion, choice):
    """Accuracies 0.6, 0.5, 0.5 and losses 1, 3, 2 without the three operations; the loss breaks the tie."""
    loop = begin(criterion=criterion)
    table = {0: Scores(0.6, 1.0), 1: Scores(0.5, 3.0), 2: Scores(0.5, 2.0)}
    if criterion == "accuracy":
        table[1], table[2] = Scores(0.5, 2.0), Scores(0.5, 3.0)
    loop.method.score_without = lambda layer, operation, images, do: table[operation]
    while not loop.finished:
        loop.train_epoch()
    assert loop.method.found.operations == (choice,) * 8
    assert sorted(decision.layer for decision in loop.method.decisions) == list(range(8))
    assert loop.method.undecided == []
    assert torch.equal(loop.method.relaxation.softmax(), torch.eye(3)[[choice] * 8])


def test_decisions_are_spread_over_the_rest_of_the_training(begin):
    loop = begin(supernet_share=0.5)
    decided = [loop.train_epoch().numbers["decided"] for _ in range(4)]
    assert decided == [0, 0, 4, 8]  # steps 8, 9, ..., 15
    loop = begin(supernet_share=0.9)  # more decisions than steps
    assert [loop.train_epoch().numbers["decided"] for _ in range(4)] == [0, 0, 0, 8]


def test_magnitude_picks_the_largest_logit(begin):
    loop = begin(selection="magnitude", supernet_share=0.75)
    for _ in range(3):
        loop.train_epoch()
    with torch.no_grad():
        loop.method.relaxation.logits.copy_(10 * torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]])
    assert loop.train_epoch().numbers["agreement"] == 1
    assert loop.method.found.operations == (0, 1, 2, 0, 1, 2, 0, 1)


def test_logits_learn_from_held_out_images_and_weights_from_the_others(begin):
    loop = begin(logit_learning_rate=0.1)
    method = loop.method
    seen = {True: 0, False: 0}
    inner = method.mixture_loss

    def watch(weights, images, labels):
        trains_weights = next(method.supernet.parameters()).requires_grad
        assert weights[0][0].requires_grad is not trains_weights
        seen[trains_weights] += 1
        return inner(weights, images, labels)

    method.mixture_loss = watch
    loop.train_epoch()
    assert seen == {True: 4, False: 4}
    assert method.relaxation.logits.abs().min() > 0
    fixed = begin(train_logits=False)
    fixed.train_epoch()
    assert not fixed.method.relaxation.logits.any()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="selection: magnitude needs logits that are trained"):
        DartsPTSettings(selection="magnitude", train_logits=False)
    with pytest.raises(ValueError, match="supernet_share"):
        DartsPTSettings(supernet_share=1.0)
    with pytest.raises(ValueError, match="selection: expected one of perturbation, magnitude"):
        DartsPTSettings(selection="luck")
