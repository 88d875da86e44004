"""What "auto" did is seen, whichever form it takes."""

from collections.abc import Iterator

import pytest

from benchmarks.forms import Form
from benchmarks.layers import ConvLayer
from benchmarks.measuring.choice import chosen_algorithm
from benchmarks.works.conv_operands import conv_operands
from benchmarks.works.per_sample_code import per_sample_code_contest
from benchmarks.works.shared_code import shared_code_contest
from kshot_ext import backend
from kshot_ext import functional as KF
from kshot_ext.ops import plans

DEPTHWISE_5X5 = ConvLayer("depthwise", 8, 8, 5, 6, groups=8)
DENSE_3X3 = ConvLayer("dense", 6, 10, 3, 20)  # 1,200 positions in a batch of 3


@pytest.fixture(autouse=True)
def _native(native_backend: None) -> Iterator[None]:
    plans.forget()
    yield
    plans.forget()  # of a backend that was replaced


@pytest.mark.parametrize("layer", [DEPTHWISE_5X5, DENSE_3X3])
@pytest.mark.parametrize("contest", [shared_code_contest, per_sample_code_contest])
def test_algorithms_by_name(contest, layer):
    code_shape = (2,) if contest is shared_code_contest else (3, 2)
    forced = contest(layer, 3, code_shape).rivals["algorithm"]
    for form in forced:
        assert chosen_algorithm(form) == form.name.split()[0]


@pytest.mark.parametrize(("layer", "name"), [(DEPTHWISE_5X5, "fused"), (DENSE_3X3, "mix_then_conv")])
def test_the_rule_on_the_cpu(layer, name):
    for form in shared_code_contest(layer, 3, (2,)).ours:
        assert chosen_algorithm(form) == name


def test_stacked_copies(monkeypatch):
    monkeypatch.setattr(backend, "kernels_for", lambda device: "cuda")
    layer = ConvLayer("squeeze", 8, 4, 1, 1)
    for form in per_sample_code_contest(layer, 3, (3, 2)).ours:
        assert chosen_algorithm(form) == "stacked"


def test_batched_products_on_cuda(monkeypatch):
    monkeypatch.setattr(backend, "kernels_for", lambda device: "cuda")
    layer = ConvLayer("expand", 8, 16, 1, 5)
    for form in per_sample_code_contest(layer, 3, (3, 2)).ours:
        assert chosen_algorithm(form) == "mix_then_conv"


def test_without_gradients():
    input, weight, code, _ = conv_operands(DEPTHWISE_5X5, 3, (2,))
    form = Form("auto", lambda: (KF.kshot_conv2d(input, weight, code, padding=2, groups=8),))
    assert chosen_algorithm(form) == "fused"
    with backend.use_reference():
        assert chosen_algorithm(form) == "mix_then_conv"
