"""The CPU's library of a source tree, built piece by piece: what did not change is taken from a cache of objects."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from kshot_ext._native import flags
from kshot_ext._native.compiler import find_compiler
from kshot_ext._native.library import LIBRARY, Metadata, seal
from kshot_ext._native.processor import instruction_sets_to_build
from kshot_ext._native.recipe import CompileStep, Recipe
from kshot_ext._native.sources import sources_digest


class BuildError(RuntimeError):
    """The compiler's message."""


def build(tree: Path, objects: Path, instruction_set: str = "") -> None:
    """Build the library of `tree` for one instruction set and put it where its package looks for a prebuilt one.

    Args:
        tree: a copy of the repository. Objects are found again only for a tree in the same place.
        objects: folder of the cached objects.
        instruction_set: default: the best one of this processor.

    Raises:
        BuildError: the sources do not compile.
    """
    sets = (instruction_set,) if instruction_set else instruction_sets_to_build()[-1:]
    recipe = Recipe(tree / "csrc", find_compiler(), sets)
    objects.mkdir(exist_ok=True)
    parts = [str(_object(recipe, step, objects)) for step in recipe.steps()]
    target = tree / "kshot_ext" / "_prebuilt"
    target.mkdir(exist_ok=True)
    library = str(target / LIBRARY)
    _run([*recipe.compiler.command, *flags.LINK, *parts, *recipe.link_flags(), "-o", library])
    metadata = Metadata(
        sources=sources_digest(recipe.source_folder),
        torch_target=flags.TORCH_TARGET_NAME,
        cuda=recipe.cuda,
        compiler=recipe.compiler.identity,
        seconds=0.0,
    )
    seal(target, metadata)


def _object(recipe: Recipe, step: CompileStep, objects: Path) -> Path:
    """The object of a step; compiled unless one of the same command and the same files is there."""
    unit = "".join(f'#include "{source}"\n' for source in step.sources)
    command = [*recipe.compiler.command, *recipe.compile_flags(), *step.flags]
    name = f"{Path(step.unit).name}-{_digest(recipe.compiler.identity, unit, *command)}"
    source, rule = objects / f"{name}.cpp", objects / f"{name}.d"
    source.write_text(unit, encoding="utf-8")
    if rule.is_file() and (digest := _contents(rule)) and (objects / f"{name}-{digest}.o").is_file():
        return objects / f"{name}-{digest}.o"
    built = objects / f"{name}.o"
    _run([*command, "-MMD", "-MF", str(rule), "-c", str(source), "-o", str(built)])
    return built.rename(objects / f"{name}-{_contents(rule)}.o")


def _contents(rule: Path) -> str | None:
    """Digest of the files that a rule of the compiler lists; None if one of them is gone."""
    files = [Path(name) for name in re.findall(r"\S+", rule.read_text().replace("\\\n", " ").split(":", 1)[1])]
    return _digest(*(file.read_text() for file in files)) if all(file.is_file() for file in files) else None


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode != 0:
        raise BuildError(result.stderr[-4000:])
