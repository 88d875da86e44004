import copy
import dataclasses
import io
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from kshot_ext.nas.methods import METHODS, begin_training
from kshot_ext.nas.methods.cream import CreamSettings
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=4, batch_size=8, warmup_epochs=1, held_out_share=0.25)
CODES = CodeSettings(start="count", free_share_at_start=0.0, free_share=0.6)


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(seed=0, space=tiny_space, settings=SETTINGS, shots=2, **own):
        own = CreamSettings(**{"board_size": 3, "matching_every": 2, **own})
        return begin_training(own, space, tiny_splits, settings, shots=shots, codes=CODES, seed=seed)

    return make


def board_of(loop):
    return [(entry.path, entry.accuracy, entry.macs) for entry in loop.method.board.entries]


def in_float64(method):
    """The method computes in float64; what it computes is as before."""
    code = method.simplex_net.code
    method.simplex_net.code = lambda path: code(path).double()
    method.supernet.double()
    method.matching.double()
    method.board.entries = [
        dataclasses.replace(entry, images=entry.images.double(), probabilities=entry.probabilities.double())
        for entry in method.board.entries
    ]


def exported(method, path):
    """A network in torch's own layers, normalised by the statistics of each batch."""
    network = extract(method.supernet, path, method.simplex_net.code(path)).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
    return network


@pytest.mark.parametrize(
    ("name", "shots", "options"), [("nas-bench-201", 1, {"cells": 1}), ("nas-bench-macro", 2, {"widths": (0.5, 1.0)})]
)
def test_the_gradient_of_the_matching_network_agrees_with_finite_differences(begin, seeded, name, shots, options):
    """Of an exported network in torch's own layers, which a step of plain SGD moves."""
    space = create_space(name, image_shape=(1, 8, 8), num_classes=3, channels=4, **options)
    loop = begin(space=space, shots=shots, matching_images=2)
    for _ in range(3):
        loop.train_epoch()
    method, draw = loop.method, seeded(1)
    in_float64(method)
    nn.init.normal_(method.matching.weight, generator=draw)
    student = space.sample(draw)
    entries = method.board.others(student)
    images, others = (torch.rand(2, 1, 8, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0, 2])
    rate = SETTINGS.learning_rate * loop.do.learning_rate_factor
    before = copy.deepcopy(method.supernet.state_dict())
    found = method.matching_gradient(student, entries, images, others, labels, loop.do)
    assert all(torch.equal(value, before[key]) for key, value in method.supernet.state_dict().items())

    plain = exported(method, student)
    weights = {n: w.detach().requires_grad_() for n, w in plain.named_parameters()}
    stored = torch.cat([entry.images for entry in entries])
    probabilities = torch.stack([entry.probabilities for entry in entries])

    def scores(own, matching):
        outputs = functional_call(plain, own, (stored,)).softmax(dim=1).view_as(probabilities)
        return functional_call(method.matching, matching, ((outputs - probabilities).flatten(1),))[:, 0]

    matching = {n: p.detach().clone() for n, p in method.matching.named_parameters()}
    best = int(scores(weights, matching).argmax())
    taught = exported(method, entries[best].path)(images).softmax(dim=1).detach()

    def examined(matching):
        loss = scores(weights, matching)[best].sigmoid() * F.cross_entropy(
            functional_call(plain, weights, (images,)), taught
        )
        steps = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        moved = {n: w if g is None else w - rate * g for (n, w), g in zip(weights.items(), steps)}
        return F.cross_entropy(functional_call(plain, moved, (others,)), labels).item()

    for (name, parameter), gradient in zip(method.matching.named_parameters(), found):
        for index in range(parameter.numel()):
            values = []
            for nudge in (2e-7, -2e-7):  # so strongly curved that 1e-6 is off by 1e-4
                nudged = {n: p.clone() for n, p in matching.items()}
                nudged[name].view(-1)[index] += nudge
                values.append(examined(nudged))
            numeric = (values[0] - values[1]) / 4e-7
            assert float(gradient.view(-1)[index]) == pytest.approx(numeric, rel=1e-5, abs=1e-8)
    assert all(float(gradient.abs().max()) > 1e-7 for gradient in found)


