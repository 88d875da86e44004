"""Code imports only downward, in the order that CONTRIBUTING.md lists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_FILES = sorted((ROOT / "kshot_ext").rglob("*.py"))
TORCH_FREE_FILES = sorted(path for folder in ("common", "cpu", "cuda") for path in (ROOT / "csrc" / folder).iterdir())


@cache
def layers() -> list[list[str]]:
    """Files and folders of each layer, relative to the root, top layer first."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Layers", 1)[1]
    block = section.split("```")[1]
    columns = [re.split(r"\s{2,}", line)[0] for line in block.strip().splitlines() if line.startswith("kshot_ext/")]
    folder = "kshot_ext/"
    return [[folder + name.removeprefix(folder).removesuffix("NAME.py") for name in c.split(", ")] for c in columns]


@cache
def rank(path: str) -> int:
    """Position of a file's layer: the longest listed name that the path begins with."""
    names = {name: depth for depth, layer in enumerate(layers()) for name in layer}
    matches = [name for name in names if path == name or (name.endswith("/") and path.startswith(name))]
    assert matches, f"{path} belongs to no layer that CONTRIBUTING.md lists"
    return names[max(matches, key=len)]


def imported_files(path: Path) -> set[str]:
    """Files of the package that `path` imports anywhere, also inside functions, relative to the root."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import, expected `from kshot_ext...`"
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {file_of(module) for module in modules if module.split(".")[0] == "kshot_ext"}


@cache
def file_of(module: str) -> str:
    """The file that defines a module, or the name in it: the longest prefix that is one."""
    parts = module.split(".")
    while True:
        for candidate in (Path(*parts).with_suffix(".py"), Path(*parts) / "__init__.py"):
            if (ROOT / candidate).is_file():
                return candidate.as_posix()
        parts.pop()


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_only_downward(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    upward = [other for other in imported_files(path) if rank(other) < rank(name)]
    assert upward == [], f"{name} imports from a higher layer"


def test_layers_are_told_apart() -> None:
    order = ["cli.py", "nas/run.py", "__init__.py", "optim.py", "nn/conv.py", "ops/mix_weights.py", "backend.py"]
    ranks = [rank(f"kshot_ext/{name}") for name in order]
    assert ranks == sorted(set(ranks))
    assert imported_files(ROOT / "kshot_ext" / "cli.py") >= {"kshot_ext/backend.py"}


@pytest.mark.parametrize("path", TORCH_FREE_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_kernels_know_no_torch(path: Path) -> None:
    included = re.findall(r'#include [<"]([^>"]+)', path.read_text())
    assert [name for name in included if re.match(r"torch/|ATen/|c10/|ops/|ops_cuda/", name)] == []


def test_source_list_is_complete() -> None:
    listed = set((ROOT / "csrc" / "sources.txt").read_text().splitlines())
    present = {
        path.relative_to(ROOT / "csrc").as_posix()
        for path in (ROOT / "csrc").rglob("*.c*")
        if path.suffix in (".cpp", ".cu")
    }
    assert present == {line for line in listed if line.endswith((".cpp", ".cu"))}
