"""Services that draw a training's curves: TensorBoard and Weights & Biases, both optional.

They are told what the log is told. Nothing is read back from them, and a training does not depend on them.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from spdnet.errors import ConfigurationError
from spdnet.training.log import EpochRecord

TENSORBOARD_FOLDER = "tensorboard"


class Tracker(Protocol):
    """What the trainer tells of every epoch."""

    def add(self, record: EpochRecord, step: int, class_names: tuple[str, ...]) -> None:
        """One epoch; `step` counts the epochs of both stages from 0."""

    def close(self) -> None:
        """The training has ended, whether it is done or not."""


def scalars(record: EpochRecord, class_names: tuple[str, ...]) -> dict[str, float]:
    """An epoch as named numbers; what was not measured is left out."""
    values = {
        "stage": record.stage,
        "loss/train": record.train_loss,
        "loss/val": record.val_loss,
        "dice/smoothed": record.smoothed_dice,
        "learning_rate": record.learning_rate,
        "seconds/epoch": record.seconds,
        "seconds/waiting_for_data": record.waited,
        **{f"dice/{name}": value for name, value in zip(class_names, record.dice, strict=False)},
    }
    return {name: float(value) for name, value in values.items() if value is not None}


class TensorBoardTracker:
    """Writes event files into a folder.

    Args:
        folder: for them.
        first_step: epochs from here on are drawn anew, as those after a resume are.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        module = _optional("torch.utils.tensorboard", "tensorboard", "--tensorboard")
        self._writer = module.SummaryWriter(str(folder), purge_step=first_step)

    def add(self, record: EpochRecord, step: int, class_names: tuple[str, ...]) -> None:
        """See `Tracker`."""
        for name, value in scalars(record, class_names).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandbTracker:
    """Logs to Weights & Biases, or offline into a folder if WANDB_MODE says so.

    Args:
        folder: for its files; the run's identity is kept there, so that a resumed training continues its curves.
        project: WANDB_PROJECT if set, else this.
        name: of the run.
        settings: what to show as the run's configuration.
        resumed: whether the training continues an earlier one.
    """

    def __init__(self, folder: Path, project: str, name: str, settings: dict[str, Any], resumed: bool) -> None:
        module = _optional("wandb", "wandb", "--wandb")
        folder.mkdir(parents=True, exist_ok=True)
        identity = folder / "wandb_run_id.txt"
        known = identity.read_text(encoding="utf-8").strip() if resumed and identity.exists() else None
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", project),
            name=name,
            dir=str(folder),
            config=settings,
            id=known,
            resume="allow" if known else None,
        )
        identity.write_text(self._run.id, encoding="utf-8")

    def add(self, record: EpochRecord, step: int, class_names: tuple[str, ...]) -> None:
        """See `Tracker`."""
        self._run.log(scalars(record, class_names), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def _optional(module: str, extra: str, option: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{option} needs a package that is not installed ({error}); run pip install 'spdnet[{extra}]'"
        ) from error
