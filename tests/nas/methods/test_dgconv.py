"""Gates that learn the groups of a network's convolutions."""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.dgconv import DynamicGroupSettings
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nn import ChannelPermutation, DynamicGroupConv2d, KShotBatchNorm2d
from kshot_ext.nn.code import set_code

TRAINING = TrainingSettings(epochs=5, batch_size=8, warmup_epochs=0, held_out_share=0.25)
SPACE = create_space("groupable", image_shape=(1, 8, 8), num_classes=3, channels=4)


def begin(tiny_splits, training=TRAINING, **options):
    return begin_training(DynamicGroupSettings(**options), SPACE, tiny_splits, training)


def gates_of(method):
    return torch.stack([layer.group_gates.detach().clone() for layer in method.layers])


def test_gates_stand_still_at_first_and_at_last(tiny_splits):
    """Of 5 epochs, 2 and 1."""
    loop = begin(tiny_splits, weights_first=0.4, weights_last=0.2)
    seen = [gates_of(loop.method)]
    for _ in range(5):
        loop.train_epoch()
        seen.append(gates_of(loop.method))
    assert torch.equal(seen[0], torch.full((6, 2), 0.1))
    assert torch.equal(seen[1], seen[0])
    assert torch.equal(seen[2], seen[0])
    assert not torch.equal(seen[3], seen[2])
    opened = loop.method.state_dict()["opened"]
    assert torch.equal(seen[5], opened / (2 * loop.steps_per_epoch) - 0.5)


def test_an_average_of_the_weights_leaves_gates_as_they_were_settled(tiny_splits):
    """The average of a gate that opened and closed may have the other sign."""
    loop = begin(tiny_splits, replace(TRAINING, average_decay=0.99), weights_first=0.2, weights_last=0.05)
    while not loop.finished:
        loop.train_epoch()
    opened = loop.method.state_dict()["opened"]
    num_trained = 5 * loop.steps_per_epoch - loop.steps_per_epoch - 1
    assert torch.equal(gates_of(loop.method), opened / num_trained - 0.5)


@pytest.mark.parametrize(("penalty", "groups"), [(0.0, 1), (50.0, 4)])
def test_the_penalty_decides_how_many_groups(tiny_splits, penalty, groups):
    """None leaves a network as dense as it starts, but for what images close; a large one leaves no connection."""
    start = 1.0 if penalty == 0 else 0.01
    loop = begin(tiny_splits, penalty=penalty, gate_start=start, gate_learning_rate=0.1, weights_first=0.0)
    while not loop.finished:
        report = loop.train_epoch()
    assert [report.numbers[f"groups_{index}"] for index in range(1, 7)] == [groups] * 6
    assert loop.method.learnt == Architecture((groups.bit_length() - 1,) * 6)


def test_a_gate_is_told_of_loss_and_penalty(tiny_splits):
    """It moves by the gradient of the cross-entropy by the hard gates, and by its share of the penalty."""
    loop = begin(tiny_splits, weights_first=0.0, gate_learning_rate=0.01, penalty=0.6)
    method = loop.method
    step = method.step

    def watched(images, labels, do):
        twin, before = copy.deepcopy(method.network), gates_of(method)
        set_code(twin, torch.ones(1))
        loss = F.cross_entropy(twin(images), labels, label_smoothing=TRAINING.label_smoothing)
        gates = [layer.group_gates for layer in twin.modules() if isinstance(layer, DynamicGroupConv2d)]
        push = torch.stack(torch.autograd.grad(loss, gates)) + 0.6 / 12
        done = step(images, labels, do)
        expected = before - 0.01 * push * min(1.0, 0.1 / push.norm())
        torch.testing.assert_close(gates_of(method), expected, rtol=1e-4, atol=1e-6)
        return done

    method.step = watched
    loop.train_epoch()


