"""What the package tells its user: in the log of a program that keeps one, else as a line on standard error.

The logger is `kshot_ext`. It has a handler that does nothing, as those of libraries have, so what is only logged is
silent until the program sets up `logging`.
"""

import logging
import sys
from contextlib import suppress

LOGGER = logging.getLogger("kshot_ext")
LOGGER.addHandler(logging.NullHandler())


class Unnoticed(logging.Handler):
    """A handler that keeps messages, but shows nobody that they are there."""


def tell(text: str, level: int = logging.INFO) -> None:
    """Log a message; where nobody listens to messages of this level, print it on standard error."""
    heard = is_heard(level)
    LOGGER.log(level, text)
    if not heard:
        write(f"kshot_ext: {text}\n")


def is_heard(level: int = logging.INFO) -> bool:
    """Whether the program has set up `logging` so that messages of this level of ours come to light."""
    logger: logging.Logger | None = LOGGER
    if not LOGGER.isEnabledFor(level):
        return False
    while logger is not None:
        for handler in logger.handlers:
            if handler.level <= level and not isinstance(handler, (logging.NullHandler, Unnoticed)):
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
