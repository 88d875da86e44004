"""``run.export``: files that need neither this package nor a pickle, with preprocessing inside."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from kshot_ext import nas
from kshot_ext.nas.api import export as exporting
from kshot_ext.nas.api.export import export
from kshot_ext.nas.datasets.decode import fit_square
from kshot_ext.nas.networks.classifier import Classifier, Preprocessing

IMAGES = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def classifier(run: nas.SearchRun) -> Classifier:
    return run.network("winner")


def ran(snippet: str) -> str:
    """What the snippet prints."""
    assert len(snippet.splitlines()) == 3
    output = io.StringIO()
    with redirect_stdout(output):
        exec(snippet, {})
    return output.getvalue()


def test_preprocessing_is_that_of_training() -> None:
    mean, std = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    preprocessing = Preprocessing((3, 4, 4), mean.tolist(), std.tolist())
    torch.testing.assert_close(preprocessing(images), expected)
    torch.testing.assert_close(preprocessing(images / 255), expected)


@pytest.mark.parametrize("size", [(16, 24), (31, 8), (8, 8), (9, 100)])
def test_images_of_other_sizes_are_scaled_and_cut_as_a_run_does(size: tuple[int, int]) -> None:
    """To a level of grey, as 8 bits are scaled by whole numbers there."""
    images = torch.randint(256, (3, 1, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([fit_square(image, 8) for image in images])
    preprocessing = Preprocessing((1, 8, 8), [0.0], [1 / 255], resize=True)
    assert (preprocessing(images) - expected).abs().max() <= 1.001
    exactly = torch.stack([fit_square(image.float(), 8) for image in images])
    torch.testing.assert_close(preprocessing(images / 255), exactly, rtol=0, atol=1e-3)


def test_pt2(classifier: Classifier, tmp_path: Path) -> None:
    exported = export(classifier, format="pt2", out=tmp_path / "winner")
    assert (exported.path.name, exported.checked, exported.weights) == ("winner.pt2", "torch", "trained")
    extra = {"metadata.json": ""}
    network = torch.export.load(exported.path, extra_files=extra).module()
    for images in (IMAGES, IMAGES[:1]):
        torch.testing.assert_close(network(images), classifier(images))
    metadata = json.loads(extra["metadata.json"])
    assert metadata["class_names"] == [str(digit) for digit in range(10)]
    assert metadata["input"] == {"dtype": "uint8", "shape": ["N", 1, 8, 8], "any_size": False}
    assert ran(exported.snippet).startswith("tensor([")


def test_images_of_floating_point_stay_so(tmp_path: Path) -> None:
    """As of a data set whose transform gives them, with statistics of its own."""
    preprocessing = Preprocessing((1, 8, 8), [0.5], [2.0], dtype=torch.float32)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), preprocessing)
    exported = export(classifier, out=tmp_path / "network")
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = classifier.network((images - 0.5) / 2)
    torch.testing.assert_close(torch.export.load(exported.path).module()(images), expected)
    assert "float32" in exported.snippet
    ran(exported.snippet)


def test_onnx(classifier: Classifier, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    exported = export(classifier, format="onnx", out=tmp_path / "winner.onnx")
    assert exported.checked == "onnxruntime"
    session = runtime.InferenceSession(exported.path)
    for images in (IMAGES, IMAGES[:1]):
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), classifier(images).detach(), rtol=1e-4, atol=1e-4)
    names = session.get_modelmeta().custom_metadata_map["class_names"]
    assert json.loads(names) == [str(digit) for digit in range(10)]
    assert ran(exported.snippet).startswith("[")


def test_safetensors(classifier: Classifier, tmp_path: Path) -> None:
    exported = export(classifier, format="safetensors", out=tmp_path / "winner")
    with safe_open(exported.path, framework="pt") as file:
        assert set(file.keys()) == set(classifier.state_dict())
        assert json.loads(file.metadata()["class_names"])[3] == "3"
    assert "network.head" in ran(exported.snippet)


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_network_that_scales_takes_images_of_any_size(format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier(network, Preprocessing((3, 16, 16), [0.5] * 3, [0.2] * 3, resize=True))
    exported = export(classifier, format=format, out=tmp_path / "network")
    for size in ((16, 16), (40, 30), (17, 64)):
        images = torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        if format == "pt2":
            found = torch.export.load(exported.path).module()(images)
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(exported.path)
            found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        torch.testing.assert_close(found, classifier(images), rtol=1e-3, atol=1e-2)


def test_a_file_with_other_scores_is_not_kept(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="expected the network's own scores of the file, got such that differ by"):
        export(classifier, out=tmp_path / "winner")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_back_is_not_kept(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.export, "load", broken)
    with pytest.raises(RuntimeError, match="no such operator"):
        export(classifier, out=tmp_path / "winner")
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_run_are_not_overwritten(run: nas.SearchRun, tmp_path: Path) -> None:
    first = run.export("winner", format="safetensors", out=tmp_path / "first")
    with pytest.raises(FileExistsError, match=r"first.safetensors: exists already; choose another file"):
        run.export("winner", format="safetensors", out=tmp_path / "first")
    other = run.export(run.history[0].key, weights="inherited", format="safetensors", out=tmp_path / "other")
    assert (first.weights, other.weights) == ("trained", "inherited")
    with pytest.raises(ValueError, match="format: expected one of pt2, onnx, safetensors, got 'pickle'"):
        run.export("winner", format="pickle", out=tmp_path / "third")
