"""In which memory format fused containers put out what they make."""

import pytest
import torch
from torch import nn

from kshot_ext.nn.flow import run_outermost


def channels_last(*shape):
    return torch.zeros(shape).contiguous(memory_format=torch.channels_last)


def put_out(images, output):
    """What a container puts out that makes `output` of images."""
    return run_outermost(lambda _module, _input: output, nn.Identity(), images)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 1, 1)], ids=["grey", "pixels"])
def test_images_of_either_format_leave_the_output_as_it_is(shape):
    output = channels_last(2, 5, 4, 4)
    for images in (torch.zeros(shape), channels_last(*shape)):
        assert put_out(images, output) is output


def test_contiguous_images_get_a_contiguous_output():
    assert put_out(torch.zeros(2, 3, 4, 4), channels_last(2, 5, 4, 4)).is_contiguous()
    output = channels_last(2, 5, 4, 4)
    assert put_out(channels_last(2, 3, 4, 4), output) is output
