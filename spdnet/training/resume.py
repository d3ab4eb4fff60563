"""Taking up a stage where a checkpoint left it: its optimiser, and the schedule of its rates.

Both are what the trainer's `configure_optimizers` makes of them, which may be a variant's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR, ReduceLROnPlateau

from spdnet.errors import ModelError
from spdnet.network.checkpoint import BEST, FINAL, LATEST
from spdnet.planning.plans import StageSettings

_RATES = ("scheduler", "learning_rate", "weight_decay", "epochs")  # settings that a change of is taken up
_COMPUTED_HERE = ("fused", "foreach")  # how a group is computed, which belongs to the machine


@dataclass(frozen=True)
class StageState:
    """What a checkpoint has of a stage that was running.

    Attributes:
        optimizer, schedule: their state dictionaries.
        selection: that of the choice of weights in stage 1; None without one.
        settings: of the stage, when the checkpoint was written.
    """

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    selection: dict[str, Any] | None
    settings: dict[str, Any]


def resume_checkpoint(fold_folder: Path) -> Path | None:
    """The checkpoint that `--c` continues: final, else latest, else best, as nnU-Net; None if there is none."""
    for name in (FINAL, LATEST, BEST):
        if (fold_folder / name).exists():
            return fold_folder / name
    return None


def take_up(
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler | ReduceLROnPlateau,
    state: StageState,
    now: StageSettings,
    epoch: int,
) -> str | None:
    """Bring an optimiser and its schedule to where a checkpoint left them, with the rates of now.

    Args:
        optimizer, schedule: as `configure_optimizers` has just made them.
        state: of the checkpoint.
        now: the stage's settings. Where these are other than the checkpoint's, the rates and decays are those that
            the optimiser would have at this epoch, had it been made as it is now.
        epoch: of the stage, from 0, that comes next.

    Returns:
        What is to be said of it, if anything.

    Raises:
        ModelError: the checkpoint's optimiser has other groups of parameters.
    """
    made = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(_computed_here(state.optimizer, made))
    if all(state.settings[name] == getattr(now, name) for name in _RATES):
        schedule.load_state_dict(state.schedule)
    elif isinstance(schedule, PolynomialLR):
        schedule.last_epoch = epoch
        for group, fresh in zip(optimizer.param_groups, made, strict=True):
            group["weight_decay"], group["initial_lr"] = fresh["weight_decay"], fresh["initial_lr"]
            group["lr"] = fresh["initial_lr"] * (1 - epoch / schedule.total_iters) ** schedule.power
    elif isinstance(schedule, ReduceLROnPlateau):
        was_plateau = state.settings["scheduler"] == now.scheduler
        if was_plateau:
            schedule.load_state_dict(state.schedule)
        before = state.settings["learning_rate"]
        for group, fresh in zip(optimizer.param_groups, made, strict=True):
            group["weight_decay"] = fresh["weight_decay"]
            if not was_plateau:
                group["lr"] = fresh["lr"]
            elif before:  # it may have been lowered by now
                group["lr"] *= now.learning_rate / before
    else:
        schedule.load_state_dict(state.schedule)
        return f"the rates stay as they were: how {type(schedule).__name__} changes is not known"
    return None


def _computed_here(state: dict[str, Any], made: list[dict[str, Any]]) -> dict[str, Any]:
    """An optimiser's state, to be computed in the way of this machine, which may not be the one that stored it."""
    groups = state["param_groups"]
    if len(groups) != len(made):
        raise ModelError(
            f"the checkpoint's optimiser has {len(groups)} groups of parameters, the trainer's now {len(made)}; "
            "restore its configure_optimizers, or train anew"
        )
    here = [{name: group[name] for name in _COMPUTED_HERE if name in group} for group in made]
    return {**state, "param_groups": [{**group, **own} for group, own in zip(groups, here, strict=True)]}
