import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.few_shot import FewShotSettings
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RunSettings, check_method_begins
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=3, batch_size=8, warmup_epochs=1, held_out_share=0.25)


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(shots=3, space=tiny_space, settings=SETTINGS, codes=None, **own):
        return begin_training(FewShotSettings(**own), space, tiny_splits, settings, shots=shots, codes=codes)

    return make


@torch.no_grad()
def logits(method, path):
    images = torch.linspace(0, 1, 4 * 64).view(4, 1, 8, 8)
    with method.networks.network(path) as network:
        return network.eval()(images)


def test_sub_supernets_begin_with_the_weights_of_the_whole(begin, seeded):
    loop = begin()
    loop.train_epoch()
    method, space = loop.method, loop.method.space
    for name, parameter in method.supernet.named_parameters():
        assert torch.equal(parameter, parameter[:1].expand_as(parameter)), name
    paths = [space.sample(seeded(seed)) for seed in range(12)]
    assert torch.equal(method.simplex_net(paths), torch.full((12, 3), 1 / 3))
    whole = [logits(method, path) for path in paths]
    method._settle_codes(loop.do)
    method.simplex_net.set_form(method._code_form(loop.do.number))
    codes = method.simplex_net(paths)
    assert set(codes.flatten().tolist()) == {0.0, 1.0}  # to the bit
    assert codes.sum(dim=0).min() > 0  # each copy has paths
    for path, before in zip(paths, whole):
        torch.testing.assert_close(logits(method, path), before, rtol=1e-5, atol=1e-5)


def test_a_step_leaves_other_sub_supernets_alone(begin, tiny_splits):
    settings = dataclasses.replace(SETTINGS, momentum=1e-6, weight_decay=0.0)  # nothing glides on
    loop = begin(settings=settings)
    loop.train_epoch()
    loop.train_epoch()
    method, batch = loop.method, (tiny_splits.train.images[:8].float() / 255, tiny_splits.train.labels[:8])
    path = method.space.largest()
    own = int(method.simplex_net.code(path).argmax())
    before = copy.deepcopy(dict(method.supernet.named_parameters()))
    method.supernet.train()
    method.train_paths([path], *batch, loop.do)
    moved = set()
    for name, parameter in method.supernet.named_parameters():
        moved |= {k for k in range(3) if not torch.allclose(parameter[k], before[name][k], atol=1e-7)}
    assert moved == {own}


def test_a_path_moves_its_sub_supernet_as_far_as_a_supernet_of_one_copy(begin, tiny_splits):
    """Steps of a path in a sub-supernet are those of plain SGD on its copy, of the same rate."""
    settings = dataclasses.replace(SETTINGS, weight_decay=0.0, clip_norm=0.0, momentum=1e-6, warmup_epochs=0)
    loop = begin(settings=settings)
    method, images = loop.method, tiny_splits.train.images[:8].float() / 255
    labels, path = tiny_splits.train.labels[:8], loop.method.space.largest()
    method._settle_codes(loop.do)
    method.simplex_net.set_form(method._code_form(0))
    code = method.simplex_net.code(path)
    own, twin = int(code.argmax()), copy.deepcopy(method.supernet)
    weights = dict(twin.named_parameters())
    loss = F.cross_entropy(twin(images, path, code), labels, label_smoothing=0.1)
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), allow_unused=True)))
    method.train_paths([path], images, labels, loop.do)
    compared = 0
    for name, parameter in method.supernet.named_parameters():
        if gradients[name] is not None:
            expected = weights[name][own] - settings.learning_rate * gradients[name][own]
            torch.testing.assert_close(parameter[own], expected, rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared > 10


def test_the_decision_is_told_once_it_is_made(begin):
    loop = begin()
    assert "decision_1" not in loop.train_epoch().numbers
    numbers = loop.train_epoch().numbers
    assert numbers["decision_1"] == loop.method.simplex_net.start.genes[0] + 1
    assert 1 <= numbers["decision_1"] <= 8
    assert numbers["code_distance"] > 1  # of codes that pick one of three copies each


def test_two_decisions_split_into_more_parts_than_one_has_choices(begin):
    loop = begin(shots=4, decisions=2)
    reports = [loop.train_epoch() for _ in range(3)]
    assert reports[-1].numbers["decision_1"] != reports[-1].numbers["decision_2"]
    with pytest.raises(ValueError, match=r"shots: expected at most 3, the most choices that a decision of .* got 4"):
        begin(shots=4)
    with pytest.raises(ValueError, match="decisions: expected 1 or 2, got 3"):
        begin(shots=4, decisions=3)


def test_codes_of_the_settings_do_not_count(begin, tmp_path):
    """The method is a way to form codes: others would undo the split."""
    first, other = (begin(codes=codes) for codes in (None, CodeSettings(start="cost", free_share=0.5)))
    assert [first.train_epoch() for _ in range(3)] == [other.train_epoch() for _ in range(3)]
    (tmp_path / "settings.toml").write_text('method = "few-shot"\nshots = 3\n[codes]\nstart = "equal"')
    check_method_begins(gather_settings(RunSettings(), tmp_path / "settings.toml", {}))


def test_one_part_is_the_whole(begin):
    assert "decision_1" not in begin(shots=1).train_epoch().numbers


def test_a_width_can_split_it(begin):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.5, 1.0))
    loop = begin(shots=2, space=space)
    reports = [loop.train_epoch() for _ in range(3)]
    assert 1 <= reports[-1].numbers["decision_1"] <= len(space.num_choices)
