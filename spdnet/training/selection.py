"""Which weights a stage ends with: by training cases that it does not train on.

A prior that has seen a few volumes often knows them by heart: it finds their targets surely and misses those of others
as surely. The cross-entropy of cases that are held out shows when that begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

Case = TypeVar("Case")

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


class WeightSelection:
    """A running average of the weights, and what it was when the loss on the held-out cases was lowest.

    The average, which is what is checked and kept, is as steady as weights at the end of a learning-rate schedule,
    wherever in the schedule it is taken.

    Args:
        weights: what the stage trains, by name; they are read, and written by `averaged` and `restore`.
        decay: of the average, for each step of the optimiser; the first steps count for more.

    Attributes:
        best_loss: lowest so far; infinite before the first.
        best_epoch: of it; -1 before the first.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self._weights = dict(weights)
        self._decay = decay
        self._steps = 0
        self._average = self._copy()
        self._best = self._average
        self.best_loss = math.inf
        self.best_epoch = -1

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
        yield
        self._write(own)

    def offer(self, loss: float, epoch: int) -> None:
        """Keep the average as it is after an epoch, if its loss on the held-out cases is the lowest so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self._best = {name: value.clone() for name, value in self._average.items()}

    def restore(self) -> None:
        """Give the network what was kept."""
        self._write(self._best)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: all there is, tensors on the CPU."""
        parts = {"average": self._average, "best": self._best}
        tensors = {name: {n: value.cpu().clone() for n, value in part.items()} for name, part in parts.items()}
        return {**tensors, "steps": self._steps, "best_loss": self.best_loss, "best_epoch": self.best_epoch}

    @staticmethod
    def best_of(state: dict[str, Any] | None) -> dict[str, torch.Tensor]:
        """What a state would have ended with, by name; nothing where there is no state, or nothing was checked yet."""
        return {} if state is None or state["best_epoch"] < 0 else state["best"]

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        devices = {name: value.device for name, value in self._average.items()}
        self._average, self._best = (
            {name: value.to(devices[name]).clone() for name, value in state[part].items()}
            for part in ("average", "best")
        )
        self._steps, self.best_loss, self.best_epoch = state["steps"], state["best_loss"], state["best_epoch"]

    @torch.no_grad()
    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
