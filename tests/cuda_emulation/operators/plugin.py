"""Pytest plugin: CUDA's operators, on the emulator, serve tensors on the CPU in this process."""

import torch
from cuda_emulation import build

from kshot_ext import backend

backend.native()
torch.ops.load_library(build.build_operators())
backend.kernels_for = lambda device: "cuda"
torch.backends.cudnn.allow_tf32 = False
