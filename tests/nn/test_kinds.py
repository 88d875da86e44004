"""Every kind of layer that has a K-shot form, in float64: a kind is tested by being listed here.

Right values come from plain layers: one that holds a copy, or the effective weights worked out by `torch.einsum`.
"""

from __future__ import annotations

import copy
import inspect
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn import KShotModule
from kshot_ext.nn.conversions import _CONVERSIONS
from kshot_ext.nn.sliced import DynamicGroupNorm, DynamicLayerNorm

SHOTS, BATCH = 3, 4
CODE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class Kind(NamedTuple):
    """A plain layer's class and arguments; shapes of its inputs; whether a code per sample has a meaning."""

    plain: type[nn.Module]
    arguments: tuple
    named: dict
    inputs: tuple
    per_sample: bool = True

    def make(self) -> nn.Module:
        layer = self.plain(*self.arguments, **self.named).double()
        with torch.no_grad():
            for parameter in layer.parameters():  # norms start as identities
                parameter.add_(0.3 * torch.randn_like(parameter))
        return layer


def kind(plain: type[nn.Module], *arguments, inputs: tuple, per_sample: bool = True, **named) -> Kind:
    return Kind(plain, arguments, named, inputs, per_sample)


KINDS = {
    "conv1d": kind(nn.Conv1d, 4, 6, 3, padding=1, groups=2, inputs=((BATCH, 4, 7),)),
    "conv2d": kind(nn.Conv2d, 4, 6, 3, padding=1, padding_mode="reflect", inputs=((BATCH, 4, 5, 6),)),
    "conv3d": kind(nn.Conv3d, 2, 3, (1, 2, 3), bias=False, inputs=((BATCH, 2, 3, 4, 5),)),
    "linear": kind(nn.Linear, 5, 3, inputs=((BATCH, 2, 5),)),
    "batch_norm1d": kind(nn.BatchNorm1d, 5, inputs=((BATCH, 5),)),
    "batch_norm1d_of_sequences": kind(nn.BatchNorm1d, 5, momentum=None, inputs=((BATCH, 5, 7),)),
    "batch_norm2d": kind(nn.BatchNorm2d, 5, inputs=((BATCH, 5, 3, 4),)),
    "batch_norm3d": kind(nn.BatchNorm3d, 5, track_running_stats=False, inputs=((BATCH, 5, 2, 3, 4),)),
    "group_norm": kind(nn.GroupNorm, 2, 6, inputs=((BATCH, 6, 3, 4),)),
    "group_norm_of_vectors": kind(nn.GroupNorm, 2, 6, inputs=((BATCH, 6),)),
    "plain_group_norm": kind(nn.GroupNorm, 2, 6, affine=False, inputs=((BATCH, 6, 3),)),
    "dynamic_group_norm": kind(DynamicGroupNorm, 2, 6, inputs=((BATCH, 6, 3),), per_sample=False),
    "dynamic_layer_norm": kind(DynamicLayerNorm, 6, inputs=((BATCH, 2, 6),)),
    "layer_norm": kind(nn.LayerNorm, 6, inputs=((BATCH, 2, 6),)),
    "layer_norm_of_images": kind(nn.LayerNorm, (3, 4), bias=False, inputs=((BATCH, 2, 3, 4),)),
    "embedding": kind(nn.Embedding, 9, 4, padding_idx=2, inputs=(torch.randint(9, (BATCH, 5)),)),
    "embedding_by_frequency": kind(
        nn.Embedding, 9, 4, scale_grad_by_freq=True, inputs=(torch.tensor([1, 1, 1, 4]),), per_sample=False
    ),
    "conv_transpose1d": kind(nn.ConvTranspose1d, 4, 6, 3, stride=2, groups=2, inputs=((BATCH, 4, 5),)),
    "conv_transpose2d": kind(
        nn.ConvTranspose2d, 4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2, inputs=((BATCH, 4, 5, 3),)
    ),
    "conv_transpose3d": kind(nn.ConvTranspose3d, 2, 3, 2, bias=False, inputs=((BATCH, 2, 3, 2, 3),)),
    "attention": kind(
        nn.MultiheadAttention, 6, 2, batch_first=True, inputs=((BATCH, 5, 6),) * 3, per_sample=False
    ),
    "attention_of_other_widths": kind(
        nn.MultiheadAttention, 6, 3, kdim=4, vdim=5, add_bias_kv=True, bias=True,
        inputs=((5, BATCH, 6), (2, BATCH, 4), (2, BATCH, 5)), per_sample=False,
    ),
    "attention_without_bias": kind(
        nn.MultiheadAttention, 6, 2, bias=False, add_zero_attn=True, inputs=((5, BATCH, 6),) * 3, per_sample=False
    ),
}  # fmt: skip
TESTED_ELSEWHERE = {"QuantisedConv2d", "QuantisedLinear", "NonDynamicallyQuantizableLinear"}
"""Layers with bits in `test_quantised.py`, the third as a part of attention."""
ALL = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def inputs_of(kind: Kind) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [each for each in kind.inputs if not isinstance(each, Tensor)]
    made = iter([torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes])
    return [each.clone() if isinstance(each, Tensor) else next(made) for each in kind.inputs]


