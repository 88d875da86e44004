"""Peak memory of a form, measured: what one run, after a warm-up run, adds at most.

Operands, parameters and optimiser state are there before. On the CPU the figure is the kernel's high-water mark, in
a process that does nothing else: the forms of a row run one after the other in a child forked from a server that has
imported everything and run nothing. On a GPU it is that of torch's allocator.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.forms import Form
from benchmarks.place import Place
from benchmarks.works import find_row

_MALLOPT_MMAP_THRESHOLD = -3
_RETURNED_AT_ONCE = 64 * 1024  # bytes; larger blocks go back to the system when freed, so that peaks show
_TIME_LIMIT = 300  # seconds


def peak_bytes(
    work: str, set_name: str, row: str, forms: Sequence[str], threads: int, place: Place
) -> dict[str, int] | dict[str, None]:
    """Bytes that one run of each named form adds to a process at most; None where the system cannot tell."""
    if not Path("/proc/self/clear_refs").exists():
        return dict.fromkeys(forms)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "benchmarks.works"])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, work, set_name, row, forms, threads, place), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(_TIME_LIMIT):
            raise RuntimeError(f"memory of {row!r} in {work}, {set_name}: no answer within {_TIME_LIMIT} s")
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(
            f"memory of {row!r} in {work}, {set_name}: the process ended with {child.exitcode}"
        ) from None
    finally:
        child.kill()
        child.join()


def _measure(
    sender: Connection, work: str, set_name: str, row: str, forms: Sequence[str], threads: int, place: Place
) -> None:
    torch.set_num_threads(threads)
    contest = find_row(work, set_name, row).contest(place)
    sender.send({form: added_bytes(contest.form(form)) for form in forms})


def added_bytes(form: Form) -> int:
    """Bytes that one run adds to this process at most. Changes the process's allocator settings."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MALLOPT_MMAP_THRESHOLD, _RETURNED_AT_ONCE)
    form.result()
    arguments = form.prepare()
    libc.malloc_trim(0)
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    result = form.run(*arguments)
    peak = _status_bytes("VmHWM")
    del result
    return max(0, peak - before)


def _status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def added_cuda_bytes(form: Form) -> int:
    """Bytes that one run adds at most to what torch's allocator has given out on the current CUDA device."""
    form.result()
    arguments = form.prepare()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = form.run(*arguments)
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before
