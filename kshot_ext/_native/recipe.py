"""Everything that decides what the compiled library contains, and the cache key made from it."""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from kshot_ext._native import flags
from kshot_ext._native.compiler import Compiler
from kshot_ext._native.sources import listed_sources, sources_digest

_TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class CompileStep:
    """Source files to compile as one, the name of that one file, and the flags of this step alone."""

    sources: tuple[str, ...]
    unit: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """Sources, compiler and instruction sets of one build; the library chooses among the sets when it runs."""

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
            "machine": platform.machine(),
            "kernels": {name: flags.kernel_flags(name) for name in self.instruction_sets},
        }
        return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32]

    def steps(self) -> list[CompileStep]:
        """One step for all of `ops/`; one per file of `cpu/` and instruction set."""
        sources = listed_sources(self.source_folder)
        names = self.instruction_sets
        torch_flags = ("-isystem", str(_TORCH / "include"), *flags.OPS, *flags.dispatch_flags(names))
        # Reading torch's headers takes most of the time of a file of ops/, so they are read once for all.
        ops = tuple(source for source in sources if source.startswith("ops/"))
        return [
            CompileStep(ops, "ops.cpp", torch_flags),
            *(
                CompileStep((source,), f"{source.removesuffix('.cpp')}.{name}.cpp", flags.kernel_flags(name))
                for source in sources
                if source.startswith("cpu/")
                for name in names
            ),
        ]

    def compile_flags(self) -> tuple[str, ...]:
        """Flags of every compile step."""
        return (*flags.COMPILE, f"-I{self.source_folder}")

    def link_flags(self) -> tuple[str, ...]:
        """Libraries to link with, and where they are."""
        return (f"-L{_TORCH / 'lib'}", *flags.LIBRARIES)
