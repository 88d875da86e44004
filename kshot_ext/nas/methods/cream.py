"""Cream of the crop: paths learn from the best paths met so far, which a small network matches to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.checks import check_at_least, check_between
from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.meta_gradient import meta_gradient
from kshot_ext.nas.methods.parts.path_board import BoardEntry, BoardSearcher, PathBoard
from kshot_ext.nas.methods.parts.path_method import PathMethod
from kshot_ext.nas.methods.parts.several_paths import check_several_paths
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.calibration import batch_statistics
from kshot_ext.nas.networks.evaluation_mode import evaluation_mode
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.searchers.search_stage import SearchStage
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.training.loop import Step, Stepper


@dataclass(frozen=True, kw_only=True)
class CreamSettings(MethodSettings):
    """The board, and how teachers are matched to students.

    Args:
        board_size: most paths on the board.
        board_gap: by how much a path must be more accurate than the board's last one to get in at any cost.
        board_after: share of the training that passes before the board takes paths and teaching begins.
        matching_images: images by whose classes a student is compared with a teacher.
        matching_every: steps from one step of the matching network to the next.
        matching_learning_rate: of the matching network's Adam.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str = "cream"
    board_size: int = 10
    board_gap: float = 0.05
    board_after: float = 1 / 6
    matching_images: int = 4
    matching_every: int = 20
    matching_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_at_least("board_size", self.board_size, 1)
        check_between("board_gap", self.board_gap, 0, 1)
        check_between("board_after", self.board_after, 0, 1)
        check_at_least("matching_images", self.matching_images, 2)  # batch norm needs two
        check_at_least("matching_every", self.matching_every, 1)
        check_at_least("matching_learning_rate", self.matching_learning_rate, 0)


@dataclass(frozen=True)
class Lesson:
    """What a student learns from: a teacher's outputs, which count by the weight rho, between 0 and 1."""

    teacher: Architecture
    weight: float


