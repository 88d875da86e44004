"""Backend switch; the build half lands with its own branch."""

from collections.abc import Callable


def native() -> bool:
    return False


def on_load(callback: Callable[[], None]) -> None:
    del callback
