"""The search spaces against published figures, and against their networks, with and without widths."""

import math

import pytest
import torch
from torch import nn

from kshot_ext.nas.networks.check_space import check_space
from kshot_ext.nas.spaces import create_space, space_names
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.mobilenet_v2_se import MobileNetV2SE
from kshot_ext.nas.spaces.staged_space import Stage, StagedSpace

TENTHS = tuple(tenths / 10 for tenths in range(2, 11))
TINY_CHANNELS = {
    "nas-bench-macro": 3,
    "mobilenet-v2-se": 5,
    "shufflenet-v2": 3,
    "nas-bench-201": 3,
    "groupable": 6,
    "split-attention": 3,
}
WITH_WIDTHS = [name for name in space_names() if name != "groupable"]


def named(space, *names):
    """The architecture with the operations of these names."""
    return Architecture(tuple(space.operations(layer).index(name) for layer, name in enumerate(names)))


@pytest.mark.parametrize(
    ("name", "num_architectures", "widths_searched"),
    [
        ("nas-bench-macro", 3**8, 8),
        ("mobilenet-v2-se", 13**21, 21),
        ("shufflenet-v2", 4**20, 20),
        ("nas-bench-201", 5**6, 3),
        ("split-attention", 12**8, 8),
    ],
)
def test_sizes_of_the_spaces(name, num_architectures, widths_searched):
    space = create_space(name, image_shape=(3, 32, 32), num_classes=10)
    assert math.prod(space.num_choices) == num_architectures
    space = create_space(name, image_shape=(3, 32, 32), num_classes=10, widths=TENTHS)
    assert math.prod(space.num_choices) == num_architectures * 9**widths_searched


def test_proxyless_mobile_is_in_the_mobile_space():
    """Cai et al., ICLR 2019: 320M multiply-adds; numbers by running the network of the package pytorchcv 0.0.74."""
    space = create_space("mobilenet-v2-se", image_shape=(3, 224, 224), num_classes=1000)
    blocks = "3_k5 3_k3 - - 3_k7 3_k3 3_k5 3_k5 6_k7 3_k5 3_k5 3_k5 6_k5 3_k5 3_k5 3_k5 6_k7 6_k7 3_k7 3_k7 6_k7"
    found = named(space, *("identity" if block == "-" else f"mb{block}" for block in blocks.split()))
    assert space.cost(found) == Cost(320_427_584, 4_080_512)


class MobileNetV2(StagedSpace):
    """Sandler et al., CVPR 2018, as the one network of a space."""

    stem, candidate, head = MobileNetV2SE.stem, MobileNetV2SE.candidate, MobileNetV2SE.head
    channels, is_large = 32, True

    def __init__(self):
        stages = [(24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)]
        super().__init__(
            "mobilenet-v2",
            image_shape=(3, 224, 224),
            num_classes=1000,
            operations=["mb6_k3"],
            stem_channels=16,
            stages=[Stage(*stage) for stage in stages],
        )


def test_mobile_net_v2_of_the_same_blocks():
    """torchvision's documentation: 3,504,872 parameters, 0.301 billion multiply-adds (300,774,272 when run)."""
    space = MobileNetV2()
    assert space.cost(space.largest()) == Cost(300_774_272, 3_504_872)


def test_the_network_found_by_single_path_one_shot():
    """Guo et al., ECCV 2020: their release gives 323M multiply-adds and 3.5M parameters for this network.

    Their counter is not ours, so only the size of the numbers can be compared; all other tests of this space
    compare with networks that are built and run.
    """
    space = create_space("shufflenet-v2", image_shape=(3, 224, 224), num_classes=1000)
    found = Architecture((0, 0, 3, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 2, 1, 3, 2))
    assert space.count_macs(found) == pytest.approx(323e6, rel=0.02)
    assert space.count_parameters(found) == pytest.approx(3.5e6, rel=0.05)


# Operation of each edge, multiply-accumulates, parameters: counted by the authors' package xautodl 1.0.0 on its own
# networks, less the 10 additions of the last bias, which it counts. The published table has these in millions.
NAS_BENCH_201 = [
    ((0, 0, 0, 0, 0, 0), 7783040, 73306),
    ((1, 1, 1, 1, 1, 1), 7783040, 73306),
    ((3, 3, 3, 3, 3, 3), 220119680, 1531546),
    ((2, 2, 2, 2, 2, 2), 31376000, 241306),
    ((3, 3, 0, 2, 4, 3), 117883520, 830426),
    ((3, 2, 3, 2, 4, 1), 86426240, 615386),
    ((4, 1, 2, 1, 0, 4), 11715200, 101306),
    ((2, 4, 4, 1, 2, 0), 15647360, 129306),
    ((0, 2, 3, 4, 0, 2), 51036800, 372346),
    ((3, 2, 4, 1, 4, 3), 82494080, 587386),
    ((3, 4, 2, 0, 4, 0), 47104640, 344346),
    ((0, 3, 0, 4, 3, 2), 82494080, 587386),
    ((1, 1, 4, 3, 0, 0), 43172480, 316346),
]


