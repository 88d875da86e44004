"""Converted models as graphs: compiled, exported, traced. Backends that only trace, as that is what is asked for."""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable

import pytest
import torch
from machinery_models import CODE, OTHER_CODE, SHOTS, WithCode, converted, images, plain
from torch import Tensor, nn

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def saved(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def jit_traced(model: nn.Module) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`torch.jit.* is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # checks compare sizes
        return saved(torch.jit.trace(model, images()))


def exported(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "export": exported,
    "jit_trace": jit_traced,
    "symbolic_trace": torch.fx.symbolic_trace,
}


@pytest.mark.parametrize("code", [CODE, torch.eye(2)], ids=["one_code", "code_per_sample"])
@pytest.mark.parametrize("way", WAYS)
def test_a_converted_model_as_a_graph(way: str, code: Tensor) -> None:
    """Of any batch size where all samples have one code."""
    model = converted(code=code)
    graph = WAYS[way](model)
    for batch in (2, 5) if code.dim() == 1 else (2,):
        torch.testing.assert_close(graph(images(batch)), model(images(batch)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["export", "jit_trace"])
def test_a_graph_keeps_the_code_that_it_was_made_with(way: str) -> None:
    model = converted()
    graph, expected = WAYS[way](model), model(images())
    kshot_ext.set_code(model, OTHER_CODE)
    torch.testing.assert_close(graph(images()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 3, 3, groups=3)], ids=repr)
def test_export_binds_no_batch_size(layer: nn.Module, memory_format: torch.memory_format) -> None:
    """Forms are chosen by sizes where calls are eager: by few positions, 1024 of them for a dense kernel."""
    model = kshot_ext.convert(nn.Sequential(layer), num_shots=2).eval()
    kshot_ext.set_code(model, CODE)
    sizes = ({0: torch.export.Dim("batch", min=1)},)
    x = torch.randn(600, 3, 8, 8).to(memory_format=memory_format)
    graph = torch.export.export(model, (x[:3],), dynamic_shapes=sizes).module()
    for batch in (1, 600):
        torch.testing.assert_close(graph(x[:batch]), model(x[:batch]), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_export_with_the_code_as_an_input() -> None:
    model = converted(code=None)
    graph = torch.export.export(WithCode(model), (images(), CODE)).module()
    for code in (CODE, OTHER_CODE):
        kshot_ext.set_code(model, code)
        torch.testing.assert_close(graph(images(), code), model(images()), rtol=1e-5, atol=1e-6)


def test_layers_are_leaves_of_fx_graphs() -> None:
    """So a graph module takes codes, and merges, as the model does."""
    model = converted()
    graph = torch.fx.symbolic_trace(model)
    layers = {name for name, layer in model.named_modules() if isinstance(layer, kshot_ext.nn.KShotModule)}
    assert layers <= {node.target for node in graph.graph.nodes if node.op == "call_module"}
    for each in (graph, model):
        kshot_ext.set_code(each, OTHER_CODE)
    torch.testing.assert_close(graph(images()), model(images()))
    torch.testing.assert_close(kshot_ext.merge(graph)(images()), model(images()), rtol=1e-5, atol=1e-6)


LEAVES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv1d(3, 4, 3), (2, 3, 7)),
    "norm1d": (nn.BatchNorm1d(3), (4, 3)),
    "norm3d": (nn.BatchNorm3d(3), (2, 3, 2, 2, 2)),
    "mixed": (nn.GroupNorm(1, 3), (2, 3, 5)),
    "embedding": (nn.Embedding(5, 4), (2, 3)),
    "bits": (kshot_ext.nn.QuantisedLinear(3, 4, weight_bits=4, activation_bits=4), (2, 3)),
}


@pytest.mark.parametrize("kind", LEAVES)
def test_every_kind_of_layer_is_a_leaf(kind: str) -> None:
    layer, shape = LEAVES[kind]
    model = kshot_ext.convert(nn.Sequential(layer).eval(), SHOTS)
    kshot_ext.set_code(model, CODE)
    graph = torch.fx.symbolic_trace(model)
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]
    input = torch.randint(5, shape) if kind == "embedding" else torch.randn(shape)
    torch.testing.assert_close(graph(input), model(input))


def test_a_block_of_ones_own_in_an_fx_graph() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.norm(self.conv(x)).relu()

    model = kshot_ext.convert(Block().eval(), SHOTS)
    kshot_ext.set_code(model, CODE)
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(images()), model(images()), rtol=1e-5, atol=1e-6)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["conv", "norm"]
    assert list(inspect.signature(model.forward).parameters) == ["x"]  # which trainers read, too


def test_compile_in_one_graph_with_any_batch_and_code() -> None:
    torch.compiler.reset()
    model = kshot_ext.convert(plain()[:3].eval(), SHOTS)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for batch, code in ((2, CODE), (5, OTHER_CODE), (3, CODE)):
        kshot_ext.set_code(model, code)
        expected = model(images(batch))
        torch.testing.assert_close(compiled(images(batch)), expected, rtol=1e-5, atol=1e-6)


def test_set_code_in_a_compiled_function() -> None:
    torch.compiler.reset()
    model = WithCode(kshot_ext.convert(plain()[:3].eval(), SHOTS))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for code in (CODE, OTHER_CODE):
        torch.testing.assert_close(compiled(images(), code), model(images(), code), rtol=1e-5, atol=1e-6)


def test_scripting_takes_merged_models() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`torch.jit.* is deprecated")
        model = converted()
        scripted = torch.jit.script(kshot_ext.merge(model))
        with pytest.raises(RuntimeError, match=r"cannot compile a KShot\w+: script kshot_ext.merge\(model, code\)"):
            torch.jit.script(model)
    torch.testing.assert_close(scripted(images(3)), model(images(3)), rtol=1e-5, atol=1e-6)
