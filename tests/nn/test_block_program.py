"""Blocks whose parts run in an order, and write in places, that values which wait must not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from fused_models import assert_alike, fused_copy, outcome, seeded
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 4


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))


def images() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, CHANNELS, 5, 4, generator=generator).contiguous(memory_format=torch.channels_last)


class _NormsBehindBoth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = pair(), pair()
        self.conv, self.conv_too = self.one[0], self.other[0]
        self.norm, self.norm_too = self.one[1], self.other[1]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.conv_too(x)
        y = self.norm(y)
        z = self.norm_too(z)
        return y + F.relu(z)


class _ReadByNobody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.norm = pair(), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x)
        return self.layers(x)


class _CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = F.avg_pool2d(self.norm(self.conv(x)), 3, 1, 1)
        return z + y


class _CalledInsideToo(_CalledTwice):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(self.conv, self.norm, nn.AvgPool2d(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.inner(x)
        return z + y


@pytest.mark.parametrize("kind", [_NormsBehindBoth, _ReadByNobody, _CalledTwice, _CalledInsideToo])
def test_norms_run_in_the_order_of_the_forward(kind: type[nn.Module]) -> None:
    plain = seeded(kind).train()
    fused = fused_copy(plain)
    assert type(fused) is not kind
    for _ in range(2):
        plain.zero_grad()
        fused.zero_grad()
        mine, expected = outcome_of_used(fused), outcome_of_used(plain)
        assert_alike(mine, expected, rtol=1e-4, atol=1e-4)


def outcome_of_used(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in outcome(model, images()).items() if value is not None}


class _Block(nn.Module):
    """A value that waits, and something that writes to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.norm = pair(), nn.BatchNorm2d(CHANNELS)
        self.act = nn.Hardtanh(inplace=True)
        self.inner = nn.Sequential(nn.Hardtanh(inplace=True), *pair())
        self.own = _Halves()
        self.shift = nn.Parameter(torch.ones(1, CHANNELS, 1, 1))


class _Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x.mul_(0.5)
        return x


