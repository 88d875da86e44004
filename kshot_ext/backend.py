"""Which backend is in use, native kernels or reference, and the compiled library behind the former.

The environment variable `KSHOT_EXT_BACKEND` forces one: `native` raises an error rather than fall back,
`reference` builds and loads nothing. Unset, the reference takes over, with one warning, if the library
can be neither found nor built. The CUDA kernels are a library of their own, found or built when a tensor
on a GPU first needs them; what they cannot serve the reference does, with one warning.
"""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch.autograd import forward_ad

from kshot_ext._native.errors import BackendError

if TYPE_CHECKING:
    from kshot_ext._native.find import Found

__all__ = [
    "BackendError",
    "BackendInfo",
    "BackendWarning",
    "cuda_info",
    "info",
    "kernels_for",
    "native",
    "on_load",
    "rows",
    "under_transform",
    "use_reference",
]

_VARIABLE = "KSHOT_EXT_BACKEND"
_PREBUILT = Path(__file__).resolve().parent / "_prebuilt"
_PREBUILT_CUDA = Path(__file__).resolve().parent / "_prebuilt_cuda"


class BackendWarning(UserWarning):
    """The native kernels are not available, and the slower reference backend runs instead."""


@dataclass(frozen=True)
class BackendInfo:
    """Which backend is in use, why, and what the compiled library is.

    Args:
        backend: the backend in use.
        reason: why this one.
        library: path of the compiled library; None, like the fields below, where none is loaded.
        origin: whether the library was prebuilt in the package, cached, or built by this process.
        compiler: family and version of the compiler that built it.
        cpu_capability: instruction set of the kernels in use.
        build_seconds: how long its build took.
        cache: folder in which libraries are built and kept.
        error: why the native kernels are not in use, if something went wrong.
    """

    backend: Literal["native", "reference"]
    reason: str
    library: Path | None = None
    origin: Literal["prebuilt", "cached", "built"] | None = None
    compiler: str | None = None
    cpu_capability: str | None = None
    build_seconds: float | None = None
    cache: Path | None = None
    error: str | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each known field and of the torch version."""
        known = [(name.replace("_", " "), str(value)) for name, value in vars(self).items() if value is not None]
        return [*known, ("torch", torch.__version__)]


class _Override(threading.local):
    reference = False


override = _Override()  # of this thread, by `use_reference`; what serves planned calls reads it
_lock = threading.RLock()
_callbacks: list[Callable[[], None]] = []
_info: BackendInfo | None = None
_cuda_info: BackendInfo | None = None


def native() -> bool:
    """Whether the compiled library is in use; the first call finds or builds it, and loads it.

    Under a function transform or forward-mode differentiation it is not (see `under_transform`), nor while
    `torch.onnx.export` looks, as ONNX knows torch's operators only. `torch.compile` may trace it, even as the first
    call of a process.

    Returns:
        True: operators may call `torch.ops.kshot_ext`. False: they call `kshot_ext.reference`.

    Raises:
        BackendError: `KSHOT_EXT_BACKEND` is `native` and there is no library, or is no legal value.
    """
    return not (override.reference or under_transform() or _exports_to_onnx()) and _library_in_use()


def under_transform() -> bool:
    """Whether a transform of `torch.func` is at work (`grad`, `vmap`, `jvp`, ...), or a level of forward-mode AD.

    The native kernels have one formula, the gradient of one call. The reference is made of torch's own operators, which
    have a rule for every transform; so under one it serves all operators, whatever `KSHOT_EXT_BACKEND` says.

    Example:
        >>> from kshot_ext import backend
        >>> seen = []
        >>> _ = torch.func.vmap(lambda x: seen.append(backend.under_transform()) or x)(torch.ones(2))
        >>> seen, backend.under_transform()
        ([True], False)
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def kernels_for(device: torch.device) -> Literal["cpu", "cuda"] | None:
    """Which native kernels serve tensors on `device`; the first call for a GPU finds or builds CUDA's.

    Returns:
        "cpu" or "cuda"; None: the operators call `kshot_ext.reference`.

    Raises:
        BackendError: `KSHOT_EXT_BACKEND` is `native` and there are no kernels for this kind of device.
    """
    if not native():
        return None
    if device.type == "cpu":
        return "cpu"
    return "cuda" if device.type == "cuda" and _cuda_in_use() else None


def cuda_info() -> BackendInfo:
    """What serves tensors on GPUs, and why; like `info`, the first call finds or builds the library."""
    global _cuda_info
    if _cuda_info is None:
        with _lock:
            if _cuda_info is None:
                _cuda_info = _choose_for_cuda()
    return _cuda_info


def info() -> BackendInfo:
    """Which backend is in use and why; like `native`, the first call finds or builds the library.

    Raises:
        BackendError: `KSHOT_EXT_BACKEND` is no legal value.
    """
    global _info
    if _info is None:
        with _lock:
            if _info is None:
                _info = _choose()
    return _info


def rows() -> list[tuple[str, str]]:
    """Names and values for `kshot-ext info`: those of `info` and, where torch sees a GPU, of `cuda_info`."""
    lines = info().rows()
    if torch.cuda.is_available():
        lines += [(f"CUDA {name}", value) for name, value in cuda_info().rows() if name != "torch"]
    return lines


