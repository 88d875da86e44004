"""The table of what the compiler made of the kernels."""

from collections.abc import Sequence

from cuda_compile.claims import MULTIPROCESSORS, blocks_per_multiprocessor, claim_of
from cuda_compile.toolkit import Kernel

HEADER = ("kernel", "threads", "registers", "shared", "blocks", "loads of 16 B", "stores of 16 B", "HMMA")


def _span(values: Sequence[int]) -> str:
    """The same for all architectures, or from the least to the most."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def table(kernels: Sequence[Kernel]) -> str:
    """A row for every kernel, its figures spanning the architectures; shared memory includes the dynamic one."""
    rows: list[Sequence[str]] = [HEADER]
    for name in sorted({kernel.name for kernel in kernels}):
        same = [kernel for kernel in kernels if kernel.name == name]
        claim = claim_of(same[0])
        dynamic = claim.dynamic_shared if claim else 0
        rows.append(
            (
                name,
                *(_span([getattr(k, field) for k in same]) for field in ("threads", "registers")),
                _span([k.shared + dynamic for k in same]),
                _span([blocks_per_multiprocessor(k, dynamic) for k in same]),
                *(
                    _span([getattr(k, field) for k in same])
                    for field in ("vector_loads", "vector_stores", "tensor_core")
                ),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([f"{len(kernels)} kernels, for {', '.join(MULTIPROCESSORS)}", *lines])
