"""Get the compiled library: prebuilt in the package, else cached, else built now."""

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from kshot_ext._native import cache, flags, notices
from kshot_ext._native.build_display import display
from kshot_ext._native.compiler import find_compiler
from kshot_ext._native.cuda_compiler import (
    ARCHITECTURES,
    find_cuda_compiler,
    present_architectures,
    wished_architectures,
)
from kshot_ext._native.errors import BackendError
from kshot_ext._native.library import LIBRARY, METADATA, Library, Metadata, read_library, seal
from kshot_ext._native.ninja_build import build_library, jobs
from kshot_ext._native.processor import instruction_sets_to_build
from kshot_ext._native.recipe import CudaRecipe, Recipe, contents_key
from kshot_ext._native.sources import sources_digest

# Longer than any build takes, so that only a stuck holder of the lock is reported.
_LOCK_SECONDS = 600.0
_SECONDS_PER_STEP = 4.0
# A compiler that hangs is given up, one on a slow or busy machine is not.
_LEAST_LIMIT, _LIMIT_OVER_EXPECTED = 300.0, 30


@dataclass(frozen=True)
class Found:
    """A library, where it came from, and why the prebuilt one, if there is one, was passed over."""

    library: Library
    origin: Literal["prebuilt", "cached", "built"]
    note: str = ""


def find_library(source_folder: Path, prebuilt_folder: Path, cache_folder: Path) -> Found:
    """The library made from `source_folder` for the torch and the compiler at hand.

    Without a compiler it is one that any has made of the same; why there is none is the note then.

    Raises:
        BackendError: it cannot be built, or the cache folder cannot be trusted or written.
    """
    prebuilt, note = _prebuilt(source_folder, prebuilt_folder, cuda="")
    if prebuilt:
        return Found(prebuilt, "prebuilt")
    sets = instruction_sets_to_build()
    try:
        compiler = find_compiler()
    except BackendError as lack:
        with contextlib.suppress(BackendError):  # a cache that cannot be used is no better than none
            if cached := _cached_of_any_compiler(cache_folder, contents_key(source_folder, sets)):
                return Found(cached, "cached", f"{note}; {lack}" if note else str(lack))
        raise
    return _cached_or_built(Recipe(source_folder, compiler, sets), cache_folder, "first use", note)


def find_cuda_library(source_folder: Path, prebuilt_folder: Path, cache_folder: Path) -> Found:
    """Like `find_library`, the library of the CUDA kernels, for `KSHOT_EXT_CUDA_ARCHS` or the GPUs present.

    Raises:
        BackendError: it cannot be built: no CUDA in torch, no nvcc, no GPU; or the cache folder cannot be trusted.
    """
    prebuilt, note = _prebuilt(source_folder, prebuilt_folder, cuda=(torch.version.cuda or "none").split(".")[0])
    if prebuilt:
        return Found(prebuilt, "prebuilt")
    compilers = find_compiler(), find_cuda_compiler()
    recipe = CudaRecipe(source_folder, *compilers, wished_architectures() or present_architectures())
    return _cached_or_built(recipe, cache_folder, "CUDA, first use", note)


def _cached_or_built(recipe: Recipe | CudaRecipe, cache_folder: Path, occasion: str, note: str) -> Found:
    entry = cache_folder / recipe.key
    if cached := _read_cached(entry):
        return Found(cached, "cached", note)
    cache.make_folder(cache_folder)
    with cache.locked(cache_folder, _LOCK_SECONDS) as alone:
        # The process that held the lock before this one may have built the same library.
        if cached := _read_cached(entry):
            return Found(cached, "cached", note)
        with cache.private_folder(cache_folder, alone) as private:
            build(recipe, private, occasion)
            # Without a lock another process may have finished first; its library may be in use.
            if alone or _read_cached(entry) is None:
                cache.publish(private, entry)
    if built := _read_cached(entry):
        return Found(built, "built", note)
    raise BackendError(f"the library just built in {entry} is damaged; check the disk of that folder")


