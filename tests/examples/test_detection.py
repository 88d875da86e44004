"""Boxes of detectors: what is read in them, corrections, suppression and scores."""

from __future__ import annotations

import torch
from sklearn.metrics import average_precision_score

from parts.detection import BINS, average_precision, corrected, corrections, hits, overlaps, read_boxes, without_doubles


def random_boxes(*shape: int) -> torch.Tensor:
    low, size = torch.rand(2, *shape, 2, generator=torch.Generator().manual_seed(0))
    return torch.cat([0.5 * low, 0.5 * low + 0.1 + 0.3 * size], dim=-1)


def test_corrections_lead_to_the_true_boxes() -> None:
    boxes = random_boxes(3, 5)
    near = corrected(boxes, 0.5 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(corrected(boxes, corrections(boxes, near)), near)
    assert not torch.allclose(boxes, near)


def test_corrected_boxes_stay_boxes_in_the_image() -> None:
    wild = corrected(random_boxes(50), 100 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1)))
    assert ((wild >= 0) & (wild <= 1)).all()
    assert (wild[:, 2:] - wild[:, :2] > 0.015).all()


def test_features_are_read_inside_the_box() -> None:
    """Maps that tell their own places: x, then y."""
    line = (torch.arange(16) + 0.5) / 16
    maps = torch.stack(torch.meshgrid(line, line, indexing="xy")).unsqueeze(0)
    box = torch.tensor([[[0.2, 0.4, 0.6, 0.5]]])
    across, down = read_boxes(maps, box).view(2, BINS, BINS)
    middle = (torch.arange(BINS) + 0.5) / BINS
    torch.testing.assert_close(across, (0.2 + 0.4 * middle).expand(BINS, BINS))
    torch.testing.assert_close(down, (0.4 + 0.1 * middle).unsqueeze(1).expand(BINS, BINS))


def test_of_boxes_that_overlap_the_best_stays_and_a_suppressed_one_suppresses_nothing() -> None:
    row = torch.tensor([[0.0, 0.0, 0.3, 0.3], [0.08, 0.0, 0.38, 0.3], [0.16, 0.0, 0.46, 0.3], [0.6, 0.6, 0.9, 0.9]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.8, 0.9, 0.7, 0.1]])
    kept = without_doubles(row.expand(2, 4, 4), scores)
    assert kept.tolist() == (scores * torch.tensor([[1, 0, 1, 1], [0, 1, 0, 1]])).tolist()


def test_an_object_is_found_once_by_the_surest_box() -> None:
    truth = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0.0, 0.5, 0.4, 0.9]])
    boxes = torch.cat([truth, truth[:1] + 0.02, truth[1:2] + torch.tensor([0.0, 0.0, -0.3, 0.0])])
    scores = torch.tensor([0.5, 0.4, 0.3, 0.6, 0.9])
    found = hits(boxes, scores, truth, torch.tensor([True, True, False]))
    assert found.tolist() == [False, True, False, True, False]  # the last overlaps too little, the third has no object
    assert not hits(boxes, torch.zeros(5), truth, torch.ones(3, dtype=torch.bool)).any()


def test_average_precision_of_a_known_ranking() -> None:
    found = torch.tensor([True, False, True, False])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert average_precision(scores, found, 2) == average_precision_score(found, scores) == (1 + 2 / 3) / 2
    assert average_precision(scores, found, 4) == (1 + 2 / 3) / 4  # two objects were never found
    late = torch.tensor([False, True, True, True])
    assert average_precision(scores, late, 3) == 0.75  # the precision of a later, higher place counts


def test_overlaps_of_each_with_each() -> None:
    boxes, others = random_boxes(2, 3), random_boxes(2, 4)
    table = overlaps(boxes, others)
    assert table.shape == (2, 3, 4)
    torch.testing.assert_close(table[1, 2, 3], overlaps(boxes[1, 2:], others[1, 3:])[0, 0])
    torch.testing.assert_close(overlaps(boxes, boxes).diagonal(dim1=1, dim2=2), torch.ones(2, 3))
