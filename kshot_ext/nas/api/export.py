"""``run.export``: a network with its preprocessing, as a file for whoever uses it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kshot_ext.nas.checks import check_one_of
from kshot_ext.nas.extras import MissingExtraError, require
from kshot_ext.nas.files import atomic_path, is_there, write_errors
from kshot_ext.nas.networks.classifier import Classifier
from kshot_ext.nas.runs.state_file import safetensors_errors

_EXAMPLES = 2
_NEEDED = {"onnx": ("onnx", "onnxscript")}
"""Libraries of the extra of a format's name."""
_TOLERANCE = 1e-4
"""Largest difference of scores between onnxruntime and torch, as a share of the largest score, or of 1."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: of the file.
        format: ``"pt2"``, ``"onnx"`` or ``"safetensors"``.
        weights: whether they are ``"trained"`` from scratch or ``"inherited"`` from the supernet.
        checked: what its scores were compared with; empty if with nothing.
        snippet: three lines of Python that use it.
    """

    path: Path
    format: str
    weights: str
    checked: str
    snippet: str


@torch.no_grad()
def export(classifier: Classifier, *, format: str = "pt2", out: str | Path) -> Exported:
    """Write a network with its preprocessing.

    It takes uint8 images ``[N, C, H, W]``, any number of them, and gives scores ``[N, num_classes]``. Where the images
    of a run passed through a transform, it takes what that gave. Names of classes are in the file's metadata.

    Args:
        classifier: the network.
        format: ``"pt2"`` of ``torch.export``, ``"onnx"``, which onnxruntime checks where it is installed, or
            ``"safetensors"``, which are weights alone.
        out: the file, which must not exist; a name without its suffix gets it.

    Raises:
        ValueError: if the format is another, or the scores of the file are not those of the network.
        FileExistsError: if there is something already.
        MissingExtraError: if a library that the format needs is not installed.
        WriteError: if it cannot be written.
    """
    check_one_of("format", format, FORMATS)
    path = Path(out)
    if path.suffix != f".{format}":
        path = path.with_name(f"{path.name}.{format}")
    if is_there(path):
        raise FileExistsError(f"{path}: exists already; choose another file, or move it away")
    for library in _NEEDED.get(format, ()):
        require(library, format)
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:  # so what cannot be read back, or gives other scores, leaves nothing behind
        checked = FORMATS[format](classifier.cpu(), temporary)
    return Exported(path, format, classifier.weights, checked, _snippet(classifier, path, format))


def metadata_of(classifier: Classifier) -> dict[str, Any]:
    """What a file says of its network besides."""
    preprocessing = classifier.preprocessing
    return {
        "class_names": classifier.class_names,
        "input": {
            "dtype": _name(preprocessing.dtype),
            "shape": ["N", *preprocessing.image_shape],
            "any_size": preprocessing.resize,
        },
        "weights": classifier.weights,
    }


def _write_pt2(classifier: Classifier, path: Path) -> str:
    program = _program(classifier)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata_of(classifier))})
    path.write_bytes(content.getvalue())
    images = _images(classifier, _EXAMPLES + 1, more=3)
    found = torch.export.load(io.BytesIO(path.read_bytes())).module()(images)
    _check_same(path, classifier(images), found)
    return "torch"


def _write_onnx(classifier: Classifier, path: Path) -> str:
    with _quietly():
        exported = torch.onnx.export(
            _program(classifier), dynamo=True, input_names=["images"], output_names=["scores"], verbose=False
        )
    assert exported is not None  # with no file given
    model = exported.model_proto
    for name, value in metadata_of(classifier).items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    path.write_bytes(model.SerializeToString())
    try:
        runtime = require("onnxruntime", "onnx")
    except MissingExtraError:
        return ""
    images = _images(classifier, _EXAMPLES + 1, more=3)
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    _check_same(path, classifier(images), torch.from_numpy(found))
    return "onnxruntime"


def _write_safetensors(classifier: Classifier, path: Path) -> str:
    metadata = {name: json.dumps(value) for name, value in metadata_of(classifier).items()}
    with safetensors_errors():
        require("safetensors.torch").save_model(classifier, path, metadata=metadata)
    return ""


FORMATS: dict[str, Callable[[Classifier, Path], str]] = {
    "pt2": _write_pt2,
    "onnx": _write_onnx,
    "safetensors": _write_safetensors,
}
"""What writes a network, by the suffix of its file; each says what checked the file."""


def _images(classifier: Classifier, count: int, more: int = 0) -> torch.Tensor:
    """Random images; where the file takes any size, they are wider and higher by so much than the network's."""
    channels, height, width = classifier.preprocessing.image_shape
    sides = (height + more, width + 2 * more) if classifier.preprocessing.resize else (height, width)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, *sides), dtype=torch.uint8, generator=generator)
    return images if classifier.preprocessing.dtype == torch.uint8 else images / 255


def _program(classifier: Classifier) -> torch.export.ExportedProgram:
    sides = {2: "height", 3: "width"} if classifier.preprocessing.resize else {}
    dynamic = {axis: torch.export.Dim(name, min=1) for axis, name in ({0: "batch"} | sides).items()}
    # Sizes of examples that differ, and are not those of the network, are not taken for what they are.
    return torch.export.export(classifier, (_images(classifier, _EXAMPLES, more=5),), dynamic_shapes=(dynamic,))


@contextmanager
def _quietly() -> Iterator[None]:
    """What exporters log and warn of is their own parts, and libraries that no network here uses."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_same(path: Path, expected: torch.Tensor, found: torch.Tensor) -> None:
    difference = float((expected - found).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        differ = f"such that differ by {difference:.3g}"
        raise ValueError(f"{path.name}: expected the network's own scores of the file, got {differ}; not kept")


def _snippet(classifier: Classifier, path: Path, format: str) -> str:
    shape = ", ".join(map(str, classifier.preprocessing.image_shape))
    dtype = _name(classifier.preprocessing.dtype)
    images = f"images = torch.zeros(1, {shape}, dtype=torch.{dtype})  # yours: {dtype} [N, {shape}]"
    classes = bool(classifier.class_names)
    if format == "pt2":
        load = f"import torch; network = torch.export.load({str(path)!r}).module()"
        return f"{load}\n{images}\nprint(network(images){'.argmax(dim=1)' if classes else ''})"
    if format == "onnx":
        load = f"import onnxruntime, torch; session = onnxruntime.InferenceSession({str(path)!r})"
        run = 'session.run(None, {"images": images.numpy()})[0]'
        return f"{load}\n{images}\nprint({run}{'.argmax(axis=1)' if classes else ''})"
    load = f"from safetensors.torch import load_file\nweights = load_file({str(path)!r})"
    return f"{load}\nprint({{name: tuple(weight.shape) for name, weight in weights.items()}})"
