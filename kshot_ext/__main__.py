"""Where `kshot-ext` begins, and `python -m kshot_ext`, for launchers that start modules, such as `torchrun -m`."""

import sys

from kshot_ext.nas.extras import MissingExtraError, require


def main() -> None:
    """Entry point of the command; the libraries that it needs are those of an extra."""
    try:
        for library in ("rich", "typer"):
            require(library)
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    from kshot_ext.cli import app

    app()


if __name__ == "__main__":
    main()
