"""Detects objects of classes that no training shows, by their words, with a learned word for the background.

A box's features become a vector t = T r, which is compared with words: the columns of V, the background's first. A
cascade of stages corrects the boxes; the stages share one dictionary of each layer (`kshot_linear`), each under a code
of its own.

    S_i = M_i(D) + F_i(S_{i-1}),  D the words of a vocabulary
    scores_i = softmax(t_i tanh(S_i V)),  t_i = T_i r(boxes of stage i)

The background's word is learnt by a detector of two columns, object or not, and then stands in V. For unseen classes
the columns of V are replaced: [background, unseen], or [background, seen, unseen] in one softmax.

    python examples/background_cascade.py --out cascade --seed 0

Zheng et al., "Background Learnable Cascade for Zero-Shot Object Detection", ACCV 2020.
docs/examples/background_cascade.md has the results, and what differs from the paper.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator, seeded_by
from kshot_ext.nn import KShotLinear
from kshot_ext.optim import KShotAdamW, decay_groups
from parts.common import NewFolder, Quick, new_folder, train, write_results
from parts.detection import BINS, average_precision, corrected, corrections, hits, overlaps, read_boxes, without_doubles
from parts.pictures import draw_detections
from parts.scenes import CLASSES, VOCABULARY, WORD, Scenes, Words, columns_of

FEATURES, SHOTS = 64, 3
LIMITS, WEIGHTS = (0.5, 0.6, 0.7), (1.0, 0.5, 0.25)  # of overlap, for objects of each stage; of its loss
RATE, TOP = 2e-3, 5  # the latter: boxes of a picture that count for the recall


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    scenes: int = 600
    test_scenes: int = 300
    batch: int = 16
    steps: int = 1500  # of each cascade
    background_steps: int = 1500


QUICK = Scale(scenes=16, test_scenes=12, batch=4, steps=3, background_steps=3)


@dataclass(frozen=True)
class Arm:
    """A background vector, how many stages, and whether word relations flow from stage to stage."""

    background: str
    stages: int
    flow: bool

    @property
    def title(self) -> str:
        return f"{self.background}, {self.stages} stage{'s' * (self.stages > 1)}{', flow' * self.flow}"


BACKGROUNDS = ("mean", "zeros", "learned")
ARMS = [Arm(*parts) for parts in itertools.product(BACKGROUNDS, (1, 3), (False, True)) if parts[1] > 1 or not parts[2]]


class Cascade(nn.Module):
    """Stages that score boxes by words and correct them; one dictionary of each layer for all stages.

    Args:
        vocabulary: D, ``[WORD, VOCABULARY]``.
        stages: 1 to 3.
        flow: whether a stage's word relation begins with that of the stage before.
    """

    def __init__(self, vocabulary: Tensor, stages: int, flow: bool) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        sizes = ((3, 16, 2), (16, 32, 2), (32, 32, 1))
        layers = [(nn.Conv2d(come, go, 3, by, 1, bias=False), nn.GroupNorm(8, go), nn.ReLU()) for come, go, by in sizes]
        self.backbone = nn.Sequential(*itertools.chain(*layers))
        self.inner = KShotLinear(32 * BINS**2, FEATURES, num_shots=SHOTS)
        self.to_word = KShotLinear(FEATURES, WORD, num_shots=SHOTS)
        self.relation = KShotLinear(VOCABULARY, WORD, bias=False, num_shots=SHOTS)
        self.flow = KShotLinear(WORD, WORD, num_shots=SHOTS) if flow else None
        self.correction = KShotLinear(FEATURES, 4, num_shots=SHOTS)
        self.code_logits = nn.Parameter(2 * torch.eye(SHOTS)[:stages])  # each leans on a copy of its own

    @property
    def stages(self) -> int:
        return len(self.code_logits)

    def relations(self) -> list[Tensor]:
        """S of each stage, ``[WORD, WORD]``."""
        found: list[Tensor] = []
        for code in self.code_logits.softmax(dim=1):
            relation = self.relation(self.vocabulary, code)
            if self.flow is not None and found:
                relation = relation + self.flow(found[-1], code)
            found.append(relation)
        return found

    def forward(self, images: Tensor, boxes: Tensor, words: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each stage the boxes that it looks into, their scores before the softmax, and their corrections.

        Args:
            images: ``[N, 3, H, W]``.
            boxes: ``[N, P, 4]``, of the first stage; a later one takes those that its forerunner has corrected.
            words: V, ``[WORD, 1 + C]``.
        """
        maps = self.backbone(images)
        found = []
        for relation, code in zip(self.relations(), self.code_logits.softmax(dim=1)):
            features = self.inner(read_boxes(maps, boxes), code).relu()
            correction = self.correction(features, code)
            found.append((boxes, self.to_word(features, code) @ (relation @ words).tanh(), correction))
            boxes = corrected(boxes, correction.detach())
        return found


