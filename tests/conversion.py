"""What every conversion must keep, whatever the model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kshot_ext

FIRST = torch.tensor([1.0, 0.0])


def check_conversion(model: nn.Module, *inputs: Tensor) -> kshot_ext.ConversionReport:
    """Convert, and compare outputs, buffers and gradients under the first code with the model's own, then merge back.

    Returns:
        The report on the converted model.
    """
    kshot = kshot_ext.convert(model, 2)
    kshot_ext.set_code(kshot, FIRST)
    merged = kshot_ext.merge(kshot)
    assert list(merged.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    starts = [(m, {name: tensor.clone() for name, tensor in m.state_dict().items()}) for m in (model, kshot, merged)]
    for training in (True, False):
        results = []
        for each, start in starts:
            each.load_state_dict(start)
            each.zero_grad()
            results.append(run(each.train(training), *inputs))
        for other, result in zip((kshot, merged), results[1:]):
            torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)
            for name, buffer in model.named_buffers():
                torch.testing.assert_close(other.get_buffer(name), buffer, rtol=1e-4, atol=1e-5, msg=name)
            check_gradients(model, other)
    return kshot_ext.conversion_report(kshot)


def run(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """The output, and after a backward pass the gradients of the inputs."""
    torch.manual_seed(1)
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = model(*inputs)
    # Random, since a sum of squares behind a norm has no gradient but rounding.
    output.backward(torch.randn_like(output))
    return [output.detach(), *(x.grad for x in inputs)]


def check_gradients(model: nn.Module, other: nn.Module) -> None:
    """A bias before a norm has no gradient but rounding, which is as large as the other gradients make it."""
    largest = max((p.grad.abs().max().item() for p in model.parameters() if p.grad is not None), default=0.0)
    for name, parameter in model.named_parameters():
        found = other.get_parameter(name)
        if parameter.grad is None:
            assert found.grad is None or not found.grad.any(), name
            continue
        gradient = found.grad if found.shape == parameter.shape else found.grad[0]
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5 * max(1.0, largest), msg=name)
