"""All mutants."""

from . import cpu_chains, cpu_kernels, cuda_kernels, glue, python_operators, search_methods
from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *cpu_kernels.MUTANTS,
    *cpu_chains.MUTANTS,
    *glue.MUTANTS,
    *python_operators.MUTANTS,
    *cuda_kernels.MUTANTS,
    *search_methods.MUTANTS,
)