def cascade_loss(cascade: Cascade, scenes: Scenes, columns: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy and corrections of all stages.

    Args:
        scenes: whose true boxes are looked into as well, so that each stage sees what fits.
        columns: of the objects in the table of words, 0 where there is none, ``[N, OBJECTS]``.
        words: V.
    """
    looked = torch.cat(
        [
            scenes.proposals,
            torch.where((columns > 0).unsqueeze(2), scenes.boxes, 0.4 + 0.2 * torch.tensor([0, 0, 1, 1])),
        ],
        dim=1,
    )
    total = torch.zeros(())
    for (boxes, scores, correction), limit, weight in zip(cascade(scenes.images, looked, words), LIMITS, WEIGHTS):
        best, which = (overlaps(boxes, scenes.boxes) * (columns > 0).unsqueeze(1)).max(dim=2)
        wanted = torch.where(best >= limit, columns.gather(1, which), 0)
        truth = scenes.boxes.gather(1, which.unsqueeze(2).expand_as(boxes))
        right = wanted > 0
        misfit = F.smooth_l1_loss(correction[right], corrections(boxes[right], truth[right]), reduction="sum")
        total = total + weight * (
            F.cross_entropy(scores.flatten(0, 1), wanted.flatten()) + misfit / (4 * wanted.numel())
        )
    return total


class Training:
    """What all trainings of a run share."""

    def __init__(self, words: Words, scale: Scale, seed: int, bar: ConsoleProgress) -> None:
        self.words, self.scale, self.seed, self.bar = words, scale, seed, bar
        self.scenes = Scenes.random(scale.scenes, words.seen, named_generator(seed, "train"))

    def new_cascade(self, stages: int, flow: bool) -> Cascade:
        with seeded_by(named_generator(self.seed, "cascade")):
            return Cascade(self.words.vocabulary, stages, flow)

    def background(self) -> Tensor:
        """The background's word, by a detector that tells objects, whose word is the mean one, from all else."""
        cascade, generator = self.new_cascade(1, False), named_generator(self.seed, "background")
        word = nn.Parameter(self.words.mean.clone())
        cascade.register_parameter("background", word)

        def loss() -> Tensor:
            scenes = self.scenes.part(torch.randint(len(self.scenes.images), (self.scale.batch,), generator=generator))
            return cascade_loss(
                cascade, scenes, (scenes.labels >= 0).long(), torch.stack([word, self.words.mean], dim=1)
            )

        train(
            KShotAdamW(decay_groups(cascade, 1e-2), lr=RATE), self.scale.background_steps, loss, self.bar, "background"
        )
        return word.detach()

    def cascade(self, arm: Arm, background: Tensor) -> Cascade:
        """An arm's cascade, taught the seen classes."""
        cascade, generator = self.new_cascade(arm.stages, arm.flow), named_generator(self.seed, "batches")
        table = self.words.table(background, self.words.seen)

        def loss() -> Tensor:
            scenes = self.scenes.part(torch.randint(len(self.scenes.images), (self.scale.batch,), generator=generator))
            return cascade_loss(cascade, scenes, columns_of(scenes.labels, self.words.seen), table)

        train(KShotAdamW(decay_groups(cascade, 1e-2), lr=RATE), self.scale.steps, loss, self.bar, arm.title)
        return cascade.eval()


@torch.no_grad()
def detect(cascade: Cascade, scenes: Scenes, words: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes ``[N, P, 4]`` and the chances of each column, the mean of all stages', ``[N, P, 1 + C]``."""
    found = [cascade(part, boxes, words) for part, boxes in zip(scenes.images.split(50), scenes.proposals.split(50))]
    boxes = torch.cat([corrected(stages[-1][0], stages[-1][2]) for stages in found])
    chances = torch.cat([torch.stack([scores.softmax(dim=2) for _, scores, _ in stages]) for stages in found], dim=1)
    return boxes, chances.mean(dim=0)


def scored(scenes: Scenes, boxes: Tensor, chances: Tensor, classes: Sequence[int]) -> tuple[float, dict[int, float]]:
    """Recall of the `TOP` boxes of each scene, and the average precision of each class, of one table's classes."""
    spread = boxes.unsqueeze(1).expand(-1, len(classes), -1, -1)
    scores = without_doubles(spread, chances[..., 1:].movedim(2, 1))  # [N, C, P]
    present = scenes.labels.unsqueeze(1) == torch.tensor(classes).view(-1, 1)  # [N, C, OBJECTS]
    truth = scenes.boxes.unsqueeze(1).expand(-1, len(classes), -1, -1)
    found = hits(spread, scores, truth, present)
    least = scores.flatten(1).topk(TOP, dim=1).values[:, -1]
    recalled = hits(spread, scores * (scores >= least[:, None, None]), truth, present)
    precisions = {
        label: average_precision(scores[:, row], found[:, row], int(present[:, row].sum()))
        for row, label in enumerate(classes)
        if present[:, row].any()
    }
    return float(recalled.sum() / present.sum()), precisions


def mean_of(precisions: dict[int, float], classes: Sequence[int]) -> float:
    """Over those of the classes that occur."""
    values = [precisions[label] for label in classes if label in precisions]
    return sum(values) / max(len(values), 1)


def measure(cascade: Cascade, words: Words, background: Tensor, unseen: Scenes, mixed: Scenes) -> dict[str, float]:
    """Zero-shot results on scenes of unseen objects, generalised ones on scenes of all classes, and confusions."""
    boxes, chances = detect(cascade, unseen, words.table(background, words.unseen))
    recall, precisions = scored(unseen, boxes, chances, words.unseen)
    every = [*words.seen, *words.unseen]
    boxes, chances = detect(cascade, mixed, words.table(background, every))
    _, generalised = scored(mixed, boxes, chances, every)
    best, which = (overlaps(boxes, mixed.boxes) * (mixed.labels >= 0).unsqueeze(1)).max(dim=2)
    columns, answers = columns_of(mixed.labels, every).gather(1, which), chances.argmax(dim=2)
    new = (best >= LIMITS[0]) & (columns > len(words.seen))
    return {
        "unseen_recall": recall,
        "unseen_ap": mean_of(precisions, words.unseen),
        "generalised_seen_ap": mean_of(generalised, words.seen),
        "generalised_unseen_ap": mean_of(generalised, words.unseen),
        "unseen_called_background": float((answers[new] == 0).float().mean()),
        "background_called_unseen": float((answers[best < 0.3] > len(words.seen)).float().mean()),
    }


def main(
    out: NewFolder = Path("cascade_run"),
    seed: int = 0,
    quick: Quick = False,
) -> None:
    """Trains cascades with fixed and learned backgrounds, and writes metrics.json and picture.png."""
    new_folder(out)
    start = time.perf_counter()
    scale = QUICK if quick else Scale()
    words = Words.random(named_generator(seed, "words"))
    unseen = Scenes.random(scale.test_scenes, words.unseen, named_generator(seed, "unseen"))
    mixed = Scenes.random(scale.test_scenes, range(len(CLASSES)), named_generator(seed, "mixed"))
    measured, cascades = {}, {}
    with ConsoleProgress(Console()) as bar:
        work = Training(words, scale, seed, bar)
        backgrounds = {"mean": words.mean, "zeros": torch.zeros(WORD), "learned": work.background()}
        for arm in ARMS:
            cascades[arm.title] = work.cascade(arm, backgrounds[arm.background])
            measured[arm.title] = measure(cascades[arm.title], words, backgrounds[arm.background], unseen, mixed)
    metrics = {
        "seed": seed,
        "quick": quick,
        "arms": measured,
        "unseen": [[int(part) for part in CLASSES[row]] for row in words.unseen],
        "codes": {title: cascade.code_logits.softmax(dim=1).tolist() for title, cascade in cascades.items()},
        "cosine_of_learned_and_mean": float(F.cosine_similarity(backgrounds["learned"], words.mean, dim=0)),
        "seconds": time.perf_counter() - start,
    }
    shown = mixed.part((mixed.labels.unsqueeze(2) == torch.tensor(words.unseen)).any(dim=(1, 2)).nonzero()[:4, 0])
    found = detect(cascades[ARMS[-1].title], shown, words.table(backgrounds["learned"], words.seen + words.unseen))
    write_results(out, metrics, draw_detections(shown, *found, len(words.seen), measured))


if __name__ == "__main__":
    typer.run(main)
