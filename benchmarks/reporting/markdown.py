"""Tables in Markdown, for result files that people read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are text; the first column is a name, the others stand to the right.

    Raises:
        ValueError: a row has another number of cells than the head.
    """
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"expected {len(head)} cells, as the head has, got {list(line)}")
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
