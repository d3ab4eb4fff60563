"""Running one function over many cases in worker processes, with a progress bar; how many of them there may be."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from spdnet.errors import ConfigurationError

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """Number of worker processes: one per core, or fewer if `nnUNet_def_n_proc`, which is nnU-Net's, says so.

    Raises:
        ConfigurationError: the variable holds no number of processes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = processes_of_variable("nnUNet_def_n_proc")
    return cores if wanted is None else max(1, min(wanted, cores))


def processes_of_variable(variable: str) -> int | None:
    """The number of processes that an environment variable holds; None where it is not set.

    Raises:
        ConfigurationError: it holds something else.
    """
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigurationError(
            f"the environment variable {variable} is {text!r}; it must be a number of processes, 0 or more. Correct "
            f"it, or remove it (unset {variable}) for the default"
        )
    return number


@contextmanager
def progress_bar(
    items: Iterable[Any] | None, description: str, total: int | None = None, is_shown: bool = True, leave: bool = True
) -> Iterator[Any]:
    """A bar that is closed when the block ends, by an error too, and above which log messages have their own lines.

    Args:
        items: what the bar goes through, or None where the block moves it.
        description: what is being done.
        total: how many they are, if `items` does not tell.
        is_shown, leave: whether it is drawn, and whether it stays.
    """
    streams = [h.stream for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    on_screen = is_shown and any(stream in (sys.stdout, sys.stderr) for stream in streams)
    with (
        logging_redirect_tqdm() if on_screen else nullcontext(),
        tqdm(items, desc=description, total=total, disable=not is_shown, leave=leave) as bar,
    ):
        yield bar


def map_cases(
    function: Callable[[Item], Result], items: Sequence[Item], n_processes: int, description: str
) -> list[Result]:
    """`[function(item) for item in items]` in `n_processes` processes; the first error is raised.

    `function` and the items must be picklable. With one process, or one item, everything runs in this process.
    """
    if n_processes <= 1 or len(items) <= 1:
        with progress_bar(items, description) as bar:
            return [function(item) for item in bar]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_processes, len(items)), context, initializer=_single_threaded) as pool:
        try:
            with progress_bar(pool.map(function, items), description, len(items)) as bar:
                return list(bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _single_threaded() -> None:
    torch.set_num_threads(1)
