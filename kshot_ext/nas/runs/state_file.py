"""A nested state of tensors and plain values as one safetensors file, which can be read without running any code.

The tensors carry the dotted path of where they are in the state, so any reader of safetensors finds a weight by its
name. All else is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kshot_ext.nas.extras import require

_STATE = "kshot_ext.state"
_SCALARS = (str, bool, int, float, type(None))


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

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> save_state(file, {"epoch": 3, "optimizer": {0: {"momentum": torch.ones(2)}}, "betas": (0.9, 0.99)})
        >>> load_state(file)
        {'epoch': 3, 'optimizer': {0: {'momentum': tensor([1., 1.])}}, 'betas': (0.9, 0.99)}
    """
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_outline(state, "", tensors, set()))
    require("safetensors.torch").save_file(tensors, path, metadata={_STATE: outline})


def load_state(path: Path) -> Any:
    """The state that :func:`save_state` wrote: equal bits, strides, types and order; all tensors on the CPU.

    Raises:
        StateFileError: if the file is missing, damaged, or something else.
    """
    try:
        with require("safetensors").safe_open(path, framework="pt") as file:
            outline = json.loads((file.metadata() or {})[_STATE])
            return _value(outline, file)
    except Exception as error:  # A damaged file makes the reader raise nearly anything.
        raise StateFileError(f"{path}: not a readable state ({type(error).__name__}: {error})") from error


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


def _value(outline: Any, file: Any) -> Any:
    if not isinstance(outline, list):
        return outline
    kind, *items = outline
    if kind == "tensor":
        name, stride = items
        return _with_stride(file.get_tensor(name), stride)
    if kind == "dict":
        return {key: _value(item, file) for key, item in items}
    values = [_value(item, file) for item in items]
    return values if kind == "list" else tuple(values)


def _with_stride(tensor: Tensor, stride: list[int]) -> Tensor:
    if list(tensor.stride()) == stride:
        return tensor
    extent = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, stride))
    if len(stride) != tensor.dim() or not 0 <= extent <= tensor.numel():  # also a file must not ask for any memory
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
