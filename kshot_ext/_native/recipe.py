"""Everything that decides what a compiled library contains, and the cache key made from it."""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from kshot_ext._native import flags
from kshot_ext._native.compiler import Compiler
from kshot_ext._native.cuda_compiler import CudaCompiler
from kshot_ext._native.sources import listed_sources, sources_digest

_TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class CompileStep:
    """Source files to compile as one, the name of that one file, and the flags of this step alone.

    `command` replaces the recipe's compiler and its common flags.
    """

    sources: tuple[str, ...]
    unit: str
    flags: tuple[str, ...]
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Sources, compiler and instruction sets of one build; the library chooses among the sets when it runs."""

    source_folder: Path
    compiler: Compiler
    instruction_sets: tuple[str, ...]
    cuda = ""  # needs none

    @property
    def key(self) -> str:
        """Hexadecimal digest that names the build in the cache; what two equal recipes build is interchangeable.

        The installed torch is no part of it, only the version whose stable ABI the flags name.
        """
        return _key({"compiler": self.compiler.identity, **_contents(self.source_folder, self.instruction_sets)})

    @property
    def contents(self) -> str:
        """Digest of all that the key is made of, but for the compiler."""
        return contents_key(self.source_folder, self.instruction_sets)

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


@dataclass(frozen=True)
class CudaRecipe:
    """Like `Recipe`, for the library of the CUDA kernels, which is loaded beside the other one."""

    source_folder: Path
    compiler: Compiler
    cuda_compiler: CudaCompiler
    architectures: tuple[str, ...]
    contents = ""  # such a library is not used without the compilers that made it

    @property
    def cuda(self) -> str:
        """Major version of the CUDA runtime that the library links to."""
        return self.cuda_compiler.version.split(".")[0]

    @property
    def key(self) -> str:
        """Hexadecimal digest that names the build in the cache."""
        ingredients: dict[str, object] = {
            "sources": sources_digest(self.source_folder),
            "compiler": [self.compiler.identity, self.cuda_compiler.identity],
            "flags": [*flags.COMPILE, *flags.CUDA, *flags.CUDA_OPS, *flags.LINK, *flags.CUDA_LIBRARIES],
            "architectures": self.architectures,
        }
        return _key(ingredients)

    def steps(self) -> list[CompileStep]:
        """One step for all of `ops_cuda/`; one per file of `cuda/`."""
        sources = listed_sources(self.source_folder)
        ops = tuple(source for source in sources if source.startswith("ops_cuda/"))
        headers = ("-isystem", str(_TORCH / "include"), "-isystem", str(self.cuda_compiler.toolkit / "include"))
        options = (f"-Xcompiler={option}" for option in self.compiler.options)
        command = (*self.cuda_compiler.command, "-ccbin", self.compiler.program, *options)
        cuda_flags = (*flags.CUDA, f"-I{self.source_folder}", *flags.cuda_architectures(self.architectures))
        return [
            CompileStep(ops, "ops_cuda.cpp", (*headers, *flags.CUDA_OPS)),
            *(CompileStep((source,), source, cuda_flags, command) for source in sources if source.startswith("cuda/")),
        ]

    def compile_flags(self) -> tuple[str, ...]:
        """Flags of the steps that the C++ compiler takes."""
        return (*flags.COMPILE, f"-I{self.source_folder}")

    def link_flags(self) -> tuple[str, ...]:
        """Libraries to link with, and where they are."""
        toolkit = self.cuda_compiler.toolkit
        return (f"-L{_TORCH / 'lib'}", f"-L{toolkit / 'lib64'}", f"-L{toolkit / 'lib'}", *flags.CUDA_LIBRARIES)


def contents_key(source_folder: Path, instruction_sets: tuple[str, ...]) -> str:
    """Digest of what a library is built from and for; those of the same one do the same, whatever compiled them."""
    return _key(_contents(source_folder, instruction_sets))


def _contents(source_folder: Path, instruction_sets: tuple[str, ...]) -> dict[str, object]:
    return {
        "sources": sources_digest(source_folder),
        "flags": [*flags.COMPILE, *flags.OPS, *flags.LINK, *flags.LIBRARIES],
        "machine": platform.machine(),
        "kernels": {name: flags.kernel_flags(name) for name in instruction_sets},
    }


def _key(ingredients: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32]
