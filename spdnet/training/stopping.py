"""Being asked to stop: SIGTERM, which Slurm and others send before they kill.

The signal only sets a flag; the training looks at it between batches and cases. Nothing has to be saved then: the last
complete state is on disk already, and an epoch repeats itself exactly.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")

EXIT_STATUS = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM has ended


class TrainingStoppedError(Exception):
    """The training was asked to stop, and has."""


class StopRequest:
    """Whether this process was asked to stop.

    As a context it listens for SIGTERM; outside it never says yes.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def check(self) -> None:
        """Raise TrainingStoppedError if the process was asked to stop."""
        if self.requested:
            raise TrainingStoppedError

    def guard(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with a check before each."""
        for item in items:
            self.check()
            yield item

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
