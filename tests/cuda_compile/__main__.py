"""Prints the table of the compiled kernels."""

from cuda_compile import toolkit
from cuda_compile.claims import MULTIPROCESSORS
from cuda_compile.report import table

if (reason := toolkit.missing()) is not None:
    raise SystemExit(reason)
print(table(toolkit.compile_all(sorted((toolkit.CSRC / "cuda").glob("*.cu")), list(MULTIPROCESSORS))))
