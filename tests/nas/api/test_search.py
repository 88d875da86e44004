"""``nas.search`` and ``nas.rank``: the same runs as the command's, told of as they go on, of objects and of files."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kshot_ext import nas
from kshot_ext.nas.api.session import Session
from kshot_ext.nas.api.start import Start
from kshot_ext.nas.datasets import open_source
from kshot_ext.nas.methods.spos import SinglePathOneShot
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.run_folder import RunFolderError
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.spaces.nas_bench_macro import NASBenchMacro
from kshot_ext.nas.tables import SettingsError, to_toml

TINY = {"channels": 2, "max_images": 200, "shots": 1, "rivals": 0, "method": "spos", "progress": False}
SHORT = {
    "training": {"epochs": 1, "batch_size": 32, "warmup_epochs": 0},
    "search": {"population": 2, "generations": 1},
    "retrain": {"epochs": 1, "batch_size": 32, "seeds": 1},
}


def results_of(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("run", "seconds")}


def test_a_program_and_the_command_do_the_same(run: nas.SearchRun, by_command: Path) -> None:
    assert results_of(run.path) == results_of(by_command)
    for name in ("metrics.jsonl", "settings.toml", "model.safetensors", "architecture.json"):
        assert (run.path / name).read_bytes() == (by_command / name).read_bytes()


def test_the_call_backs_are_told_everything_once(run: nas.SearchRun, told: dict[str, list[Any]]) -> None:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [{"stage": e.stage, "step": e.step, **e.numbers} for e in told["epochs"]] == lines
    assert tuple(told["evaluated"]) == run.history
    stages = dict.fromkeys(line["stage"] for line in lines)
    assert [(event.stage, event.ended) for event in told["stages"]] == [*product(stages, (False, True))]
    assert [event.done for event in told["stages"][:4]] == [0, 2, 0, 2]
    assert {(e.stage, e.unit, e.total) for e in told["epochs"]} >= {
        ("supernet", "epoch", 2),
        ("search", "generation", 2),
    }


def test_a_run_that_a_call_back_ends_goes_on_as_if_never_stopped(
    run: nas.SearchRun,
    tmp_path: Path,
    told: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the run is, which nobody chose, is told with what the call-back raises."""
    monkeypatch.chdir(tmp_path)
    events: list[Any] = []

    def stop(event: Any) -> None:
        events.append(event)
        if len(events) == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough") as ended:
        nas.search(run.path / "settings.toml", on_epoch=stop, progress=False)
    (folder,) = Path("runs").iterdir()
    shown = [*getattr(ended.value, "__notes__", ()), *capsys.readouterr().err.splitlines()]  # before 3.11 the latter
    assert shown[0].endswith(f"what was saved before is safe; go on with: nas.search(resume={str(folder)!r})")
    unfinished = nas.load_run(folder)
    assert isinstance(unfinished, nas.SearchRun)
    assert unfinished.history == run.history[: len(unfinished.history)]
    assert len(unfinished.history) == 4
    with pytest.raises(RunFolderError, match="the run has not ended; go on with it by kshot-ext search --resume"):
        _ = unfinished.winner
    nas.search(resume=folder, on_epoch=events.append, progress=False)
    assert events == told["epochs"]
    assert results_of(folder) == results_of(run.path)


@pytest.mark.parametrize("form", ["object", "table", "file", "keywords"])
def test_settings_may_come_in_any_form(form: str, tmp_path: Path) -> None:
    from kshot_ext.nas.api.options import as_config, as_options

    table = {"shots": 3, "widths": "0.5,1", "training": {"epochs": 7}, "method": {"name": "spos"}}
    expected = gather_settings(RunSettings(), table, {})
    (tmp_path / "settings.toml").write_text(to_toml(table))
    settings = {"object": expected, "table": table, "file": str(tmp_path / "settings.toml"), "keywords": None}[form]
    keywords = {**table, "widths": [0.5, 1], "training": expected.training, "method": expected.method}
    options = as_options(keywords if form == "keywords" else {})
    found = Session("search").settings(RunSettings(), Start(options, as_config(settings)))
    assert found == expected
    assert Session("search").settings(RunSettings(), Start({**options, "shots": 5}, as_config(settings))).shots == 5


class Small(NASBenchMacro):
    """A space of one's own, as a class."""


class Layers(nn.Module):
    """No space."""


def test_classes_and_objects_of_ones_own(tmp_path: Path) -> None:
    """A space as a class, then as an object; a method as a class; images as a source."""
    images = open_source(None)
    options: dict[str, Any] = {**TINY, **SHORT, "data": images, "method": SinglePathOneShot}
    first = nas.search(space=Small, out=tmp_path / "first", **options)
    space = Small(image_shape=(1, 8, 8), num_classes=10, channels=2)
    second = nas.search(space=space, out=tmp_path / "second", **{**options, "channels": None})
    assert first is not None
    assert second is not None
    assert first.history == second.history
    assert first.settings.space.endswith("test_search.Small")
    with pytest.raises(RunFolderError, match="expected space="):
        nas.load_run(tmp_path / "first", data=images, method=SinglePathOneShot).network("winner")
    again = nas.load_run(tmp_path / "first", data=images, method=SinglePathOneShot, space=Small)
    assert isinstance(again, nas.SearchRun)
    assert again.network("winner", "inherited").weights == "inherited"
    resumed = nas.search(resume=tmp_path / "first", data=images, space=Small, method=SinglePathOneShot, progress=False)
    assert resumed is not None
    assert resumed.history == first.history
    with pytest.raises(ValueError, match=r"data: expected digits again, which a program gave as an object"):
        nas.search(resume=tmp_path / "first", space=Small, method=SinglePathOneShot, progress=False)


