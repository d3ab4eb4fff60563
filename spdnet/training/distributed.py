"""Several processes that train one model together: who they are, what they tell each other, how they are started.

Every process draws the same epoch from the seed, takes its share of every batch, and computes the loss of the whole
batch: sums over the batch are added up over the processes (`Team.total`). A process has the gradient of its own share;
the gradients are added up. Files are written by the main process.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from spdnet.errors import ConfigurationError, SPDError

Item = TypeVar("Item")

# The others wait while one validates or encodes; a process that is gone is noticed by who started it, not by this.
_TIMEOUT = timedelta(hours=12)
_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SECONDS_TO_STOP = 20.0  # after the first process has ended with an error or was told to stop


@dataclass(frozen=True)
class Team:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process' share: every `size`-th item."""
        return list(items[self.rank :: self.size])

    def total(self, local: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, of a tensor that all have; the gradient is that of this process' part alone."""
        return local if self.size == 1 else _Total.apply(local)  # type: ignore[no-any-return]

    def collect(self, shared: list[Item]) -> list[Item]:
        """Inverse of `share` for what became of the items: all of them, in order, in every process."""
        if self.size == 1:
            return shared
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, shared)
        return [parts[i % self.size][i // self.size] for i in range(sum(len(part) for part in parts))]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.collect([flag]))

    def take_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors, which all processes have, by those of the main process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in all others: for files that the first to come makes."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


def current_team() -> Team:
    """The team that this process has joined; a team of one if it has joined none."""
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()


class _Total(torch.autograd.Function):
    """All-reduce whose gradient is the identity: each process differentiates its own part of the sum."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        total = local.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _LossModule(nn.Module):
    """The loss of a batch as a module, so that `DistributedDataParallel` sees forward and backward pass as a whole."""

    def __init__(self, network: nn.Module, loss: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, batch: Any) -> torch.Tensor:
        """The loss of a batch, times the number of processes: their gradients are averaged, and must be summed."""
        return self.loss(batch) * dist.get_world_size()


def parallel_loss(
    network: nn.Module, loss: Callable[[Any], torch.Tensor], some_unused: bool
) -> Callable[[Any], torch.Tensor]:
    """The loss to go back from; in a team its gradients are the sum over all processes.

    Call it when it is settled which parameters are trained. Buffers have to be the same in all processes by then; not
    every version of torch shares them here.

    Args:
        network: holds all parameters.
        loss: of a process' share of a batch, with all sums made by `Team.total`.
        some_unused: whether some of the parameters that are trained do not take part in every loss.
    """
    if current_team().size == 1:
        return loss
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    constant_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {constant_buffers: False, "find_unused_parameters": some_unused}
    return DistributedDataParallel(_LossModule(network, loss), **options)


# ---- starting and stopping --------------------------------------------------------------------------------


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process as one of several."""
    return all(name in os.environ for name in _TORCHRUN_VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def check_processes(n: int, device: torch.device) -> None:
    """Check that `n` processes can train on such a device of this machine.

    Raises:
        ConfigurationError: fewer GPUs than processes, or a device that cannot be shared.
    """
    if n < 1:
        raise ConfigurationError(f"-num_gpus {n}: give 1 or more")
    if n == 1:
        return
    if device.type not in ("cuda", "cpu"):
        raise ConfigurationError(f"-num_gpus {n}: several processes can train on cuda or cpu, not on {device.type}")
    if device.index is not None:
        raise ConfigurationError(
            f"-num_gpus {n} -device {device}: give -device {device.type} without a number; which GPUs are used is "
            "chosen by CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cuda" and torch.cuda.device_count() < n:
        raise ConfigurationError(f"-num_gpus {n}: this machine offers {torch.cuda.device_count()} CUDA devices")


@contextmanager
def joined_team(rank: int, size: int, local_rank: int, local_size: int, device: torch.device) -> Iterator[torch.device]:
    """Join a team for the length of the block, over the address in MASTER_ADDR and MASTER_PORT.

    On the CPU the cores are divided among the processes of this machine, unless OMP_NUM_THREADS says how many threads
    each has; torchrun sets it to 1 where the user does not.

    After an error the process is to end at once (`leave`): the others may wait for it for ever.

    Yields:
        The device of this process.
    """
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", rank=rank, world_size=size, timeout=_TIMEOUT, device_id=device)
    else:
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=_TIMEOUT)
    yield device
    dist.destroy_process_group()


def run_under_torchrun(device: torch.device, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(device, *arguments)` in this process, as one of the team that torchrun has started.

    Errors end the process at once, so that torchrun ends the others.
    """
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in _TORCHRUN_VARIABLES[:4])
    try:
        check_processes(local_size, device)
        with joined_team(rank, size, local_rank, local_size, device) as own:
            function(own, *arguments)
    except SPDError as error:
        print(f"error: {error}", file=sys.stderr)
        leave(1)
    except SystemExit as stop:
        leave(stop.code if isinstance(stop.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        leave(1)


def run_in_processes(n: int, device: torch.device, function: Callable[..., None], *arguments: Any) -> int:
    """Run `function(device, *arguments)` in `n` new processes of this machine that form a team.

    SIGTERM and SIGINT are passed on to them. When one of them ends with an error, the others are ended.

    Args:
        n: how many.
        device: "cuda" (process i gets GPU i) or "cpu".
        function: importable; its arguments must be picklable. It may raise SPDError or SystemExit.

    Returns:
        0, or the exit status of the first process that failed.

    Raises:
        SPDError: what the first process to fail has raised. RuntimeError: another error, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes = [
        context.Process(target=_run_rank, args=(rank, n, device, address, os.getpid(), errors, function, arguments))
        for rank in range(n)
    ]
    with _passed_on(processes):
        for process in processes:
            process.start()
        status = _wait_for_all(processes)
    if status != 0 and not errors.empty():
        kind, message = errors.get()
        raise kind(message)
    return status


def _run_rank(
    rank: int,
    size: int,
    device: torch.device,
    address: dict[str, str],
    parent: int,
    errors: Any,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """A process of a team: join it and work; tell the parent about an error."""
    _end_with_parent(parent)
    os.environ.update(address)
    try:
        with joined_team(rank, size, rank, size, device) as own:
            function(own, *arguments)
    except SPDError as error:
        errors.put((type(error), str(error)))
        leave(1)
    except SystemExit as stop:
        leave(stop.code if isinstance(stop.code, int) else 1)
    except KeyboardInterrupt:
        leave(128 + signal.SIGINT)
    except Exception as error:
        errors.put((RuntimeError, f"process {rank} of {size} failed: {error}\n{traceback.format_exc()}"))
        leave(1)


def leave(status: int) -> None:
    """End at once: tearing down a team whose other processes still wait for this one may wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _wait_for_all(processes: list[Any]) -> int:
    """Wait for the processes; after the first failure the others have some seconds, then they are killed."""
    status, deadline = 0, float("inf")
    running = list(processes)
    while running:
        remaining = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        if not wait([p.sentinel for p in running], remaining):
            for process in running:
                process.kill()
        ended = [p for p in running if p.exitcode is not None]
        failed = [p.exitcode for p in ended if p.exitcode != 0]
        if failed and status == 0:
            status = failed[0] if failed[0] > 0 else 128 - failed[0]
            # one that failed cannot be waited for; one that stopped when asked to will be followed by the others
            deadline = time.monotonic() + (_SECONDS_TO_STOP if status == 128 + signal.SIGTERM else 1.0)
        running = [p for p in running if p not in ended]
    return status


@contextmanager
def _passed_on(processes: list[Any]) -> Iterator[None]:
    """Pass SIGTERM on to the processes while the block runs."""

    def pass_on(number: int, frame: Any) -> None:
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.kill()


def _end_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent dies, however it dies; on Linux only."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
