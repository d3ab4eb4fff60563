"""Running one function over many cases in worker processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """Number of worker processes: one per core, or fewer if `nnUNet_def_n_proc`, which is nnU-Net's, says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(os.environ.get("nnUNet_def_n_proc", cores)), cores))


def map_cases(
    function: Callable[[Item], Result], items: Sequence[Item], n_processes: int, description: str
) -> list[Result]:
    """`[function(item) for item in items]` in `n_processes` processes; the first error is raised.

    `function` and the items must be picklable. With one process, or one item, everything runs in this process.
    """
    if n_processes <= 1 or len(items) <= 1:
        return [function(item) for item in tqdm(items, desc=description)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_processes, len(items)), context, initializer=_single_threaded) as pool:
        try:
            return list(tqdm(pool.map(function, items), total=len(items), desc=description))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _single_threaded() -> None:
    torch.set_num_threads(1)