class _WritesToAView(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        z = self.act(x[:, :])
        return y + z


class _WritesInside(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        z = self.inner(x)
        return y + z


class _WritesBehindANorm(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.inner(x)
        return y + z


class _WritesByOwnCode(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        z = self.own(x)
        return y + z


class _WritesToAnAddend(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x) + x
        z = self.inner(x)
        return y + z


class _WritesToOut(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        z = torch.add(x, 1.0, out=x)
        return y + z


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "kind",
    [_WritesToAView, _WritesInside, _WritesBehindANorm, _WritesByOwnCode, _WritesToAnAddend, _WritesToOut],
)
@torch.no_grad()
def test_what_waits_reads_what_was_there(kind: type[nn.Module], training: bool) -> None:
    plain = seeded(kind).train(training)
    fused = fused_copy(plain)
    assert type(fused) is not kind
    mine, other = images(), images()
    torch.testing.assert_close(fused(mine), plain(other), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine, other)


class _AddsToItself(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        y += self.shift
        return y


class _GrowsInPlace(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x.mean((2, 3), keepdim=True))
        y += x
        return y


def test_additions_in_place_keep_dtype_and_shape() -> None:
    plain = seeded(_AddsToItself)
    fused = fused_copy(plain)
    assert type(fused) is not _AddsToItself
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = fused(images()), plain(images())
    assert ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=3e-2, atol=3e-2)
    with pytest.raises(RuntimeError, match="broadcast"):
        fused_copy(_GrowsInPlace())(images())


class _AddsShapes(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        means = y.reshape(y.shape[:2] + (-1,)).sum(2).reshape(x.shape[:2] + (1, 1))  # noqa: RUF005  # what is tested
        return y + means / x.shape[2:].numel()


class _ReadsResultsByName(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x.max(dim=1, keepdim=True).values


class _Halved(NamedTuple):
    values: Tensor
    indices: Tensor


class _GivesNames(nn.Module):
    def forward(self, x: Tensor) -> _Halved:
        return _Halved(*x.chunk(2, 1))


class _ReadsAPartByName(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.halves = _GivesNames()

    def forward(self, x: Tensor) -> Tensor:
        halves = self.halves(x)
        return self.layers(x) + torch.cat([halves.indices, halves.values], 1)


@pytest.mark.parametrize("kind", [_AddsShapes, _ReadsResultsByName, _ReadsAPartByName])
def test_what_is_no_tensor_stays_what_it_is(kind: type[nn.Module]) -> None:
    plain = seeded(kind)
    fused = fused_copy(plain)
    assert type(fused) is not kind
    torch.testing.assert_close(fused(images()), plain(images()), rtol=1e-4, atol=1e-4)


class _Meddles(nn.Module):
    """Writes to a norm that it knows, and does not hold."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.known = [norm]

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.known:
            norm.weight.mul_(0.5)
            norm.running_mean.add_(1)
        return x


class _Meddled(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.meddles, self.meddles_too = _Meddles(self.norm), _Meddles(self.layers[1])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = y + self.meddles(x)
        z = self.layers(x)
        return y + self.meddles_too(x) + z


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@torch.no_grad()
def test_nothing_waits_past_code_that_is_not_known(training: bool) -> None:
    plain = seeded(_Meddled).train(training)
    fused = fused_copy(plain)
    assert type(fused) is not _Meddled
    torch.testing.assert_close(fused(images()), plain(images()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(fused.named_buffers()), dict(plain.named_buffers()))


class _Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1):
            x = x.sum((2, 3), keepdim=True)
        return x


class _Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sums = _Sums()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sums(x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float64])
def test_products_of_any_numbers(dtype: torch.dtype) -> None:
    plain = _Scales()
    fused = fused_copy(plain)
    assert type(fused) is not _Scales
    torch.testing.assert_close(fused(images().to(dtype)), plain(images().to(dtype)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batches_of_no_images(training: bool) -> None:
    plain = seeded(lambda: nn.Sequential(*pair(), _Scales(), *pair(), _Scales())).train(training)
    fused = fused_copy(plain)
    ours, expected = outcome(fused, images()[:0]), outcome(plain, images()[:0])
    assert_alike(ours, expected)


class _TurnsAway(_Block):
    def forward(self, x: Tensor) -> Tensor:
        self.layers(x)
        return x.transpose(2, 3)


def test_a_view_of_the_input_is_one() -> None:
    fused, x = fused_copy(_TurnsAway()), images().contiguous()
    fused(x).zero_()
    assert not x.any()


class _Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1):
            x = x.view(x.size(0), -1)
        return x


class _Flattens(_Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        return x.view(x.size(0), -1)


class _WritesToWhatMayBeAView(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        z = y.contiguous()
        z += 1
        y.reshape(y.size(0), -1).mul_(2)
        return y + z


class _HandsOn(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        z = self.own(y)
        return y + z


class _Drops(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.drop(self.layers(x)), training=self.training)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("hooked", [True, False], ids=["hooked", ""])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(*pair(), nn.ReLU(), _Flat()),
        lambda: nn.Sequential(*pair(), nn.Sequential(nn.Identity(), _Flat())),
        lambda: nn.Sequential(*pair(), _Flattens()),
        lambda: nn.Sequential(*pair(), _WritesToWhatMayBeAView()),
        lambda: nn.Sequential(*pair(), _HandsOn()),
        lambda: nn.Sequential(*pair(), _Drops()),
    ],
    ids=["own code", "own code inside", "view", "views", "own code that writes", "dropout"],
)
@torch.no_grad()
def test_code_finds_contiguous_images_where_it_did(make: Callable[[], nn.Module], hooked: bool, training: bool) -> None:
    plain = seeded(make).train(training)
    fused = fused_copy(plain)
    x, made = images().contiguous(), []
    for model in (fused, plain):
        if hooked:
            model[-1].register_forward_hook(lambda *_: None)
        torch.manual_seed(0)
        made.append(model(x))
    torch.testing.assert_close(*made, rtol=1e-4, atol=1e-4)
