"""Kinds that users register, and those of libraries that are known by name only."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn import KShotLinear, KShotMixed, conversions

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class Shifted(nn.Module):
    """A layer of a user's own: a table, a number, a part and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.randn(()))
        self.act = nn.PReLU(4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input: Tensor, *, power: int = 1) -> Tensor:
        self.calls += 1
        return self.act(self.scale * input**power + self.shift)


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "_CONVERSIONS", dict(conversions._CONVERSIONS))
    conversions.names_of_kinds.cache_clear()
    yield
    conversions.names_of_kinds.cache_clear()


@pytest.mark.filterwarnings("error")
def test_any_layer_is_registered_in_one_line() -> None:
    kshot_ext.register_conversion(Shifted, KShotMixed.from_plain, KShotMixed.to_plain)
    kshot_ext.register_conversion(Scaled, KShotMixed.from_plain, KShotMixed.to_plain)
    model = nn.Sequential(Scaled(4, 4), Shifted())
    kshot = kshot_ext.convert(model, 2)
    assert kshot_ext.conversion_report(kshot).swapped == {"0": "Scaled", "1": "Shifted"}
    assert kshot[1].shift.shape == (2, 4)
    assert kshot[1].scale.shape == (2,)
    with pytest.raises(ValueError, match="KShotShifted needs a code of 2 entries"):
        kshot[1](torch.randn(3, 4))
    assert repr(kshot[1]).startswith("KShotShifted(\n")
    code = torch.tensor([0.25, 0.75])
    kshot_ext.set_code(kshot, code)
    x = torch.randn(3, 4)
    weight, bias = (torch.einsum("k,k...->...", code, each) for each in (kshot[0].weight, kshot[0].bias))
    hidden = 2 * (x @ weight.mT + bias)
    expected = kshot[1].act((code @ kshot[1].scale) * hidden + code @ kshot[1].shift)
    torch.testing.assert_close(kshot(x), expected)
    assert kshot[1].calls == 1
    torch.testing.assert_close(kshot[1](x, power=2), kshot_ext.merge(kshot)[1](x, power=2))
    merged = kshot_ext.merge(kshot)
    assert [type(each) for each in merged] == [Scaled, Shifted]
    assert repr(merged) == repr(model)
    assert {n: p.shape for n, p in merged.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


def test_a_class_of_its_own_has_the_constructor_of_its_kind() -> None:
    class Numbered(nn.Module):
        """Its code does not name its tensors."""

        def __init__(self, count: int, *, offset: float = 0.0) -> None:
            super().__init__()
            for index in range(count):
                self.register_parameter(f"p{index}", nn.Parameter(torch.full((2,), offset + index)))

        def forward(self, input: Tensor) -> Tensor:
            return input + sum(self._parameters.values())

    class KShotNumbered(KShotMixed):
        plain = Numbered

    layer = KShotNumbered(3, offset=1.0, num_shots=2)
    assert [name for name, _ in layer.named_parameters()] == ["p0", "p1", "p2"]
    found = layer(torch.zeros(2), code=torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(found, torch.full((2,), 12.0))  # 2 * (1 + 2 + 3)


def test_what_the_class_does_not_mention_is_not_its_own() -> None:
    kshot_ext.register_conversion(Scaled, KShotMixed.from_plain, KShotMixed.to_plain)
    for change, reason in (
        (lambda layer: setattr(layer, "mask", nn.Parameter(torch.ones(4))), "its parameters are .*mask"),
        (lambda layer: layer.register_buffer("mask", torch.ones(4)), "its buffers are .*mask"),
        (lambda layer: layer.add_module("adapter", nn.ReLU()), "it holds modules of its own: adapter"),
        (lambda layer: setattr(layer, "forward", torch.sin), "its attribute 'forward' would hide"),
        (lambda layer: setattr(layer, "num_shots", 3), "its attribute 'num_shots' would hide"),
    ):
        model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
        change(model[0])
        with pytest.warns(UserWarning, match=reason):
            assert list(kshot_ext.conversion_report(kshot_ext.convert(model, 2)).swapped) == ["1"]


def test_a_parent_that_reads_a_parameter_of_another_name_is_found() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Shifted(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x)) * self.inner.shift

    kshot_ext.register_conversion(Shifted, KShotMixed.from_plain, KShotMixed.to_plain)
    with pytest.warns(UserWarning, match=r"inner: \S*Parent.forward reads its weight"):
        kshot = kshot_ext.convert(Parent(), 2)
    assert list(kshot_ext.conversion_report(kshot).swapped) == ["head"]


@pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning")
def test_a_kind_is_known_by_name_without_its_library() -> None:
    library = type(sys)("a_library")
    library.Linear = type("Linear", (nn.Linear,), {"__module__": "a_library", "__qualname__": "Linear"})
    model = nn.Sequential(library.Linear(4, 2), nn.Linear(2, 2))
    assert list(kshot_ext.conversion_report(kshot_ext.convert(model, 2)).swapped) == ["1"]
    kshot_ext.register_conversion("a_library.Linear", KShotLinear.from_plain, KShotLinear.to_plain)
    kshot = kshot_ext.convert(model, 2)
    assert type(kshot[0]) is KShotLinear
    assert type(kshot_ext.merge(kshot, torch.tensor([1.0, 0.0]))[0]) is library.Linear
    assert "timm" not in sys.modules or sys.modules["timm"].__file__


def test_a_refusal_is_the_reason() -> None:
    def refuse(layer: nn.Module, num_shots: int) -> KShotMixed:
        raise ValueError("it is of the wrong sort")

    kshot_ext.register_conversion(Scaled, refuse, KShotMixed.to_plain)
    with pytest.warns(UserWarning, match="0: it is of the wrong sort"):
        kshot_ext.convert(nn.Sequential(Scaled(4, 4), nn.Linear(4, 4)), 2)


def test_only_kinds_of_modules_are_registered() -> None:
    with pytest.raises(TypeError, match=r"kind must be a class of torch\.nn\.Module or its qualified name, got <class"):
        kshot_ext.register_conversion(int, KShotMixed.from_plain, KShotMixed.to_plain)
    with pytest.raises(TypeError, match="KShotMixed does not say, in `plain`, which kind"):
        KShotMixed(4)