class Cream(PathMethod[CreamSettings]):
    """Trains single paths, and lets the paths of a board of the best ones teach the others:

        loss(s) = (rho * KD + (2 - rho) * CE) / 2,    KD = cross-entropy of s to the softmax of the teacher t

    CE is a path's own loss, of which it learns only as long as the board is empty. The teacher of a student is the
    entry that the matching network M scores highest, by how far the student's class probabilities on the entry's
    images are from the entry's own:

        score_t = M(softmax(f_s(x_t)) - p_t),    rho = sigmoid(max_t score_t)

    M is trained by what a lesson is good for: after a step of the student along rho * KD on some held-out images, its
    loss on others should be low, ``dCE(w - rate * d(rho KD)/dw) / dM``, see
    :func:`kshot_ext.nas.methods.parts.meta_gradient.meta_gradient`.

    Peng et al., "Cream of the Crop: Distilling Prioritized Paths For One-Shot Neural Architecture Search", NeurIPS
    2020.

    Raises:
        ValueError: if the space has a single network, which has no other to learn from.

    Attributes:
        board: the best paths met so far; the best of them is what the method finds.
        matching: M, from ``[..., matching_images * num_classes]`` to ``[..., 1]``.
    """

    summary = "single paths that learn from a board of the best ones, by teachers that a small network matches"
    paper = "Peng et al., Cream of the Crop: Distilling Prioritized Paths For One-Shot NAS, NeurIPS 2020"
    Settings = CreamSettings
    needs_held_out = True

    def __init__(self, setup: Setup, settings: CreamSettings) -> None:
        check_several_paths(settings.name, setup.space)
        super().__init__(setup, settings)
        with seeded_by(setup.generator("matching")):
            self.matching = nn.Linear(settings.matching_images * self.space.num_classes, 1).to(setup.device)
        self.modules = {**self.modules, "matching": self.matching}
        optimizer = torch.optim.Adam(self.matching.parameters(), lr=settings.matching_learning_rate)
        self.optimizers = {**self.optimizers, "matching": optimizer}
        self.board = PathBoard(settings.board_size, settings.board_gap)
        self._first_taught = int(settings.board_after * setup.num_steps)
        self._lessons: dict[Architecture, Lesson] = {}  # of a step
        self._right: list[float] = []  # share of this process's images that each path of a step got right
        self._weights: list[float] = []  # of an epoch's lessons
        self._changes = 0  # of the board in an epoch

    def train_paths(  # type: ignore[override]  # its paths have equal shares, or shares of its own
        self, paths: list[Architecture], images: Tensor, labels: Tensor, do: Stepper
    ) -> Step:
        if do.number < self._first_taught:
            return super().train_paths(paths, images, labels, do)
        if do.number % self.settings.matching_every == 0:
            self._train_matching(paths[0], do)
        lessons = {path: self.lesson(path) for path in paths}
        self._lessons = {path: lesson for path, lesson in lessons.items() if lesson is not None}
        self._weights += [lesson.weight for lesson in self._lessons.values()]
        self._right = []
        done = super().train_paths(paths, images, labels, do)
        self._lessons = {}
        for path, accuracy in zip(paths, do.processes.summed([do.share * right for right in self._right])):
            self._consider(path, accuracy, do)
        return done

    def path_loss(self, path: Architecture, code: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = super().path_loss(path, code, images, labels)
        self._right.append(float((logits.argmax(dim=1) == labels).double().mean()))
        lesson = self._lessons.get(path)
        if lesson is None:
            return loss, logits
        with torch.no_grad():
            taught = self.supernet(images, lesson.teacher, self.simplex_net.code(lesson.teacher)).softmax(dim=1)
        distance = F.cross_entropy(logits, taught)
        return (lesson.weight * distance + (2 - lesson.weight) * loss) / 2, logits

    def lesson(self, student: Architecture) -> Lesson | None:
        """The teacher of a path, and how much it counts; None if the board has no other path."""
        entries = self.board.others(student)
        if not entries:
            return None
        with torch.no_grad():
            scores = self._scores(student, entries)
        best = int(scores.argmax())
        return Lesson(entries[best].path, float(scores[best].sigmoid()))

    def selection(self, tools: SelectionTools) -> Stage:
        """Scores the paths of the board, which have been put into order by a batch each, and no others."""
        generations = -(-self.settings.board_size // tools.settings.population)
        return SearchStage(tools.archive, replace(tools.settings, generations=generations), BoardSearcher(self.board))

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """Also the accuracies at both ends of the board, how often it changed, and how much teachers counted."""
        numbers = dict(super().end_epoch(do))
        if self.board.entries:
            ends = {"board_best": self.board.entries[0].accuracy, "board_worst": self.board.entries[-1].accuracy}
            numbers |= ends | {"board_changes": float(self._changes)}
        if self._weights:
            numbers["lesson_weight"] = sum(self._weights) / len(self._weights)
        self._weights, self._changes = [], 0
        return numbers

    def state_dict(self) -> dict[str, Any]:
        return {"board": self.board.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weights, self._changes = [], 0
        self.board.load_state_dict(state["board"], self.setup.device)

    def _consider(self, path: Architecture, accuracy: float, do: Stepper) -> None:
        """Puts a path on the board if that admits it; the same in all processes, as all that counts is."""
        macs = self.space.count_macs(path)
        if not self.board.admits(path, accuracy, macs):
            return
        count = self.settings.matching_images
        images = do.held_out_images(count)[0][:count]
        probabilities = self._probabilities(path, images)
        self._changes += path not in self.board
        self.board.put(BoardEntry(path, accuracy, macs, images, probabilities))

    def _train_matching(self, student: Architecture, do: Stepper) -> None:
        """A step of the matching network. All processes look at the same images."""
        entries = self.board.others(student)
        if not entries:
            return
        count = self.settings.matching_images
        images, labels = do.held_out_images(2 * count)
        others = slice(count, 2 * count)
        gradients = self.matching_gradient(student, entries, images[:count], images[others], labels[others], do)
        pairs = zip(self.matching.parameters(), gradients)
        do.backward(cast("Tensor", sum((parameter * gradient).sum() for parameter, gradient in pairs)))
        do.apply(self.optimizers["matching"])

    def matching_gradient(
        self,
        student: Architecture,
        entries: Sequence[BoardEntry],
        images: Tensor,
        others: Tensor,
        labels: Tensor,
        do: Stepper,
    ) -> list[Tensor]:
        """The gradient of a student's loss on some images, after a lesson on others, by the matching network.

        Args:
            student: which path learns.
            entries: from which it may, at least one.
            images: of the lesson, ``[N, C, H, W]``.
            others, labels: on which it then is examined.
            do: says how far a step goes.

        Returns:
            A tensor for each parameter of the matching network, of its shape.
        """
        code = self.simplex_net.code(student)
        factor = self._path_steps.factor(student, code, do.learning_rate_fall)
        rate = factor * self.optimizers["supernet"].param_groups[0]["lr"]
        with torch.no_grad():
            best = int(self._scores(student, entries).argmax())
        taught = self._probabilities(entries[best].path, images)

        def lesson() -> Tensor:
            weight = self._scores(student, entries)[best].sigmoid()
            return weight * F.cross_entropy(self._logits(student, images), taught)

        def examination() -> Tensor:
            return F.cross_entropy(self._logits(student, others), labels)

        weights = [parameter for parameter in self.supernet.parameters() if parameter.requires_grad]
        return meta_gradient(lesson, examination, weights, list(self.matching.parameters()), rate)

    def _scores(self, student: Architecture, entries: Sequence[BoardEntry]) -> Tensor:
        """How well each entry suits a student, ``[E]``."""
        images = torch.cat([entry.images for entry in entries])
        stored = torch.stack([entry.probabilities for entry in entries])
        differences = self._logits(student, images).softmax(dim=1).view_as(stored) - stored
        return self.matching(differences.flatten(1))[:, 0]

    @torch.no_grad()
    def _probabilities(self, path: Architecture, images: Tensor) -> Tensor:
        return self._logits(path, images).softmax(dim=1)

    def _logits(self, path: Architecture, images: Tensor) -> Tensor:
        """What a path makes of a few images that all processes have: by their statistics, of which none are kept."""
        with self.networks.network(path) as network, evaluation_mode(network), batch_statistics(network):
            return network(images)
