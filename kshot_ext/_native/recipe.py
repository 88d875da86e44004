"""Everything that decides what the compiled library contains, and the cache key made from it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from kshot_ext._native import flags
from kshot_ext._native.compiler import Compiler
from kshot_ext._native.sources import listed_sources, sources_digest

_TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class CompileStep:
    """One source file, the object file made from it, and the flags of this step alone."""

    source: Path
    target: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """Sources, compiler, torch and instruction sets of one build."""

    source_folder: Path
    compiler: Compiler
    instruction_sets: tuple[str, ...]

    @property
    def key(self) -> str:
        """Hexadecimal digest that names the build in the cache; two equal recipes give equal libraries."""
        ingredients = {
            "sources": sources_digest(self.source_folder),
            "compiler": self.compiler.identity,
            "torch": torch.__version__,
            "flags": [*flags.COMPILE, *flags.OPS, *flags.LINK, *flags.LIBRARIES],
            "kernels": {name: flags.kernel_flags(name) for name in self.instruction_sets},
        }
        return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32]

    def steps(self) -> list[CompileStep]:
        """One step per object file: `ops/` once, `cpu/` once per instruction set."""
        steps = []
        for source in listed_sources(self.source_folder):
            stem = source.removesuffix(".cpp")
            if source.startswith("ops/"):
                options = (
                    "-isystem",
                    str(_TORCH / "include"),
                    *flags.OPS,
                    *flags.dispatch_flags(self.instruction_sets),
                )
                steps.append(CompileStep(self.source_folder / source, f"{stem}.o", options))
            else:
                steps += [
                    CompileStep(self.source_folder / source, f"{stem}.{name}.o", flags.kernel_flags(name))
                    for name in self.instruction_sets
                ]
        return steps

    def compile_flags(self) -> tuple[str, ...]:
        """Flags of every compile step."""
        return (*flags.COMPILE, f"-I{self.source_folder}")

    def link_flags(self) -> tuple[str, ...]:
        """Libraries to link with, and where they are."""
        return (f"-L{_TORCH / 'lib'}", *flags.LIBRARIES)


def host_instruction_sets() -> tuple[str, ...]:
    """The instruction sets that the CPU at hand has, narrowest first, as torch sees it."""
    known = {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
    return flags.instruction_sets()[:known]
