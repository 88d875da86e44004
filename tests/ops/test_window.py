"""Windows that no kernel may see as users give them: outside the image, or with strides that lead far out of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.nn import functional as F

from kshot_ext import backend
from kshot_ext import functional as KF
from kshot_ext.ops.window import Window


def window_of(kernel: tuple[int, ...], stride: int = 1, padding: int | str = 0, dilation: int = 1) -> Window:
    return Window.of_arguments(kernel, stride, padding, dilation)


def test_strides_are_cut_to_what_leaves_the_image_as_well() -> None:
    for size, kernel, padding, dilation in itertools.product((1, 4, 9), (1, 3), (0, 1, 2), (1, 2)):
        for stride in (1, 2, 5, 8, 100, 2**31 - 1):
            window = window_of((kernel,), stride, padding, dilation)
            if window.reach(0) > size + 2 * padding:
                continue
            cut = window.cut_to((size,))
            assert cut.output_size((size,)) == window.output_size((size,))
            assert cut.stride[0] <= min(stride, size + 2 * padding)
            if window.output_size((size,))[0] > 1:
                assert cut == window


def test_inputs_without_pitfalls_give_the_same_outputs() -> None:
    """Padding is spelt out where an output is fed by no position of the image, and only there."""
    for size, kernel, padding, dilation in itertools.product((1, 2, 5), (1, 2, 3), range(6), (1, 3)):
        window = window_of((kernel,), 1, padding, dilation)
        if window.reach(0) > size + 2 * padding:
            continue
        image, weight = torch.randn(2, 1, size), torch.randn(1, 1, kernel)
        other, simple = window.without_pitfalls(image)
        first_window_ends_before_the_image = padding - window.reach(0) + 1 > 0
        assert (simple != window) == first_window_ends_before_the_image
        stride, left, dilate = simple.torch_arguments()
        expected = F.conv1d(image, weight, padding=padding, dilation=dilation)
        torch.testing.assert_close(F.conv1d(other, weight, None, stride, left, dilate), expected)


@pytest.mark.parametrize("kernel", [(1, 3), (3, 2)])
@pytest.mark.parametrize("stride", [(33, 1), (2, 40), (50, 35)])
def test_positions_that_long_strides_reach_are_picked(stride: tuple[int, int], kernel: tuple[int, int]) -> None:
    window = Window.of_arguments(kernel, stride, (1, 0), (2, 1))
    image, weight = torch.randn(2, 3, 110, 95), torch.randn(4, 3, *kernel)
    other, simple = window.without_pitfalls(image)
    assert max(simple.stride) <= 32
    assert other.numel() < image.numel() * 2
    other_format, _ = window.without_pitfalls(image.to(memory_format=torch.channels_last))
    assert other_format.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(other_format, other)
    stride_of, padding, dilation = simple.torch_arguments()
    expected = F.conv2d(image, weight, None, stride, (1, 0), (2, 1))
    torch.testing.assert_close(F.conv2d(other, weight, None, stride_of, padding, dilation), expected)


def test_arguments_for_torch() -> None:
    assert window_of((3, 5), 2, 1).torch_arguments() == ((2, 2), (1, 1), (1, 1))
    assert window_of((3, 5), 1, "same", 2).torch_arguments() == ((1, 1), (2, 4), (2, 2))
    assert window_of((2, 3), 1, "same").torch_arguments() == ((1, 1), "same", (1, 1))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("algorithm", ["auto", "mix_then_conv", "fused"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 2**31}, r"stride must be an int >= 1 or 2 of them, got 2147483648 \(the largest is 2147483647\)"),
        ({"stride": 2**40}, "stride must be an int >= 1"),
        ({"stride": (1, -1)}, "stride must be an int >= 1"),
        ({"padding": 2**31}, "padding must be an int >= 0"),
        ({"padding": (2**40, 0)}, "padding must be an int >= 0"),
        ({"padding": 2**31 - 1}, "padding must leave at most 2147483647 positions"),
        ({"padding": 2**20, "stride": 2**20}, "padding must leave at most 2147483647 positions"),
        ({"dilation": 0}, "dilation must be an int >= 1"),
        ({"dilation": 2**62}, "dilation must be an int >= 1"),
        ({"dilation": 2**20}, "the kernel must fit into the padded input: it reaches over 2097153 positions"),
    ],
)
def test_rejects(options: dict[str, object], message: str, algorithm: str, groups: int) -> None:
    input, weight = torch.ones(1, 4, 5, 5), torch.ones(2, 4, 4 // groups, 3, 3)
    with pytest.raises(ValueError, match=message):
        KF.kshot_conv2d(input, weight, torch.ones(2), groups=groups, algorithm=algorithm, **options)


@pytest.mark.parametrize(
    ("input", "weight", "message"),
    [
        ((1, 3, 4, 0), (2, 5, 3, 3, 3), r"at least one position in dimension 3, got \[4, 0\]"),
        ((0, 3, 0, 4), (2, 5, 3, 3, 3), r"at least one position in dimension 2, got \[0, 4\]"),
        ((1, 3, 4, 4), (2, 0, 3, 3, 3), r"weight must have no empty dimension, got shape \[2, 0, 3, 3, 3\]"),
        ((1, 3, 4, 4), (2, 5, 3, 0, 3), r"weight must have no empty dimension, got shape \[2, 5, 3, 0, 3\]"),
        ((1, 0, 4, 4), (2, 5, 0, 3, 3), r"weight must have no empty dimension, got shape \[2, 5, 0, 3, 3\]"),
        ((1, 0, 4, 4), (2, 5, 3, 3, 3), "input has 0 channels, expected 1 to 3"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernels", ["cpu", None], ids=["native", "reference"])
def test_rejects_empty_sizes(
    kernels: str | None,
    input: tuple[int, ...],
    weight: tuple[int, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On either backend, before torch does by an error that names neither."""
    monkeypatch.setattr(backend, "kernels_for", lambda device: kernels)
    with pytest.raises(ValueError, match=message):
        KF.kshot_conv2d(torch.ones(input), torch.ones(weight), torch.ones(2), padding=2)


