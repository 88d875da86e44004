"""Split attention against its equation, and the space of blocks that search the number of splits."""

import pytest
import torch

from kshot_ext.nas.methods.parts.choice_distribution import ChoiceDistribution
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.split_attention import SplitAttention


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_splits_are_joined_by_weights_of_all_means(splits):
    generator = torch.Generator().manual_seed(0)
    attention = SplitAttention(3, splits, 2).double()
    input = torch.randn(2, 3 * splits, 5, 4, dtype=torch.float64, generator=generator)
    _, down, _, up = attention.scores
    output = torch.empty(2, 3, 5, 4, dtype=torch.float64)
    for image in range(2):
        means = [sum(input[image, channel * splits + split].mean() for split in range(splits)) for channel in range(3)]
        hidden = torch.relu(down.weight[:, :, 0, 0] @ torch.stack(means) + down.bias)
        scores = up.weight[:, :, 0, 0] @ hidden + up.bias
        for channel in range(3):
            own = scores[channel * splits : (channel + 1) * splits]
            weights = own.sigmoid() if splits == 1 else own.exp() / own.exp().sum()
            output[image, channel] = sum(weights[s] * input[image, channel * splits + s] for s in range(splits))
    torch.testing.assert_close(attention(input), output)


def test_all_combinations_exist_so_few_factors_describe_them():
    space = create_space("split-attention", image_shape=(3, 16, 16), num_classes=5, channels=4)
    assert len({space.values(name) for name in space.operations(0)}) == 2 * 2 * 3
    distribution = ChoiceDistribution(space)
    assert len(distribution.factors) == 8 * (2 + 2 + 3)
    assert len(distribution.own) == 8 * 12


def test_more_splits_cost_more():
    space = create_space("split-attention", image_shape=(3, 16, 16), num_classes=5, channels=4)
    costs = [space.layer_cost(3, space.operations(3).index(f"k3_e3_s{splits}")).macs for splits in (1, 2, 4)]
    assert costs == sorted(costs)
    assert len(set(costs)) == 3
