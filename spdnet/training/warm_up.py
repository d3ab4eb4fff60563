"""The beginning of a stage: its learning rate rises linearly.

Adam's first steps are as long for every weight, whatever the gradient, since it has seen no other to compare with. By
these, SAM's decoder can come to answer every prompt with an empty mask, which no later step undoes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def warm_up_share(step: int, warmup_iterations: int) -> float:
    """The share of the learning rate that a step is made with, above 0 and at most 1.

    Args:
        step: of the stage, from 0.
        warmup_iterations: how many steps the rise takes; 0 for none.
    """
    return min((step + 1) / max(warmup_iterations, 1), 1.0)


@contextmanager
def scaled_rate(optimizer: torch.optim.Optimizer, share: float) -> Iterator[None]:
    """Within it the optimiser has a share of its learning rate; the schedule never sees that."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * share
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
