"""The cascade that knows unseen classes by their words: what it must not learn from, and a run of some seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer

import background_cascade
from background_cascade import ARMS, QUICK, SHOTS, Cascade, Training, cascade_loss, detect, measure, scored
from kshot_ext.nas.progress import ConsoleProgress, new_console
from parts.scenes import CLASSES, KINDS, WORD, Scenes, Words, columns_of


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.random(torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def work(words: Words) -> Training:
    return Training(words, QUICK, 0, ConsoleProgress(new_console(quiet=True)))


def cascade_of(words: Words, stages: int = 3, flow: bool = True) -> Cascade:
    torch.manual_seed(0)
    return Cascade(words.vocabulary, stages, flow)


def test_each_part_of_an_unseen_class_is_seen(words: Words) -> None:
    assert sorted(words.seen + words.unseen) == list(range(len(CLASSES)))
    assert len(words.unseen) == len(KINDS)
    for part in range(CLASSES.shape[1]):
        assert set(CLASSES[words.unseen, part].tolist()) <= set(CLASSES[words.seen, part].tolist())
    assert torch.equal(words.vocabulary[:, : len(CLASSES)], words.classes)
    torch.testing.assert_close(words.vocabulary.norm(dim=0), torch.ones(words.vocabulary.shape[1]))
    # Classes that share more have words that are more alike.
    alike = (CLASSES.unsqueeze(1) == CLASSES).sum(dim=2)
    cosines = words.classes.T @ words.classes
    assert cosines[alike == 2].mean() > cosines[alike == 1].mean() + 0.1 > cosines[alike == 0].mean() + 0.2


def test_no_training_scene_has_an_object_of_an_unseen_class(work: Training, words: Words) -> None:
    assert not torch.isin(work.scenes.labels, torch.tensor(words.unseen)).any()
    scenes = Scenes.random(40, words.unseen, torch.Generator().manual_seed(0))
    assert set(scenes.labels.unique().tolist()) == {-1, *words.unseen}
    assert (scenes.labels >= 0).any(dim=1).all()


def test_objects_are_in_their_boxes_and_some_proposals_fit() -> None:
    scenes = Scenes.random(60, range(12), torch.Generator().manual_seed(0))
    present = scenes.labels >= 0
    fit = background_cascade.overlaps(scenes.proposals, scenes.boxes)
    best = fit.amax(dim=1)[present]
    assert (best > 0.5).float().mean() > 0.9
    assert (fit.amax(dim=2) < 0.3).float().mean() > 0.2  # and there is background to look into
    # An object's own colour is in its box: the first colour is red, the second is blue.
    for scene, row in present.nonzero().tolist():
        left, top, right, bottom = (64 * scenes.boxes[scene, row]).round().int().tolist()
        middle = scenes.images[scene, :, (top + bottom) // 2 - 2 :, (left + right) // 2 - 2 :][:, :5, :5].mean(
            dim=(1, 2)
        )
        assert (middle[0] > middle[2]) == (CLASSES[scenes.labels[scene, row], 1] == 0)


def test_the_background_is_the_first_column(words: Words) -> None:
    background = torch.full((WORD,), 5.0)
    table = words.table(background, words.unseen)
    assert table.shape == (WORD, 1 + len(words.unseen))
    assert torch.equal(table[:, 0], background)
    every = [*words.seen, *words.unseen]
    for classes in (words.seen, words.unseen, every):
        columns = columns_of(torch.tensor(classes), classes)
        assert columns.tolist() == list(range(1, len(classes) + 1))
        assert torch.equal(words.table(background, classes)[:, columns], words.classes[:, classes])
        assert columns_of(torch.tensor([-1]), classes).tolist() == [0]
    assert columns_of(torch.tensor(words.unseen), words.seen).tolist() == [0] * len(words.unseen)


def test_unseen_columns_are_never_trained(work: Training, words: Words) -> None:
    """Other words for the unseen classes change nothing but what the vocabulary holds of them."""
    changed = words.classes.clone()
    changed[:, words.unseen] = 100.0
    other = Words(changed, words.vocabulary, words.seen, words.unseen)
    networks = []
    for known in (words, other):
        training = Training(known, QUICK, 0, ConsoleProgress(new_console(quiet=True)))
        networks.append(training.cascade(ARMS[-1], training.background()))
    for one, two in zip(networks[0].parameters(), networks[1].parameters()):
        assert torch.equal(one, two)


def test_all_classes_compete_in_one_softmax(words: Words) -> None:
    scenes = Scenes.random(4, range(12), torch.Generator().manual_seed(0))
    cascade, every = cascade_of(words), [*words.seen, *words.unseen]
    boxes, chances = detect(cascade, scenes, words.table(words.mean, every))
    assert chances.shape == (*scenes.proposals.shape[:2], 13)
    torch.testing.assert_close(chances.sum(dim=2), torch.ones(chances.shape[:2]))
    alone, fewer = detect(cascade, scenes, words.table(words.mean, words.unseen))
    torch.testing.assert_close(alone, boxes)  # boxes know no classes
    assert (fewer[..., 1:].sum(dim=2) > chances[..., 10:].sum(dim=2)).all()


def test_a_zero_word_scores_nought_and_tanh_is_on_the_side_of_words_only(words: Words) -> None:
    cascade = cascade_of(words, 1, False)
    images, boxes = torch.randn(2, 3, 64, 64), torch.tensor([[[0.1, 0.1, 0.5, 0.5]]]).expand(2, 1, 4)
    table = words.table(torch.zeros(WORD), words.seen)
    (_, scores, _), (_, larger, _) = cascade(images, boxes, table)[0], cascade(images, boxes, 1e6 * table)[0]
    assert (scores[..., 0] == 0).all()
    code, relation = cascade.code_logits.softmax(dim=1)[0], cascade.relations()[0]
    inner = cascade.inner(background_cascade.read_boxes(cascade.backbone(images), boxes), code).relu()
    visual = cascade.to_word(inner, code)
    torch.testing.assert_close(scores, visual @ (relation @ table).tanh())
    torch.testing.assert_close(larger, visual @ (relation @ table).sign(), atol=1e-4, rtol=1e-4)


def test_stages_share_dictionaries_and_have_codes_of_their_own(words: Words) -> None:
    one, three = cascade_of(words, 1, False), cascade_of(words, 3, False)
    assert sum(p.numel() for p in three.parameters()) - sum(p.numel() for p in one.parameters()) == 2 * SHOTS
    relations = three.relations()
    assert len(relations) == 3
    assert not torch.allclose(relations[0], relations[1])
    with torch.no_grad():
        three.code_logits.zero_()
    relations = three.relations()
    torch.testing.assert_close(relations[0], relations[2])


def test_word_relations_flow_from_stage_to_stage(words: Words) -> None:
    cascade = cascade_of(words)
    plain = cascade.relation(words.vocabulary, cascade.code_logits.softmax(dim=1)[1])
    flow = cascade.flow(cascade.relations()[0], cascade.code_logits.softmax(dim=1)[1])
    torch.testing.assert_close(cascade.relations()[1], plain + flow)
    (gradient,) = torch.autograd.grad(cascade.relations()[2].sum(), cascade.code_logits)
    assert (gradient[0] != 0).any()


def test_a_stage_looks_into_the_boxes_that_the_one_before_has_corrected(words: Words) -> None:
    cascade, scenes = cascade_of(words), Scenes.random(2, words.seen, torch.Generator().manual_seed(0))
    first, second, _ = cascade(scenes.images, scenes.proposals, words.table(words.mean, words.seen))
    torch.testing.assert_close(first[0], scenes.proposals)
    torch.testing.assert_close(second[0], background_cascade.corrected(first[0], first[2]))
    assert not second[0].requires_grad


def test_the_loss_is_least_for_the_right_scores_and_corrections(words: Words) -> None:
    scenes = Scenes.random(4, words.seen, torch.Generator().manual_seed(0))
    columns, table = columns_of(scenes.labels, words.seen), words.table(words.mean, words.seen)

    class Knowing(torch.nn.Module):
        def __init__(self, shift: int, limits: tuple[float, ...]) -> None:
            super().__init__()
            self.shift, self.limits = shift, limits

        def forward(self, images, boxes, words):
            found = []
            for limit in self.limits:
                best, which = (background_cascade.overlaps(boxes, scenes.boxes) * (columns > 0).unsqueeze(1)).max(dim=2)
                wanted = torch.where(best >= limit, columns.gather(1, which), 0)
                scores = 50.0 * torch.nn.functional.one_hot((wanted + self.shift) % 10, 10)
                truth = scenes.boxes.gather(1, which.unsqueeze(2).expand_as(boxes))
                found.append((boxes, scores, background_cascade.corrections(boxes, truth)))
            return found

    assert cascade_loss(Knowing(0, (0.5, 0.6, 0.7)), scenes, columns, table) < 1e-4
    assert cascade_loss(Knowing(0, (0.5, 0.5, 0.5)), scenes, columns, table) > 1e-2  # each stage has its own limit
    torch.testing.assert_close(
        cascade_loss(Knowing(1, (0.5, 0.6, 0.7)), scenes, columns, table), torch.tensor(50 * 1.75), rtol=1e-3, atol=0
    )


def test_who_finds_everything_has_full_marks() -> None:
    scenes = Scenes.random(20, range(12), torch.Generator().manual_seed(0))
    classes = [3, 0, 7, *range(8, 12)]
    columns = columns_of(scenes.labels, classes)
    chances = torch.nn.functional.one_hot(columns, len(classes) + 1).float()
    recall, precisions = scored(scenes, scenes.boxes, chances, classes)
    assert recall == 1
    assert set(precisions.values()) == {1.0}
    recall, precisions = scored(scenes, scenes.boxes, chances.roll(1, 2), classes)
    assert recall == 0
    assert set(precisions.values()) == {0.0}


@pytest.mark.parametrize(("column", "lost", "invented"), [(0, 1.0, 0.0), (1, 0.0, 0.0), (12, 0.0, 1.0)])
def test_confusions_count_what_they_are_called(
    words: Words, monkeypatch: pytest.MonkeyPatch, column: int, lost: float, invented: float
) -> None:
    """Of a detector that knows the seen objects, and gives one answer to unseen ones and to the background."""
    unseen, mixed = (Scenes.random(30, c, torch.Generator().manual_seed(0)) for c in (words.unseen, range(12)))

    def detect(cascade: None, scenes: Scenes, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best, which = background_cascade.overlaps(scenes.proposals, scenes.boxes).max(dim=2)
        known = (best >= 0.3) & torch.isin(scenes.labels.gather(1, which), torch.tensor(words.seen))
        answers = torch.where(known, 2, min(column, table.shape[1] - 1))
        return scenes.proposals, torch.eye(table.shape[1])[answers]

    monkeypatch.setattr(background_cascade, "detect", detect)
    found = measure(None, words, words.mean, unseen, mixed)
    assert found["unseen_called_background"] == lost
    assert found["background_called_unseen"] == invented


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("background_cascade")
    background_cascade.main(folder, seed=3, quick=True)
    return folder


def test_a_quick_run_writes_its_numbers_and_a_picture(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["arms"]) == {arm.title for arm in ARMS}
    assert len(metrics["arms"]) == 9
    assert all(0 <= value <= 1 for arm in metrics["arms"].values() for value in arm.values())
    assert -1 <= metrics["cosine_of_learned_and_mean"] < 1
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"exists already; move it away or choose another folder"):
        background_cascade.main(tmp_path, quick=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "mine")]