def run(layer: nn.Module, kind: Kind, code: Tensor | None = None) -> tuple[Tensor, list[Tensor | None]]:
    """The output, and the gradients of the inputs; those of the parameters are left in them."""
    inputs = inputs_of(kind)
    output = layer(*inputs, **({} if code is None else {"code": code}))
    output = output[0] if isinstance(output, tuple) else output
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
    (output * weights).sum().backward()
    return output.detach(), [each.grad for each in inputs]


def kshot_of(layer: nn.Module) -> KShotModule:
    return kshot_ext.convert(layer, SHOTS, perturbation=0.5, generator=torch.Generator().manual_seed(1))


def holding(layer: nn.Module, kshot: nn.Module, code: Tensor) -> nn.Module:
    """The plain layer with the effective parameters of a K-shot one."""
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(torch.einsum("k,k...->...", code, kshot.get_parameter(name)))
    return plain


def test_every_kind_of_torch_is_listed() -> None:
    classes = [each for each in _CONVERSIONS if isinstance(each, type)]
    registered = {each.__name__ for each in classes if each.__module__.startswith(("torch.", "kshot_ext."))}
    assert registered - {each.plain.__name__ for each in KINDS.values()} <= TESTED_ELSEWHERE


@ALL
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shot", range(SHOTS))
def test_a_one_hot_code_chooses_a_plain_layer(kind: Kind, training: bool, shot: int) -> None:
    layer = kind.make().train(training)
    kshot = kshot_of(layer)
    assert isinstance(kshot, KShotModule)
    code = torch.eye(SHOTS, dtype=torch.float64)[shot]
    plain = holding(layer, kshot, code)
    kshot_ext.set_code(kshot, code)
    wanted, wanted_gradients = run(plain, kind)
    found, gradients = run(kshot, kind)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-11, atol=1e-11)
    for name, parameter in plain.named_parameters():
        gradient = kshot.get_parameter(name).grad
        torch.testing.assert_close(gradient[shot], parameter.grad, rtol=1e-11, atol=1e-11, msg=name)
        assert not gradient[[k for k in range(SHOTS) if k != shot]].any(), name
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(kshot.get_buffer(name), buffer, rtol=1e-12, atol=1e-12, msg=name)


@ALL
def test_a_code_mixes_the_copies(kind: Kind) -> None:
    layer = kind.make()
    kshot, code = kshot_of(layer), CODE.clone().requires_grad_()
    plain = holding(layer, kshot, CODE)
    wanted, wanted_gradients = run(plain, kind)
    found, gradients = run(kshot, kind, code)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-11, atol=1e-11)
    wanted_code = torch.zeros(SHOTS, dtype=torch.float64)
    for name, parameter in plain.named_parameters():
        dictionary = kshot.get_parameter(name)
        expected = torch.einsum("k,...->k...", CODE, parameter.grad)
        torch.testing.assert_close(dictionary.grad, expected, rtol=1e-11, atol=1e-11, msg=name)
        wanted_code += torch.einsum("k...,...->k", dictionary.detach(), parameter.grad)
    if list(plain.parameters()):
        torch.testing.assert_close(code.grad, wanted_code, rtol=1e-10, atol=1e-10)


