"""Windows that no kernel may see as users give them: outside the image, or with strides that lead far out of it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.nn import functional as F

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


def test_windows_that_see_padding_alone() -> None:
    """An output is fed by the image, or it is not: counted with an image of ones."""
    for size, kernel, padding, dilation in itertools.product((1, 2, 5), (1, 2, 3), range(6), (1, 3)):
        window = window_of((kernel,), 1, padding, dilation)
        if window.reach(0) > size + 2 * padding:
            continue
        outermost = padding - window.reach(0) + 1 > 0  # the first window ends before the image begins
        assert window.sees_padding_alone() == outermost
        image = torch.ones(1, 1, size)
        spelt_out = F.conv1d(window.padded(image), torch.ones(1, 1, kernel), dilation=dilation)
        assert torch.equal(spelt_out, F.conv1d(image, torch.ones(1, 1, kernel), padding=padding, dilation=dilation))


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
def test_rejects_empty_sizes(input: tuple[int, ...], weight: tuple[int, ...], message: str) -> None:
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
    print("all right")
""")


def test_unusual_windows_neither_crash_nor_err(native_backend: None) -> None:
    run = subprocess.run([sys.executable, "-c", UNUSUAL_WINDOWS], capture_output=True, text=True, timeout=120)
    tail = run.stdout.splitlines()[-1:]
    assert tail == ["all right"], f"exit {run.returncode} after {tail}: {run.stderr[-2000:]}"
