from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kshot_ext.nas.networks.simplex_net import SimplexNet, code_statistics
from kshot_ext.nas.runs.gather_settings import check_same, gather_settings
from kshot_ext.nas.runs.settings import RunSettings, check_method_begins
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.tables import SettingsError, as_table, to_toml


def _gather(tmp_path: Path, file: str | None = None, **options: object) -> RunSettings:
    path = None
    if file is not None:
        path = tmp_path / "search.toml"
        path.write_text(file)
    return gather_settings(RunSettings(), path, options)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    settings = _gather(tmp_path, "shots = 2\nseed = 7\n[search]\npopulation = 8", seed=3, shots=None)
    assert (settings.shots, settings.seed, settings.search.population) == (2, 3, 8)


def test_every_option_may_stand_in_a_file(tmp_path: Path) -> None:
    file = """
        data = "/images.zip"
        image_size = 16
        max_images = 100
        space = "nas-bench-macro"
        channels = 8
        widths = "0.5,1"
        shots = 2
        epochs = 3
        retrain_epochs = 4
        budget = 1.5e6
        seed = 5
        out = "here"
    """
    settings = _gather(tmp_path, file)
    assert settings.data == "/images.zip"
    assert (settings.image_size, settings.max_images, settings.channels) == (16, 100, 8)
    assert settings.width_ratios == (0.5, 1.0)
    assert (settings.shots, settings.training.epochs, settings.retrain.epochs) == (2, 3, 4)
    assert (settings.budget, settings.seed, settings.out) == (1.5e6, 5, "here")


def test_a_relative_data_path_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _gather(tmp_path, data="images.zip").data == str(tmp_path / "images.zip")
    assert _gather(tmp_path, space="my.py:Space").space == f"{tmp_path / 'my.py'}:Space"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "command line: shots: expected 1 or more, got 0"),
        ({"shots": 10**9}, "shots: expected 4096 or fewer, .* got 1000000000"),
        ({"image_size": 3}, "command line: image_size: expected 4 or more, got 3"),
        ({"seed": 2**63}, "command line: seed: expected a number that 64 bits hold"),
        ({"space": "darts"}, "command line: space: expected one of nas-bench-macro.*, got 'darts'"),
        ({"budget": "lots"}, "command line: budget: expected .* got 'lots'"),
        ({"space": "my.py"}, "command line: space: expected .* FILE.py:CLASS, got 'my.py'"),
        ({"widths": "0.5"}, "command line: widths: expected .* got '0.5'"),
        ({"epochs": 0}, r"command line: training\.epochs: expected .*1.*, got 0"),
    ],
)
def test_illegal_options_are_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _gather(tmp_path, **options)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("shot = 2", r"search\.toml: unknown setting shot; expected data, .*shots"),
        ("shots = '2'", r"search\.toml: shots: expected a whole number, got '2'"),
        ("shots = 0", r"search\.toml: shots: expected 1 or more, got 0"),
        ("epochs = 3\n[training]\nepochs = 4", r"search\.toml: epochs is short for training\.epochs"),
        ("[training]\nlearning_rate = -1.0", r"search\.toml: training\.learning_rate: expected .* got -1\.0"),
    ],
)
def test_illegal_settings_of_a_file_are_named(tmp_path: Path, file: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _gather(tmp_path, file)


def test_a_run_keeps_its_settings(tmp_path: Path) -> None:
    saved = _gather(tmp_path, epochs=3)
    check_same(saved, gather_settings(saved, None, {"epochs": 3}), "runs/x")
    asked = gather_settings(saved, None, {"epochs": 4, "out": "elsewhere"})
    message = (
        "runs/x: a run is resumed with its own settings, but out is None in the run, 'elsewhere' asked; "
        "training.epochs is 3 in the run, 4 asked"
    )
    with pytest.raises(SettingsError) as caught:
        check_same(saved, asked, "runs/x")
    assert str(caught.value) == message


def test_the_warm_up_follows_the_length_of_the_run_unless_it_is_set(tmp_path: Path) -> None:
    def warm_up(file: str = "", **options: object) -> int | None:
        return _gather(tmp_path, file, **options).training.warmup_epochs

    assert [warm_up(epochs=epochs) for epochs in (1, 2, 3, 10, 50, 600)] == [0, 1, 1, 5, 25, 300]
    assert warm_up() == 25  # of 50 epochs
    assert warm_up("[training]\nwarmup_epochs = 7") == 7
    assert warm_up("epochs = 30", epochs=20) == 10


def test_a_run_goes_on_with_the_warm_up_that_it_began_with(tmp_path: Path) -> None:
    """Its settings say it, so a version with another rule does not change the run."""
    saved = _gather(tmp_path, epochs=3)
    assert "warmup_epochs = 1\n" in to_toml(as_table(saved))
    again = gather_settings(saved, None, {"epochs": 3})
    check_same(saved, again, "runs/x")
    assert again.training.warmup_epochs == 1


def test_the_codes_of_a_run_that_says_nothing_part(tmp_path: Path) -> None:
    """Halfway through what follows warm-up they are as far apart as they get."""
    settings = _gather(tmp_path, "[codes]\nper_layer = true")
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
    generator = torch.Generator().manual_seed(0)
    simplex_net = SimplexNet(space, settings.shots, generator, settings=settings.codes)
    distances = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        simplex_net.set_form(settings.codes.form_at(progress))
        distances.append(code_statistics(simplex_net, space, torch.Generator().manual_seed(1)).distance)
    assert distances[0] == 0
    assert distances[1] == pytest.approx(distances[2] / 2, rel=1e-4)
    assert distances[2] == distances[3] > 0.6


def test_settings_that_leave_copies_no_way_to_part_are_refused(tmp_path: Path) -> None:
    file = "epochs = 5\n[training]\nwarmup_epochs = 5"
    with pytest.raises(SettingsError, match=r"warmup_epochs: expected fewer than the 5 epochs .*, got 5: .* shots = 1"):
        check_method_begins(_gather(tmp_path, file, shots=4))
    check_method_begins(_gather(tmp_path, file, shots=1))
    check_method_begins(_gather(tmp_path, file, shots=4, epochs=6))


@pytest.mark.parametrize(
    "setting",
    [
        *(f"training.{name}" for name in ("learning_rate", "weight_decay", "clip_norm")),
        "method.simplex_learning_rate",
        *(f"retrain.{name}" for name in ("learning_rate", "weight_decay", "clip_norm")),
        *(f"codes.{name}" for name in ("perturbation", "spread", "balance", "temperature", "width_separation")),
    ],
)
@pytest.mark.parametrize("value", ["1e13", "1e38", "1e308", f"1{'0' * 30}"])
def test_numbers_beyond_what_training_computes_with_are_refused(tmp_path: Path, setting: str, value: str) -> None:
    table, name = setting.split(".")
    with pytest.raises(
        SettingsError, match=rf"search.toml: {table}.{name}: expected (at most 1e\+12|a number that 64)"
    ):
        _gather(tmp_path, f"[{table}]\n{name} = {value}")


@pytest.mark.parametrize("file", [f"shots = 0x{'f' * 5000}", f"[training]\nclip_norm = 1{'0' * 400}"])
def test_whole_numbers_of_more_than_64_bits_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(SettingsError, match="expected a number that 64 bits hold"):
        _gather(tmp_path, file)
