"""Few-shot classification that learns what a picture may look like: prototypes, a contrast of views, learned views.

A task shows a few pictures of each of some classes, its support, and asks for the classes of others. The support gives
the task its code, c = softmax(mean_i reader(x_i)), by which the encoder f mixes its K-shot convolutions, once a task.

    L_PN = cross-entropy of 10 cos(f(x), mean of the support's f of each class)
    L_CL = -log( exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.Q_j / t)) ),  q and k of two views of the same picture
    w'(p) = w - rate * d/dw (L_PN + b L_CL(views by p)),  p moves along -d/dp L_PN(w'(p); another task)

Training knows outlines only; textures divide each class into four, which only the test asks for.

    python examples/few_shot_views.py --out views --seed 0

Luo et al., "Boosting Few-Shot Classification with View-Learnable Contrastive Learning", ICME 2021, arXiv 2107.09242.
docs/examples/few_shot_views.md has the results, and what differs from the paper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.methods.parts.meta_gradient import meta_gradient
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator, seeded_by
from kshot_ext.nn import KShotConv2d
from kshot_ext.optim import KShotAdamW, decay_groups
from parts.common import NewFolder, Quick, new_folder, train, write_results
from parts.pictures import draw_views
from parts.shapes import SHAPES, TEXTURES, paint, random_grounds

SIDE, SEEN = 32, 14  # pixels; shapes that training knows, of 20
WAY, SUPPORT, QUERIES = 5, 3, 5  # classes of a task, pictures of each
SHOTS, CHANNELS, STRIDES, EMBEDDING = 4, (3, 24, 32, 48, 64), (2, 2, 1, 2), 64
TEMPERATURE, MOMENTUM, CONTRAST = 0.2, 0.95, 0.5  # the last is the weight of L_CL
RATE, VIEW_RATE, DIVERSITY = 2e-3, 2e-3, 0.03
STEP, EXAMINATIONS = 0.4, 4  # of the outer objective: how far it looks ahead, and by how many tasks it judges
VIEWS = ("zoom", "shift", "turn", "colour", "blur")
LEAST, MOST = torch.tensor([0.05, 0.02, 0.05, 0.05, 0.02]), torch.tensor([0.75, 0.4, math.pi, 1.2, 1.0])
ARMS = ("prototypes", "random views", "learned views", "learned without the outer objective")


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    steps: int = 2000  # tasks, of each arm
    per_class: int = 16  # training pictures of each shape and texture
    held_out: int = 8  # the same, for the outer objective
    per_test_class: int = 40
    tasks: int = 600  # test tasks of each kind
    queue: int = 512
    wait: int = 400  # steps before the views begin to learn, as an encoder that knows nothing teaches them nothing
    period: int = 5  # steps of the encoder from one of the views to the next


QUICK = Scale(steps=3, per_class=8, held_out=8, per_test_class=8, tasks=3, queue=64, wait=0, period=2)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images ``[N, 3, H, W]``, shapes and textures ``[N]``, and numbers ``[N]``, by which a queue knows them."""

    images: Tensor
    shapes: Tensor
    textures: Tensor
    numbers: Tensor

    @classmethod
    def random(cls, shapes: Sequence[int], count: int, generator: torch.Generator) -> Pictures:
        """So many of each shape and texture; colours, places and sizes say nothing about the class."""
        rows = torch.cartesian_prod(torch.tensor(shapes), torch.arange(len(TEXTURES))).repeat_interleave(count, dim=0)

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(len(rows), *shape, generator=generator)

        places = torch.cat([uniform(2, low=-0.15, high=0.15), uniform(1, low=0.6, high=0.85)], dim=1)
        grounds = 0.4 + 0.2 * random_grounds(len(rows), SIDE, generator)
        colours = torch.tensor([[0.75], [0.0]]) + 0.25 * uniform(2, 3)  # light and dark
        images = paint(grounds, *rows.unbind(1), colours, places, uniform(low=-0.5, high=0.5))
        noise = 0.05 * torch.randn(images.shape, generator=generator)
        return cls(4 * (images + noise - 0.5), *rows.unbind(1), torch.arange(len(rows)))

    @property
    def fine(self) -> Tensor:
        """Labels by shape and texture."""
        return self.shapes * len(TEXTURES) + self.textures

    def task(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of a random task, ``[WAY, SUPPORT + QUERIES]``: each row of it is a class of those labels."""
        classes = labels.unique()
        chosen = classes[torch.randperm(len(classes), generator=generator)[:WAY]]
        rows = [(labels == label).nonzero().flatten() for label in chosen]
        return torch.stack([r[torch.randperm(len(r), generator=generator)[: SUPPORT + QUERIES]] for r in rows])


class Encoder(nn.Module):
    """K-shot convolutions under the code of a task.

    Group norm, as batch norm would tell views of one batch apart. SiLU, as a second derivative knows nothing of a kink.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            KShotConv2d(come, go, 3, stride, 1, bias=False, num_shots=SHOTS)
            for come, go, stride in zip(CHANNELS, CHANNELS[1:], STRIDES)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, go) for go in CHANNELS[1:])
        self.reader = nn.Sequential(small_network(16), nn.Linear(16, SHOTS))
        self.head = nn.Sequential(nn.Linear(CHANNELS[-1], 64), nn.SiLU(), nn.Linear(64, EMBEDDING))

    def code(self, support: Tensor) -> Tensor:
        """The code ``[K]`` of a task, whatever the order of its pictures."""
        return self.reader(support).mean(dim=0).softmax(dim=0)

    def forward(self, images: Tensor, code: Tensor) -> Tensor:
        """Features ``[N, C]``: normalised at each place, then pooled."""
        for convolution, norm in zip(self.convolutions, self.norms):
            images = F.silu(norm(convolution(images, code)))
        return F.normalize(images, dim=1).mean(dim=(2, 3))

    def projected(self, images: Tensor, code: Tensor) -> Tensor:
        """Unit vectors ``[N, EMBEDDING]`` that the contrast compares."""
        return F.normalize(self.head(self(images, code)), dim=1)


