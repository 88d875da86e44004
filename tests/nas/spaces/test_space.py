import pytest
import torch
from torch import nn

from kshot_ext.nas.spaces import create_space, space_names
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace, operation_shares


@pytest.fixture
def space():
    return create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=4)


def test_sampling_is_uniform_and_seeded(space):
    generator = torch.Generator().manual_seed(0)
    architectures = [space.sample(generator) for _ in range(600)]
    again = torch.Generator().manual_seed(0)
    assert architectures[:5] == [space.sample(again) for _ in range(5)]
    for layer in range(space.num_layers):
        counts = [sum(path.operations[layer] == choice for path in architectures) for choice in range(3)]
        assert min(counts) > 150


def test_widths_are_sampled_encoded_and_kept_as_genes():
    space = create_space("nas-bench-201", image_shape=(1, 8, 8), num_classes=10, channels=4, widths=(0.25, 0.5, 1.0))
    generator = torch.Generator().manual_seed(0)
    architectures = [space.sample(generator) for _ in range(300)]
    for position in range(3):
        assert min(sum(a.widths[position] == choice for a in architectures) for choice in range(3)) > 70
    for architecture in architectures[:20]:
        space.validate(architecture)
        assert space.from_genes(space.genes(architecture)) == architecture
        assert all(gene < count for gene, count in zip(space.genes(architecture), space.num_choices))
    architecture = Architecture((0, 1, 2, 3, 4, 0), (2, 0, 1))
    assert space.encode_widths(architecture).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert space.ratios(architecture) == (1.0, 0.25, 0.5)


def test_encoding_is_one_hot(space):
    encoded = space.encode(Architecture((0, 1, 2, 0, 1, 2, 0, 1)))
    assert encoded.dtype == torch.float32
    assert encoded.argmax(dim=1).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert torch.equal(encoded.sum(dim=1), torch.ones(8))
    assert encoded.max() == 1


def test_cost_of_a_path_is_the_built_network_s(space):
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        architecture = space.sample(generator)
        network = space.build(architecture, generator)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert space.count_parameters(architecture) == parameters
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_cheapest_and_largest_bound_every_cost(space):
    generator = torch.Generator().manual_seed(2)
    counts = [space.count_macs(space.sample(generator)) for _ in range(200)]
    assert space.count_macs(space.cheapest()) <= min(counts)
    assert space.count_macs(space.largest()) >= max(counts)


def test_build_is_seeded_and_leaves_global_randomness_alone(space):
    before = torch.get_rng_state()
    first, second, other = (space.build(space.largest(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [network.get_submodule("stem.0").weight for network in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture((0,) * 7), "8 layers, got 7"),
        (Architecture((0,) * 7 + (3,)), r"operations\[7\].*mb6_k5.*got 3"),
        (Architecture((0,) * 8, widths=(0,) * 8), "no widths"),
    ],
)
def test_rejects_foreign_architectures(space, architecture, message):
    with pytest.raises(ValueError, match=message):
        space.validate(architecture)


@pytest.mark.parametrize(
    ("widths", "message"),
    [(None, "8 widths, got None"), ((0,) * 7, "8 widths"), ((0,) * 7 + (2,), r"layer 7.*0 \(0.5\), 1 \(1.0\), got 2")],
)
def test_rejects_foreign_widths(widths, message):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=4, widths=(0.5, 1.0))
    with pytest.raises(ValueError, match=message):
        space.validate(Architecture((0,) * 8, widths))


def test_unknown_space_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"nas-bench-macro.*got 'darts'"):
        create_space("darts", image_shape=(1, 8, 8), num_classes=10)
    assert space_names() == (
        "nas-bench-macro",
        "mobilenet-v2-se",
        "shufflenet-v2",
        "nas-bench-201",
        "groupable",
        "split-attention",
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"image_shape": (1, 0, 8)}, "image_shape"), ({"num_classes": 0}, "num_classes"), ({"channels": 0}, "channels")],
)
def test_rejects_sizes_out_of_range(changed, message):
    arguments = {"image_shape": (1, 8, 8), "num_classes": 10, "channels": 4}
    with pytest.raises(ValueError, match=message):
        create_space("nas-bench-macro", **(arguments | changed))


class Crooked(SearchSpace):
    """Its two operations disagree about the shape of the output."""

    def __init__(self):
        super().__init__("crooked", image_shape=(1, 4, 4), num_classes=2, operations=[("same", "half")])

    def network_shape(self, ratios):
        return NetworkShape(None, (None,), None)

    def stem(self, shape):
        return nn.Identity()

    def candidate(self, operation, shape):
        return nn.AvgPool2d({"same": 1, "half": 2}[operation])

    def head(self, shape):
        return nn.Flatten()


def test_operations_must_agree_about_shapes():
    with pytest.raises(ValueError, match="layer 0 of space crooked"):
        Crooked().cheapest()


def test_operation_shares_sum_to_one(space):
    shares = operation_shares(space, [Architecture((0,) * 8), Architecture((2,) * 8)])
    assert shares == {"identity": 0.5, "mb3_k3": 0.0, "mb6_k5": 0.5}
