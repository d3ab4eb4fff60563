"""Where a setting is worked on: nnU-Net's three folders of its own, and commands run in them until a deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from evidence.jobs import Budget, Setting
from spdnet.files import write_json

POLL_S = 0.1
GRACE_S = 120  # for a command that was told to stop to write its checkpoint
EXECUTABLES = Path(sys.executable).parent


class OutOfTime(Exception):  # noqa: N818 (not an error: the work goes on in the next run)
    """The deadline is there; what was done is kept and the same call goes on with it."""


class CommandFailed(Exception):  # noqa: N818 (the name says what happened)
    """A command ended with an error."""


class Deadline:
    """A moment at which work stops; `None` minutes: never."""

    def __init__(self, minutes: float | None = None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def remaining_s(self) -> float | None:
        """Seconds left, 0 at the least; None: no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises OutOfTime if nothing is left."""
        if self.remaining_s == 0.0:
            raise OutOfTime


@dataclass
class Measurement:
    """Seconds, all attempts together, and the largest resident memory, MiB (0: not known)."""

    seconds: float = 0.0
    peak_mib: float = 0.0


class Workspace:
    """The folders of a setting, shared by its methods.

    Attributes:
        setting: the setting.
        root: holds `nnUNet_raw`, `nnUNet_preprocessed`, `nnUNet_results`, `prompts/NOISE/` (test prompts,
            CASE.mrk.json), `predictions/METHOD@NOISE/`, `logs/` and `measurements.json`.
        raw: the raw data set, nnU-Net's form, with `promptsTr`, `imagesTs`, `labelsTs`. `prior`: a raw data set
            with the same images whose labels are what stage 1 is to learn, or None where that is the target.
    """

    def __init__(self, setting: Setting, work_root: Path, device: str | None = None) -> None:
        self.setting = setting
        self.root = (work_root / setting.path).resolve()
        self.device = device
        self.deadline = Deadline()
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def budget(self) -> Budget:
        """The profile's numbers."""
        return self.setting.budget

    @property
    def raw(self) -> Path:
        """The raw data set."""
        (found,) = [
            f for f in (self.root / "nnUNet_raw").glob("Dataset*") if not f.name.endswith(("_Prior", "Channel"))
        ]
        return found

    @property
    def prior(self) -> Path | None:
        """The raw data set that stage 1 is to learn, if it is another."""
        return next((self.root / "nnUNet_raw").glob("Dataset*_Prior"), None)

    def prompts(self, noise: str) -> Path:
        """Folder of test prompts, one CASE.mrk.json per test case."""
        return self.root / "prompts" / noise

    def results(self, dataset: str | None = None) -> Path:
        """Folder of a data set's models in nnUNet_results."""
        return self.root / "nnUNet_results" / (dataset or self.raw.name)

    def preprocessed(self, dataset: str | None = None) -> Path:
        """Folder of a data set in nnUNet_preprocessed."""
        return self.root / "nnUNet_preprocessed" / (dataset or self.raw.name)

    def environment(self) -> dict[str, str]:
        """The process's environment with nnU-Net's three variables set to this workspace's folders."""
        folders = {n: str(self.root / n) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        benchmarks = Path(__file__).parents[1]
        path = os.pathsep.join(filter(None, [str(benchmarks), os.environ.get("PYTHONPATH")]))
        return {**os.environ, **folders, "SPD_extTrainer": str(benchmarks / "trainers"), "PYTHONPATH": path}

    def run(self, command: Sequence[str | Path], log: str, counts_for: str | None = None) -> None:
        """Run a command of this Python's environment in these folders, its output appended to `logs/LOG.txt`.

        `["python", "-m", "evidence.methods.MODULE", ...]` runs a module of the benchmarks.

        At the deadline it is told to stop (SIGTERM), given time to write its checkpoint, and OutOfTime is raised.
        Its seconds and memory are noted for `counts_for` ("METHOD/train").

        Raises:
            CommandFailed: it ended with an error; the message has the end of its output.
        """
        self.deadline.check()
        words = [str(w) for w in command]
        program = EXECUTABLES / words[0]
        if program.exists():
            words[0] = str(program)
        file = self.root / "logs" / f"{log}.txt"
        file.parent.mkdir(exist_ok=True)
        with file.open("a", encoding="utf-8") as output, self.measured(counts_for) as measure:
            output.write(f"$ {' '.join(words)}\n")
            output.flush()
            process = subprocess.Popen(
                words, env=self.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                status = _wait(process, self.deadline.remaining_s, measure)
            except TimeoutError:
                process.send_signal(signal.SIGTERM)
                try:
                    _wait(process, GRACE_S, measure)
                except TimeoutError:
                    process.kill()
                    process.wait()
                raise OutOfTime from None
            except BaseException:
                process.kill()
                process.wait()
                raise
        if status:
            end = file.read_text(errors="replace", encoding="utf-8").replace("\r", "\n")[-2000:]
            raise CommandFailed(f"{' '.join(words)} ended with status {status}:\n{end}")

    @contextmanager
    def measured(self, counts_for: str | None) -> Iterator[Measurement]:
        """Add the seconds spent inside to those of "METHOD/train" or the like, whatever ends it, and its memory."""
        started, measurement = time.monotonic(), Measurement()
        try:
            yield measurement
        finally:
            if counts_for is not None:
                known = self.measurements()
                before = known.get(counts_for, Measurement())
                seconds = before.seconds + time.monotonic() - started
                known[counts_for] = Measurement(seconds, max(before.peak_mib, measurement.peak_mib))
                write_json(self.root / "measurements.json", {k: asdict(m) for k, m in known.items()})

    def measurements(self) -> dict[str, Measurement]:
        """What was measured so far, by "METHOD/train" and so on."""
        file = self.root / "measurements.json"
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return {name: Measurement(**numbers) for name, numbers in content.items()}


def _wait(process: subprocess.Popen[bytes], limit_s: float | None, measure: Measurement) -> int:
    """Exit status of a process; notes its largest resident memory, and that of any process below it.

    The system's own account of a child's memory is of no use: it begins with what the parent held.

    Raises:
        TimeoutError: it still runs after the limit.
    """
    end = None if limit_s is None else time.monotonic() + limit_s
    while True:
        measure.peak_mib = max(measure.peak_mib, *(_peak_mib(pid) for pid in _family(process.pid)))
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if end is not None and time.monotonic() > end:
                raise TimeoutError from None


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:  # it has ended, or this is not Linux
        children = []
    return [pid, *(p for child in children for p in _family(int(child)))]


def _peak_mib(pid: int) -> float:
    """Largest resident memory of a running process, 0 if that cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
