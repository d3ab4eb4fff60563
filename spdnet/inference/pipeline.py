"""Cases through three steps, prepare - compute - finish, the outer two in workers while this process computes.

Owns the order of work, the bound on how many cases are held in memory, and what becomes of errors; what the steps do
is the caller's business. Workers are processes, or threads of this one, which cost nothing to start; with none of them
the same code is a plain loop.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from spdnet.errors import ConfigurationError, SPDError
from spdnet.parallel import progress_bar

DEFAULT_CUDA_WORKERS = 3  # nnU-Net's
_VARIABLES = ("nnUNet_npp", "nnUNet_nps")


class Named(Protocol):
    """What goes through the pipeline: anything that has the name of its case."""

    @property
    def case(self) -> str:
        """Name for messages."""


Item = TypeVar("Item", bound=Named)
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """How many workers prepare and finish cases; 0 is this process, between two cases.

    Attributes:
        prepare, finish: how many.
        are_threads: they are threads of this process, not processes.
    """

    prepare: int
    finish: int
    are_threads: bool = False

    @classmethod
    def choose(cls, prepare: int | None, finish: int | None, device: torch.device) -> Workers:
        """Processes as asked for, else as `nnUNet_npp` and `nnUNet_nps` say, else 3 on CUDA and one thread elsewhere.

        On a CPU the network itself keeps all cores busy, and a process costs seconds to start: a thread fills the
        gaps. Where only one of the two numbers is given, the other is 0 there.

        Raises:
            ConfigurationError: a number is negative, or a variable holds no number.
        """
        on_cuda = device.type == "cuda"
        asked = prepare is not None or finish is not None or not os.environ.keys().isdisjoint(_VARIABLES)
        if not on_cuda and not asked:
            return cls(1, 1, are_threads=True)
        default = DEFAULT_CUDA_WORKERS if on_cuda else 0
        prepare_variable, finish_variable = _VARIABLES
        return cls(_count(prepare, prepare_variable, "-npp", default), _count(finish, finish_variable, "-nps", default))


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What came of the cases.

    Attributes:
        results: what `finish` returned, in the order of the items; None for cases that failed.
        failures: the error of each case that failed, by its place among the items: cases may share a name.
        cases: the names of all.
    """

    results: list[Result | None]
    failures: dict[int, SPDError]
    cases: list[str]

    def check(self) -> None:
        """Raise one error that names every case that failed, if any did.

        Raises:
            SPDError: of the first failure's class.
        """
        if not self.failures:
            return
        first = next(iter(self.failures.values()))
        if len(self.results) == 1:
            raise first
        listing = "\n  ".join(self._named(index, error) for index, error in self.failures.items())
        raise type(first)(
            f"{len(self.failures)} of {len(self.results)} cases failed, the others are predicted:\n  {listing}"
        ) from first

    def _named(self, index: int, error: SPDError) -> str:
        """An error with the case's name and, if others share it, its number from 1."""
        case = self.cases[index]
        if self.cases.count(case) > 1:
            return f"case {case} (number {index + 1} of {len(self.cases)}): {error}"
        return str(error) if case in str(error) else f"case {case}: {error}"


def run_pipeline(
    items: Sequence[Item],
    prepare: Callable[[Item], Prepared],
    compute: Callable[[Prepared], Computed],
    finish: Callable[[Computed], Result],
    workers: Workers,
    show_progress: bool,
) -> Outcome[Result]:
    """Take every item through the three steps.

    At most `workers.prepare` + 1 cases are prepared ahead and twice `workers.finish` wait to be finished. A case that
    fails with an error of spdnet is left out and the others go on; any other error, and a worker that dies, ends the
    run after the cases that were computed are finished.

    Args:
        items: the cases; picklable if there are processes, as are what the steps return, `prepare` and `finish`.
        prepare, compute, finish: the steps; `compute` runs in this process.
        workers: how many, and of which kind.
        show_progress: a bar of the finished cases.

    Raises:
        SPDError: a worker process died; names the cases it may have been working on.
        RuntimeError: an unexpected error; names its case.
    """
    with (
        _pool(min(workers.prepare, len(items)), workers.are_threads) as preparing,
        _pool(min(workers.finish, len(items)), workers.are_threads) as finishing,
        progress_bar(None, "predicting", len(items), show_progress) as bar,
    ):
        return _Run(items, prepare, compute, finish, workers, preparing, finishing, bar).run()


