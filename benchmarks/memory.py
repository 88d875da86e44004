"""Peak memory of a form, measured: the kernel's high-water mark, in a process that does nothing else.

Each measurement runs in a child forked from a server that has imported everything and run nothing.
Operands, parameters and optimiser state are there before; what counts is what one run, after a warm-up run,
adds at most.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from multiprocessing.connection import Connection
from pathlib import Path

import torch

_MALLOPT_MMAP_THRESHOLD = -3
_RETURNED_AT_ONCE = 64 * 1024  # bytes; larger blocks go back to the system when freed, so that peaks show
_TIME_LIMIT = 120  # seconds


def peak_bytes(work: str, set_name: str, row: str, form: str, threads: int) -> int | None:
    """Bytes that one run of a form adds to its process at most; None where the system cannot tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.works"])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, work, set_name, row, form, threads), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(_TIME_LIMIT):
            raise RuntimeError(f"memory of {form!r} on {row!r}: no answer within {_TIME_LIMIT} s")
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"memory of {form!r} on {row!r}: its process ended with {child.exitcode}") from None
    finally:
        child.kill()
        child.join()


def _measure(sender: Connection, work: str, set_name: str, row: str, form: str, threads: int) -> None:
    from benchmarks.works import find_row

    torch.set_num_threads(threads)
    contest = find_row(work, set_name, row).contest()
    sender.send(added_bytes(contest.form(form)))


def added_bytes(form) -> int:
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
