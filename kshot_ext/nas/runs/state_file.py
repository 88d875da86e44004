"""A nested state of tensors and plain values as one safetensors file, which can be read without running any code.

The tensors carry the dotted path of where they are in the state, so any reader of safetensors finds a weight by its
name. All else is JSON in the file's metadata, beside a SHA-256 of everything: a bit that turns on the disk, or a tensor
that was exchanged, is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import check_regular, parse_json
from kshot_ext.nas.messages import one_line

_STATE = "kshot_ext.state"
_DIGEST = "kshot_ext.sha256"
_SCALARS = (str, bool, int, float, type(None))


def check_state(state: Any) -> None:
    """Refuses what :func:`save_state` would.

    Raises:
        TypeError: as there.
    """
    _outline(state, "", {}, set())


class StateFileError(ValueError):
    """A file is no state that :func:`save_state` wrote."""


def save_state(path: Path, state: Any) -> None:
    """Writes a state.

    Args:
        path: the file, which is replaced; see `kshot_ext.nas.files.atomic_path` for a safe way to do so.
        state: tensors (any device), text, numbers, booleans and None, in dicts (with keys of text or integers), lists
            and tuples.

    Raises:
        TypeError: if there is a value of another kind, naming its place.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> save_state(file, {"epoch": 3, "optimizer": {0: {"momentum": torch.ones(2)}}, "betas": (0.9, 0.99)})
        >>> load_state(file)
        {'epoch': 3, 'optimizer': {0: {'momentum': tensor([1., 1.])}}, 'betas': (0.9, 0.99)}
    """
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_outline(state, "", tensors, set()))
    metadata = {_STATE: outline, _DIGEST: _digest(outline, tensors)}
    with safetensors_errors():
        require("safetensors.torch").save_file(tensors, path, metadata=metadata)


def load_state(path: Path) -> Any:
    """The state that :func:`save_state` wrote: equal bits, strides, types and order; all tensors on the CPU.

    Raises:
        StateFileError: if the file is missing, damaged, changed, or something else.
    """
    try:
        check_regular(path)
        with _utf8_path(path) as readable, require("safetensors").safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _digest(metadata[_STATE], tensors) != metadata[_DIGEST]:
                raise ValueError("its content is not what was written")
            return _value(parse_json(metadata[_STATE]), tensors)
    except Exception as error:  # A damaged file makes the reader raise nearly anything.
        raise StateFileError(f"{path}: not a readable state ({type(error).__name__}: {one_line(error)})") from error


@contextmanager
def _utf8_path(path: Path) -> Iterator[Path]:
    """A path to the same file that is UTF-8, as safetensors wants of what it reads."""
    if str(path).encode("utf-8", "ignore") == os.fsencode(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "state.safetensors"
        link.symlink_to(path.absolute())
        yield link


@contextmanager
def safetensors_errors() -> Iterator[None]:
    """Turn an error of safetensors into that of the system, which it has in its text, inside the block."""
    try:
        yield
    except require("safetensors").SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else one_line(error)) from error


def _digest(outline: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a file's content, whatever the order of its tensors."""
    digest = hashlib.sha256(outline.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # Its bytes; numpy knows no bfloat16.
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _outline(value: Any, place: str, tensors: dict[str, Tensor], places: set[int]) -> Any:
    """The JSON form of a value: scalars as they are, all else a list that begins with the name of its kind.

    Args:
        value: part of the state.
        place: its dotted path.
        tensors: gets the tensors in it, by name.
        places: gets the memory addresses of these.
    """
    if isinstance(value, Tensor):
        name = place
        while name in tensors:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        # The file holds no strides, but the layout decides which kernel runs and so the last bit of a result.
        plain = value.detach().cpu().contiguous()
        # A weight that two layers share is another's too; the file holds it twice then.
        tensors[name] = plain.clone() if plain.untyped_storage().data_ptr() in places else plain
        places.add(plain.untyped_storage().data_ptr())
        return ["tensor", name, list(value.stride())]
    if isinstance(value, Mapping):
        return [
            "dict",
            *([key, _outline(item, _joined(place, _key(key, place)), tensors, places)] for key, item in value.items()),
        ]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_outline(item, _joined(place, index), tensors, places) for index, item in enumerate(value))]
    if type(value) in _SCALARS:
        return value
    raise TypeError(f"{place or 'state'}: expected tensors and plain values, got {type(value).__name__}")


def _key(key: Any, place: str) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"{place or 'state'}: expected keys of text or integers, got {key!r}")
    return key


def _joined(place: str, part: str | int) -> str:
    return f"{place}.{part}" if place else str(part)


def _value(outline: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(outline, list):
        return outline
    kind, *items = outline
    if kind == "tensor":
        name, stride = items
        return _with_stride(tensors[name], stride)
    if kind == "dict":
        return {key: _value(item, tensors) for key, item in items}
    values = [_value(item, tensors) for item in items]
    return values if kind == "list" else tuple(values)


def _with_stride(tensor: Tensor, stride: list[int]) -> Tensor:
    if list(tensor.stride()) == stride:
        return tensor
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, stride))
    if len(stride) != tensor.dim() or not 0 <= extent <= tensor.numel():  # also a file must not ask for any memory
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
