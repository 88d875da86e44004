"""What the compiled kernels are claimed to be: the table that test_cuda_compile.py checks."""

import re
from dataclasses import dataclass

from cuda_compile.toolkit import Kernel


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks that are on one multiprocessor at a time share."""

    shared: int  # bytes
    threads: int
    registers: int = 65536


# From the table of compute capabilities in NVIDIA's programming guide.
MULTIPROCESSORS = {
    "sm_80": Multiprocessor(shared=164 * 1024, threads=2048),
    "sm_86": Multiprocessor(shared=100 * 1024, threads=1536),
    "sm_89": Multiprocessor(shared=100 * 1024, threads=1536),
    "sm_90": Multiprocessor(shared=228 * 1024, threads=2048),
    "sm_100": Multiprocessor(shared=228 * 1024, threads=2048),
    "sm_120": Multiprocessor(shared=100 * 1024, threads=1536),
}

RESERVED_SHARED = 1024  # of every block, by the driver


@dataclass(frozen=True)
class Claim:
    """What is claimed of the kernels whose name the pattern matches, beside what is claimed of all."""

    pattern: str
    vector_loads: bool = False  # accesses of 16 bytes to global memory
    vector_stores: bool = False
    tensor_cores: bool = False
    dynamic_shared: int = 0  # bytes, at most
    blocks: int = 2  # per multiprocessor


# The first pattern that matches the whole name counts.
CLAIMS = [
    Claim(r"mix(_per_sample)?_kernel<.*>", vector_loads=True, vector_stores=True),
    Claim(r"mix_backward_kernel<.*>", vector_loads=True, vector_stores=True),
    Claim(r"group_weight(_backward)?_kernel<.*>", vector_loads=True, vector_stores=True),
    # Its points have any number of coordinates, and its path is written by one thread; see the traffic's test.
    Claim(r"dtw_align(_backward)?_kernel<.*>", dynamic_shared=48 * 1024),
    Claim(r"gate_sum_kernel<.*>"),
    Claim(r"column_sum_kernel<.*>"),
    Claim(r"(adamw|sgd)_kernel<.*>", vector_loads=True, vector_stores=True),
    # The forms for single elements end with 1.
    Claim(r"(moments|gradient_sums|batch_norm_act(_backward)?)_kernel<.*, 1>"),
    Claim(r"(moments|gradient_sums)_kernel<.*>", vector_loads=True),
    Claim(r"batch_norm_act(_backward)?_kernel<.*>", vector_loads=True, vector_stores=True),
    Claim(r"(join_moments|mean_gradients)_kernel<.*>"),
    Claim(
        r"dense_(gather|weight_gradient|per_sample_gradient)_kernel<TensorCoreTile<.*>",
        vector_loads=True,
        vector_stores=True,
        tensor_cores=True,
        dynamic_shared=48 * 1024,
    ),
    Claim(
        r"dense_(gather|weight_gradient|per_sample_gradient)_kernel<PlainTile<.*>",
        vector_loads=True,
        vector_stores=True,
        dynamic_shared=48 * 1024,
    ),
    Claim(r"add_(parts|stretches)_kernel"),
    Claim(r"chain_(norm_map|gradient_map|norm_gradient)_kernel"),
    Claim(r"depthwise_(gather|weight_gradient)<.*>", vector_loads=True, dynamic_shared=48 * 1024),
    Claim(r"depthwise_direct_(gather|weight_gradient)<.*>", dynamic_shared=48 * 1024),
    Claim(r"depthwise_partial_sums<.*>"),
]


def claim_of(kernel: Kernel) -> Claim | None:
    """The row of the table that tells of a kernel."""
    return next((claim for claim in CLAIMS if re.fullmatch(claim.pattern, kernel.name)), None)


def blocks_per_multiprocessor(kernel: Kernel, dynamic_shared: int = 0) -> int:
    """How many blocks fit, by registers, shared memory and threads."""
    limits = MULTIPROCESSORS[kernel.arch]
    registers = -(-kernel.registers // 8) * 8  # a warp gets them in portions of 256
    threads = -(-kernel.threads // 32) * 32
    shared = kernel.shared + dynamic_shared + RESERVED_SHARED
    return min(limits.registers // (registers * threads), limits.shared // shared, limits.threads // threads)


def violations(kernel: Kernel, claim: Claim) -> list[str]:
    """What is not as claimed."""
    blocks = blocks_per_multiprocessor(kernel, claim.dynamic_shared)
    wrong = {
        f"a stack of {kernel.stack} bytes": kernel.stack > 0,
        f"{kernel.spilled} bytes spilled": kernel.spilled > 0,
        f"{kernel.local_accesses} accesses to local memory": kernel.local_accesses > 0,
        "no loads of 16 bytes": claim.vector_loads and not kernel.vector_loads,
        "no stores of 16 bytes": claim.vector_stores and not kernel.vector_stores,
        "no tensor core instructions": claim.tensor_cores and not kernel.tensor_core,
        f"{blocks} blocks per multiprocessor in place of {claim.blocks}": blocks < claim.blocks,
    }
    return [f"{kernel.arch} {kernel.file} {kernel.name}: {what}" for what, is_so in wrong.items() if is_so]
