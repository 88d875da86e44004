from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.runs import run_card
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.run_folder import Checkpoint, RunFolder, RunFolderError, RunRecord
from kshot_ext.nas.runs.settings import RankSettings, RunSettings
from kshot_ext.nas.tables import as_table, to_toml


@pytest.fixture
def card(tiny_splits: DataSplits) -> RunCard:
    return RunCard.new("search", RunSettings(), "stripes", tiny_splits)


@pytest.fixture
def folder(tmp_path: Path, card: RunCard) -> RunFolder:
    return RunFolder.create(tmp_path / "run", RunSettings(), card)


def test_settings_and_card_are_kept(tmp_path: Path, tiny_splits: DataSplits) -> None:
    settings = gather_settings(RankSettings(), None, {"shots": 2, "epochs": 3, "architectures": 20})
    card = RunCard.new("rank", settings, "stripes", tiny_splits)
    RunFolder.create(tmp_path / "runs" / "first", settings, card).close()
    again = RunFolder(tmp_path / "runs" / "first", "rank")
    assert (again.settings, again.card) == (settings, card)
    again.close()
    with pytest.raises(RunFolderError, match="first: expected a run of kshot-ext search, got one of rank"):
        RunFolder(tmp_path / "runs" / "first", "search")


def test_a_run_that_does_not_say_how_codes_start_goes_on_with_plain_ones(
    tmp_path: Path, tiny_splits: DataSplits
) -> None:
    """As runs that began before there were starts, whose default was plain codes."""
    settings = RunSettings(codes=CodeSettings(free_share=0.9))
    table = as_table(settings)
    for name in ("start", "growth"):
        del table["codes"][name]
    card = replace(RunCard.new("search", settings, "stripes", tiny_splits), settings=run_card._settings_digest(table))
    (tmp_path / "run.json").write_text(card.to_json())
    (tmp_path / "settings.toml").write_text(to_toml(table))
    assert RunRecord(tmp_path).settings == settings
    assert RunSettings().codes.start != settings.codes.start


def test_an_existing_folder_is_left_alone(tmp_path: Path, card: RunCard) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"exists already; choose another --out, or --resume it"):
        RunFolder.create(tmp_path, RunSettings(), card)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, card: RunCard, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(card: RunCard) -> str:
        assert not (tmp_path / "run").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(RunCard, "to_json", fail)
    with pytest.raises(KeyboardInterrupt):
        RunFolder.create(tmp_path / "run", RunSettings(), card)
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_refused(tmp_path: Path, card: RunCard) -> None:
    with pytest.raises(RunFolderError, match=r"not a run folder \(run\.json: No such file"):
        RunFolder(tmp_path, "search")
    (tmp_path / "run.json").write_text('{"run": "x"}')
    with pytest.raises(RunFolderError, match=r"run\.json: expected the JSON object of a run, got"):
        RunFolder(tmp_path, "search")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file/run: cannot be created \(.*\)"):
        RunFolder.create(tmp_path / "file" / "run", RunSettings(), card)


def test_checkpoints_come_back_and_are_kept_apart(folder: RunFolder) -> None:
    assert folder.load_checkpoint("search") is None
    state = {"epoch": 3, "weights": {"a": torch.arange(3.0)}, "generator": torch.Generator().get_state()}
    folder.save_checkpoint("search", Checkpoint(state, 1.5))
    folder.save_checkpoint("train", Checkpoint({}, 9.0))
    loaded = folder.load_checkpoint("search")
    assert loaded is not None
    assert loaded.seconds == 1.5
    assert loaded.state["epoch"] == 3
    assert torch.equal(loaded.state["weights"]["a"], torch.arange(3.0))


@pytest.mark.parametrize("content", [b"", b"half a check", None])
def test_a_damaged_checkpoint_is_named(folder: RunFolder, content: bytes | None) -> None:
    folder.save_checkpoint("train", Checkpoint({"weights": torch.zeros(1000)}, 0.0))
    path = folder.path / "checkpoints" / "train.safetensors"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(RunFolderError, match=r"damaged checkpoint: .*train\.safetensors"):
        folder.load_checkpoint("train")


def test_what_a_killed_process_left_is_removed(folder: RunFolder) -> None:
    folder.close()
    (folder.path / "checkpoints" / ".unfinished-train-abc.safetensors").write_bytes(b"half")
    (folder.path / "mine.txt").touch()
    RunFolder(folder.path, "search").close()
    assert list((folder.path / "checkpoints").iterdir()) == []
    assert (folder.path / "mine.txt").exists()


def test_a_run_is_held_by_one_at_a_time(folder: RunFolder) -> None:
    """The lock belongs to the open file, so a second opening in this process is refused as one in another is."""
    with pytest.raises(RunFolderError, match="another process is working on this run"):
        RunFolder(folder.path, "search")
    folder.close()
    RunFolder(folder.path, "search").close()