class _Run(Generic[Item, Prepared, Computed, Result]):
    """The state of one `run_pipeline`."""

    def __init__(
        self,
        items: Sequence[Item],
        prepare: Callable[[Item], Prepared],
        compute: Callable[[Prepared], Computed],
        finish: Callable[[Computed], Result],
        workers: Workers,
        preparing: Executor,
        finishing: Executor,
        bar: Any,
    ) -> None:
        self.items = items
        self.prepare, self.compute, self.finish = prepare, compute, finish
        self.workers = workers
        self.preparing, self.finishing = preparing, finishing
        self.bar = bar
        self.upcoming = iter(range(len(items)))
        self.prepared: deque[tuple[int, Future[Prepared]]] = deque()
        self.finished: deque[tuple[int, Future[Result]]] = deque()
        self.results: list[Result | None] = [None] * len(items)
        self.failures: dict[int, SPDError] = {}

    def run(self) -> Outcome[Result]:
        try:
            while self._prepare_ahead():
                index, future = self.prepared.popleft()
                self._compute(index, future)
                del future  # holds the case
        except Exception:
            self._collect_quietly()
            raise
        while self.finished:
            self._collect()
        return Outcome(self.results, self.failures, [item.case for item in self.items])

    def _prepare_ahead(self) -> bool:
        """Keep the preparing workers busy; False when there is nothing left."""
        ahead = self.workers.prepare + 1 if self.workers.prepare else 1
        while len(self.prepared) < ahead and (index := next(self.upcoming, None)) is not None:
            future = _submit(self.preparing, self.prepare, self.items[index])
            self.prepared.append((index, future))
        return bool(self.prepared)

    def _compute(self, index: int, future: Future[Prepared]) -> None:
        with self._failures_of(index, self.prepared):
            computed = self.compute(future.result())
            while len(self.finished) >= max(1, 2 * self.workers.finish):
                self._collect()
            self.finished.append((index, _submit(self.finishing, self.finish, computed)))

    def _collect(self) -> None:
        """Wait for the case that was handed to `finish` first."""
        index, future = self.finished.popleft()
        with self._failures_of(index, self.finished):
            self.results[index] = future.result()
            self.bar.update()

    def _collect_quietly(self) -> None:
        """Let the computed cases be finished although the run has ended."""
        while self.finished:
            index, future = self.finished.popleft()
            if future.exception() is not None:
                logging.getLogger(__name__).error("case %s: %s", self.items[index].case, future.exception())

    @contextmanager
    def _failures_of(self, index: int, behind: deque[Any]) -> Iterator[None]:
        """Note an error of spdnet as the case's failure; give any other one the case's name."""
        case = self.items[index].case
        try:
            yield
        except (_RunEndingError, KeyboardInterrupt):
            raise
        except SPDError as error:
            self.failures[index] = error
            self.bar.update()
        except BrokenProcessPool as error:
            cases = ", ".join([case, *(self.items[i].case for i, _ in behind)])
            raise _DeadWorkerError(
                f"a worker process died while working on one of these cases: {cases}. It was most likely killed for "
                "lack of memory: use fewer processes (-npp, -nps), or 0 to work in one process only. What is complete "
                "is kept; go on with --continue_prediction."
            ) from error
        except Exception as error:
            raise _UnexpectedError(f"case {case}: {type(error).__name__}: {error}") from error


class _RunEndingError(Exception):
    """Marks errors that end the run, as opposed to one case."""


class _DeadWorkerError(_RunEndingError, SPDError):
    pass


class _UnexpectedError(_RunEndingError, RuntimeError):
    pass


class _ThisProcess(Executor):
    """Runs a call at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _pool(n_workers: int, are_threads: bool) -> Iterator[Executor]:
    """Worker processes or threads, or this process for 0; an error that leaves the block stops them."""
    executor: Executor = _ThisProcess()
    if n_workers and are_threads:
        executor = ThreadPoolExecutor(n_workers)
    elif n_workers:
        context = multiprocessing.get_context("spawn")  # a fork would copy CUDA's state, which breaks it
        level = logging.getLogger("spdnet").getEffectiveLevel()
        executor = ProcessPoolExecutor(n_workers, context, initializer=_start_worker, initargs=(level,))
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def _start_worker(logging_level: int) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging_level, format="%(message)s")


def _submit(executor: Executor, function: Callable[..., Any], argument: Any) -> Future[Any]:
    """`submit`, with a broken pool as the error of the future and not of this call."""
    try:
        return executor.submit(function, argument)
    except BrokenProcessPool as error:
        broken: Future[Any] = Future()
        broken.set_exception(error)
        return broken


def _count(given: int | None, variable: str, option: str, default: int) -> int:
    source = variable if given is None else option
    value = os.environ.get(variable, default) if given is None else given
    try:
        number = int(value)
    except ValueError as error:
        raise ConfigurationError(f"{source} is {value!r}; it must be a number of processes") from error
    if number < 0:
        raise ConfigurationError(f"{source} {number}: the number of processes must be 0 or more")
    return number