def test_an_architecture_inherits_the_most_open_gates(tiny_splits):
    method = begin(tiny_splits).method
    for layer in method.layers:
        layer.group_gates.data.copy_(torch.tensor([-0.3, 0.2]))
    kept, images = gates_of(method), torch.randn(2, 1, 8, 8)
    method.network.eval()
    asked = {0: [1, 1], 1: [0, 1], 2: [0, 0]}
    for power, gates in asked.items():
        with method.networks.network(Architecture((power,) * 6)) as network:
            assert [layer.hard_gates().tolist() for layer in method.layers] == [gates] * 6
            output = network(images)
        assert torch.equal(gates_of(method), kept)
        if power == 1:  # what the gates leave by themselves
            torch.testing.assert_close(output, method.network(images))
    assert method.learnt == Architecture((1,) * 6)


def test_the_network_is_exported_in_groups(tiny_splits):
    loop = begin(tiny_splits, penalty=0.3, gate_learning_rate=0.1)
    while not loop.finished:
        loop.train_epoch()
    method, images = loop.method, torch.randn(4, 1, 8, 8)
    method.network.eval()
    exported = method.exported()
    assert not any(isinstance(layer, (DynamicGroupConv2d, ChannelPermutation)) for layer in exported.modules())
    torch.testing.assert_close(exported(images), method.network(images), rtol=1e-5, atol=1e-5)
    groups = [
        layer.groups for layer in exported.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 3
    ]
    assert groups[1:] == [layer.groups for layer in method.layers]
    built = SPACE.build(method.learnt, torch.Generator()).eval()
    built.load_state_dict(exported.state_dict())
    torch.testing.assert_close(built(images), exported(images))


def test_interleaved_groups_are_sorted_by_the_layers_around_them(tiny_splits):
    """Patterns of gates that permute in ways which are not their own inverse, and norms that differ by channel."""
    space = create_space("groupable", image_shape=(1, 8, 8), num_classes=3, channels=8)
    method, images = (
        begin_training(DynamicGroupSettings(), space, tiny_splits, TRAINING).method,
        torch.randn(4, 1, 8, 8),
    )
    patterns = itertools.product((1.0, -1.0), repeat=3)
    for layer, pattern in zip(method.layers, patterns):
        layer.group_gates.data.copy_(torch.tensor(pattern))
    norms = [layer for layer in method.network.modules() if isinstance(layer, KShotBatchNorm2d)]
    assert len(norms) == 20
    for norm in norms:
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 1.5)
    method.network.eval()
    exported = method.exported()
    assert not any(isinstance(layer, ChannelPermutation) for layer in exported.modules())
    torch.testing.assert_close(exported(images), method.network(images), rtol=1e-5, atol=1e-5)


def test_what_the_gates_leave_is_selected(tiny_splits, seeded):
    loop = begin(tiny_splits)
    method = loop.method
    parts = tiny_splits.train, tiny_splits.validation, tiny_splits.mean, tiny_splits.std
    archive = Archive(InheritedEvaluation(method.networks, *parts), SPACE, SearchLimits(), seeded(0))
    stage = method.selection(SelectionTools(archive=archive, settings=SearchSettings(), loop=loop))
    for layer, power in zip(method.layers, (0, 1, 2, 0, 1, 2)):
        layer.group_gates.data.copy_(torch.tensor([1.0, 1.0]) - 2 * (torch.arange(2) < power))
    stage.step(lambda position: None)
    assert method.selected(stage).architectures == (Architecture((0, 1, 2, 0, 1, 2)),)


def test_refuses_what_it_cannot_do_before_it_trains(tiny_space, tiny_splits):
    with pytest.raises(ValueError, match=r"method dgconv: expected space groupable, .* got nas-bench-macro"):
        begin_training(DynamicGroupSettings(), tiny_space, tiny_splits, TRAINING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": -1}, "penalty"),
        ({"gate_start": -0.1}, "gate_start"),
        ({"gate_learning_rate": -1}, "gate_learning_rate"),
        ({"weights_first": 1.5}, "weights_first"),
        ({"weights_first": 0.6, "weights_last": 0.5}, "expected a sum of at most 1, got 0.6 and 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DynamicGroupSettings(**options)