def test_images_as_a_dataset_of_a_program(tmp_path: Path) -> None:
    """Of floating point, as transforms give them; networks of the run take the same."""
    digits = open_source(None)
    images = torch.stack([digits.read(index) for index in range(240)]) / 16 - 1
    dataset = torch.utils.data.TensorDataset(images, digits.labels[:240])
    options = {name: value for name, value in TINY.items() if name != "max_images"}
    run = nas.search(data=dataset, out=tmp_path / "run", **options, **SHORT)
    assert run is not None
    again = nas.load_run(tmp_path / "run", data=dataset)
    assert isinstance(again, nas.SearchRun)
    trained, inherited = again.network("winner"), again.network("winner", "inherited")
    for network in (trained, inherited):
        assert network.preprocessing.dtype == torch.float32
    test = again.job.splits.test.in_memory()
    right = trained(test.images).argmax(dim=1) == test.labels
    assert right.double().mean().item() == pytest.approx(again.winner.test_accuracy)
    with pytest.raises(ValueError, match="data: expected tensordataset again, which a program gave as an object"):
        nas.load_run(tmp_path / "run").network("winner", "inherited")


def test_a_search_for_another_task_is_looked_at_and_exported(tmp_path: Path) -> None:
    digits = open_source(None)
    images = torch.stack([digits.read(index) for index in range(240)])
    dataset = torch.utils.data.TensorDataset(images, digits.labels[:240].float())
    options = {name: value for name, value in TINY.items() if name != "max_images"}
    run = nas.search(data=dataset, task="regression", out=tmp_path / "run", **options, **SHORT)
    assert run is not None
    network = run.network("winner")
    assert network(images[:3]).shape == (3, 1)
    test = run.job.splits.test.in_memory()
    with torch.no_grad():
        error = (network(test.images) - test.labels).abs().mean().item()
    assert error == pytest.approx(run.winner.test_accuracy, rel=1e-4)  # the metric of regression
    exported = run.export("winner")
    assert exported.snippet.endswith("print(network(images))")
    again = run.retrain(run.history[0].number, progress=False)
    assert again.network()(images[:3]).shape == (3, 1)
    loaded = nas.load_run(run.path, data=dataset)  # the run knows its task
    assert loaded.network(run.history[0].key, "inherited")(images[:3]).shape == (3, 1)
    resumed = nas.search(resume=run.path, data=dataset, progress=False)
    assert resumed is not None
    assert resumed.winner == run.winner
    (tmp_path / "regression.toml").write_text('task = "regression"\n')
    for settings in (tmp_path / "regression.toml", {"task": "regression"}):
        with pytest.raises(ValueError, match="space: expected"):  # the targets were taken
            nas.search(settings, data=dataset, **{**options, **SHORT, "space": "none"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "search: shots: expected 1 or more, got 0"),
        ({"shot": 2}, "search: unknown setting shot; expected data, "),
        ({"space": Layers}, "space: expected a SearchSpace, its class or FILE.py:CLASS, got <class"),
        ({"method": Layers}, "method: expected a Method, its class or FILE.py:CLASS, got <class"),
        ({"data": "none.zip"}, "none.zip: no such file or folder"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"search": {"population": 7000}}, "expected 7000 different architectures .* which has 6561: take a smaller"),
        ({"on_epoch": None}, "on_epoch: expected a function, got None"),
        ({"space": Small(image_shape=(1, 4, 4), num_classes=10)}, r"space: expected one for images \(1, 8, 8\)"),
    ],
)
def test_what_cannot_be_used_is_said_and_nothing_written(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=message):
        nas.search(**{**TINY, **SHORT, "channels": None, **options})
    assert list(tmp_path.iterdir()) == []


def test_settings_from_a_file_run_no_code(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit")
    table = {"space": f"{tmp_path}/own.py:Space"}
    for settings in (table, replace(RunSettings(), **table)):
        with pytest.raises(SettingsError, match="space: expected --space"):
            nas.search(settings, progress=False, out=tmp_path / "run")


def test_a_ranking(tmp_path: Path) -> None:
    keys = ["".join(map(str, choices)) for choices in product(range(3), repeat=8)]
    (tmp_path / "table.json").write_text(json.dumps({key: sum(map(int, key)) for key in keys}))
    evaluated: list[Any] = []
    options = {name: value for name, value in TINY.items() if name != "rivals"}
    run = nas.rank(
        truth=tmp_path / "table.json",
        architectures=12,
        out=tmp_path / "run",
        on_evaluated=evaluated.append,
        training=SHORT["training"],
        **options,
    )
    assert [(network.number, network.key, network.supernet_loss) for network in evaluated] == [
        (number, line["architecture"], line["loss"]) for number, line in enumerate(run.evaluated)
    ]
    assert run.results["architectures"] == 12
    network = run.network(run.evaluated[0]["architecture"])
    assert network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)
    assert network.weights == "inherited"
    with pytest.raises(ValueError, match="architecture: expected a key or an Architecture, got 3"):
        run.network(3)  # type: ignore[arg-type]
