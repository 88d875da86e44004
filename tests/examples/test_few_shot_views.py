"""Learned views: their bounds, the gradient of the outer objective, the queue, leaks, and a run of some seconds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import typer

import few_shot_views
from few_shot_views import (
    ARMS,
    EMBEDDING,
    EQUAL,
    LEAST,
    MOST,
    QUICK,
    SHOTS,
    STEP,
    SUPPORT,
    TEMPERATURE,
    VIEWS,
    WAY,
    Arm,
    Encoder,
    Pictures,
    Queue,
    ViewGenerator,
    accuracy,
    prototype_loss,
    purity,
    task_logits,
)
from kshot_ext import backend


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures.random(range(6), 8, torch.Generator().manual_seed(0))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(count, 8, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize("push", [-1e3, 0.0, 1e3])
def test_ranges_stay_in_their_bounds_and_views_are_never_all_alike(pictures: Pictures, push: float) -> None:
    """Even a generator that wants views to be identical, or as wild as can be."""
    generator = ViewGenerator()
    with torch.no_grad():
        generator.network[-1].bias.fill_(push)
        images = pictures.images[:16]
        ranges = generator.ranges(images)
        views = torch.stack([generator(images, noise(16, seed)) for seed in range(8)])
    assert ((ranges >= LEAST) & (ranges <= MOST)).all()
    assert (LEAST > 0).all()
    assert (views.var(dim=0).mean(dim=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("push", [-1e3, 2.0, 1e3])
def test_ranges_are_pushed_off_their_bounds(pictures: Pictures, push: float) -> None:
    """Even from so near to one that nothing else moves them any more."""
    generator, images = ViewGenerator(), pictures.images[:4]
    assert float(generator.crowding(images).detach()) == pytest.approx(0, abs=1e-6)
    bias = generator.network[-1].bias
    bias.data.fill_(push)
    (gradient,) = torch.autograd.grad(generator.crowding(images), bias)
    assert (gradient.sign() == math.copysign(1, push)).all()


def test_each_kind_of_view_does_what_it_is_called(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_shot_views, "LEAST", torch.zeros(len(VIEWS)))
    monkeypatch.setattr(few_shot_views, "MOST", torch.tensor([math.log(2), 0.5, math.pi, 1.0, 1.0]) * 2)  # sigmoid(0)
    generator, images = ViewGenerator(), pictures.images[:4]

    def view(**parts: float) -> torch.Tensor:
        places = {"zoom": 0, "right": 1, "down": 2, "turn": 3, "red": 4, "blur": 7}
        drawn = torch.zeros(4, 8)
        for name, value in parts.items():
            drawn[:, places[name]] = value
        return generator(images, drawn).detach()

    def close(one: torch.Tensor, other: torch.Tensor) -> None:
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)

    close(view(), images)
    close(view(right=1.0)[..., :16], images[..., 8:24])  # by half of the way from the middle to the border
    close(view(down=1.0)[..., :16, :], images[..., 8:24, :])
    close(view(turn=1.0), images.flip(2, 3))
    close(view(red=0.5), images + torch.tensor([0.5, 0, 0]).view(3, 1, 1))
    assert view(blur=1.0)[..., 8:24, 8:24].std(dim=(2, 3)).mean() < 0.5 * images[..., 8:24, 8:24].std(dim=(2, 3)).mean()
    enlarged = torch.nn.functional.interpolate(images[..., 8:24, 8:24], scale_factor=2, mode="bilinear")
    close(view(zoom=1.0)[..., 1:-1, 1:-1], enlarged[..., 1:-1, 1:-1])


def test_the_outer_gradient_is_that_of_finite_differences(pictures: Pictures) -> None:
    arm = Arm("learned views", pictures, pictures, QUICK, 0)
    for module in (arm.encoder, arm.slow, arm.generator):
        module.double()
    pictures = Pictures(pictures.images.double(), pictures.shapes, pictures.textures, pictures.numbers)
    arm.pictures = arm.held_out = pictures
    arm.queue.keys = torch.nn.functional.normalize(torch.randn(64, EMBEDDING, dtype=torch.double), dim=1)
    arm.queue.numbers = torch.arange(64)
    random = torch.Generator().manual_seed(0)
    rows, *others = (pictures.task(pictures.shapes, random) for _ in range(3))
    drawn = torch.stack([noise(rows.numel(), 1), noise(rows.numel(), 2)]).double()
    examinations = [pictures.images[task] for task in others]

    def after_a_step() -> float:
        kept = [weight.detach().clone() for weight in arm.encoder.parameters()]
        steps = torch.autograd.grad(arm.lesson(rows, drawn)[0], list(arm.encoder.parameters()), allow_unused=True)
        with torch.no_grad():
            for weight, step in zip(arm.encoder.parameters(), steps):
                weight.sub_(STEP * step)
            value = sum(float(prototype_loss(arm.encoder, images)) for images in examinations) / 2
            for weight, before in zip(arm.encoder.parameters(), kept):
                weight.copy_(before)
        return value

    gradients = arm.view_gradients(rows, drawn, examinations)
    biases, gradient = arm.generator.network[-1].bias, gradients[-1]
    assert gradient.abs().min() > 0
    found = []
    for place in range(len(VIEWS)):
        values = []
        for push in (1e-7, -1e-7):  # places cross from pixel to pixel, where a picture has kinks
            biases.data[place] += push
            values.append(after_a_step())
            biases.data[place] -= push
        found.append((values[0] - values[1]) / 2e-7)
    torch.testing.assert_close(gradient, torch.tensor(found).double(), rtol=1e-3, atol=1e-8)


def test_a_key_of_the_same_picture_is_no_negative() -> None:
    queue = Queue(4)
    queries, keys = torch.eye(2, EMBEDDING), torch.eye(2, EMBEDDING)
    assert float(queue.loss(queries, keys, torch.tensor([7, 8]))) == 0  # empty places do not count
    queue.push(keys, torch.tensor([7, 8]))
    one, two = (float(queue.loss(queries, keys, torch.tensor(numbers))) for numbers in ([7, 8], [5, 6]))
    other = math.exp(-1 / TEMPERATURE)
    assert one == pytest.approx(math.log(1 + other), abs=1e-6)  # the other picture's key alone
    assert two == pytest.approx(math.log(2 + other), abs=1e-6)


def test_the_queue_forgets_the_oldest_keys() -> None:
    queue = Queue(5)
    for first in (0, 3, 6):
        queue.push(torch.full((3, EMBEDDING), float(first)), torch.arange(first, first + 3))
    assert sorted(queue.numbers.tolist()) == [4, 5, 6, 7, 8]
    assert all(key[0] == number // 3 * 3 for key, number in zip(queue.keys.tolist(), queue.numbers.tolist()))


def test_no_picture_tells_what_else_is_in_its_batch(encoder: Encoder, pictures: Pictures) -> None:
    """Or queries and keys of one batch would know each other by its statistics, or by its code."""
    together = encoder.projected(pictures.images[:8], EQUAL)
    alone = torch.cat([encoder.projected(image, EQUAL) for image in pictures.images[:8].split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    arm = Arm("random views", pictures, pictures, QUICK, 0)
    random = torch.Generator().manual_seed(0)
    rows = pictures.task(pictures.shapes, random)
    drawn = torch.stack([noise(rows.numel(), 1), noise(rows.numel(), 2)])
    _, keys = arm.lesson(rows, drawn)
    # The same picture, with the same noise, in a task of other pictures.
    changed, kept = pictures.task(pictures.shapes, random), rows[0, 0]
    changed[0, 0] = kept
    torch.testing.assert_close(arm.lesson(changed, drawn)[1][0], keys[0], atol=1e-5, rtol=1e-4)


def test_the_code_is_that_of_the_support_alone(encoder: Encoder, pictures: Pictures) -> None:
    with torch.no_grad():
        encoder.reader[-1].weight.mul_(100)  # a code that depends on what is read
    rows = pictures.task(pictures.fine, torch.Generator().manual_seed(0))
    support = pictures.images[rows[:, :SUPPORT].flatten()]
    code = encoder.code(support)
    assert code.shape == (SHOTS,)
    assert float(code.detach().sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(encoder.code(support.flip(0)), code)
    images = pictures.images[rows]
    logits = task_logits(encoder, images)
    other = images.clone()
    other[-1, -1] = 0  # another query changes nothing but its own row
    torch.testing.assert_close(task_logits(encoder, other)[:-1], logits[:-1], atol=1e-4, rtol=1e-4)
    with backend.use_reference():
        torch.testing.assert_close(task_logits(encoder, images), logits, atol=1e-4, rtol=1e-4)


def test_tasks_have_classes_of_their_labels_and_no_picture_twice(pictures: Pictures) -> None:
    generator = torch.Generator().manual_seed(0)
    for labels in (pictures.shapes, pictures.fine):
        for _ in range(5):
            rows = pictures.task(labels, generator)
            assert len(rows.unique()) == rows.numel()
            of_rows = labels[rows]
            assert (of_rows == of_rows[:, :1]).all()
            assert len(of_rows[:, 0].unique()) == WAY


class Knowing(torch.nn.Module):
    """An encoder that reads the class off a marked pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def code(self, support: torch.Tensor) -> torch.Tensor:
        return EQUAL

    def forward(self, images: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), self.classes).float()


