"""Kernels on the emulator, called from tests.

    block_sums = load("block_sums")                              # bindings/block_sums.cpp; variant="plain"
    sums = block_sums.block_sums(values)                         # in forward order
    with block_sums.schedule("random", seed=3, shift=4):         # any order, buffers 4 bytes off alignment
        sums = block_sums.block_sums(values)

    counted = load("block_sums", "traffic")
    counts = counted.traffic(lambda: counted.block_sums(values))  # what kernels moved: see traffic.summary

A mistake that the emulator or a sanitizer finds raises RuntimeError. The variants asan and tsan run in a process of
their own, with the sanitizer's runtime preloaded; to the caller they look the same.
"""

import importlib.machinery
import importlib.util
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from cuda_emulation import build, traffic

ORDERS = ("forward", "reverse", "random")
BINDINGS = build.HERE / "bindings"


def import_module(path: Path) -> ModuleType:
    """The extension module in a file; several of one stem may live in one process.

    The name tells them apart, for pybind11 gives one module for each name. Its last part is what the file defines.
    """
    name = f"{path.parent.name}.{path.stem}"
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Worker:
    """A process that has a sanitizer's runtime and calls a module's functions there."""

    def __init__(self, path: Path, variant: str) -> None:
        self._path = path
        self._preload = build.VARIANTS[variant].preload
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, Sequence[Any]] = {}  # that a process that follows another must have, too
        self._log = os.memfd_create("sanitizer's report")

    def call(self, function: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Calls the module's function; arrays among the arguments are changed as it changes them."""
        process = self._process or self._start()
        if function.startswith("_set_"):
            self._settings[function] = args
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((function, args, kwargs), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            outcome, result, arrays = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise RuntimeError(self._report()) from None
        if outcome == "error":
            raise RuntimeError(result)
        for array, changed in zip((a for a in args if isinstance(a, np.ndarray)), arrays):
            if changed is not None:
                array[...] = changed
        return result

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(build.runtime_library(name) for name in self._preload),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_signal_unsafe=0:history_size=4",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(build.HERE.parent),
        }
        os.ftruncate(self._log, 0)
        os.lseek(self._log, 0, os.SEEK_SET)
        command = [sys.executable, "-m", "cuda_emulation.worker", str(self._path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment
        )
        for function, args in self._settings.items():
            self.call(function, args, {})
        return self._process

    def _report(self) -> str:
        """What the process said before it ended."""
        assert self._process is not None
        status = self._process.wait()
        self._process = None
        said = os.pread(self._log, os.fstat(self._log).st_size, 0).decode(errors="replace")
        return f"the process ended with status {status}:\n{said}"


class Emulated:
    """A module of kernels: its functions, and the order in which threads and blocks run."""

    def __init__(self, path: Path, variant: str) -> None:
        self.variant = variant
        self._path = path
        if build.VARIANTS[variant].preload:
            self._worker = Worker(path, variant)
            self._call = self._worker.call
        else:
            self._module = import_module(path)
            self._call = self._call_here

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    @contextmanager
    def schedule(self, order: str = "forward", seed: int = 0, shift: int = 0) -> Iterator[None]:
        """Order of threads and blocks, and by how many bytes all buffers are off alignment, for the calls within."""
        self._call("_set_schedule", (order, seed, shift), {})
        try:
            yield
        finally:
            self._call("_set_schedule", ("forward", 0, 0), {})

    def traffic(self, run: Callable[[], object]) -> list[dict[str, Any]]:
        """What the kernels moved that `run` launches, a traffic.summary for each; only in the variant traffic."""
        self._call("_start_counting", (), {})
        run()
        return traffic.summaries(self._path, self._call("_stop_counting", (), {}))

    def _call_here(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        try:
            return getattr(self._module, name)(*args, **kwargs)
        except RuntimeError as error:
            raise RuntimeError(self._with_lines(str(error))) from None

    def _with_lines(self, message: str) -> str:
        """The message with source lines in place of addresses in the module."""
        return re.sub(r"\[0x([0-9a-f]+)\]", lambda found: traffic.line_of(self._path, int(found[1], 16)), message)


@cache
def load(name: str, variant: str = "plain", *, folder: Path = BINDINGS, defines: tuple[str, ...] = ()) -> Emulated:
    """The module of a binding, built if need be. `defines`: -D flags for the kernels, such as a planted mistake."""
    return Emulated(build.build_module(folder / f"{name}.cpp", variant, defines), variant)
