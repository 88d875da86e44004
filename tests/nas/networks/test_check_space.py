"""The check of spaces finds the mistakes that it is there for."""

import pytest
from torch import nn

from kshot_ext.nas.networks.check_space import check_space
from kshot_ext.nas.spaces.blocks import conv_batch_norm
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.spaces.staged_space import Stage, StagedSpace


class Plain(StagedSpace):
    """Layers of one convolution between 1x1 convolutions."""

    def __init__(self):
        super().__init__(
            "plain",
            image_shape=(1, 6, 6),
            num_classes=3,
            operations=["k1", "k3"],
            stem_channels=4,
            stages=[Stage(8, 2, 2)],
            widths=(0.5, 1.0),
        )

    def stem(self, shape):
        return conv_batch_norm(1, shape, 3)

    def candidate(self, operation, shape):
        inner = shape.inner(6)
        return nn.Sequential(
            conv_batch_norm(shape.in_channels, inner, int(operation[1]), stride=shape.stride),
            conv_batch_norm(inner, shape.out_channels, 1),
        )

    def head(self, shape):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape, self.num_classes))


class MissesWeights(Plain):
    """Counts something else than it builds."""

    def cost(self, architecture):
        return super().cost(architecture) + Cost(0, 1)


class Shrinks(nn.Module):
    """Depends on the state of its class, so that the extracted network computes something else."""

    factor = 1.0

    def forward(self, input):
        Shrinks.factor *= 0.9
        return Shrinks.factor * input


class Fickle(Plain):
    def candidate(self, operation, shape):
        return nn.Sequential(super().candidate(operation, shape), Shrinks())


class Regrouped(Plain):
    """Changes the groups of a convolution with the width, which no slice can do."""

    def candidate(self, operation, shape):
        groups = 2 if shape.ratio < 1 else 1
        regrouped = nn.Conv2d(shape.out_channels, shape.out_channels, 1, groups=groups)
        return nn.Sequential(super().candidate(operation, shape), regrouped)


def test_a_sound_space_passes(seeded):
    check_space(Plain(), seeded(0))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (MissesWeights, r"space plain: counted Cost.*but its network has Cost"),
        (Fickle, r"space plain: the supernet's outputs differ .* by up to \d"),
        (Regrouped, r"layer '1': expected groups of \(8, 8\) channels"),
    ],
)
def test_mistakes_are_found(space, message, seeded):
    assert issubclass(space, SearchSpace)
    with pytest.raises(ValueError, match=message):
        check_space(space(), seeded(0))
