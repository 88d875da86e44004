"""`pytest` runs the core, `pytest --all` all tests: none is out of reach, and the core has a part of everything.

Takes as long as collecting all tests twice, side by side: a third of a minute.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from core_tests import FILES

from kshot_ext import functional as KF
from kshot_ext import optim

_FOLDER = Path(__file__).parent
_COLLECT = """
import json, sys, pytest

class Collected:
    def pytest_collection_finish(self, session):
        self.tests = [item.nodeid for item in session.items]

    def pytest_deselected(self, items):
        self.long += [item.nodeid for item in items if item.get_closest_marker("long")]

    def pytest_collectreport(self, report):
        self.left += [report.nodeid] if report.skipped else []

    tests, long, left = [], [], []

collected = Collected()
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[2:]], plugins=[collected])
with open(sys.argv[1], "w") as file:
    json.dump({name: getattr(collected, name) for name in ("tests", "long", "left")}, file)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What `pytest` and `pytest --all` find, by "core" and "all": tests, long ones, and files that need a library."""
    folder = tmp_path_factory.mktemp("collected")
    options: dict[str, tuple[str, ...]] = {"core": (), "all": ("--all",)}
    runs = {
        name: subprocess.Popen(
            [sys.executable, "-c", _COLLECT, str(folder / name), *more],
            cwd=_FOLDER.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name, more in options.items()
    }  # fmt: skip
    for run in runs.values():
        output, _ = run.communicate()
        assert run.returncode == 0, output[-2000:]
    return {name: json.loads((folder / name).read_text()) for name in options}


def _function(test: str) -> str:
    return test.split("[")[0]


def test_all_is_more_than_the_core(collected) -> None:
    core, every = (set(collected[name]["tests"]) for name in ("core", "all"))
    assert core < every
    assert len(core) < len(every) / 2


def test_every_file_is_reached(collected) -> None:
    every = collected["all"]
    reached = {test.split("::")[0] for test in (*every["tests"], *every["long"], *every["left"])}
    files = {f"tests/{path.relative_to(_FOLDER).as_posix()}" for path in _FOLDER.rglob("test_*.py")}
    assert len(files) > 300
    assert files <= reached


def test_every_file_of_the_core_is_there(collected) -> None:
    assert {test.split("::")[0] for test in collected["core"]["tests"]} == {f"tests/{file}" for file in FILES}


def test_the_core_has_each_operator(collected) -> None:
    public = [getattr(KF, name) for name in KF.__all__]
    steps = [optim.sgd_update, optim.adamw_update]
    names = {each.__module__.rsplit(".", 1)[-1] for each in (*public, *steps)}
    tested = {test.split("::")[0] for test in collected["core"]["tests"]}
    assert {f"tests/ops/test_{name}.py" for name in names} <= tested


@pytest.mark.parametrize("file", ["tests/nn/test_kinds.py", "tests/test_doctests.py"])
def test_the_core_has_each_kind_of_layer_and_each_example(collected, file: str) -> None:
    """All that is tested of every kind; a test of one kind may be left out, as it may of compilers."""
    of_each = {
        test for test in collected["all"]["tests"] if test.startswith(f"{file}::") and "compile" not in _function(test)
    }
    assert len(of_each) > 100
    assert of_each <= set(collected["core"]["tests"])


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ((), "1 passed, 1 deselected"),
        (("-k", "streamed"), "1 passed, 1 deselected"),  # not none, as that one is none of the core
    ],
)
def test_what_is_named_is_run(tmp_path: Path, arguments: tuple[str, ...], ran: str) -> None:
    tests = tmp_path / "tests"
    (tests / "ops").mkdir(parents=True)
    for name in ("conftest.py", "core_tests.py"):
        shutil.copy(_FOLDER / name, tests)
    (tests / "ops" / "test_mix_weights.py").write_text("def test_mixing():\n    pass\n")
    (tests / "test_other.py").write_text("def test_streamed():\n    pass\n")
    markers = 'markers = ["gpu: a", "slow: a", "long: a"]\naddopts = "-m \'not long\'"\n'
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.pytest.ini_options]\ntestpaths = ["tests"]\npythonpath = ["tests"]\n{markers}'
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(_FOLDER.parent)}
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment).stdout
    assert f" {ran} in " in shown, shown
    if not arguments:
        assert (
            "ran 1 core tests, on one instruction set; skipped 0, for the reasons above; 1 more by `pytest --all`"
            in shown
        )