def test_who_knows_the_classes_is_always_right(pictures: Pictures) -> None:
    def marked(labels: torch.Tensor) -> Pictures:
        images = pictures.images.clone()
        images[:, 0, 0, 0] = labels.float()
        return Pictures(images, pictures.shapes, pictures.textures, pictures.numbers)

    generator = torch.Generator().manual_seed(0)
    knowing = Knowing(24)
    assert accuracy(knowing, marked(pictures.fine), pictures.fine, 10, generator) == [1.0, 0.0]
    assert purity(knowing, marked(pictures.fine), neighbours=5) == 1.0
    value, half = accuracy(knowing, marked(pictures.shapes), pictures.fine, 40, generator)
    assert value < 1  # textures of one shape look the same to it
    assert 0 < half < 0.1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few_shot_views")
    few_shot_views.main(folder, seed=3, quick=True)
    return folder


def test_a_quick_run_writes_its_numbers_and_a_picture(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert tuple(metrics["arms"]) == ARMS
    for name, arm in metrics["arms"].items():
        assert all(0 <= arm[kind][0] <= 1 for kind in ("fine_accuracy", "coarse_accuracy"))
        assert ("range_parts" in arm) == (name != "prototypes")
    parts = {name: metrics["arms"][name]["range_parts"] for name in ARMS[1:]}
    assert list(parts["random views"].values()) == pytest.approx([0.5] * len(VIEWS))
    assert all(set(parts[name].values()) != {0.5} for name in ARMS[2:])
    assert parts[ARMS[2]] != parts[ARMS[3]]
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"exists already; move it away or choose another folder"):
        few_shot_views.main(tmp_path, quick=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "mine")]
