"""What ``kshot-ext truth`` does: a published table of accuracies, in the form that ``rank`` and ``search`` read."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from kshot_ext.nas.commands.frame import FOR_PEOPLE, CommandError, Output, exit_status, tell, users_errors
from kshot_ext.nas.files import WriteError, is_there, write_text
from kshot_ext.nas.runs.published_tables import published_truth
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.strict_json import strict_json

_IMAGE_SHAPE, _CLASSES = (3, 32, 32), 10  # of any size: only the keys of the space are read


def truth_command(
    table: Path, space: str, out: Path, column: str | None, dataset: str, output: Output = FOR_PEOPLE
) -> int:
    """Convert a published table, and tell how many architectures it has.

    Args:
        table: the published file.
        space: name of its search space, or ``FILE.py:CLASS``.
        out: JSON file to write, which must not exist.
        column: name of the accuracies, see `published_truth`.
        dataset: which accuracies of NAS-Bench-201's file, see `published_truth`.
        output: what is printed.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend.
    """

    def body(console: Console) -> None:
        if is_there(out):
            raise CommandError(f"{out}: expected a new file, got one that exists; give another name")
        with users_errors():
            of_space = create_space(space, image_shape=_IMAGE_SHAPE, num_classes=_CLASSES)
            truth = published_truth(table, of_space, column, dataset)
        try:
            write_text(out, strict_json(truth, indent=0) + "\n")
        except WriteError as error:
            raise CommandError(str(error)) from error
        best = max(truth, key=lambda key: truth[key])
        values = {"table": str(out), "architectures": len(truth), "best": best, "accuracy": truth[best]}
        tell(console, f"{out}: {len(truth):,} architectures of {space}; the best is {best} with {truth[best]:.2f}")
        output.result(values)

    return exit_status(body, lambda: "nothing was written", output)
