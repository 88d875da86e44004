"""Chain modules against the same layers one after the other."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import kshot_ext
from kshot_ext.nn import KShotBatchNorm2d, KShotChain, KShotConv2d, KShotConvNormAct
from kshot_ext.ops.batch_norm_act import batch_norm_act
from kshot_ext.optim import KShotSGD

SHOTS = 3
CODE = torch.tensor([0.2, 0.5, 0.3])


@pytest.fixture(autouse=True)
def _native(native_backend: None) -> None:
    pass


def links(momentum: float | None = 0.1) -> list[KShotConvNormAct]:
    made = [
        KShotConvNormAct(6, 18, 1, momentum=momentum, activation="relu6", num_shots=SHOTS),
        KShotConvNormAct(18, 18, 3, 2, 1, groups=18, momentum=momentum, activation="hardswish", num_shots=SHOTS),
        KShotConvNormAct(18, 6, 1, momentum=momentum, activation="relu", num_shots=SHOTS),
    ]
    for link in made:
        nn.init.normal_(link.norm.weight)
        nn.init.normal_(link.norm.bias)
    return made


def one_after_the_other(layers: list[KShotConvNormAct], x: Tensor, code: Tensor, residual: Tensor | None) -> Tensor:
    for link in layers:
        last = link is layers[-1]
        x = link.norm(link.conv(x, code), code, activation=link.activation, residual=residual if last else None)
    return x


def inputs() -> tuple[Tensor, Tensor]:
    image = torch.randn(4, 6, 7, 8).contiguous(memory_format=torch.channels_last)
    return image.requires_grad_(), torch.randn(4, 6, 4, 4).requires_grad_()


def assert_same_step(chain: KShotChain, apart: list[KShotConvNormAct], code: Tensor) -> None:
    image, residual = inputs()
    code = code.clone().requires_grad_()
    actual, expected = chain(image, code, residual), one_after_the_other(apart, image, code, residual)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(expected)

    def gradients(output: Tensor, owner: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(output, [image, residual, code, *owner.parameters()], grad))

    for ours, theirs in zip(gradients(actual, chain), gradients(expected, nn.ModuleList(apart))):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(chain.buffers(), nn.ModuleList(apart).buffers()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("code", [CODE, CODE.expand(4, -1)], ids=["shared", "per_sample"])
def test_a_chain_trains_as_its_layers(momentum: float | None, code: Tensor) -> None:
    made = links(momentum)
    chain, apart = KShotChain(*copy.deepcopy(made)), made
    for _ in range(2):
        assert_same_step(chain, apart, code)
    assert chain[0].norm.num_batches_tracked == 2


def test_a_chain_evaluates_as_its_layers() -> None:
    made = links()
    for link in made:
        link.norm.running_mean.normal_()
        link.norm.running_var.uniform_(0.5, 2)
    apart = copy.deepcopy(made)
    chain = KShotChain(*made).eval()
    assert_same_step(chain, [link.eval() for link in apart], CODE)
    assert chain[0].norm.num_batches_tracked == 0


def test_compact_gradients_train_a_chain_as_dense_ones() -> None:
    compact = KShotChain(*links())
    dense = copy.deepcopy(compact)
    image, residual = (tensor.detach() for tensor in inputs())
    goal = torch.randn(4, 6, 4, 4)
    for chain, kind in ((compact, KShotSGD), (dense, torch.optim.SGD)):
        optimizer = kind(chain.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            (chain(image, CODE, residual) * goal).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for ours, theirs in zip(compact.parameters(), dense.parameters()):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("code", [CODE, CODE.expand(4, -1)], ids=["shared", "per_sample"])
def test_a_checkpointed_chain_has_the_same_gradients(code: Tensor) -> None:
    """Raw outputs are kept where checkpointing sees them, and made again by it."""
    chain = KShotChain(*links())
    image, residual = inputs()
    code = code.clone().requires_grad_()
    leaves, kept = [image, residual, code, *chain.parameters()], []

    def gradients(output: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((output * output.detach().cos()).sum(), leaves)

    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        expected = gradients(chain(image, code, residual))
    assert torch.Size((4, 18, 7, 8)) in kept
    for ours, theirs in zip(gradients(checkpoint(chain, image, code, residual, use_reentrant=False)), expected):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("code", [CODE, CODE.expand(4, -1)], ids=["shared", "per_sample"])
def test_a_chain_under_autocast(code: Tensor) -> None:
    """Stored in the half type, statistics and gradients of parameters in float32; errors are those of its layers."""
    made = links()
    exact, apart, chain = (copy.deepcopy(made) for _ in range(3))
    chain = KShotChain(*chain)
    image, residual = inputs()
    grad = torch.randn(4, 6, 4, 4)

    def outcome(output: Tensor, owner: nn.Module) -> list[Tensor]:
        return [output.detach(), *torch.autograd.grad(output, [image, *owner.parameters()], grad.to(output.dtype))]

    expected = outcome(one_after_the_other(exact, image, code, residual), nn.ModuleList(exact))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = chain(image, code, residual), one_after_the_other(apart, image, code, residual)
    assert ours.dtype == torch.bfloat16
    assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in chain.buffers())
    for mine, other, right in zip(outcome(ours, chain), outcome(theirs, nn.ModuleList(apart)), expected):
        error, bound = (mine.float() - right).abs().max(), (other.float() - right).abs().max()
        assert error <= 2 * bound + 4 * torch.finfo(torch.bfloat16).eps * right.abs().max()
    assert all(parameter.dtype == torch.float32 for parameter in chain.parameters())


def test_a_link_alone_gives_its_output() -> None:
    link = links()[0]
    image, _ = inputs()
    apart = copy.deepcopy(link)
    torch.testing.assert_close(link(image, CODE), one_after_the_other([apart], image, CODE, None))


def test_set_code_serves_all_links_and_widths_are_leading_channels() -> None:
    chain = KShotChain(*links())
    kshot_ext.set_code(chain, CODE)
    narrow = torch.randn(4, 5, 7, 8)
    expected = one_after_the_other(list(copy.deepcopy(chain)), narrow, CODE, None)
    torch.testing.assert_close(chain(narrow), expected, rtol=1e-4, atol=1e-5)


def test_links_hold_the_layers_they_are_made_of() -> None:
    conv, norm = KShotConv2d(6, 4, 1, bias=False, num_shots=SHOTS), KShotBatchNorm2d(4, num_shots=SHOTS)
    link = KShotConvNormAct.of_layers(conv, norm, "silu")
    assert link.conv is conv
    assert link.norm is norm
    fresh = KShotConvNormAct(6, 4, 1, activation="silu", num_shots=SHOTS)
    fresh.load_state_dict(link.state_dict())
    image, _ = inputs()
    assert torch.equal(fresh(image, CODE), link(image, CODE))


def test_a_norm_without_running_statistics_or_parameters() -> None:
    conv = KShotConv2d(6, 4, 1, bias=False, num_shots=SHOTS)
    norm = KShotBatchNorm2d(4, affine=False, track_running_stats=False, num_shots=SHOTS)
    link = KShotConvNormAct.of_layers(conv, norm, "relu").eval()
    image, _ = inputs()
    expected = batch_norm_act(conv(image, CODE), None, None, None, None)
    torch.testing.assert_close(link(image, CODE), expected, rtol=1e-4, atol=1e-5)


def test_norms_of_several_processes_take_the_layers_apart() -> None:
    """In a group of one process, whose statistics are those of the batch."""
    chain = KShotChain(*links())
    apart = list(copy.deepcopy(chain))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for link in [*chain, *apart]:
            link.norm.process_group = dist.group.WORLD
        assert_same_step(chain, apart, CODE)
    finally:
        dist.destroy_process_group()


def test_wrong_parts_are_named() -> None:
    norm = KShotBatchNorm2d(4, num_shots=SHOTS)
    with pytest.raises(ValueError, match="without bias"):
        KShotConvNormAct.of_layers(KShotConv2d(6, 4, 1, num_shots=SHOTS), norm)
    circular = KShotConv2d(6, 4, 3, padding=1, padding_mode="circular", bias=False, num_shots=SHOTS)
    with pytest.raises(ValueError, match="pads by zeros"):
        KShotConvNormAct.of_layers(circular, norm)
    with pytest.raises(ValueError, match="activation must be one of"):
        KShotConvNormAct(6, 4, 1, activation="tanh")
    with pytest.raises(TypeError, match="made of KShotConvNormAct"):
        KShotChain(nn.ReLU())
    with pytest.raises(ValueError, match="more than one value per channel"):
        KShotConvNormAct(6, 4, 1, num_shots=SHOTS)(torch.randn(1, 6, 1, 1), CODE)


def test_the_page_on_chains_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "chains.md").read_text()
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)), {})
    assert capsys.readouterr().out.splitlines() == ["[8, 32, 16, 16]"] * 2
