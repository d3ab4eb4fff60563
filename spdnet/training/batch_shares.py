"""How a batch of stage 2 is shared by several processes.

Runs of adjacent slices stay whole, so that the consistency term keeps its pairs; only where a batch has fewer runs than
there are processes are the longest cut in half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np

from spdnet.training.distributed import Team


class Run(Protocol):
    """A dataclass with the rows that follow each other."""

    @property
    def indices(self) -> np.ndarray:
        """int64 (n,)."""


AnyRun = TypeVar("AnyRun", bound=Run)


def share_batches(batches: Sequence[list[AnyRun]], team: Team) -> list[list[AnyRun]]:
    """This process' share of each batch, at least one row; all processes get as many batches.

    A batch of fewer rows than processes, as the last of an epoch may be, is left out.
    """
    if team.size == 1:
        return list(batches)
    large_enough = [batch for batch in batches if sum(len(run.indices) for run in batch) >= team.size]
    return [balanced_shares(batch, team.size)[team.rank] for batch in large_enough]


def balanced_shares(runs: list[AnyRun], n: int) -> list[list[AnyRun]]:
    """Deal runs out in `n` shares, the longest first, each to the share with the fewest rows."""
    runs = list(runs)
    while len(runs) < n:
        longest = max(range(len(runs)), key=lambda i: len(runs[i].indices))
        run: Any = runs.pop(longest)
        half = len(run.indices) // 2
        runs += [replace(run, indices=run.indices[:half]), replace(run, indices=run.indices[half:])]
    shares: list[list[AnyRun]] = [[] for _ in range(n)]
    for run in sorted(runs, key=lambda r: -len(r.indices)):
        min(shares, key=lambda share: sum(len(r.indices) for r in share)).append(run)
    return shares
