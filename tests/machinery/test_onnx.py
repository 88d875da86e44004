"""ONNX files of merged and of converted models: plain torch operators only, and the values of the model."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from machinery_models import CODE, OTHER_CODE, WithCode, converted, images
from torch import nn

import kshot_ext

pytest.importorskip("onnx", reason="onnx is not installed")
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

KINDS = ["merged", "converted"]


def model_of(kind: str) -> nn.Module:
    return converted() if kind == "converted" else kshot_ext.merge(converted())


def onnx_file(model: nn.Module, *inputs: torch.Tensor, dynamo: bool = False) -> bytes:
    file, names = io.BytesIO(), ["images", "code"][: len(inputs)]
    options = {"dynamic_axes": {"images": {0: "batch"}}}
    if dynamo:
        options = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=64)}, *(None,) * (len(inputs) - 1))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter is deprecated, the new one tells much
        torch.onnx.export(model, inputs, file, dynamo=dynamo, input_names=names, verbose=False, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_no_operator_of_ours_is_in_the_file(kind: str) -> None:
    """And the call after it runs kernels again."""
    file = onnx_file(model_of(kind), images())
    assert b"Conv" in file
    assert b"kshot_ext" not in file
    assert kshot_ext.backend.native()


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_the_runtime(kind: str, dynamo: bool) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = model_of(kind)
    session = runtime.InferenceSession(onnx_file(model, images(), dynamo=dynamo))
    for batch in (2, 5):
        (found,) = session.run(None, {"images": images(batch).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images(batch)).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamo", [False, True])
def test_the_code_as_an_input_of_the_file(dynamo: bool) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = WithCode(converted(code=None)).eval()
    session = runtime.InferenceSession(onnx_file(model, images(), CODE, dynamo=dynamo))
    for code in (CODE, OTHER_CODE):
        (found,) = session.run(None, {"images": images().numpy(), "code": code.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images(), code).detach(), rtol=1e-4, atol=1e-5)