EQUAL = torch.full((SHOTS,), 1 / SHOTS)  # the code of all keys: a task's own would tell its keys from those of others


def small_network(channels: int) -> nn.Sequential:
    """A picture to a vector."""
    layers = [nn.Conv2d(3, channels, 5, 4, 2), nn.SiLU(), nn.Conv2d(channels, channels, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ViewGenerator(nn.Module):
    """Draws views: each kind of change has a range of its own for each picture, between `LEAST` and `MOST`.

    A range may not vanish, so views never are all alike, and is bounded, so they do not lose the picture. Before it has
    learnt anything, all ranges are in the middle: these are the random views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(small_network(16), nn.Linear(16, len(VIEWS)))
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def parts(self, images: Tensor) -> Tensor:
        """How far each range is from `LEAST`, 0, to `MOST`, 1: ``[N, len(VIEWS)]``."""
        return self.network(images).sigmoid()

    def ranges(self, images: Tensor) -> Tensor:
        """``[N, len(VIEWS)]``."""
        return LEAST + (MOST - LEAST) * self.parts(images)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Views of pictures.

        Args:
            images: ``[N, 3, H, W]``.
            noise: ``[N, 8]`` from -1 to 1; the same noise gives the same view.
        """
        zoom, shift, turn, colour, blur = self.ranges(images).split(1, dim=1)
        scale, angle = (-zoom * noise[:, :1].abs()).exp(), turn * noise[:, 3:4]
        rows = [scale * angle.cos(), -scale * angle.sin(), shift * noise[:, 1:2]]
        rows += [scale * angle.sin(), scale * angle.cos(), shift * noise[:, 2:3]]
        places = F.affine_grid(torch.cat(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
        seen = F.grid_sample(images, places, padding_mode="reflection", align_corners=False)
        seen = torch.lerp(seen, blurred(seen), (blur * noise[:, 7:].abs())[:, :, None, None])
        return seen + (colour * noise[:, 4:7])[:, :, None, None]

    def crowding(self, images: Tensor) -> Tensor:
        """Mean of ``-log(4 part (1 - part))``: against ranges that run to a bound, and learn no more there."""
        logits = self.network(images)
        return -(F.logsigmoid(logits) + F.logsigmoid(-logits)).mean() - math.log(4)


def blurred(images: Tensor) -> Tensor:
    """Means over 7x7 places, twice: of the textures nothing is left."""
    for _ in range(2):
        images = F.avg_pool2d(images, 7, stride=1, padding=3, count_include_pad=False)
    return images


class Queue:
    """Keys of earlier pictures ``[Q, EMBEDDING]``, and whose they are."""

    def __init__(self, size: int) -> None:
        self.keys, self.numbers, self.place = torch.zeros(size, EMBEDDING), torch.full((size,), -1), 0

    def push(self, keys: Tensor, numbers: Tensor) -> None:
        """Keeps new keys in the place of the oldest; in new tensors, as a loss may still need the old ones."""
        places = (self.place + torch.arange(len(keys))) % len(self.keys)
        self.keys, self.numbers = self.keys.index_copy(0, places, keys), self.numbers.index_copy(0, places, numbers)
        self.place = (self.place + len(keys)) % len(self.keys)

    def loss(self, queries: Tensor, keys: Tensor, numbers: Tensor) -> Tensor:
        """L_CL. Another key of the same picture is no negative, and neither is a place that is still empty."""
        alien = (self.numbers >= 0) & (self.numbers != numbers.unsqueeze(1))
        others = (queries @ self.keys.T).masked_fill(~alien, -math.inf)
        logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), others], dim=1) / TEMPERATURE
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def task_logits(encoder: Encoder, images: Tensor) -> Tensor:
    """Of the queries of a task ``[WAY, SUPPORT + QUERIES, 3, H, W]``, class by class: ``[WAY * QUERIES, WAY]``."""
    features = encoder(images.flatten(0, 1), encoder.code(images[:, :SUPPORT].flatten(0, 1)))
    features = features.unflatten(0, images.shape[:2])
    prototypes = features[:, :SUPPORT].mean(dim=1)
    return 10 * F.normalize(features[:, SUPPORT:].flatten(0, 1), dim=1) @ F.normalize(prototypes, dim=1).T


ANSWERS = torch.arange(WAY).repeat_interleave(QUERIES)


def prototype_loss(encoder: Encoder, images: Tensor) -> Tensor:
    """L_PN of a task."""
    return F.cross_entropy(task_logits(encoder, images), ANSWERS)


class Arm:
    """The training of one encoder.

    Args:
        kind: one of `ARMS`.
        pictures, held_out: of the lessons, and of the examinations that the views are judged by.
    """

    def __init__(self, kind: str, pictures: Pictures, held_out: Pictures, scale: Scale, seed: int) -> None:
        self.kind, self.pictures, self.held_out, self.scale = kind, pictures, held_out, scale
        with seeded_by(named_generator(seed, "encoder")):
            self.encoder, self.generator = Encoder(), ViewGenerator()
        self.slow = Encoder().requires_grad_(False)
        self.slow.load_state_dict(self.encoder.state_dict())
        self.queue, self.step = Queue(scale.queue), 0
        self.view_optimizer = torch.optim.Adam(self.generator.parameters(), lr=VIEW_RATE)
        self.random = named_generator(seed, "lessons")
        self.examinations = named_generator(seed, "examinations")

    def train(self, bar: ConsoleProgress) -> None:
        train(KShotAdamW(decay_groups(self.encoder, 1e-2), lr=RATE), self.scale.steps, self.loss, bar, self.kind)

    def noise(self, rows: Tensor) -> Tensor:
        return 2 * torch.rand(2, rows.numel(), 8, generator=self.random) - 1

    def loss(self) -> Tensor:
        """Of the next step; before it, the views learn where it is their turn."""
        rows = self.pictures.task(self.pictures.shapes, self.random)
        noise = self.noise(rows)
        if self.kind == "prototypes":
            return prototype_loss(self.encoder, self.pictures.images[rows])
        learning = self.kind.startswith("learned") and self.step >= self.scale.wait
        if learning and self.step % self.scale.period == 0:
            self.teach_views(rows, noise)
        with torch.no_grad():
            for own, slow in zip(self.encoder.parameters(), self.slow.parameters()):
                slow.lerp_(own, 1 - MOMENTUM)
        value, keys = self.lesson(rows, noise)
        self.queue.push(keys, rows.flatten())
        self.step += 1
        return value

    def lesson(self, rows: Tensor, noise: Tensor, *, learn_views: bool = False) -> tuple[Tensor, Tensor]:
        """L_PN + L_CL of a task, and the keys of its pictures; with or without a graph that reaches the generator."""
        images = self.pictures.images[rows]
        pictures = images.flatten(0, 1)
        with torch.set_grad_enabled(learn_views):
            one, other = (self.generator(pictures, part) for part in noise)
            keys = self.slow.projected(other, EQUAL)
        code = self.encoder.code(images[:, :SUPPORT].flatten(0, 1))
        contrast = self.queue.loss(self.encoder.projected(one, code), keys, self.pictures.numbers[rows.flatten()])
        return prototype_loss(self.encoder, images) + CONTRAST * contrast, keys

    def view_gradients(self, rows: Tensor, noise: Tensor, examinations: Sequence[Tensor]) -> list[Tensor]:
        """What the generator's parameters should do about a lesson; by examinations, which are tasks, or without."""
        shapers = list(self.generator.parameters())

        def lesson() -> Tensor:
            return self.lesson(rows, noise, learn_views=True)[0]

        def examination() -> Tensor:
            return torch.stack([prototype_loss(self.encoder, images) for images in examinations]).mean()

        if self.kind != "learned views":
            return list(torch.autograd.grad(lesson(), shapers))
        return meta_gradient(lesson, examination, list(self.encoder.parameters()), shapers, STEP)

    def teach_views(self, rows: Tensor, noise: Tensor) -> None:
        """One step of the generator: by the outer objective, or by the lesson itself; off the bounds of ranges."""
        tasks = [self.held_out.task(self.held_out.shapes, self.examinations) for _ in range(EXAMINATIONS)]
        gradients = self.view_gradients(rows, noise, [self.held_out.images[task] for task in tasks])
        shapers = list(self.generator.parameters())
        crowding = self.generator.crowding(self.pictures.images[rows.flatten()])
        for shaper, gradient, apart in zip(shapers, gradients, torch.autograd.grad(crowding, shapers)):
            shaper.grad = gradient + DIVERSITY * apart
        self.view_optimizer.step()


@torch.no_grad()
def accuracy(
    encoder: Encoder, pictures: Pictures, labels: Tensor, tasks: int, generator: torch.Generator
) -> list[float]:
    """Mean over random tasks, and half of its 95 % confidence interval."""
    found = []
    for _ in range(tasks):
        logits = task_logits(encoder, pictures.images[pictures.task(labels, generator)])
        found.append((logits.argmax(dim=1) == ANSWERS).float().mean())
    values = torch.stack(found)
    return [float(values.mean()), float(1.96 * values.std() / math.sqrt(tasks))]


@torch.no_grad()
def purity(encoder: Encoder, pictures: Pictures, neighbours: int = 5) -> float:
    """Of the nearest neighbours of a picture among those of its own shape, the part that has its texture."""
    features = torch.cat([F.normalize(encoder(part, EQUAL), dim=1) for part in pictures.images.split(128)])
    near = features @ features.T
    near[(pictures.shapes != pictures.shapes.unsqueeze(1)) | torch.eye(len(near), dtype=torch.bool)] = -math.inf
    found = pictures.textures[near.topk(neighbours).indices]
    return float((found == pictures.textures.unsqueeze(1)).float().mean())


@torch.no_grad()
def code_spread(encoder: Encoder, pictures: Pictures, generator: torch.Generator) -> float:
    """The standard deviation of the codes' entries over tasks."""
    codes = [
        encoder.code(pictures.images[pictures.task(pictures.fine, generator)[:, :SUPPORT].flatten()]) for _ in range(20)
    ]
    return float(torch.stack(codes).std(dim=0).mean())


def measure(arm: Arm, test: Pictures, scale: Scale, seed: int) -> dict[str, object]:
    """What is seen of an arm on shapes that it has never been trained on; the same tasks for all arms."""
    generators = {kind: named_generator(seed, f"{kind} tasks") for kind in ("fine", "coarse", "codes")}
    found: dict[str, object] = {
        "fine_accuracy": accuracy(arm.encoder, test, test.fine, scale.tasks, generators["fine"]),
        "coarse_accuracy": accuracy(arm.encoder, test, test.shapes, scale.tasks, generators["coarse"]),
        "purity": purity(arm.encoder, test),
        "code_spread": code_spread(arm.encoder, test, generators["codes"]),
    }
    if arm.kind != "prototypes":
        found["range_parts"] = dict(zip(VIEWS, arm.generator.parts(test.images).detach().mean(dim=0).tolist()))
    return found


def main(
    out: NewFolder = Path("views_run"),
    seed: int = 0,
    quick: Quick = False,
) -> None:
    """Trains the four arms, asks them for unseen classes, and writes metrics.json and picture.png."""
    new_folder(out)
    start = time.perf_counter()
    scale = QUICK if quick else Scale()
    order = torch.randperm(SHAPES, generator=named_generator(seed, "split")).tolist()
    pictures = Pictures.random(order[:SEEN], scale.per_class, named_generator(seed, "train"))
    held_out = Pictures.random(order[:SEEN], scale.held_out, named_generator(seed, "held out"))
    test = Pictures.random(order[SEEN:], scale.per_test_class, named_generator(seed, "test"))
    arms = {}
    with ConsoleProgress(Console()) as bar:
        for kind in ARMS:
            arms[kind] = Arm(kind, pictures, held_out, scale, seed)
            arms[kind].train(bar)
            arms[kind].encoder.eval()
    measured = {kind: measure(arm, test, scale, seed) for kind, arm in arms.items()}
    metrics = {"seed": seed, "quick": quick, "arms": measured, "seconds": time.perf_counter() - start}
    noise = 2 * torch.rand(2, 6, 8, generator=named_generator(seed, "picture")) - 1
    shown = test.images[:: len(test.images) // 6][:6]
    views = {kind: arms[kind].generator(shown, noise[0]).detach() for kind in ARMS[1:]}
    write_results(out, metrics, draw_views({"pictures": shown} | views, measured))


if __name__ == "__main__":
    typer.run(main)
