"""How a network is run on a device: number format, memory layout, memory allocator."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch

from spdnet.errors import ConfigurationError

PRECISION_VARIABLE = "SPD_precision"
_FORMATS = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}

# glibc hands large buffers back to the system after every step; keeping them is twice as fast on the CPU.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def get_device(name: str | None) -> torch.device:
    """The device that a user asks for ("cuda", "cuda:1", "cpu", "mps"), or the best one there is for None.

    Raises:
        ConfigurationError: the device is not there. Never falls back to another one.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"-device {name}: not a device; use cuda, cuda:1, cpu or mps") from error
    if device.type not in ("cuda", "cpu", "mps"):
        raise ConfigurationError(f"-device {name}: spdnet does not run there; use cuda, cuda:1, cpu or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigurationError(
                f"-device {name}: this machine offers {count} CUDA devices to PyTorch {torch.__version__}. Check the "
                "driver (nvidia-smi) and CUDA_VISIBLE_DEVICES, or use -device cpu"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError(f"-device {name}: PyTorch finds no MPS device here; use -device cpu")
    return device


def compute_dtype(device: torch.device) -> torch.dtype:
    """Number format of the matrix products on a device: what `SPD_precision` says, else the faster one.

    That is bfloat16 on GPUs and CPUs that compute in it (CPUs with AMX or AVX512-BF16), and float32 elsewhere:
    where bfloat16 is only emulated it is slower. Norms, sums and losses are in float32 either way.

    Raises:
        ConfigurationError: `SPD_precision` is not a format.
    """
    chosen = os.environ.get(PRECISION_VARIABLE, "auto")
    if chosen not in _FORMATS:
        raise ConfigurationError(f"{PRECISION_VARIABLE} is {chosen!r}; use one of {', '.join(_FORMATS)}")
    dtype = _FORMATS[chosen]
    if dtype is not None:
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and _cpu_computes_bfloat16() else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision where it helps, as `compute_dtype` says."""
    dtype = compute_dtype(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def place(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Move a network to a device in the memory layout that is fastest there."""
    if device.type == "cpu":
        keep_large_buffers()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # for all that asks for the current device, as libraries do
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def keep_large_buffers() -> None:
    """Tell glibc's malloc to reuse large buffers instead of returning them; nothing on other systems."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    libc.mallopt(_M_TOP_PAD, 256 << 20)


def _cpu_computes_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