@ALL
def test_there_and_back(kind: Kind) -> None:
    layer = kind.make().eval()
    layer.role = "kept"
    for parameter in layer.parameters():
        parameter.no_decay = True
    kshot = kshot_of(layer)
    assert kshot_ext.conversion_report(kshot).left == {}
    assert f"num_shots={SHOTS}" in repr(kshot)
    merged = kshot_ext.merge(kshot, torch.eye(SHOTS, dtype=torch.float64)[0])
    assert type(merged) is type(layer)
    assert repr(merged) == repr(layer)
    assert vars(merged).keys() == vars(layer).keys()
    assert [vars(each) for each in merged.parameters()] == [vars(each) for each in layer.parameters()]
    state = merged.state_dict()
    assert list(state) == list(layer.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in layer.state_dict().items())
    mixed = kshot_ext.merge(copy.deepcopy(kshot), CODE)
    torch.testing.assert_close(run(mixed, kind)[0], run(kshot, kind, CODE)[0], rtol=1e-12, atol=1e-12)


@ALL
def test_a_code_per_sample(kind: Kind) -> None:
    layer = kind.make().eval()
    kshot = kshot_of(layer)
    codes = torch.rand(BATCH, SHOTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if not kind.per_sample:
        if not isinstance(layer, nn.Embedding | nn.MultiheadAttention):  # which have tests of their own
            with pytest.raises(ValueError, match=r"code: expected \[3\], one for all samples"):
                run(kshot, kind, codes)
        return
    (input,) = inputs_of(kind)
    found, _ = run(kshot, kind, codes)
    for index, code in enumerate(codes):
        wanted = holding(layer, kshot, code)(input[index : index + 1])
        if kind.named.get("track_running_stats", True):  # else the statistics are those of the batch
            torch.testing.assert_close(found[index : index + 1], wanted, rtol=1e-11, atol=1e-11)
    if list(layer.parameters()):
        with pytest.raises(ValueError, match=r"4|rows"):
            kshot(input, code=codes[:2])


@ALL
def test_the_constructor_is_the_plain_ones(kind: Kind) -> None:
    form = type(kshot_of(kind.make()))
    layer = form(*kind.arguments, **kind.named, num_shots=2)
    plain = kind.plain(*kind.arguments, **kind.named)
    shapes = {name: (2, *parameter.shape) for name, parameter in plain.named_parameters()}
    assert {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()} == shapes
    assert {name: buffer.shape for name, buffer in layer.named_buffers()} == {
        name: buffer.shape for name, buffer in plain.named_buffers()
    }
    wanted = inspect.signature(kind.plain).parameters
    found = inspect.signature(form).parameters
    assert [name for name in found if name != "num_shots"] == [n for n in wanted if n in found]
    assert all(found[name].default == wanted[name].default for name in wanted if name in found)
    assert found["num_shots"].default == 8
    inputs = [each.detach().float() if each.is_floating_point() else each for each in inputs_of(kind)]
    output = layer(*inputs, code=torch.tensor([0.5, 0.5]))
    assert (output[0] if isinstance(output, tuple) else output).isfinite().all()


@pytest.mark.parametrize("name", ["layer_norm", "conv_transpose2d", "attention", "batch_norm1d", "embedding"])
def test_compiles_as_one_graph(name: str) -> None:
    kind = KINDS[name]
    kshot = kshot_of(kind.make())
    compiled = torch.compile(kshot, fullgraph=True, backend="eager")
    torch.testing.assert_close(run(compiled, kind, CODE), run(kshot, kind, CODE))


def test_an_embedding_keeps_its_padding() -> None:
    kshot = kshot_of(nn.Embedding(5, 3, padding_idx=1))
    assert not kshot.weight[:, 1].any()
    assert kshot.weight[1:, 0].any()
    codes = torch.rand(2, SHOTS)
    assert not kshot(torch.tensor([1, 1]), codes).any()


@pytest.mark.parametrize("option", ["max_norm", "sparse"])
def test_an_embedding_that_has_no_kshot_form_stays(option: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 4, **{option: True}), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match=f"0: an embedding with {option}=True has no K-shot form"):
        kshot_ext.convert(model, 2)
    with pytest.raises(ValueError, match=f"an embedding with {option}=True has no K-shot form"):
        kshot_ext.nn.KShotEmbedding(5, 4, **{option: True})


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (kshot_ext.nn.KShotBatchNorm1d(4, num_shots=2), (2, 4, 3, 3), r"\[N, C\] or \[N, C, L\], got \[2, 4, 3, 3\]"),
        (kshot_ext.nn.KShotBatchNorm3d(4, num_shots=2), (2, 4, 3), r"\[N, C, D, H, W\], got \[2, 4, 3\]"),
        (kshot_ext.nn.KShotLayerNorm(4, num_shots=2), (2, 4), None),
    ],
)
def test_wrong_inputs_are_refused(layer: nn.Module, shape: tuple, message: str | None) -> None:
    code = torch.tensor([0.5, 0.5])
    if message is None:
        with pytest.raises(ValueError, match=r"a code per sample needs an input \[N, ..., \*\[4\]\], got \[4\]"):
            layer(torch.randn(4), torch.rand(4, 2))
        return
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(shape), code)