def test_a_student_learns_from_the_teacher_that_the_matching_network_scores_highest(begin, tiny_splits):
    """Loss and gradient are those of the equation, with rho a number."""
    loop = begin(shots=1, board_after=0.0)
    loop.train_epoch()
    method, images = loop.method, tiny_splits.train.images[:8].float() / 255
    labels, student = tiny_splits.train.labels[:8], method.space.largest()
    entries = method.board.others(student)
    assert len(entries) == 3
    with torch.no_grad():
        scores = []
        stored = torch.cat([entry.images for entry in entries])
        outputs = exported(method, student)(stored).softmax(dim=1).split(method.settings.matching_images)
        for entry, output in zip(entries, outputs):
            scores.append(float(method.matching((output - entry.probabilities).flatten())))
    best = max(range(3), key=scores.__getitem__)
    lesson = method.lesson(student)
    assert lesson.teacher == entries[best].path
    assert lesson.weight == pytest.approx(1 / (1 + math.exp(-scores[best])), rel=1e-4)
    method._lessons = {student: lesson}
    code = method.simplex_net.code(student)
    loss, _ = method.path_loss(student, code, images, labels)
    found = torch.autograd.grad(loss, list(method.supernet.parameters()), allow_unused=True)
    twin = copy.deepcopy(method.supernet)
    taught = twin(images, lesson.teacher, code).softmax(dim=1).detach()
    own = twin(images, student, code)
    expected = lesson.weight * -(taught * own.log_softmax(dim=1)).sum(dim=1).mean()
    expected = (expected + (2 - lesson.weight) * F.cross_entropy(own, labels, label_smoothing=0.1)) / 2
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, torch.autograd.grad(expected, list(twin.parameters()), allow_unused=True)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_there_is_no_teaching_before_its_time(begin):
    """Until then training is that of single paths; the board begins to fill with the last step of its wait."""
    loop = begin(board_after=0.5)
    spos = begin_training(
        METHODS["spos"].Settings(), loop.method.space, loop.do._loop.splits, SETTINGS, shots=2, codes=CODES
    )
    for _ in range(2):
        assert loop.train_epoch().loss == spos.train_epoch().loss
        assert len(loop.method.board) == 0
    report = loop.train_epoch()
    assert len(loop.method.board) == 3
    assert report.loss != spos.train_epoch().loss
    assert report.numbers["board_worst"] <= report.numbers["board_best"] <= 1
    assert 0 < report.numbers["lesson_weight"] < 1
    assert report.numbers["board_changes"] >= 3


def test_the_board_has_the_accuracy_of_the_batch_and_what_a_path_said(begin, seeded):
    loop = begin(board_after=0.0, board_size=50, matching_every=100)
    method, seen = loop.method, {}
    path_loss = method.path_loss

    def watched(path, code, images, labels):
        loss, logits = path_loss(path, code, images, labels)
        seen[path] = float((logits.argmax(dim=1) == labels).float().mean())
        return loss, logits

    method.path_loss = watched
    loop.train_epoch()
    assert {entry.path: entry.accuracy for entry in method.board.entries} == seen
    held_out = {image.numpy().tobytes() for image in loop.held_out.images}
    for entry in method.board.entries:
        assert entry.macs == method.space.count_macs(entry.path)
        assert entry.images.shape == (4, 1, 8, 8)
        mean, std = loop.splits.mean, loop.splits.std
        pixels = ((entry.images * std + mean) * 255).round().to(torch.uint8)
        assert all(image.contiguous().numpy().tobytes() in held_out for image in pixels)
        torch.testing.assert_close(entry.probabilities.sum(dim=1), torch.ones(4))
    last = method.board.entries[-1]
    method._consider(last.path, last.accuracy, loop.do)
    (entry,) = [entry for entry in method.board.entries if entry.path == last.path]
    expected = exported(method, last.path)(entry.images).softmax(dim=1)
    torch.testing.assert_close(entry.probabilities, expected.detach(), rtol=1e-4, atol=1e-5)


def test_only_its_own_steps_move_the_matching_network_and_they_move_nothing_else(begin):
    loop = begin(board_after=0.0, matching_every=1000)  # at step 0 the board is empty
    start = copy.deepcopy(loop.method.matching.state_dict())
    loop.train_epoch()
    method = loop.method
    assert all(torch.equal(value, start[key]) for key, value in method.matching.state_dict().items())
    modules = {name: copy.deepcopy(module.state_dict()) for name, module in method.modules.items()}
    method._train_matching(method.space.largest(), loop.do)
    for name, module in method.modules.items():
        same = [torch.equal(value, modules[name][key]) for key, value in module.state_dict().items()]
        assert all(same) if name != "matching" else not any(same), name
    assert all(parameter.grad is None for parameter in method.supernet.parameters())


