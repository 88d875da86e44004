"""Every block of Python code of every page runs: here, or by the test of the page's own that says more about it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OWN_TESTS = {
    "api.md": "nas/api/test_page.py",
    "chains.md": "nn/test_conv_norm_act.py",
    "convert.md": "test_convert_page.py",
    "dynamic_groups.md": "nn/test_dynamic_group_conv.py",
    "fuse.md": "test_fuse_use.py",
    "kernel_attention.md": "examples/test_kernel_attention.py",
    "methods.md": "nas/methods/test_methods.py",
    "optimisers.md": "test_optimisers_page.py",
    "own_space.md": "nas/test_own_classes.py",
    "sliced_supernets.md": "nn/sliced/test_page.py",
    "torch_machinery.md": "machinery/test_page.py",
    "training.md": "nas/training/test_training_page.py",
    "transforms.md": "nn/test_transforms.py",
}
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if BLOCK.search(path.read_text())]
HERE = [path for path in PAGES if path.relative_to(DOCS).as_posix() not in OWN_TESTS]


@pytest.mark.parametrize(("page", "test"), OWN_TESTS.items())
def test_a_page_that_has_a_test_of_its_own_is_run_by_it(page: str, test: str) -> None:
    text = (ROOT / "tests" / test).read_text()
    assert Path(page).stem in text
    assert "exec(" in text or "run_path(" in text


@pytest.mark.parametrize("page", HERE, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_code_runs(page: Path, place: Path, one_thread: None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, as the command would have left it where the page is read."""
    from kshot_ext import nas

    folder = tmp_path_factory.mktemp("runs") / "run"
    nas.search(
        out=folder, max_images=200, channels=2, shots=1, epochs=1, rivals=1, progress=False,
        search={"population": 2, "generations": 1}, retrain={"epochs": 1, "seeds": 1},
    )  # fmt: skip
    return folder


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a page's code runs in, and what the commands before the code have left or set."""
    code = "".join(BLOCK.findall(request.node.callspec.params["page"].read_text()))
    if 'Path("runs")' in code:
        shutil.copytree(request.getfixturevalue("finished_run"), tmp_path / "runs" / "run")
    if "init_process_group" in code:  # as by torchrun, for one process
        for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 0}.items():
            monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_modules_and_files_that_commands_name_exist(page: Path) -> None:
    text = page.read_text()
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]*)", text):
        path = ROOT.joinpath(*module.rstrip(".").split("."))
        assert path.with_suffix(".py").is_file() or path.is_dir(), f"{page.name}: {module}"
    for script in re.findall(r"python (examples/\w+\.py)", text):
        assert (ROOT / script).is_file(), f"{page.name}: {script}"


def test_figures_of_the_readme_are_those_of_the_performance_page() -> None:
    """Both are tables of the same measurement: a figure that is measured again is changed in both."""
    readme = (ROOT / "README.md").read_text().partition("\n## Measured\n")[2].partition("\n## ")[0]
    page = (DOCS / "performance.md").read_text().splitlines()
    rows = [line for line in readme.splitlines() if line.startswith("| ") and " x" in line]
    assert rows
    assert [row for row in rows if row not in page] == []