def test_a_narrower_form_of_what_cannot_be_sliced_is_refused() -> None:
    wide = kshot_ext.convert(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), 2)
    same = kshot_ext.narrow(wide, nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)))
    assert same[1].weight is wide[1].weight
    with pytest.raises(ValueError, match=r"layer '1': KShotLayerNorm cannot be narrowed: it keeps .*\(6,\).*\(4,\)"):
        kshot_ext.narrow(wide, nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))


def test_attention_and_its_projection_go_together() -> None:
    """A projection whose attention stays would be read by it; a plain projection in K-shot attention is as well."""
    model = nn.ModuleList([nn.MultiheadAttention(4, 2), nn.Linear(2, 2)])
    model.also = model[0].in_proj_weight
    with pytest.warns(UserWarning, match="out_proj: MultiheadAttention, which stays as it is, reads its weight"):
        kshot = kshot_ext.convert(model, 2)
    assert type(kshot[0].out_proj) is type(model[0].out_proj)
    layer = nn.MultiheadAttention(4, 2)
    layer.out_proj.register_forward_pre_hook(lambda layer, _inputs: layer.weight.data.clamp_(-1, 1) and None)
    with pytest.warns(UserWarning, match="out_proj: it has a forward pre-hook"):
        kshot = kshot_ext.convert(layer, 2)
    x = torch.randn(3, 2, 4)
    torch.testing.assert_close(kshot(x, x, x, code=torch.tensor([1.0, 0.0])), layer(x, x, x))


@ALL
def test_attributes_of_the_plain_layer_can_be_read(kind: Kind) -> None:
    layer = kind.make()
    kshot = kshot_of(layer)
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            assert getattr(kshot, name) == value, name


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "linear", "conv_transpose2d"])
def test_a_sample_without_a_batch(name: str) -> None:
    """torch's layers take it; a code per sample has one row then."""
    kind = KINDS[name]
    layer = kind.make()
    kshot = kshot_of(layer)
    input = inputs_of(kind)[0].detach()[0]
    input = input[0] if name == "linear" else input
    wanted = holding(layer, kshot, CODE)(input)
    torch.testing.assert_close(kshot(input, code=CODE), wanted, rtol=1e-12, atol=1e-12)
    for rows in (len(input), 2):  # not taken for channels
        kshot_ext.set_code(kshot, torch.rand(rows, SHOTS, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"code per sample"):
            kshot(input)
