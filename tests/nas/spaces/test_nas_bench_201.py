"""The cells of NAS-Bench-201."""

import pytest

from kshot_ext.nas.spaces import create_space


def space_of(cells):
    return create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=10, channels=4, cells=cells)


def test_a_cell_more_in_each_stage_adds_the_weights_of_its_edges():
    """Of a cell of c channels: six 3x3 convolutions of 9 c^2 weights, each with c scales and c offsets."""
    spaces = [space_of(cells) for cells in (1, 2, 3)]
    convolutions = spaces[0].from_genes([3] * 6)
    counts = [space.count_parameters(convolutions) for space in spaces]
    cell = sum(6 * (9 * channels**2 + 2 * channels) for channels in (4, 8, 16))
    assert [counts[1] - counts[0], counts[2] - counts[1]] == [cell, cell]
    published = space_of(None)
    assert published.cells == 5
    assert published.count_parameters(convolutions) == counts[0] + 4 * cell


@pytest.mark.parametrize(("cells", "message"), [(0, "at least 1, got 0"), (101, "at most 100, got 101")])
def test_cells_out_of_range_are_refused(cells, message):
    with pytest.raises(ValueError, match=f"cells: expected {message}"):
        space_of(cells)


def test_a_space_without_cells_takes_none():
    with pytest.raises(ValueError, match="cells: expected none, as space shufflenet-v2 is not made of cells, got 2"):
        create_space("shufflenet-v2", image_shape=(3, 32, 32), num_classes=10, cells=2)
