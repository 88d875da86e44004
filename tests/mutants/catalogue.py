"""All mutants."""

from . import (
    cpu_alignment,
    cpu_chains,
    cpu_convolutions,
    cpu_mixing,
    cpu_norms_and_pools,
    cpu_simd,
    cpu_updates,
    cuda_kernels,
    glue,
    python_operators,
    search_methods,
)
from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *cpu_simd.MUTANTS,
    *cpu_mixing.MUTANTS,
    *cpu_convolutions.MUTANTS,
    *cpu_norms_and_pools.MUTANTS,
    *cpu_chains.MUTANTS,
    *cpu_updates.MUTANTS,
    *cpu_alignment.MUTANTS,
    *glue.MUTANTS,
    *python_operators.MUTANTS,
    *cuda_kernels.MUTANTS,
    *search_methods.MUTANTS,
)
