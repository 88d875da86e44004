"""The page about spaces of one's own: its code runs as it stands."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot_ext.nas.api.session import Session
from kshot_ext.nas.commands.analyse import analyse_command
from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_ERROR
from kshot_ext.nas.commands.rank import rank_command
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.own_classes import load_own
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.space import SearchSpace

PAGE = (Path(__file__).parents[2] / "docs" / "own_space.md").read_text()
SPACE, CHECK = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMAND = re.search(r"```\nkshot-ext search --space (\S+) --widths (\S+)\n```", PAGE)
MINIATURE = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
max_images = 120
epochs = 1
retrain_epochs = 1
[training]
warmup_epochs = 0
batch_size = 32
[retrain]
batch_size = 32
[search]
population = 2
generations = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_space.py").write_text(SPACE)
    (tmp_path / "miniature.toml").write_text(MINIATURE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_space_takes_less_than_60_lines() -> None:
    assert len(SPACE.splitlines()) < 60


@pytest.mark.usefixtures("folder", "one_thread")
def test_the_space_is_sound() -> None:
    exec(CHECK, {})


@pytest.mark.usefixtures("one_thread")
def test_the_command_searches_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"space": COMMAND[1], "widths": COMMAND[2], "out": "run"}
    assert search_command(options, folder / "miniature.toml", None) == EXIT_DONE
    card = json.loads((folder / "run" / "architecture.json").read_text())
    assert card["space"] == "bottleneck"
    assert len(card["operations"]) == len(card["widths"]) == 6
    assert set(card["width_ratios"]) <= {0.5, 1.0}
    # A run knows the file from any working directory, but runs it only if asked to.
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert search_command({"space": f"../{COMMAND[1]}"}, None, folder / "run") == EXIT_DONE
    assert search_command({}, None, folder / "run") == EXIT_ERROR
    assert f"expected --space {folder.resolve() / COMMAND[1]} on the command line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py:Space", "missing.py: no such file"),
        ("own_space.py:Bottleneck", "to define a SearchSpace Bottleneck"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_missing_file_or_class_is_named(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=message):
        load_own(name, "space", SearchSpace)
    assert search_command({"space": name, "out": "run"}, None, None) == EXIT_ERROR
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


HOSTILE = "from pathlib import Path; Path('executed').touch()"


@pytest.mark.parametrize("command", [search_command, rank_command])
def test_a_settings_file_cannot_run_code(
    folder: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    (folder / "hostile.py").write_text(HOSTILE)
    (folder / "hostile.toml").write_text('space = "hostile.py:Space"')
    assert command({"out": "run"}, folder / "hostile.toml", None) == EXIT_ERROR
    assert "expected --space hostile.py:Space on the command line" in capsys.readouterr().err
    assert not Path("run").exists()
    assert not Path("executed").exists()


def test_a_run_folder_cannot_run_code(
    folder: Path, tiny_splits: DataSplits, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "hostile.py").write_text(HOSTILE)
    space = f"{folder}/hostile.py:Space"
    run = Session("search", None).open_folder(RunSettings(space=space, out="run"), "stripes", tiny_splits, outputs=())
    run.close()
    assert search_command({}, None, run.path) == EXIT_ERROR
    assert f"expected --space {space} on the command line" in capsys.readouterr().err
    assert analyse_command(run.path) == EXIT_ERROR
    assert f"expected --space {space}, as this runs that file" in capsys.readouterr().err
    assert not Path("executed").exists()


def test_how_to_go_on_names_the_space(folder: Path, tiny_splits: DataSplits) -> None:
    (folder / "run.py").touch()
    run = Session("search", None)
    settings = RunSettings(space=f"{folder}/run.py:Mine", out=str(folder / "run"))
    run.open_folder(settings, "stripes", tiny_splits, outputs=())
    command = f"kshot-ext search --resume {folder}/run --space {folder}/run.py:Mine"
    assert run.how_to_go_on() == f"what was saved before is safe; go on with: {command}"


@pytest.mark.usefixtures("folder")
def test_widths_need_something_to_narrow() -> None:
    with pytest.raises(ValueError, match=r"widths: expected two or more rising shares.*got \(0.5,\)"):
        create_space("own_space.py:BottleneckSpace", image_shape=(1, 8, 8), num_classes=2, widths=(0.5,))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nimport nope_xyz", "bad.py, line 2: cannot be run .ModuleNotFoundError: No module named 'nope_xyz'"),
        ("\ndef (:", "bad.py, line 2: cannot be run .SyntaxError: "),
        ("def f():\n    1 / 0\nf()", "bad.py, line 2: cannot be run .ZeroDivisionError: "),
        ("import sys\nsys.exit()", "bad.py, line 2: cannot be run .SystemExit: "),
        ("\0", "bad.py.*: cannot be run .SyntaxError: "),
    ],
)
def test_a_file_that_cannot_be_run_is_named_with_its_line(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        load_own(f"{tmp_path / 'bad.py'}:Space", "space", SearchSpace)
    assert not any(name.endswith("own_class_bad") for name in sys.modules)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "bad.py: cannot be run .TypeError: Can't instantiate abstract class"),
        ("def __new__(cls, **arguments):\n        return 1 / 0", "bad.py, line 4: cannot be run .ZeroDivisionError"),
        ("def __new__(cls):\n        pass", "bad.py: cannot be run .TypeError: .*unexpected keyword argument"),
    ],
)
def test_a_class_that_cannot_be_made_is_named(tmp_path: Path, body: str, message: str) -> None:
    source = f"from kshot_ext.nas.spaces.space import SearchSpace\nclass Space(SearchSpace):\n    {body}\n"
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        create_space(f"{tmp_path / 'bad.py'}:Space", image_shape=(1, 8, 8), num_classes=2)
