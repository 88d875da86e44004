"""Places: what operands become there, and which settings hold meanwhile."""

import contextlib

import pytest
import torch
from small_layers import SMALL

from benchmarks.place import PRECISIONS, Place
from benchmarks.works.conv_operands import conv_operands


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("mps", "float32", "expected device cpu or cuda, got 'mps'"),
        ("cuda", "float8", "expected precision float32, tf32, bfloat16, float16, got 'float8'"),
        ("cpu", "tf32", "tf32 needs device cuda"),
    ],
)
def test_rejects(device, precision, message):
    with pytest.raises(ValueError, match=message):
        Place(device, precision)


def flags():
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_settings_are_alike_for_convolutions_and_products_and_pass(precision):
    before = flags()
    with contextlib.suppress(KeyError), Place("cuda", precision).settings():
        tf32 = precision == "tf32"
        assert flags() == (tf32, tf32, True)
        raise KeyError
    assert flags() == before


def test_operands_are_the_same_values_in_another_precision():
    layer = SMALL.convolutions[0]
    exact = conv_operands(layer, 2, (4,))
    rounded = conv_operands(layer, 2, (4,), Place("cpu", "bfloat16"))
    for left, right in zip(exact[:2], rounded[:2]):
        assert torch.equal(left.bfloat16(), right)
    assert {tensor.dtype for tensor in rounded} == {torch.bfloat16}
