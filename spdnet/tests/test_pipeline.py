"""The pipeline: order, the bound on cases in memory, errors, and real worker processes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from spdnet.errors import ConfigurationError, DatasetError, SPDError
from spdnet.inference import pipeline
from spdnet.inference.pipeline import Workers, run_pipeline


@dataclass(frozen=True)
class Case:
    case: str


CASES = [Case(f"case_{i}") for i in range(6)]
SEQUENTIAL, PARALLEL = Workers(0, 0), Workers(2, 1)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads instead of processes, which take seconds to start, unless the test is marked slow."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(pipeline, "ProcessPoolExecutor", lambda n, *more, **named: ThreadPoolExecutor(n))


def prepare(item: Case) -> str:
    return item.case


def finish(computed: str) -> str:
    return computed.upper()


def run(workers: Workers, prepare: Any = prepare, compute: Any = lambda p: p + "!", finish: Any = finish) -> Any:
    return run_pipeline(CASES, prepare, compute, finish, workers, False)


@pytest.mark.parametrize("workers", [SEQUENTIAL, PARALLEL, Workers(3, 0), Workers(0, 2), Workers(9, 9)])
def test_results_come_in_the_order_of_the_cases(workers: Workers) -> None:
    def slow_for_some(item: Case) -> str:
        time.sleep(0.02 * (item.case in ("case_0", "case_3")))
        return prepare(item)

    outcome = run(workers, slow_for_some)
    assert outcome.results == [f"CASE_{i}!" for i in range(6)]
    outcome.check()


def test_in_one_process_a_case_is_done_before_the_next_is_read() -> None:
    log: list[str] = []
    steps = {name: (lambda x, n=name: log.append(n) or x) for name in ("prepare", "compute", "finish")}
    run(SEQUENTIAL, **steps)
    assert log == ["prepare", "compute", "finish"] * len(CASES)


def test_the_number_of_cases_in_flight_is_bounded() -> None:
    """With a slow network cases wait to be computed, with a slow disk to be written: neither may grow."""
    lock, ahead, behind = threading.Lock(), [0], [0]
    most_ahead, most_behind = [0], [0]

    def prepare_counting(item: Case) -> Case:
        with lock:
            ahead[0] += 1
            most_ahead[0] = max(most_ahead[0], ahead[0])
        return item

    def compute(item: Case) -> Case:
        time.sleep(0.02)
        with lock:
            ahead[0] -= 1
            behind[0] += 1
            most_behind[0] = max(most_behind[0], behind[0])
        return item

    def finish_slowly(item: Case) -> None:
        time.sleep(0.06)
        with lock:
            behind[0] -= 1

    many = [Case(str(i)) for i in range(12)]
    run_pipeline(many, prepare_counting, compute, finish_slowly, Workers(2, 1), False)
    assert 2 <= most_ahead[0] <= 3
    assert 2 <= most_behind[0] <= 3


@pytest.mark.parametrize("workers", [SEQUENTIAL, PARALLEL])
@pytest.mark.parametrize("step", ["prepare", "compute", "finish"])
def test_a_bad_case_does_not_cost_the_others(workers: Workers, step: str) -> None:
    def fail(x: Any) -> Any:
        if "case_2" in str(x):
            raise DatasetError("broken")
        return {"prepare": prepare, "compute": str, "finish": str}[step](x)

    outcome = run(workers, **{step: fail})
    assert [r is None for r in outcome.results] == [False, False, True, False, False, False]
    with pytest.raises(DatasetError, match=r"1 of 6 cases failed, the others are predicted:\n  case case_2: broken"):
        outcome.check()


@pytest.mark.parametrize("workers", [SEQUENTIAL, PARALLEL])
@pytest.mark.parametrize("step", ["prepare", "compute", "finish"])
def test_an_unexpected_error_gets_the_name_of_its_case_and_what_is_computed_is_finished(
    workers: Workers, step: str
) -> None:
    finished: list[str] = []

    def fail(x: Any) -> Any:
        if "case_2" in str(x):
            raise ZeroDivisionError("oh")
        return x if step != "finish" else note(x)

    def note(x: Any) -> None:
        time.sleep(0.05)  # so that one waits behind it
        finished.append(str(x))

    steps: dict[str, Any] = {"compute": str, "finish": note, step: fail}
    with pytest.raises(RuntimeError, match="case case_2: ZeroDivisionError: oh") as caught:
        run(workers, **steps)
    assert not isinstance(caught.value, SPDError)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(finished) >= 2


def test_no_error_is_lost_of_cases_that_share_a_name() -> None:
    places = iter(range(3))

    def fail(item: Case) -> str:
        place = next(places)
        if place < 2:
            raise DatasetError(f"CT broken {place}")
        return item.case

    outcome = run_pipeline([Case("CT"), Case("CT"), Case("MR")], fail, str, str, SEQUENTIAL, False)
    assert outcome.results == [None, None, "MR"]
    listing = r"\n  case CT \(number 1 of 3\): CT broken 0\n  case CT \(number 2 of 3\): CT broken 1$"
    with pytest.raises(DatasetError, match=f"^2 of 3 cases failed, the others are predicted:{listing}"):
        outcome.check()


def test_a_single_failing_case_raises_its_own_error() -> None:
    def fail(x: Case) -> Case:
        raise DatasetError("plain")

    with pytest.raises(DatasetError, match="^plain$"):
        run_pipeline(CASES[:1], fail, str, str, SEQUENTIAL, False).check()


def test_threads_prepare_and_finish_beside_the_computation_in_this_process() -> None:
    """Each step waits for one of the next case, or of the one before: nothing would come of a plain loop."""
    computing, finished = threading.Event(), threading.Event()

    def prepare_second(item: Case) -> str:
        assert item.case == "case_0" or computing.wait(10)
        return item.case

    def compute(prepared: str) -> str:
        computing.set()
        assert prepared != "case_2" or finished.wait(10)
        return f"{prepared} {os.getpid()}"

    def finish_first(computed: str) -> str:
        finished.set()
        return f"{computed} {os.getpid()}"

    outcome = run(Workers(1, 1, are_threads=True), prepare_second, compute, finish_first)
    outcome.check()
    assert outcome.results == [f"case_{i} {os.getpid()} {os.getpid()}" for i in range(6)]


def test_no_cases_are_no_results() -> None:
    assert run_pipeline([], prepare, str, str, PARALLEL, False).results == []


def test_numbers_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_npp", raising=False)
    monkeypatch.delenv("nnUNet_nps", raising=False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert Workers.choose(None, None, cpu) == Workers(1, 1, are_threads=True)
    assert Workers.choose(0, None, cpu) == Workers(0, 0)
    assert Workers.choose(None, None, cuda) == Workers(3, 3)
    assert Workers.choose(1, 0, cuda) == Workers(1, 0)
    monkeypatch.setenv("nnUNet_npp", "5")
    assert Workers.choose(None, None, cpu) == Workers(5, 0)
    assert Workers.choose(2, None, cpu) == Workers(2, 0)
    monkeypatch.setenv("nnUNet_nps", "many")
    with pytest.raises(ConfigurationError, match="nnUNet_nps is 'many'"):
        Workers.choose(None, None, cpu)
    with pytest.raises(ConfigurationError, match="-npp -1"):
        Workers.choose(-1, 0, cpu)


# ---- real processes ---------------------------------------------------------------------------------------


def prepare_in_worker(item: Case) -> tuple[str, int]:
    if item.case == "case_1":
        raise DatasetError("case_1 is broken")
    return item.case, os.getpid()


def finish_in_worker(computed: tuple[str, int]) -> tuple[str, int, int]:
    return *computed, os.getpid()


def die(item: Case) -> str:
    if item.case == "case_3":
        os.kill(os.getpid(), signal.SIGKILL)
    return item.case


def die_finishing(computed: str) -> str:
    if computed == "case_0":
        os.kill(os.getpid(), signal.SIGKILL)
    return computed


@pytest.mark.slow
def test_worker_processes_prepare_and_finish() -> None:
    outcome = run_pipeline(CASES, prepare_in_worker, lambda p: p, finish_in_worker, Workers(1, 1), False)
    assert [r and r[0] for r in outcome.results] == ["case_0", None, "case_2", "case_3", "case_4", "case_5"]
    processes = {r[1:] for r in outcome.results if r}
    assert len(processes) == 1
    assert len({os.getpid(), *processes.pop()}) == 3
    assert list(outcome.failures) == [1]


@pytest.mark.slow
def test_a_killed_worker_is_reported_with_its_cases() -> None:
    with pytest.raises(SPDError, match=r"a worker process died .*case_3.*lack of memory: use fewer .*-npp"):
        run_pipeline(CASES, die, str, str, Workers(1, 0), False)
    with pytest.raises(SPDError, match=r"a worker process died .*: case_0") as caught:
        run_pipeline(CASES, prepare, str, die_finishing, Workers(0, 1), False)
    named = re.findall(r"case_\d", str(caught.value))
    assert named == sorted(set(named))
