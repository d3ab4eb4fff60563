"""Batches that are prepared by processes of their own while the device computes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from spdnet.parallel import processes_of_variable

_GRACE_S = 60  # for how long a data worker goes on after SIGTERM

Request = TypeVar("Request")


class RequestList(Sampler, Generic[Request]):
    """What the batches of an epoch are to hold, exchanged from one epoch to the next while data workers stay."""

    def __init__(self, requests: list[Request]) -> None:
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def data_loader(
    dataset: Dataset, requests: RequestList, device: torch.device, n_processes: int = 1, in_use: bool = True
) -> DataLoader:
    """The items of a data set that are asked for, in order; on a GPU in page-locked memory.

    Args:
        dataset: its item is a whole batch, which depends on the request alone, not on the worker that makes it.
        requests: what is asked for; may be exchanged between two iterations. Workers live as long as the loader.
        device: what the batches are for.
        n_processes: of the team, which share the cores.
        in_use: whether anything will be asked for; else there are no workers.
    """
    workers = data_workers(device, n_processes) if in_use else 0
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=_outlive_sigterm,
        generator=torch.Generator(),  # of its own: what it draws for its workers must not shift the dropout
    )


def end_workers(loader: DataLoader) -> None:
    """End a loader's workers, also if somebody still holds it."""
    loader._iterator = None  # persistent workers end with their iterator


def data_workers(device: torch.device, n_processes: int = 1) -> int:
    """Loader processes: `nnUNet_n_proc_DA` if set; on a GPU one per core up to 12; on a CPU none, it computes.

    The cores are divided among the processes of a team, as far as they are on this machine.

    Raises:
        ConfigurationError: the variable holds no number of processes.
    """
    wanted = processes_of_variable("nnUNet_n_proc_DA")
    if wanted is not None:
        return wanted
    if device.type != "cuda":
        return 0
    here = int(os.environ.get("LOCAL_WORLD_SIZE", n_processes))
    return max(1, min(12, (os.cpu_count() or 1) // here))


def _outlive_sigterm(worker: int) -> None:
    """Slurm sends SIGTERM to all, and the training has to end before its workers; but they must not stay for ever."""
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE_S))
