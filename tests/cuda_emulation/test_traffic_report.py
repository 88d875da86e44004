"""The committed table of what kernels move: it is about the layers it says, keeps the bounds, and can be made again."""

from dataclasses import replace

import pytest
from cuda_emulation.selection import needs_emulator, needs_full
from cuda_emulation.traffic_report import (
    DTYPES,
    FAMILIES,
    RESULTS,
    Row,
    cell,
    chosen,
    count,
    cut,
    families_of,
    load_rows,
    text,
)

from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.networks import layer_sets

MOST_CONFLICTS = 2
# Eight small images: every block has one sample and reads the dictionary of its channels again, from the L2 cache.
FEW_BLOCKS = ("shufflenet_v2", "stage4.1 depthwise: 3x3 232->232 at 7x7", "bfloat16")
MOST_OF_FEW_BLOCKS = 1.65
FAMILY = {family.title: family for family in FAMILIES}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return load_rows(RESULTS)


def test_every_chosen_layer_is_in_the_table(rows: list[Row]) -> None:
    expected = {
        (layer_set.name, family.title, f"{layer.name}: {layer.geometry}", dtype)
        for layer_set in layer_sets().values()
        for family in families_of(layer_set)
        for kind in family.kinds
        for layer in chosen(layer_set, kind)
        for dtype in DTYPES
    }
    assert {(row.layer_set, row.family, row.layer, row.dtype) for row in rows} == expected


def test_bounds_are_kept(rows: list[Row]) -> None:
    for row in rows:
        target = FAMILY[row.family].target
        if row.family == "depthwise convolution" and (row.layer_set, row.layer, row.dtype) == FEW_BLOCKS:
            target = MOST_OF_FEW_BLOCKS
        assert target is None or row.moved <= target, row
        assert row.worst_bank_conflict <= MOST_CONFLICTS, row


def test_text_is_made_of_the_rows(rows: list[Row]) -> None:
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == text(rows)


@needs_full
@needs_emulator
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_counts_can_be_repeated(family, rows: list[Row]) -> None:
    """The last layer of each family, of the set whose images are smallest."""
    layer_set = layer_sets()["nas_bench_macro"]
    layer = chosen(layer_set, family.kinds[-1])[-1]
    again = list(count(layer_set, family, layer, "bfloat16"))
    assert again
    assert all(row in rows for row in again)


def test_images_are_cut_only_where_they_are_large() -> None:
    layer_set = LayerSet("set", 64, 8, [])
    small = cut(ConvLayer("small", 8, 8, 3, 4), layer_set, False, "float32")
    assert (small.layer.size, small.batch) == (4, 64)
    large = cut(ConvLayer("large", 96, 96, 3, 112, groups=96), layer_set, False, "float32")
    assert large.layer.size == 28
    assert 1 <= large.batch < 64
    assert cut(ConvLayer("dense", 2048, 2048, 3, 7), layer_set, True, "float32").batch == 4


def test_cells(rows: list[Row]) -> None:
    row = replace(rows[0], moved=1.234, moved_by_blocks=1.1, sectors=1.0, worst_bank_conflict=0)
    assert cell(row) == "1.23 (1.10), 1.00, -"
    assert cell(replace(row, moved_by_blocks=1.234, worst_bank_conflict=2)) == "1.23, 1.00, 2"
