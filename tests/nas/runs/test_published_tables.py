"""Published tables in the forms that they come in, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot_ext.nas.runs.published_tables import published_truth
from kshot_ext.nas.runs.truth import TruthError, read_truth
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.space import SearchSpace

FIRST = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
SECOND = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.fixture
def cells() -> SearchSpace:
    return create_space("nas-bench-201", image_shape=(3, 32, 32), num_classes=10)


def trained(key: str, accuracies: dict[tuple[str, int], dict[str, float]]) -> dict:
    """What the file of NAS-Bench-201 has of one cell, as its authors' `ArchResults.state_dict` writes it."""
    runs = {
        place: {"name": "infer.tiny", "net_state_dict": None, "params": np.float64(0.1), "epochs": 200,
                "seed": place[1], "train_acc1es": OrderedDict({0: 11.0}), "eval_acc1es": values}
        for place, values in accuracies.items()
    }  # fmt: skip
    return {"arch_index": 0, "arch_str": key, "all_results": runs, "dataset_seed": {"cifar10": [777, 888]}}


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    first = {
        ("cifar10", 777): {"ori-test@0": 12.0, "ori-test@199": 90.0},
        ("cifar10", 888): {"ori-test@0": 10.0, "ori-test@199": 91.0},
        ("cifar10-valid", 777): {"x-valid@199": 80.0, "ori-test@199": 81.0},
        ("cifar100", 777): {"x-valid@199": 60.0, "x-test@199": 61.0, "ori-test@199": 62.0},
    }
    second = {("cifar10", 777): {"ori-test@199": np.float64(10.0)}}
    content = {
        "meta_archs": [SECOND, FIRST],
        "arch2infos": {
            1: {"full": trained(FIRST, first), "less": {}},
            0: {"full": trained(SECOND, second), "less": {}},
        },
        "evaluated_indexes": {0, 1},
    }
    torch.save(content, tmp_path / "table.pth", _use_new_zipfile_serialization=request.param)
    return tmp_path / "table.pth"


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("cifar10", {SECOND: 10.0, FIRST: 90.5}),
        ("cifar10-valid", {FIRST: 80.0}),
        ("cifar100", {FIRST: 61.0}),
    ],
)
def test_nas_bench_201s_file_gives_the_mean_of_the_last_epochs(
    published: Path, cells: SearchSpace, dataset: str, expected: dict[str, float]
) -> None:
    assert published_truth(published, cells, dataset=dataset) == expected


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("came_to_life",)


def test_code_in_a_pth_file_does_not_run(tmp_path: Path, cells: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"arch2infos": Hostile()}, "table.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Hostile(), protocol=2))
    for name in ("table.pth", "plain.pth"):
        with pytest.raises(TruthError, match=rf"^{name}: expected plain values.*mkdir"):
            published_truth(Path(name), cells)
    assert not Path("came_to_life").exists()


def test_nas_bench_macros_file_is_read_as_published(tmp_path: Path, tiny_space: SearchSpace) -> None:
    entry = {"test_acc": [88.0, 89.0, 90.0], "mean_acc": 89.0, "std": 0.8, "params": 1, "flops": 2}
    path = tmp_path / "nas-bench-macro_cifar10.json"
    path.write_text(json.dumps({"00000012": entry, "22222222": {**entry, "mean_acc": 93.0}}))
    assert published_truth(path, tiny_space) == {"00000012": 89.0, "22222222": 93.0}
    assert published_truth(path, tiny_space, "std") == {"00000012": 0.8, "22222222": 0.8}


@pytest.mark.parametrize("form", ["csv", "json"])
def test_rows_are_read_by_what_is_in_their_columns(tmp_path: Path, cells: SearchSpace, form: str) -> None:
    rows = [{"id": "a", "Architecture": FIRST, "test": "90.5"}, {"id": "b", "Architecture": SECOND, "test": "10"}]
    path = tmp_path / f"table.{form}"
    lines = ["id,Architecture,test", *(",".join(row.values()) for row in rows)]
    path.write_text(json.dumps(rows) if form == "json" else "\n".join(lines))
    assert published_truth(path, cells) == published_truth(path, cells, "test") == {FIRST: 90.5, SECOND: 10.0}


def test_what_is_written_reads_back(tmp_path: Path, published: Path, cells: SearchSpace) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(published_truth(published, cells)))
    truth = read_truth(tmp_path / "truth.json", cells)
    assert truth == {cells.from_key(FIRST): 90.5, cells.from_key(SECOND): 10.0}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.txt", "", "expected a file that ends in .json, .csv, .pth, got .txt"),
        ("table.csv", "", "expected rows, got none"),
        ("table.csv", "a,b\n1,2\n", "expected one column with keys of space nas-bench-201, got 0 among a, b"),
        (
            "table.csv",
            f"k,a,b\n{FIRST},1,2\n",
            "column: expected the name of the accuracies, as these are numbers: a, b",
        ),
        ("table.csv", f"k,a\n{FIRST},x\n", "these are numbers: none"),
        ("table.csv", f"k,a\n{FIRST},1\n{FIRST},2\n", "expected one row for each architecture, got another before"),
        ("table.csv", f"k,a\n{FIRST},1\n|none|,2\n", r"key '\|none\|': expected the form"),
        ("table.json", "3", "expected an object by architecture or a list of rows, got int"),
        ("table.json", "[3]", "expected a list of objects, got other values in it"),
        ("table.json", "{}", "expected accuracies by architecture, got none"),
        ("table.json", json.dumps({FIRST: {"a": 1}}), "expected an accuracy, or an object with mean_acc"),
        ("table.pth", "no pickle", "expected plain values|expected a file of torch.save"),
    ],
)
def test_wrong_files_are_named_with_the_reason(
    tmp_path: Path, cells: SearchSpace, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TruthError, match=message) as caught:
        published_truth(tmp_path / name, cells)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_wrong_names_list_the_right_ones(tmp_path: Path, published: Path, cells: SearchSpace) -> None:
    with pytest.raises(TruthError, match=r"dataset: expected one of cifar10-valid, cifar10, .*, got 'mnist'"):
        published_truth(published, cells, dataset="mnist")
    (tmp_path / "t.csv").write_text(f"k,a\n{FIRST},1\n")
    with pytest.raises(TruthError, match="column: expected one of k, a, got 'b'"):
        published_truth(tmp_path / "t.csv", cells, "b")
    (tmp_path / "t.json").write_text(json.dumps({FIRST: {"a": 1}}))
    with pytest.raises(TruthError, match="expected an object with b, got a"):
        published_truth(tmp_path / "t.json", cells, "b")
    torch.save({"other": 1}, tmp_path / "other.pth")
    with pytest.raises(TruthError, match=r"expected the contents of NAS-Bench-201.* \(KeyError: 'arch2infos'\)"):
        published_truth(tmp_path / "other.pth", cells)
    with pytest.raises(TruthError, match="cannot be read"):
        published_truth(tmp_path / "none.csv", cells)