def test_going_on_keeps_the_board_the_matching_network_and_its_optimiser(begin):
    whole, resumed = begin(board_after=0.2), begin(board_after=0.2, seed=5)
    for _ in range(2):
        whole.train_epoch()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [resumed.train_epoch() for _ in range(2)] == [whole.train_epoch() for _ in range(2)]
    assert board_of(resumed) == board_of(whole)
    for ours, theirs in zip(resumed.method.board.entries, whole.method.board.entries):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.probabilities, theirs.probabilities)
    for ours, theirs in zip(resumed.method.matching.parameters(), whole.method.matching.parameters()):
        assert torch.equal(ours, theirs)
    assert len(whole.method.optimizers["matching"].state) == 2


def test_a_path_never_teaches_itself(begin):
    loop = begin(board_after=0.0, board_size=1, matching_every=1)
    loop.train_epoch()
    method = loop.method
    (entry,) = method.board.entries
    assert method.lesson(entry.path) is None
    start = copy.deepcopy(method.matching.state_dict())
    method._train_matching(entry.path, loop.do)
    assert all(torch.equal(value, start[key]) for key, value in method.matching.state_dict().items())
    other = next(path for path in map(method.space.sample, [loop.do.generator] * 9) if path != entry.path)
    assert method.lesson(other).teacher == entry.path


@pytest.mark.parametrize(("sampling", "precision"), [("fair", "float32"), ("uniform", "bfloat16")])
def test_steps_of_several_paths_and_in_half_precision_teach(begin, sampling, precision):
    settings = dataclasses.replace(SETTINGS, path_sampling=sampling, precision=precision, epochs=2)
    loop = begin(settings=settings, board_after=0.0)
    lessons, lesson = [], loop.method.lesson
    loop.method.lesson = lambda path: lessons.append(lesson(path)) or lessons[-1]
    reports = [loop.train_epoch() for _ in range(2)]
    assert math.isfinite(reports[-1].loss)
    assert len(lessons) == 2 * 4 * (3 if sampling == "fair" else 1)
    assert lessons.count(None) < len(lessons) / 2
    assert {entry.probabilities.dtype for entry in loop.method.board.entries} == {torch.float32}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"board_size": 0}, "board_size: expected at least 1, got 0"),
        ({"board_gap": 1.0}, "board_gap: expected 0 or more and below 1, got 1.0"),
        ({"board_after": 1.0}, "board_after: expected 0 or more and below 1, got 1.0"),
        ({"matching_images": 1}, "matching_images: expected at least 2, got 1"),
        ({"matching_every": 0}, "matching_every: expected at least 1, got 0"),
        ({"matching_learning_rate": -1.0}, "matching_learning_rate: expected at least 0, got -1.0"),
    ],
)
def test_rejects_settings_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        CreamSettings(**changed)


def test_a_space_of_one_network_is_refused(begin, monkeypatch):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4)
    monkeypatch.setattr(type(space), "num_choices", (1,) * 8)
    with pytest.raises(ValueError, match="method cream: expected a space of two or more architectures"):
        begin(space=space)


def test_the_best_of_the_board_is_selected(begin, tiny_splits):
    loop = begin(board_after=0.0)
    for _ in range(4):
        loop.train_epoch()
    method, board = loop.method, {entry.path for entry in loop.method.board.entries}
    images = (tiny_splits.train, tiny_splits.validation, tiny_splits.mean, tiny_splits.std)
    archive = Archive(InheritedEvaluation(method.networks, *images), method.space, SearchLimits())
    tools = SelectionTools(archive=archive, settings=SearchSettings(population=2, generations=9), loop=loop)
    stage = method.selection(tools)
    assert stage.total == 2  # three paths, two at a time
    while stage.done < stage.total:
        stage.step(lambda _: None)
    selected = method.selected(stage)
    assert {result.architecture for result in selected.considered} == board
    best = min(selected.considered, key=lambda result: result.scores.loss)
    assert selected.architectures == (best.architecture,)


def test_a_board_larger_than_the_training_has_paths_for_is_no_trouble(begin):
    loop = begin(board_size=10**6, board_after=0.9)
    reports = [loop.train_epoch() for _ in range(4)]
    assert 1 <= len(loop.method.board) <= 2
    assert reports[-1].numbers["board_changes"] == len(loop.method.board)
