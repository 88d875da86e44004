"""The four layer sets, each from its network's published description."""

from __future__ import annotations

from functools import cache

from benchmarks.layers import ConvLayer, LayerSet


def inverted_residual(
    name: str,
    channels: tuple[int, int],
    expansion: int,
    kernel_size: int,
    size: int,
    stride: int,
    squeeze: int | None = None,
) -> list[ConvLayer]:
    """Expand, depthwise, squeeze-excite with `squeeze` channels (None: without), project."""
    in_channels, out_channels = channels
    hidden = in_channels * expansion
    depthwise = ConvLayer(f"{name} depthwise", hidden, hidden, kernel_size, size, stride, groups=hidden)
    layers = [depthwise]
    if expansion > 1:
        layers.insert(0, ConvLayer(f"{name} expand", in_channels, hidden, 1, size))
    if squeeze is not None:
        layers.append(ConvLayer(f"{name} squeeze", hidden, squeeze, 1, 1, activation=False))
        layers.append(ConvLayer(f"{name} excite", squeeze, hidden, 1, 1, activation=False))
    layers.append(ConvLayer(f"{name} project", hidden, out_channels, 1, depthwise.out_size, activation=False))
    return layers


def nas_bench_macro_positions() -> list[tuple[str, tuple[int, int], int, int]]:
    """Name, channels in and out, input size and stride of the eight searched positions."""
    positions = []
    channels, size = 32, 32
    for stage, (out_channels, depth) in enumerate(((64, 2), (128, 3), (256, 3)), start=1):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            positions.append((f"stage{stage}.{index}", (channels, out_channels), size, stride))
            channels, size = out_channels, size // stride
    return positions


NAS_BENCH_MACRO_STEM = ConvLayer("stem", 3, 32, 3, 32)
NAS_BENCH_MACRO_HEAD = ConvLayer("head", 256, 1280, 1, 4)


def nas_bench_macro() -> LayerSet:
    """Every operation of the supernet of NAS-Bench-Macro (Su et al., CVPR 2021) at 32x32."""
    layers = [NAS_BENCH_MACRO_STEM]
    for name, channels, size, stride in nas_bench_macro_positions():
        if channels[0] != channels[1]:
            layers.append(ConvLayer(f"{name} identity", *channels, 1, size, stride, activation=False))
        layers += inverted_residual(f"{name} MB3 3x3", channels, 3, 3, size, stride)
        layers += inverted_residual(f"{name} MB6 5x5", channels, 6, 5, size, stride)
    return LayerSet("nas_bench_macro", 64, 8, [*layers, NAS_BENCH_MACRO_HEAD])


def mobilenet_v2_se() -> LayerSet:
    """MobileNetV2 (arXiv 1801.04381) with squeeze-excite, a quarter of the hidden channels, at 224x224."""
    stages = (
        # expansion, kernel, channels, depth, stride
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 3, 32, 3, 2),
        (6, 3, 64, 4, 2),
        (6, 3, 96, 3, 1),
        (6, 3, 160, 3, 2),
        (6, 3, 320, 1, 1),
    )
    return LayerSet("mobilenet_v2_se", 8, 8, _mobile_network(stages, squeeze_of_hidden=True))


def efficientnet_b0() -> LayerSet:
    """EfficientNet-B0 (arXiv 1905.11946), squeeze a quarter of a block's input channels, at 224x224."""
    stages = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    return LayerSet("efficientnet_b0", 16, 4, _mobile_network(stages, squeeze_of_hidden=False))


def _mobile_network(stages: tuple[tuple[int, int, int, int, int], ...], squeeze_of_hidden: bool) -> list[ConvLayer]:
    layers = [ConvLayer("stem", 3, 32, 3, 224, stride=2)]
    channels, size = 32, 112
    for stage, (expansion, kernel_size, out_channels, depth, first_stride) in enumerate(stages, start=1):
        for index in range(depth):
            stride = first_stride if index == 0 else 1
            squeeze = channels * (expansion if squeeze_of_hidden else 1) // 4
            layers += inverted_residual(
                f"stage{stage}.{index}",
                (channels, out_channels),
                expansion,
                kernel_size,
                size,
                stride,
                squeeze,
            )
            channels, size = out_channels, layers[-1].size
    return [*layers, ConvLayer("head", channels, 1280, 1, size)]


def shufflenet_v2() -> LayerSet:
    """ShuffleNetV2 1.0x (arXiv 1807.11164) at 224x224."""
    layers = [ConvLayer("stem", 3, 24, 3, 224, stride=2)]
    channels, size = 24, 56  # a max pool follows the stem
    for stage, (out_channels, depth) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
        half = out_channels // 2
        down = f"stage{stage}.0"
        layers += [
            _depthwise(f"{down} shortcut depthwise", channels, size, stride=2),
            ConvLayer(f"{down} shortcut", channels, half, 1, size // 2),
            ConvLayer(f"{down} expand", channels, half, 1, size),
            _depthwise(f"{down} depthwise", half, size, stride=2),
            ConvLayer(f"{down} project", half, half, 1, size // 2),
        ]
        channels, size = out_channels, size // 2
        for index in range(1, depth):
            unit = f"stage{stage}.{index}"
            layers += [
                ConvLayer(f"{unit} expand", half, half, 1, size),
                _depthwise(f"{unit} depthwise", half, size),
                ConvLayer(f"{unit} project", half, half, 1, size),
            ]
    return LayerSet("shufflenet_v2", 8, 8, [*layers, ConvLayer("head", channels, 1024, 1, size)])


def _depthwise(name: str, channels: int, size: int, stride: int = 1) -> ConvLayer:
    return ConvLayer(name, channels, channels, 3, size, stride, groups=channels, activation=False)


@cache
def layer_sets() -> dict[str, LayerSet]:
    """The layer sets by name."""
    sets = (nas_bench_macro(), mobilenet_v2_se(), efficientnet_b0(), shufflenet_v2())
    return {layer_set.name: layer_set for layer_set in sets}
