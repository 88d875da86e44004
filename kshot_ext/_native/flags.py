"""All compiler and linker flags, as plain data.

Standard library only: CMakeLists.txt runs this file to read the same flags, where no package is installed.
"""

import platform

COMPILE = (
    "-std=c++17",
    "-O2",  # kernels are written on vectors; -O3 would double the time of the build for nothing
    "-fPIC",
    "-fvisibility=hidden",
    # Both leave every result as IEEE 754 has it: only errno and the trap state are given up.
    "-fno-math-errno",
    "-fno-trapping-math",
)

# For developers, who build with CMake; a user's build would take a fifth longer with them.
WARNINGS = ("-Wall", "-Wextra", "-Werror")

# The oldest torch that pyproject.toml allows. The glue is compiled for its stable ABI, which later versions keep: one
# library serves them all, whichever of them it was compiled with.
TORCH_TARGET = (2, 10)
TORCH_TARGET_NAME = "{}.{}".format(*TORCH_TARGET)

# Around small tensors the glue in ops/ is most of a call. -Og compiles in three quarters of the time of -O1, but calls
# of 7 us then take 8, and backward ones of 12 take 15; -O2 compiles a third longer, for nothing.
OPS = ("-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*TORCH_TARGET), "-O1")

INSTRUCTION_SETS = {
    "portable": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mf16c",
        "-mprefer-vector-width=512",
    ),
}

LINK = ("-shared",)
LIBRARIES = ("-ltorch_cpu",)

# The CUDA library: kernels by nvcc, glue by the C++ compiler.
CUDA = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden")
CUDA_OPS = (*OPS, "-DUSE_CUDA", "-DKSHOT_DISPATCH_KEY=CUDA")
# The CUDA runtime is the one that torch has loaded: it holds the current device.
CUDA_LIBRARIES = ("-ltorch_cpu", "-ltorch_cuda", "-lcudart")


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that kernels are compiled for on this architecture, narrowest first."""
    is_x86_64 = platform.machine().lower() in ("x86_64", "amd64")
    return tuple(INSTRUCTION_SETS) if is_x86_64 else ("portable",)


def kernel_flags(instruction_set: str) -> tuple[str, ...]:
    """Flags that compile a file of `csrc/cpu` for one instruction set."""
    return (f"-DKSHOT_ISA={instruction_set}", *INSTRUCTION_SETS[instruction_set])


def cuda_architectures(names: tuple[str, ...]) -> tuple[str, ...]:
    """Flags that compile a file of `csrc/cuda` for compute capabilities such as "80", and for later ones.

    The sources are alike for all of them, so they are read once, for 8.0, and only their machine code differs.
    """
    codes = ",".join([*(f"sm_{name}" for name in names), "compute_80"])
    return (f"-gencode=arch=compute_80,code=[{codes}]",)


def dispatch_flags(instruction_sets: tuple[str, ...]) -> tuple[str, ...]:
    """Flags that tell `csrc/ops` which instruction sets the kernels were compiled for."""
    return tuple(f"-DKSHOT_HAVE_{name.upper()}" for name in instruction_sets)


def cmake_variables() -> str:
    """The flags of this file as CMake `set` commands."""
    names = instruction_sets()
    variables = {
        "COMPILE": COMPILE,
        "WARNINGS": WARNINGS,
        "OPS": OPS,
        "LIBRARIES": LIBRARIES,
        "DISPATCH": dispatch_flags(names),
        "INSTRUCTION_SETS": names,
        **{f"KERNEL_{name}": kernel_flags(name) for name in names},
    }
    return "\n".join(f'set(KSHOT_{name} "{";".join(values)}")' for name, values in variables.items())


if __name__ == "__main__":
    print(cmake_variables())
