"""Costs against the published table of NAS-Bench-Macro (Su et al., CVPR 2021; Apache-2.0)."""

import pytest
import torch

from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import Cost

# Operation of each layer, multiply-accumulates, parameters.
PUBLISHED = [
    ("11021122", 69831168, 2528842),
    ("22110101", 54364672, 1128362),
    ("11201020", 48099840, 1435210),
    ("00102202", 48247296, 1754090),
    ("02221010", 59007488, 1251370),
    ("12201222", 78823936, 2584330),
    ("12110200", 47206912, 875850),
    ("11111221", 65012224, 2181386),
    ("22210001", 55337472, 1054186),
    ("10101212", 51765760, 2050634),
    ("12100211", 53498368, 1579722),
    ("11000011", 31666688, 1230922),
    ("20120121", 59820544, 2015018),
    ("02110222", 69186048, 2530410),
    ("12200021", 56295936, 1768586),
    ("01112220", 61493760, 1884842),
    ("10012001", 38855168, 1122698),
    ("01120010", 38965760, 1069098),
    ("22102201", 66634240, 1408682),
    ("01000102", 31894016, 1366250),
]


@pytest.fixture(scope="module")
def published_space():
    return create_space("nas-bench-macro", image_shape=(3, 32, 32), num_classes=10)


@pytest.mark.parametrize(("operations", "macs", "parameters"), PUBLISHED)
def test_costs_equal_the_published_ones(published_space, operations, macs, parameters):
    architecture = Architecture(tuple(int(operation) for operation in operations))
    assert published_space.cost(architecture) == Cost(macs, parameters)


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (3, 9, 13), (1, 1, 1)])
def test_fits_other_image_sizes(image_shape):
    space = create_space("nas-bench-macro", image_shape=image_shape, num_classes=3, channels=2)
    network = space.build(space.largest(), torch.Generator().manual_seed(0)).eval()
    assert network(torch.zeros(2, *image_shape)).shape == (2, 3)


def test_small_images_get_a_narrower_network():
    widths = [create_space("nas-bench-macro", image_shape=(1, side, side), num_classes=10).channels for side in (8, 32)]
    assert widths[0] < widths[1] == 32
