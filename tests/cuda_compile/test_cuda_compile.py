"""The CUDA kernels, compiled for every architecture: what the compiler emitted is what is claimed of them.

Needs nvcc and its disassembler, but no GPU: see toolkit.py. `python -m cuda_compile` in the folder `tests` prints the
table.
"""

from pathlib import Path

import pytest
from cuda_compile import toolkit
from cuda_compile.claims import CLAIMS, MULTIPROCESSORS, Claim, claim_of, violations
from cuda_compile.report import table
from cuda_compile.toolkit import CompileError, Kernel, compile_all, compile_kernels

reason = toolkit.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(reason is not None, reason=f"{reason}: no CUDA kernel was compiled")]

SOURCES = sorted((toolkit.CSRC / "cuda").glob("*.cu"))
BROKEN = Path(__file__).parent / "broken"


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    """All kernels for all architectures; warnings are errors."""
    return compile_all(SOURCES, list(MULTIPROCESSORS))


def test_every_kernel_is_as_claimed(kernels: list[Kernel], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{table(kernels)}")
    wrong = []
    for kernel in kernels:
        claim = claim_of(kernel)
        if claim is None:
            wrong.append(f"{kernel.file} {kernel.name} is missing from the table of claims")
        else:
            wrong += violations(kernel, claim)
    assert not wrong, "\n".join(wrong)


def test_every_source_has_kernels_for_every_architecture(kernels: list[Kernel]) -> None:
    assert {(kernel.file, kernel.arch) for kernel in kernels} == {
        (source.name, arch) for source in SOURCES for arch in MULTIPROCESSORS
    }


def test_every_claim_is_about_a_kernel(kernels: list[Kernel]) -> None:
    assert {claim_of(kernel) for kernel in kernels} == set(CLAIMS)


BROKEN_CLAIMS = [
    ("good", Claim("good", vector_loads=True, vector_stores=True), "sm_80", []),
    ("scalar_accesses", Claim("", vector_loads=True), "sm_80", ["no loads of 16 bytes"]),
    ("scalar_accesses", Claim("", vector_stores=True), "sm_80", ["no stores of 16 bytes"]),
    ("good", Claim("", tensor_cores=True), "sm_80", ["no tensor core instructions"]),
    ("spilling", Claim(""), "sm_80", ["a stack", "bytes spilled", "accesses to local memory"]),
    ("indexed_array", Claim(""), "sm_80", ["a stack", "accesses to local memory"]),
    ("one_block", Claim(""), "sm_86", ["1 blocks per multiprocessor"]),
    ("one_block", Claim(""), "sm_80", []),
    ("much_shared", Claim("", blocks=3), "sm_86", ["2 blocks per multiprocessor"]),
    ("much_shared", Claim("", blocks=3), "sm_80", []),
    ("good", Claim("", dynamic_shared=60 * 1024), "sm_86", ["1 blocks per multiprocessor"]),
    ("good", Claim("", dynamic_shared=60 * 1024), "sm_80", []),
    ("many_registers", Claim(""), "sm_80", ["1 blocks per multiprocessor"]),
]


@pytest.mark.parametrize(("name", "claim", "arch", "expected"), BROKEN_CLAIMS)
def test_what_breaks_a_claim_is_seen(name: str, claim: Claim, arch: str, expected: list[str]) -> None:
    [kernel] = [k for k in compile_kernels(BROKEN / "kernels.cu", arch) if k.name == name]
    found = violations(kernel, claim)
    assert len(found) == len(expected), found
    for message, part in zip(found, expected):
        assert part in message


def test_warnings_are_errors() -> None:
    with pytest.raises(CompileError, match="never_used"):
        compile_kernels(BROKEN / "warning.cu", "sm_80")


def test_a_kernel_that_is_not_in_the_table_is_found() -> None:
    [kernel] = [k for k in compile_kernels(BROKEN / "kernels.cu", "sm_80") if k.name == "good"]
    assert claim_of(kernel) is None