@pytest.fixture(scope="module")
def published_nas_bench_201():
    return create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)


@pytest.mark.parametrize(("operations", "macs", "parameters"), NAS_BENCH_201)
def test_nas_bench_201_costs_what_its_authors_count(published_nas_bench_201, operations, macs, parameters):
    assert published_nas_bench_201.cost(Architecture(operations)) == Cost(macs, parameters)


def test_cells_of_nas_bench_201_are_wired_as_published(seeded):
    """A cell whose only working edges are 0 -> 1 -> 3 is a chain; one that lacks 1 -> 3 passes nothing on."""
    space = create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=10, channels=2)
    images = torch.randn(3, 3, 8, 8, generator=seeded(0))
    chain = space.build(Architecture((1, 0, 0, 0, 1, 0)), seeded(1)).eval()
    direct = space.build(Architecture((0, 0, 0, 1, 0, 0)), seeded(1)).eval()
    broken = space.build(Architecture((1, 0, 0, 0, 0, 1)), seeded(1)).eval()
    torch.testing.assert_close(chain(images), direct(images))
    assert not torch.allclose(chain(images)[0], chain(images)[1])
    torch.testing.assert_close(broken(images)[0], broken(images)[1])


@pytest.mark.parametrize(
    ("name", "widths"),
    [*((name, None) for name in space_names()), *((name, TENTHS) for name in WITH_WIDTHS)],
    ids=[*space_names(), *(f"{name} widths" for name in WITH_WIDTHS)],
)
@pytest.mark.usefixtures("native_backend", "one_thread")
def test_networks_cost_and_compute_what_space_and_supernet_say(name, widths, seeded):
    space = create_space(name, image_shape=(3, 32, 32), num_classes=10, channels=TINY_CHANNELS[name], widths=widths)
    check_space(space, seeded(0), num_random=3)


@pytest.mark.parametrize(("side", "last_side"), [(224, 7), (32, 4)])
@pytest.mark.parametrize("name", ["mobilenet-v2-se", "shufflenet-v2"])
def test_mobile_spaces_suit_the_image_size(name, side, last_side):
    space = create_space(name, image_shape=(3, side, side), num_classes=10)
    with torch.device("meta"):
        layers = [
            space.candidate(space.operations(index)[-1], shape) for index, shape in enumerate(space.full_shape.layers)
        ]
        features = nn.Sequential(space.stem(space.full_shape.stem), *layers)(torch.empty(1, *space.image_shape))
    assert features.shape[2:] == (last_side, last_side)


def test_shortcuts_tie_the_widths_of_a_stage():
    space = create_space("nas-bench-macro", image_shape=(3, 32, 32), num_classes=10, widths=TENTHS)
    widths = [0.5, 0.2, 0.3, 0.9, 1.0, 1.0, 0.4, 0.2]
    layers = space.network_shape(widths).layers
    assert [layer.out_channels for layer in layers] == [32, 32, 38, 38, 38, 256, 256, 256]
    assert [layer.in_channels for layer in layers] == [32, 32, 32, 38, 38, 38, 256, 256]
    assert [layer.inner(100) for layer in layers] == [50, 20, 30, 90, 100, 100, 40, 20]
    assert [layer.keeps_shape for layer in layers] == [False, True, False, True, True, False, True, True]


def test_shuffle_stages_hand_on_all_their_channels():
    space = create_space("shufflenet-v2", image_shape=(3, 32, 32), num_classes=10, widths=TENTHS)
    narrow, wide = (space.network_shape([ratio] * 20) for ratio in (0.2, 1.0))
    assert [layer.out_channels for layer in narrow.layers] == [layer.out_channels for layer in wide.layers]
    assert (narrow.layers[0].inner(32), wide.layers[0].inner(32)) == (6, 32)


@pytest.mark.parametrize("name", WITH_WIDTHS)
def test_more_width_costs_more(name, seeded):
    space = create_space(name, image_shape=(3, 32, 32), num_classes=10, widths=(0.5, 1.0))
    assert space.count_macs(space.cheapest()) < space.count_macs(space.largest())
    architecture = Architecture(space.largest().operations, (1,) * space.num_widths)
    macs = space.count_macs(architecture)
    neighbours = [architecture.with_width(position, 0) for position in range(space.num_widths)]
    assert all(space.count_macs(other) < macs for other in neighbours)


@pytest.mark.parametrize("name", space_names())
def test_rejects_no_channels(name):
    with pytest.raises(ValueError, match="channels"):
        create_space(name, image_shape=(3, 32, 32), num_classes=10, channels=0)
