"""The CUDA compiler: where it is, and whether it fits the CUDA that torch was built with."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from kshot_ext._native.errors import BackendError
from kshot_ext._native.process import run

ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
_SECONDS = 60.0  # to tell its version
_CURE = (
    "install a CUDA toolkit of that version (Debian, Ubuntu: the package cuda-nvcc; conda: cuda-nvcc), "
    "or name its folder in the environment variable CUDA_HOME"
)


@dataclass(frozen=True)
class CudaCompiler:
    """An nvcc that fits torch, and its toolkit."""

    command: tuple[str, ...]
    version: str
    toolkit: Path

    @property
    def identity(self) -> str:
        """Name and version: what the compiled result depends on."""
        return f"nvcc {self.version}"


def find_cuda_compiler() -> CudaCompiler:
    """The nvcc of `CUDA_HOME`, else of PATH, else of `/usr/local/cuda`.

    Raises:
        BackendError: torch has no CUDA, or there is no nvcc, or it is of another major version than torch's CUDA.
    """
    wanted = torch.version.cuda
    if wanted is None:
        raise BackendError(f"torch {torch.__version__} was built without CUDA; install a torch with CUDA to use a GPU")
    program = _nvcc()
    if program is None:
        raise BackendError(f"no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda; torch has CUDA {wanted}: {_CURE}")
    text = run([str(program), "--version"], _SECONDS).stdout
    release = re.search(r"release (\d+\.\d+)", text)
    if release is None:
        raise BackendError(f"{program} --version names no release but {text.strip()[-80:]!r}: {_CURE}")
    if release[1].split(".")[0] != wanted.split(".")[0]:
        raise BackendError(f"{program} is of CUDA {release[1]}, torch {torch.__version__} has CUDA {wanted}: {_CURE}")
    return CudaCompiler((str(program),), release[1], _toolkit_of(program))


def wished_architectures() -> tuple[str, ...]:
    """Compute capabilities that `KSHOT_EXT_CUDA_ARCHS` names ("80;90", or "all"); empty if it is not set.

    Raises:
        BackendError: it names one that the kernels do not support.
    """
    wish = os.environ.get("KSHOT_EXT_CUDA_ARCHS", "").strip()
    names = tuple(ARCHITECTURES if wish == "all" else filter(None, re.split(r"[;,\s]+", wish)))
    if not all(name.isdecimal() and int(name) >= 80 for name in names):
        raise BackendError(f"KSHOT_EXT_CUDA_ARCHS must be 'all' or capabilities from 80 on, as '80;90', got {wish!r}")
    return names


def present_architectures() -> tuple[str, ...]:
    """Compute capabilities of the GPUs present.

    Raises:
        BackendError: there is no GPU that the kernels support.
    """
    count = torch.cuda.device_count()
    found = {torch.cuda.get_device_capability(index) for index in range(count)}
    supported = sorted(major * 10 + minor for major, minor in found if major >= 8)
    if not supported:
        present = ", ".join(f"{major}.{minor}" for major, minor in sorted(found)) or "none"
        raise BackendError(f"the CUDA kernels need a GPU of compute capability 8.0 or later; present: {present}")
    return tuple(map(str, supported))


def _toolkit_of(program: Path) -> Path:
    """The folder of the toolkit: what nvcc calls it, as the program on PATH may be a script elsewhere."""
    dry_run = [str(program), "--dryrun", "-c", "-x", "cu", os.devnull]
    told = re.search(r"\bTOP=(\S+)", run(dry_run, _SECONDS).stderr)
    return Path(told[1]).resolve() if told else program.resolve().parent.parent


def _nvcc() -> Path | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    for home in filter(None, homes):
        if (program := Path(home) / "bin" / "nvcc").is_file():
            return program
    if found := shutil.which("nvcc"):
        return Path(found)
    fallback = Path("/usr/local/cuda/bin/nvcc")
    return fallback if fallback.is_file() else None
