from collections import Counter

import pytest

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.path_sampling import fair_paths, sandwich_paths, uniform_path


@pytest.fixture(scope="module")
def wide_space():
    return create_space(
        "nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.25, 0.5, 0.75, 1.0)
    )


def test_uniform_draws_one_path(tiny_space, seeded):
    assert uniform_path(tiny_space, seeded(0)) == [tiny_space.sample(seeded(0))]


def test_fair_paths_take_each_operation_of_each_layer_once(tiny_space, seeded):
    generator = seeded(0)
    draws = [fair_paths(tiny_space, generator) for _ in range(20)]
    for paths in draws:
        for column in zip(*(path.operations for path in paths)):
            assert sorted(column) == [0, 1, 2]
    assert len({paths[0] for paths in draws}) > 15


def test_fair_paths_take_widths_as_evenly_as_possible(wide_space, seeded):
    generator = seeded(0)
    columns = [zip(*(path.widths for path in fair_paths(wide_space, generator))) for _ in range(200)]
    columns = [column for draw in columns for column in draw]
    assert all(len(set(column)) == 3 for column in columns)  # three paths, four widths
    counts = Counter(width for column in columns for width in column)
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_layers_with_fewer_operations_share_them_out(seeded):
    class Uneven:
        num_layers, num_choices = 2, (5, 2)
        operations = staticmethod(lambda layer: ("a",) * Uneven.num_choices[layer])
        from_genes = staticmethod(tuple)

    generator = seeded(0)
    for _ in range(10):
        first, second = zip(*fair_paths(Uneven, generator))
        assert sorted(first) == [0, 1, 2, 3, 4]
        assert sorted(Counter(second).values()) == [2, 3]


def test_sandwich_holds_the_extremes(tiny_space, seeded):
    largest, cheapest, *filling = sandwich_paths(tiny_space, seeded(0))
    assert (largest, cheapest) == (tiny_space.largest(), tiny_space.cheapest())
    assert len(set(filling)) == 2


def test_sandwich_of_widths_draws_the_operations(wide_space, seeded):
    generator = seeded(0)
    draws = [sandwich_paths(wide_space, generator) for _ in range(10)]
    assert {paths[0].widths for paths in draws} == {(3,) * 8}
    assert {paths[1].widths for paths in draws} == {(0,) * 8}
    assert len({paths[0].operations for paths in draws}) > 5
    assert len({paths[2].widths for paths in draws}) > 5
    for path in draws[0]:
        wide_space.validate(path)
