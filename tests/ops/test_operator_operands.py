"""What raw operators refuse: whoever calls them beside the Python functions must not read beyond a tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

WINDOW = ([1, 1], [1, 1, 1, 1], [1, 1])  # stride, padding on four sides, dilation
DENSE, DEPTHWISE = (3, 4, 5, 3, 3), (3, 5, 1, 3, 3)


pytestmark = pytest.mark.usefixtures("native_backend")


def forward(
    code: Tensor,
    bias: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    out_channels: int | None = None,
    depthwise: bool = False,
) -> Tensor:
    images = torch.zeros(2, 5, 6, 6)
    weight = torch.zeros(DEPTHWISE if depthwise else DENSE) if weight is None else weight
    out_channels = weight.shape[1] if out_channels is None else out_channels
    return torch.ops.kshot_ext.fused_conv2d(images, weight, code, None, bias, out_channels, *WINDOW, depthwise, False)


@pytest.mark.parametrize("depthwise", [False, True])
def test_biases_per_sample_take_codes_per_sample(depthwise: bool) -> None:
    channels = 5 if depthwise else 4
    forward(torch.ones(2, 3), torch.zeros(2, channels), depthwise=depthwise)
    with pytest.raises(RuntimeError, match=r"bias must be \[C_out'\] or, with a code per sample"):
        forward(torch.ones(3), torch.zeros(2, channels), depthwise=depthwise)


@pytest.mark.parametrize("depthwise", [False, True])
def test_short_biases_and_codes_are_refused(depthwise: bool) -> None:
    channels = 5 if depthwise else 4
    for bias in (torch.zeros(channels - 1), torch.zeros(1, channels), torch.zeros(2, channels - 1)):
        with pytest.raises(RuntimeError, match=r"bias must be .* N, C_out' = 2, " + str(channels)):
            forward(torch.ones(2, 3), bias, depthwise=depthwise)
    for code in (torch.ones(2), torch.ones(1, 3), torch.ones(2, 2), torch.ones(1, 1, 3), torch.ones(3).double()):
        with pytest.raises(RuntimeError, match=r"code must be .* N, K = 2, 3"):
            forward(code, depthwise=depthwise)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": torch.zeros(3, 4, 4, 3, 3)},
        {"weight": torch.zeros(4, 5, 3, 3)},
        {"out_channels": 5},
        {"weight": torch.zeros(3, 5, 2, 3, 3), "depthwise": True},
        {"out_channels": 4, "depthwise": True},
    ],
)
def test_dictionaries_that_do_not_cover_the_call_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"weight must be a dictionary .* that covers the active channels"):
        forward(torch.ones(3), **changes)


def test_gradients_of_another_shape_are_refused() -> None:
    images, weight, code = torch.zeros(2, 5, 6, 6), torch.zeros(DENSE), torch.ones(3)
    for grad in (torch.zeros(2, 4, 6, 5), torch.zeros(1, 4, 6, 6), torch.zeros(2, 4, 6, 6).double()):
        with pytest.raises(RuntimeError, match="the output's gradient must have its shape, dtype and device"):
            torch.ops.kshot_ext.fused_conv2d_backward(
                grad, images, weight, code, None, *WINDOW, False, False, *[True] * 3, *[False] * 2
            )


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (([0, 1], [1] * 4, [1, 1]), r"stride must be 1 to 2\^31 - 1; got image 6, kernel 3, stride 0"),
        (([2**31, 1], [1] * 4, [1, 1]), "stride must be 1"),
        (([1, 1], [1, 1, -1, 1], [1, 1]), "padding must be 0"),
        (([1, 1], [1, 1, 1, 2**40], [1, 1]), "padding must be 0"),
        (([1, 1], [2**31 - 1, 1, 1, 1], [1, 1]), "the padded image must have at most"),
        (([1, 1], [2**20] * 4, [1, 1]), "images of more than 2"),
        (([1, 1], [1] * 4, [1, -1]), "dilation must be 1"),
        (([1, 1], [1] * 4, [1, 2**62]), "dilation must be 1"),
        (([1, 1], [1] * 4, [9, 1]), "the kernel, with its dilation, is larger than the padded image"),
        (([1], [1] * 4, [1, 1]), "stride, dilation of 2 and padding of 4 entries"),
        (([1, 1], [1] * 2, [1, 1]), "stride, dilation of 2 and padding of 4 entries"),
    ],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_windows_out_of_range_are_refused(window: Any, message: str, depthwise: bool) -> None:
    weight = torch.zeros(DEPTHWISE if depthwise else DENSE)
    images, code, out_channels = torch.zeros(2, 5, 6, 6), torch.ones(3), weight.shape[1]
    with pytest.raises(RuntimeError, match=message):
        torch.ops.kshot_ext.fused_conv2d(images, weight, code, None, None, out_channels, *window, depthwise, False)
    grad = torch.zeros(2, out_channels, 6, 6)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.kshot_ext.fused_conv2d_backward(
            grad, images, weight, code, None, *window, depthwise, False, *[True] * 5
        )


@pytest.mark.parametrize("depthwise", [False, True])
def test_gates_and_empty_images_are_refused(depthwise: bool) -> None:
    weight = torch.zeros(DEPTHWISE if depthwise else DENSE)
    arguments = (weight.shape[1], *WINDOW, depthwise, False)
    operator = torch.ops.kshot_ext.fused_conv2d
    images, code = torch.zeros(2, 5, 6, 6), torch.ones(3)
    for gate in (torch.ones(2), torch.ones(()), torch.ones(2, weight.shape[1]), torch.ones(weight.shape[1]).double()):
        with pytest.raises(RuntimeError, match="gate must be"):
            operator(images, weight, code, gate, None, *arguments)
    with pytest.raises(RuntimeError, match="an image must have 1 to"):
        operator(torch.zeros(2, 5, 6, 0), weight, code, None, None, *arguments)
    with pytest.raises(RuntimeError, match="covers the active channels"):
        operator(images, weight, code, None, None, 0, *arguments[1:])
    if not depthwise:
        with pytest.raises(RuntimeError, match="a dense weight per sample takes no gate"):
            operator(images, weight, torch.ones(2, 3), torch.ones(4), None, *arguments)


def test_batch_norm_refuses_operands_of_other_sizes_and_dtypes() -> None:
    forward, backward = torch.ops.kshot_ext.batch_norm_act, torch.ops.kshot_ext.batch_norm_act_backward
    images, one, needs = torch.zeros(2, 5, 3, 3), torch.ones(5), [True, False] * 2 + [True] * 2
    good = {"weight": one, "bias": one, "code": None, "residual": images, "mean": one, "variance": one}
    dictionary, code = torch.ones(3, 5), torch.ones(3)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"weight": torch.ones(4)}, "weight and bias must be"),
        ({"bias": torch.ones(3, 5)}, "weight and bias must be"),
        ({"bias": torch.ones(5, dtype=torch.int64)}, "expected float32, float64, bfloat16 or float16"),
        ({"weight": torch.ones(3, 4), "code": code}, "widths must lie in"),
        ({"bias": dictionary, "code": torch.ones(4)}, "code must be"),
        ({"bias": dictionary, "code": torch.ones(3, 3)}, "weight and bias must be"),
        ({"bias": dictionary, "code": code.double()}, "code must be"),
        ({"weight": dictionary.double(), "code": code.double()}, "dictionaries of weight and bias must be"),
        ({"residual": torch.zeros(2, 5, 1, 1)}, "residual must be"),
        ({"residual": images.double()}, "residual must be"),
        ({"mean": torch.ones(1)}, "mean and variance must be"),
        ({"variance": torch.ones(5, 1)}, "mean and variance must be"),
    ]
    for change, message in wrong:
        operands = {**good, **change}.values()
        with pytest.raises(RuntimeError, match=message):
            forward(images, *operands, 1e-5, 1)
        with pytest.raises(RuntimeError, match=message):
            backward(images, images, *operands, 1e-5, 1, True, *needs)
    with pytest.raises(RuntimeError, match="mean and variance must be given both or neither"):
        forward(images, one, one, None, None, None, one, 1e-5, 1)
    for activation in (-1, 5, 99, 2**40):
        with pytest.raises(RuntimeError, match="activation must be 0 to 4"):
            forward(images, *good.values(), 1e-5, activation)
    for grad in (images.half(), images[:1], images[0]):
        with pytest.raises(RuntimeError, match="the output's gradient must be"):
            backward(grad, images, *good.values(), 1e-5, 1, True, *needs)


def test_mixing_refuses_lists_and_ranks_that_do_not_fit() -> None:
    operators = torch.ops.kshot_ext
    weight, code = torch.ones(2, 3, 4), torch.ones(2)
    for grads, weights, needs in (([], [], []), ([weight[0]], [weight] * 2, [1, 1]), ([weight[0]], [weight], [])):
        with pytest.raises(RuntimeError, match="expected as many gradients and needs as weights"):
            operators.mix_weights_backward(grads, weights, code, needs, True)
    for grad in (torch.ones(()), torch.ones(3), torch.ones(2, 3, 4)):
        with pytest.raises(RuntimeError, match=r"code must be \[K\] or \[N, K\], and the gradient"):
            operators.effective_weight_backward(grad, weight, code, None, True, True, False)
    for shape in ((2, 0), (0, 3, 4), (2, 3, 4, 0)):
        with pytest.raises(RuntimeError, match="must have no empty dimension"):
            operators.effective_weight(torch.ones(shape), torch.ones(shape[0]), None, shape[1], 1)


def test_counts_of_uses_are_refused_that_no_list_holds() -> None:
    weight, uses = torch.ones(2, 3), ([torch.ones(2)], [None], [torch.ones(3)])
    weights, *moments = ([weight.clone(), weight.clone()] for _ in range(4))
    of_sgd, of_adamw = (0.1, 0.0, 0.0, 0.0, False, False), (0.1, 0.9, 0.9, 0.1, 0.0, False)
    for counts in ([-1, 1], [2**62, 2**62], [2, -1]):
        with pytest.raises(RuntimeError, match="a count of uses must be 0 to 1"):
            torch.ops.kshot_ext.sgd_update(weights, [], [None, None], counts, *uses, *of_sgd)
        with pytest.raises(RuntimeError, match="a count of uses must be 0 to 1"):
            torch.ops.kshot_ext.adamw_update(weights, *moments, [1.0, 1.0], [None, None], counts, *uses, *of_adamw)


@pytest.mark.parametrize("depthwise", [False, True])
def test_operands_without_values_beside_such_with_values_are_refused(depthwise: bool) -> None:
    """One on the meta device must not make a result without values of the call."""
    weight = torch.ones(DEPTHWISE if depthwise else DENSE)
    operands = [torch.ones(2, 5, 6, 6), weight, torch.ones(3), torch.ones(weight.shape[1]), torch.ones(weight.shape[1])]
    arguments = (weight.shape[1], *WINDOW, depthwise, False)
    operators = torch.ops.kshot_ext
    for i, operand in enumerate(operands):
        mixed = [*operands[:i], operand.to("meta"), *operands[i + 1 :]]
        with pytest.raises(
            RuntimeError, match="operands of kshot_ext::fused_conv2d must be on one device, got cpu, meta"
        ):
            operators.fused_conv2d(*mixed, *arguments)
    without_values = operators.fused_conv2d(*[operand.to("meta") for operand in operands], *arguments)
    assert (without_values.shape, without_values.device.type) == ((2, weight.shape[1], 6, 6), "meta")
    with pytest.raises(RuntimeError, match="kshot_ext::mix_weights must be on one device"):
        operators.mix_weights([weight, weight.to("meta")], torch.ones(3))
