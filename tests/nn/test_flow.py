"""In which memory format fused containers put out what they make."""

import pytest
import torch

from kshot_ext.nn.flow import in_format_of


def channels_last(*shape):
    return torch.zeros(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 1, 1)], ids=["grey", "pixels"])
def test_images_of_either_format_leave_the_output_as_it_is(shape):
    output = channels_last(2, 5, 4, 4)
    for images in (torch.zeros(shape), channels_last(*shape)):
        assert in_format_of(images, output) is output


def test_contiguous_images_get_a_contiguous_output():
    assert in_format_of(torch.zeros(2, 3, 4, 4), channels_last(2, 5, 4, 4)).is_contiguous()
    output = channels_last(2, 5, 4, 4)
    assert in_format_of(channels_last(2, 3, 4, 4), output) is output