def build(recipe: Recipe | CudaRecipe, folder: Path, occasion: str) -> None:
    """Build `recipe` into `folder`, and show that, and how long it took.

    Raises:
        BackendError: the build fails.
    """
    files = len(recipe.steps())
    expected = _SECONDS_PER_STEP * files / jobs()
    shown = display()
    shown.start(f"building the native kernels ({occasion}, about {expected:.0f} s)", files)
    begin = time.monotonic()
    outcome = "failed"
    try:
        with cache.as_backend_error(folder):
            build_library(recipe, folder, max(_LEAST_LIMIT, _LIMIT_OVER_EXPECTED * expected), shown.move)
        outcome = "done"
    finally:
        seconds = time.monotonic() - begin
        shown.finish(f"{outcome} in {seconds:.1f} s")
    metadata = Metadata(
        sources=sources_digest(recipe.source_folder),
        torch_target=flags.TORCH_TARGET_NAME,
        cuda=recipe.cuda,
        compiler=recipe.compiler.identity,
        contents=recipe.contents,
        seconds=round(seconds, 1),
    )
    with cache.as_backend_error(folder):
        seal(folder, metadata)


def _read_cached(entry: Path) -> Library | None:
    """The complete library in a folder of the cache that no other user can have written; else None."""
    with cache.as_backend_error(entry.parent, "read"):
        if not entry.is_dir():
            return None
        for folder in (entry.parent, entry):
            cache.check_folder(folder)
        for file in (entry / METADATA, entry / LIBRARY):
            if os.path.lexists(file):  # what is missing is for read_library to see
                cache.check_file(file)
    return read_library(entry)


def _cached_of_any_compiler(cache_folder: Path, contents: str) -> Library | None:
    """The library of these contents that was cached last, such as before the compiler was taken away; else None."""
    with cache.as_backend_error(cache_folder, "read"):
        entries = sorted(cache_folder.glob(f"*/{METADATA}"), key=lambda file: file.stat().st_mtime, reverse=True)
    found = (_read_cached(file.parent) for file in entries)
    return next((library for library in found if library and library.metadata.contents == contents), None)


def _prebuilt(source_folder: Path, folder: Path, cuda: str) -> tuple[Library | None, str]:
    """The library that the package ships, if it serves torch with this CUDA; else None and why not."""
    if not folder.is_dir():
        return None, ""
    library = read_library(folder)
    note = _objection(library, source_folder, cuda)
    return (None, note) if note else (library, "")


def _objection(prebuilt: Library | None, source_folder: Path, cuda: str) -> str:
    """Why the prebuilt library is not to be used; empty if it is."""
    if prebuilt is None:
        return "the prebuilt library is incomplete or damaged"
    target = prebuilt.metadata.torch_target
    if target != flags.TORCH_TARGET_NAME:
        return f"the prebuilt library is for the stable ABI of torch {target}, expected {flags.TORCH_TARGET_NAME}"
    if prebuilt.metadata.cuda != cuda:
        return f"the prebuilt library is for CUDA {prebuilt.metadata.cuda or 'none'}, torch has CUDA {cuda or 'none'}"
    if prebuilt.metadata.sources != sources_digest(source_folder):
        return f"the prebuilt library was built from other sources than those in {source_folder}"
    return ""


def prebuild(source_folder: Path, target: Path) -> None:
    """Build ahead of time the library that a package ships in its folder `target`.

    Raises:
        BackendError: the build fails.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    build(Recipe(source_folder, find_compiler(), flags.instruction_sets()), target, "ahead of time")


def prebuild_cuda(source_folder: Path, target: Path) -> None:
    """Like `prebuild`, the library of the CUDA kernels, for `KSHOT_EXT_CUDA_ARCHS` or all GPUs.

    Where torch has no CUDA, or no nvcc fits it, a line on stderr says so and nothing is built.

    Raises:
        BackendError: the build fails, or `KSHOT_EXT_CUDA_ARCHS` names what the kernels do not support.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        cuda_compiler = find_cuda_compiler()
    except BackendError as lack:
        notices.tell(f"the CUDA kernels are not built ahead of time: {lack}")
        return
    recipe = CudaRecipe(source_folder, find_compiler(), cuda_compiler, wished_architectures() or ARCHITECTURES)
    target.mkdir()
    build(recipe, target, "CUDA, ahead of time")
