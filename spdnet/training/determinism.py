"""The same result from the same seed on a GPU; on a CPU it is so without this."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Have PyTorch use only algorithms that repeat themselves exactly; slower, and for this whole process.

    Must be called before anything runs on the GPU, as cuBLAS reads its variable when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
