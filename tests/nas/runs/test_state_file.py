from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kshot_ext.nas.runs.state_file import StateFileError, load_state, save_state


def _round_trip(tmp_path: Path, state: Any) -> Any:
    save_state(tmp_path / "state.safetensors", state)
    return load_state(tmp_path / "state.safetensors")


def test_plain_values_come_back_with_their_types_and_order(tmp_path: Path) -> None:
    state = {"b": [1, 2.5, None, True, "ü"], "a": (0.1, (), [], {}), 3: {4: float("inf")}, "": -1e-300}
    loaded = _round_trip(tmp_path, state)
    assert loaded == state
    assert repr(loaded) == repr(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool])
def test_tensors_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.randn(2, 3, 4, 5) * 100).to(dtype)
    loaded = _round_trip(tmp_path, [tensor, tensor[:, 1], tensor.new_zeros(()), tensor[:0]])
    for got, expected in zip(loaded, [tensor, tensor[:, 1], tensor.new_zeros(()), tensor[:0]]):
        assert got.dtype == dtype
        assert torch.equal(got, expected)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 1, 1), (1, 3, 2, 2)])
def test_tensors_keep_their_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).to(memory_format=torch.channels_last)
    loaded = _round_trip(tmp_path, tensor)
    assert loaded.stride() == tensor.stride()
    assert torch.equal(loaded, tensor)


def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    weights = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizers = [torch.optim.Adam([weight], lr=0.1) for weight in weights]
    for step in range(4):
        for weight, optimizer in zip(weights, optimizers):
            weight.grad = torch.full((3, 2), 1.0 + step)
            optimizer.step()
        optimizers[1].load_state_dict(_round_trip(tmp_path, optimizers[1].state_dict()))
    assert torch.equal(*weights)


def test_a_weight_that_two_layers_share_is_kept_for_both(tmp_path: Path) -> None:
    shared = torch.randn(3)
    first, second = _round_trip(tmp_path, [shared, shared])
    assert torch.equal(first, shared)
    assert torch.equal(second, shared)


def test_other_readers_find_the_weights_by_name(tmp_path: Path) -> None:
    weight = torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last)
    save_state(tmp_path / "file", {"state": {"supernet": {"stem.weight": weight}}})
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert torch.equal(file.get_tensor("state.supernet.stem.weight"), weight)


def test_a_path_need_not_be_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    save_state(path, {"weight": torch.arange(3)})
    assert torch.equal(load_state(path)["weight"], torch.arange(3))


def test_names_never_clash(tmp_path: Path) -> None:
    loaded = _round_trip(tmp_path, {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}})
    assert (loaded["a.b"].item(), loaded["a"]["b"].item()) == (0, 1)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [object()]}}, r"a\.b\.0: expected tensors and plain values, got object"),
        ({"a": {1.5: 0}}, r"a: expected keys of text or integers, got 1\.5"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path / "file", state)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(StateFileError, match="file: not a readable state"):
        load_state(path)
    torch.save({"a": 1}, path)
    with pytest.raises(StateFileError, match="file: not a readable state"):
        load_state(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(StateFileError, match="file: not a readable state"):
        load_state(path)


@pytest.mark.parametrize("stride", ["[99999999]", "[-1]", "[1, 1]"])
def test_a_file_cannot_ask_for_memory(tmp_path: Path, stride: str) -> None:
    outline = f'["tensor", "a", {stride}]'
    digest = hashlib.sha256(outline.encode() + b"('a', 'torch.int64', (3,))" + torch.arange(3).numpy().tobytes())
    metadata = {"kshot_ext.state": outline, "kshot_ext.sha256": digest.hexdigest()}
    save_file({"a": torch.arange(3)}, tmp_path / "file", metadata=metadata)
    loaded = load_state(tmp_path / "file")
    assert torch.equal(loaded, torch.arange(3))
    assert loaded.stride() == (1,)
