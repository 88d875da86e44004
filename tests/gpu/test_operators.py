"""On a GPU: the checks that the emulator runs too, and what only a device has: streams, devices, captured graphs."""

from collections.abc import Iterator

import pytest
import torch
from cuda_emulation.operators.check_calls import *  # noqa: F403
from cuda_emulation.operators.check_chains import *  # noqa: F403
from cuda_emulation.operators.check_operators import *  # noqa: F403
from cuda_emulation.operators.check_slices import *  # noqa: F403

import kshot_ext
from kshot_ext import backend, functional
from kshot_ext.ops import autotune

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def everything_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # "auto" may take cuDNN, and bits are compared
    torch.set_default_device("cuda")
    assert backend.kernels_for(torch.device("cuda")) == "cuda"
    yield
    torch.set_default_device(None)


def layer() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(4, 16, 14, 14).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(3, 32, 3, 3, 16).movedim(-1, 2)
    return x.requires_grad_(), weight.requires_grad_(), torch.rand(3).requires_grad_()


def forward_and_backward(tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    output = functional.kshot_conv2d(*tensors, padding=1, algorithm="fused")
    return [output, *torch.autograd.grad(output.square().sum(), tensors)]


def test_a_captured_graph_repeats_the_call() -> None:
    tensors = layer()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward_and_backward(tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(tensors)
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for result, expected in zip(captured, forward_and_backward(tensors)):
        assert torch.equal(result, expected)


def test_launches_go_to_the_current_stream() -> None:
    tensors = layer()
    expected = forward_and_backward(tensors)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        results = forward_and_backward(tensors)
        done = torch.cuda.Event()
        done.record()
    assert not done.query(), "the kernels did not wait for the sleep in their stream"
    side.synchronize()
    for result, right in zip(results, expected):
        assert torch.equal(result, right)


def test_results_are_the_same_bits_every_time() -> None:
    tensors = layer()
    first = forward_and_backward(tensors)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, forward_and_backward(tensors)))


def test_autotune_leaves_a_capture_alone() -> None:
    """What was not measured before goes by the rule; measuring would wait for the device, which a capture forbids."""
    x, weight, code = (tensor.detach() for tensor in layer())
    functional.kshot_conv2d(x, weight, code, padding=1)
    torch.cuda.synchronize()
    kshot_ext.set_autotune(True)
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = functional.kshot_conv2d(x, weight, code, padding=1)
        assert not autotune._fastest
    finally:
        kshot_ext.set_autotune(False)
    graph.replay()
    assert torch.equal(captured, functional.kshot_conv2d(x, weight, code, padding=1))


def test_launches_go_to_the_device_of_the_tensors() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    tensors = layer()
    elsewhere = tuple(tensor.detach().to("cuda:1").requires_grad_() for tensor in tensors)
    results = forward_and_backward(elsewhere)
    assert torch.cuda.current_device() == 0
    for result, right in zip(results, forward_and_backward(tensors)):
        assert result.device == torch.device("cuda:1")
        torch.testing.assert_close(result.cpu(), right.cpu())
