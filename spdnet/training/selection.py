"""Which weights a stage ends with: by training cases that it does not train on.

A prior that has seen a few volumes often knows them by heart: it finds their targets surely and misses those of others
as surely. The cross-entropy of cases that are held out shows when that begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

Case = TypeVar("Case")

TOLERANCE = 1.10  # of the cross-entropy, times the lowest; see docs/choices.md
_SEED = 20262  # beside the training's


def hold_out(
    cases: Sequence[Case], has_target: Sequence[bool], share: float, seed: int
) -> tuple[list[Case], list[Case]]:
    """Cases to train on, and those to hold out, drawn by the seed; both in the order given.

    Args:
        cases: all.
        has_target: which hold any; the others tell nothing of what is missed, and are trained on.
        share: to hold out of those that do, rounded; at least one of them stays to train on.
        seed: of the training.
    """
    eligible = np.flatnonzero(has_target)
    n = min(math.floor(share * len(eligible) + 0.5), len(eligible) - 1)
    chosen = set(np.random.default_rng([seed, _SEED]).permutation(eligible)[: max(n, 0)].tolist())
    return [c for i, c in enumerate(cases) if i not in chosen], [c for i, c in enumerate(cases) if i in chosen]


class Checked(NamedTuple):
    """What held-out cases say of some weights: pixelwise cross-entropy, and the loss that is trained on."""

    cross_entropy: float
    loss: float


@dataclass(frozen=True)
class _Candidate:
    epoch: int
    checked: Checked
    weights: dict[str, torch.Tensor]


class WeightSelection:
    """A running average of the weights, and what it was when the held-out cases fared best.

    The average, which is what is checked and kept, is as steady as weights at the end of a learning-rate schedule,
    wherever in the schedule it is taken. Best is the lowest loss among the epochs whose cross-entropy is at most
    `TOLERANCE` times the lowest: where that rises clearly, the prior has become sure of what it misses.

    Args:
        weights: what the stage trains, by name; they are read, and written by `averaged` and `restore`.
        decay: of the average, for each step of the optimiser; the first steps count for more.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self._weights = dict(weights)
        self._decay = decay
        self._steps = 0
        self._average = self._copy()
        self._candidates: list[_Candidate] = []

    @property
    def best_epoch(self) -> int:
        """That would be kept now; there has to be one."""
        return self._best().epoch

    @torch.no_grad()
    def update(self, *_: Any) -> None:
        """Take the weights into the average, after a step of the optimiser; fit to be its hook."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 9))
        for name, weight in self._weights.items():
            self._average[name].lerp_(weight, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the network has the average for its weights."""
        own = self._copy()
        self._write(self._average)
        try:
            yield
        finally:
            self._write(own)

    def offer(self, checked: Checked, epoch: int) -> None:
        """Take the average as it is after an epoch for a candidate."""
        average = {name: value.clone() for name, value in self._average.items()}
        found = [*self._candidates, _Candidate(epoch, checked, average)]
        limit = TOLERANCE * min(c.checked.cross_entropy for c in found)
        found = [c for c in found if c.checked.cross_entropy <= limit]
        self._candidates = [c for i, c in enumerate(found) if not any(_beats(o, c) for o in found[:i] + found[i + 1 :])]

    def restore(self) -> None:
        """Give the network what is best."""
        self._write(self._best().weights)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: all there is, tensors on the CPU; the best candidate first."""
        candidates = [
            {"epoch": c.epoch, "checked": tuple(c.checked), "weights": _on_cpu(c.weights)}
            for c in sorted(self._candidates, key=_rank)
        ]
        return {"average": _on_cpu(self._average), "steps": self._steps, "candidates": candidates}

    @staticmethod
    def best_of(state: dict[str, Any] | None) -> dict[str, torch.Tensor]:
        """What a state would have ended with, by name; nothing where there is no state, or nothing was checked yet."""
        return {} if state is None or not state["candidates"] else state["candidates"][0]["weights"]

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._average = self._as_here(state["average"])
        self._candidates = [
            _Candidate(c["epoch"], Checked(*c["checked"]), self._as_here(c["weights"])) for c in state["candidates"]
        ]
        self._steps = state["steps"]

    def _best(self) -> _Candidate:
        return min(self._candidates, key=_rank)

    def _as_here(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self._weights[name].device, copy=True) for name, value in tensors.items()}

    @torch.no_grad()
    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])


def _rank(candidate: _Candidate) -> tuple[float, int]:
    return candidate.checked.loss, candidate.epoch


def _beats(one: _Candidate, other: _Candidate) -> bool:
    """Whether one would be kept before the other whatever comes; of equals the first."""
    return one.checked.cross_entropy <= other.checked.cross_entropy and _rank(one) < _rank(other)


def _on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cpu().clone() for name, value in tensors.items()}
