"""What the package tells its user: in the log of a program that keeps one, else as a line on standard error.

The logger is `kshot_ext`. It has a handler that does nothing, as those of libraries have, so what is only logged is
silent until the program sets up `logging`.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Keep = Callable[[str, int], None]
"""Takes a message and its level."""

LOGGER = logging.getLogger("kshot_ext")
LOGGER.addHandler(logging.NullHandler())
_keepers: list[Keep] = []
_wanted: bool | None = None  # whether messages are printed; None: where nobody listens


def log(text: str, level: int = logging.INFO) -> None:
    """Log a message that is shown in another way, or that nobody need see."""
    for keep in _keepers:
        keep(text, level)
    LOGGER.log(level, text)


def tell(text: str, level: int = logging.INFO) -> None:
    """Log a message and, where `is_printed` says so, print it on standard error."""
    log(text, level)
    if is_printed(level):
        write(f"kshot_ext: {text}\n")


def is_printed(level: int = logging.INFO) -> bool:
    """Whether messages of this level are printed: where nobody listens to them, or as `printing` says."""
    return not is_heard(level) if _wanted is None else _wanted


def is_heard(level: int = logging.INFO) -> bool:
    """Whether the program has set up `logging` so that messages of this level of ours come to light."""
    logger: logging.Logger | None = LOGGER
    if not LOGGER.isEnabledFor(level):
        return False
    while logger is not None:
        for handler in logger.handlers:
            if handler.level <= level and not isinstance(handler, logging.NullHandler):
                return True
        logger = logger.parent if logger.propagate else None
    return False


def write(text: str) -> None:
    """Write to standard error, which may be closed, or a pipe that nobody reads."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, end="", file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether standard error is a terminal, on which a line can be written over."""
    with suppress(ValueError):
        return sys.stderr is not None and sys.stderr.isatty()
    return False


@contextmanager
def kept_by(keep: Keep) -> Iterator[None]:
    """Hand over all messages inside the block, whatever the program does with those of the logger."""
    _keepers.append(keep)
    try:
        yield
    finally:
        _keepers.remove(keep)


def is_silent() -> bool:
    """Whether the program wants nothing printed."""
    return _wanted is False


@contextmanager
def printing(wanted: bool) -> Iterator[None]:
    """Print all messages inside the block, or none, whoever listens: what a command does, whose console this is."""
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before