def on_load(callback: Callable[[], None]) -> None:
    """Run `callback` once the compiled library is loaded; at once if it is already.

    Operators register their fake kernels and autograd formulas so, as their schemas exist only then.

    Args:
        callback: called without arguments, at most once.
    """
    with _lock:
        _callbacks.append(callback)
        if _info is not None and _info.backend == "native":
            _run_callbacks()


@contextlib.contextmanager
def use_reference() -> Iterator[None]:
    """Force the reference backend, in this thread, inside a `with` block.

    A graph that `torch.compile` made outside of the block keeps the backend it was made with.

    Example:
        >>> from kshot_ext import backend
        >>> with backend.use_reference():
        ...     backend.native()
        False
    """
    before = override.reference
    override.reference = True
    try:
        yield
    finally:
        override.reference = before


def _exports_to_onnx() -> bool:
    onnx = sys.modules.get("torch.onnx")  # which torch imports when it is asked for
    return onnx is not None and onnx.is_in_onnx_export()


def _library_in_use() -> bool:
    state = _info or info()  # every call of an operator asks
    if state.error is not None and _forced() == "native":
        raise BackendError(f"{_VARIABLE}=native, but {state.error}")
    return state.backend == "native"


def _cuda_in_use() -> bool:
    state = cuda_info()
    if state.error is not None and _forced() == "native":
        raise BackendError(f"{_VARIABLE}=native, but {state.error}")
    return state.backend == "native"


# What torch.compiler.assume_constant_result does; calling it would import all of torch._dynamo, which takes seconds.
# Which transforms are at work is constant, too: torch.compile enters those of the traced code while it traces it.
for _function in (_library_in_use, _cuda_in_use, _exports_to_onnx, under_transform):
    vars(_function)["_dynamo_marked_constant"] = True


def _forced() -> str:
    """The value of the environment variable; empty if unset."""
    value = os.environ.get(_VARIABLE, "")
    if value not in ("", "native", "reference"):
        raise BackendError(f"expected {_VARIABLE} to be 'native', 'reference' or unset, but it is {value!r}")
    return value


def _choose() -> BackendInfo:
    """Load the library if it is wanted and can be had; say what came of it."""
    forced = _forced()
    if forced == "reference":
        return BackendInfo("reference", f"{_VARIABLE}=reference")
    try:
        return _load(f"{_VARIABLE}=native" if forced else "the default")
    except Exception as error:
        cause = _cause(error)
        if not forced:
            warnings.warn(
                f"the native kernels are not available, so the slower reference backend runs: {cause}",
                BackendWarning,
                stacklevel=2,
            )
        return BackendInfo("reference", "the native kernels are not available", error=cause)


def _cause(error: Exception) -> str:
    """Why there are no kernels. Errors that nobody foresaw are no reason to stop either: the reference is there."""
    return str(error) if isinstance(error, BackendError) else f"{type(error).__name__}: {error}"


def _choose_for_cuda() -> BackendInfo:
    """Load the library of the CUDA kernels if it can be had; say what came of it."""
    if info().backend == "reference":
        return BackendInfo("reference", info().reason, error=info().error)
    try:
        return _load_cuda(info().reason)
    except Exception as error:
        cause = _cause(error)
        if not _forced():
            warnings.warn(
                f"no CUDA kernels, so tensors on a GPU are served by the slower reference backend: {cause}",
                BackendWarning,
                stacklevel=2,
            )
        return BackendInfo("reference", "the CUDA kernels are not available", error=cause)


def _load(reason: str) -> BackendInfo:
    """Find or build the library, load it, and let the operators register what depends on it."""
    if os.name != "posix":
        raise BackendError(f"the native kernels are built on Linux and macOS only, this is {os.name!r}")
    # Only here, because the build code imports modules that importing the package should not cost.
    from kshot_ext._native import cache
    from kshot_ext._native.find import find_library
    from kshot_ext._native.sources import source_folder

    folder = cache.default_folder()
    found = find_library(source_folder(), _PREBUILT, folder)
    found.library.load()
    _run_callbacks()
    with _no_trace():
        instruction_set = torch.ops.kshot_ext.cpu_isa()
    return _info_of(found, folder, reason, instruction_set)


@contextlib.contextmanager
def _no_trace() -> Iterator[None]:
    """Keeps calls of operators out of a graph that `torch.jit.trace` is making."""
    set_state: Callable[[object], None] = torch._C._set_tracing_state  # type: ignore[attr-defined]  # its stub lacks it
    state = torch._C._get_tracing_state()
    set_state(None)
    try:
        yield
    finally:
        set_state(state)


def _load_cuda(reason: str) -> BackendInfo:
    """Find or build the library of the CUDA kernels, and load it."""
    from kshot_ext._native import cache
    from kshot_ext._native.find import find_cuda_library
    from kshot_ext._native.sources import source_folder

    folder = cache.default_folder()
    found = find_cuda_library(source_folder(), _PREBUILT_CUDA, folder)
    found.library.load()
    return _info_of(found, folder, reason, None)


def _info_of(found: "Found", folder: Path, reason: str, cpu_capability: str | None) -> BackendInfo:
    metadata = found.library.metadata
    return BackendInfo(
        backend="native",
        reason=f"{reason}; {found.note}" if found.note else reason,
        cache=folder,
        library=found.library.path,
        origin=found.origin,
        compiler=metadata.compiler,
        cpu_capability=cpu_capability,
        build_seconds=metadata.seconds,
    )


def _run_callbacks() -> None:
    while _callbacks:
        _callbacks[0]()
        del _callbacks[0]
