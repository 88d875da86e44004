"""Running other programs: what they print, in whatever encoding, and never for longer than asked."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence

from kshot_ext._native.errors import BackendError

_SECONDS_TO_END = 5.0


def run(
    command: Sequence[str], seconds: float, *, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program without input, and return its exit code and what it printed.

    Args:
        command: the program and its arguments.
        seconds: how long it may take; then it is told to end, and killed if it does not.
        environment: its environment variables; default: those of this process.

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
            output, errors = process.communicate(timeout=seconds)
        except BaseException as reason:
            _end(process)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise BackendError(f"{shlex.join(command)} has not ended after {seconds:.0f} s") from reason
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()  # unlike a kill, it lets ninja end its compilers
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
