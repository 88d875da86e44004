"""Running other programs: what they print, in whatever encoding, and never for longer than asked."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from kshot_ext._native.errors import BackendError

_SECONDS_TO_END = 5.0
_SECONDS_BETWEEN_LOOKS = 0.2


def run(
    command: Sequence[str],
    seconds: float,
    *,
    environment: Mapping[str, str] | None = None,
    on_output: Callable[[str], None] = lambda output: None,
) -> subprocess.CompletedProcess[str]:
    """Run a program without input, and return its exit code and what it printed.

    Args:
        command: the program and its arguments.
        seconds: how long it may take; then it is told to end, and killed if it does not.
        environment: its environment variables; default: those of this process.
        on_output: called, a few times a second until it ends, with all that it has printed on standard output so far.

    Raises:
        BackendError: it does not start, or has not ended in time.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise BackendError(f"{shlex.join(command)} does not run: {error}") from error
    with process:
        try:
            output, errors = _wait(process, seconds, on_output)
        except BaseException as reason:
            _end(process)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise BackendError(f"{shlex.join(command)} has not ended after {seconds:.0f} s") from reason
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _wait(process: subprocess.Popen[str], seconds: float, on_output: Callable[[str], None]) -> tuple[str, str]:
    """What it printed in all; raises `subprocess.TimeoutExpired` where it has not ended in time."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            return process.communicate(timeout=max(0.0, min(_SECONDS_BETWEEN_LOOKS, left)))
        except subprocess.TimeoutExpired as pause:
            if left <= _SECONDS_BETWEEN_LOOKS:
                raise
            so_far = pause.output or b""  # bytes, whatever the encoding of the whole
            on_output(so_far.decode("utf-8", "replace") if isinstance(so_far, bytes) else so_far)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()  # unlike a kill, it lets ninja end its compilers
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