# In a process of its own: a segmentation fault in oneDNN would end the test run.
UNUSUAL_WINDOWS = textwrap.dedent("""
    import torch
    from torch.nn import functional as F
    from kshot_ext import functional as KF

    generator = torch.Generator().manual_seed(0)
    torch.set_num_threads(1)

    def check(dtype, size, channels, groups, kernel, stride, padding, dilation, algorithm, code_per_sample):
        x = torch.randn(2, channels, *size, generator=generator).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        w = torch.randn(2, channels, channels // groups, *kernel, generator=generator).to(dtype).requires_grad_()
        code = torch.tensor([1.0, 0.0])
        code = code.expand(2, 2) if code_per_sample else code
        y = KF.kshot_conv2d(x, w, code, None, stride, padding, dilation, groups, algorithm=algorithm)
        padded = F.pad(x.double(), (padding[1], padding[1], padding[0], padding[0]))
        # Cut by hand: a stride beyond the padded image is never taken.
        stride = [min(s, p) for s, p in zip(stride, padded.shape[2:])]
        expected = F.conv2d(padded, w[0].double(), None, stride, 0, dilation, groups)
        g = torch.randn(expected.shape, generator=generator).to(dtype)
        assert y.shape == expected.shape, (y.shape, expected.shape)
        ours = (y, *torch.autograd.grad(y, (x, w), g))
        theirs = (expected, *torch.autograd.grad(expected, (x, w), g.double()))
        for actual, right in zip(ours, theirs):
            torch.testing.assert_close(actual.double(), right.double(), rtol=2e-2, atol=0.25)

    for dtype, groups, code_per_sample, algorithm in (
        (torch.float32, 1, False, "fused"),
        (torch.float32, 1, True, "fused"),
        (torch.float32, 1, False, "mix_then_conv"),
        (torch.float32, 2, True, "auto"),
        (torch.float32, 4, False, "fused"),
        (torch.bfloat16, 1, False, "auto"),
        (torch.bfloat16, 1, True, "auto"),
        (torch.bfloat16, 4, True, "fused"),
        (torch.bfloat16, 4, False, "mix_then_conv"),
        (torch.float16, 2, False, "auto"),
    ):
        for size, *window in (
            # image, kernel, stride, padding, dilation
            ((2, 1), (3, 3), (2, 2), (10, 8), (2, 3)),
            ((7, 1), (3, 1), (7, 3), (7, 7), (2, 3)),
            ((1, 1), (1, 2), (2, 1), (5, 4), (2, 3)),
            ((1, 3), (2, 2), (3, 3), (6, 10), (2, 3)),
            ((4, 4), (3, 3), (2**20, 2**20), (1, 1), (1, 1)),
            ((4, 4), (3, 3), (2**31 - 1, 1), (1, 1), (1, 1)),
            ((3, 4), (3, 3), (1, 2**30), (2**6, 1), (2**6, 1)),
        ):
            print(dtype, groups, code_per_sample, algorithm, size, window, flush=True)
            check(dtype, size, 4, groups, *window, algorithm, code_per_sample)
    # An axis long enough to take such strides. The right values: a few windows, cut out by hand.
    for dims, dtype in ((1, torch.float32), (1, torch.bfloat16), (2, torch.float32)):
        print("long", dims, dtype, flush=True)
        x = torch.randn(1, 64, 2 * 4096 + 3, *[1] * (dims - 1), generator=generator).to(dtype).requires_grad_()
        w = torch.randn(1, 64, 64, 3, *[1] * (dims - 1), generator=generator).to(dtype)
        convolve = KF.kshot_conv1d if dims == 1 else KF.kshot_conv2d
        y = convolve(x, w, torch.ones(1), None, (4096, 1)[:dims])
        columns = x.detach().double().flatten(2)[0]
        for o in range(3):
            right = torch.einsum("oik,ik->o", w.double().flatten(3)[0], columns[:, 4096 * o : 4096 * o + 3])
            torch.testing.assert_close(y.double().flatten(2)[0, :, o], right, rtol=2e-2, atol=0.25)
        (grad,) = torch.autograd.grad(y.sum(), x)
        read = torch.zeros(2 * 4096 + 3, dtype=torch.bool)
        for o in range(3):
            read[4096 * o : 4096 * o + 3] = True
        assert ((grad != 0).any(1).flatten() == read).all()
    print("all right")
""")


def test_unusual_windows_neither_crash_nor_err(native_backend: None) -> None:
    run = subprocess.run([sys.executable, "-c", UNUSUAL_WINDOWS], capture_output=True, text=True, timeout=120)
    tail = run.stdout.splitlines()[-1:]
    assert tail == ["all right"], f"exit {run.returncode} after {tail}: {run.stderr[-2000:]}"
