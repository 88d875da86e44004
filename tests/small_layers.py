"""A layer set of which every row is quick."""

from benchmarks.layers import ConvLayer, LayerSet

SMALL = LayerSet(
    "small",
    batch=3,
    num_shots=2,
    convolutions=[
        ConvLayer("dense", 6, 10, 1, 5),
        ConvLayer("strided", 3, 4, 3, 7, stride=2),
        ConvLayer("depthwise", 8, 8, 5, 6, groups=8),
    ],
)
