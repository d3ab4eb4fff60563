"""What a training says of itself: a log file, the screen, and the curves of `progress.png`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spdnet.files import whole_file

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's, told apart with any colour vision
_SECONDS_BETWEEN_DRAWINGS = 10.0  # a drawing takes some tenths of a second, an epoch of stage 2 may take not much more


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: losses, Dice per class (empty without validation cases), its smoothed mean, and when it ran.

    Attributes:
        stage, epoch: 1 or 2, and the epoch of the stage, from 0.
        learning_rate: of the schedule, whatever share of it the warm-up has reached.
        started, ended: seconds since 1970.
        waited: seconds of it in which the training waited for data, drawing the epoch included.
    """

    stage: int
    epoch: int
    train_loss: float
    val_loss: float | None
    dice: list[float]
    smoothed_dice: float | None
    learning_rate: float
    started: float
    ended: float
    waited: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the training waited for data."""
        return self.waited / max(self.seconds, 1e-9)


@dataclass
class TrainingLog:
    """Writes one log file per start of a training and collects the epochs of all stages.

    Attributes:
        folder: of the fold.
        is_main: False in a process that says and writes nothing, because another one does.
        records: all epochs so far, those before a resume included.
    """

    folder: Path
    is_main: bool = True
    records: list[EpochRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = self.folder / time.strftime("training_log_%Y_%m_%d_%H_%M_%S.txt")
        self._drawn = float("-inf")  # on the clock `time.monotonic`

    def write(self, text: str) -> None:
        """One line to the screen and, with the time, to the file."""
        if self.is_main:
            print(text, flush=True)
            self.note(text)

    def note(self, text: str) -> None:
        """One line to the file alone."""
        if not self.is_main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {text}\n")

    def add(self, record: EpochRecord, class_names: tuple[str, ...]) -> None:
        """Log an epoch and redraw the curves, unless that was done a moment ago."""
        self.records.append(record)
        parts = [f"epoch {record.epoch}: train loss {record.train_loss:.4f}"]
        if record.val_loss is not None:
            dice = ", ".join(f"{name} {value:.4f}" for name, value in zip(class_names, record.dice, strict=True))
            parts.append(f"val loss {record.val_loss:.4f}, val Dice {dice}, smoothed {record.smoothed_dice:.4f}")
        waiting = f"{100 * record.waiting_share:.0f} % waiting for data"
        parts.append(f"lr {record.learning_rate:.2e}, {record.seconds:.1f} s, {waiting}")
        self.write("; ".join(parts))
        if time.monotonic() - self._drawn > _SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        """Write `progress.png`: losses and Dice above, learning rate and seconds below, stages divided by a line."""
        if not self.is_main or not self.records:
            return
        figure = Figure(figsize=(10, 10))
        figure.subplots_adjust(left=0.09, right=0.91, bottom=0.06, top=0.98, hspace=0.1)
        FigureCanvasAgg(figure)
        above, middle, below = figure.subplots(3, 1, sharex=True)
        x = list(range(len(self.records)))
        above.plot(x, [r.train_loss for r in self.records], color=_BLUE, label="training loss")
        above.set_ylabel("loss")
        self._draw_validation(above)
        above.legend(loc="upper right")
        middle.semilogy(x, [r.learning_rate for r in self.records], color=_BLUE)
        middle.set_ylabel("learning rate")
        below.plot(x, [r.seconds for r in self.records], color=_BLUE)
        below.set_ylabel("seconds per epoch")
        below.set_xlabel("epoch, both stages")
        second = [i for i in x if self.records[i].stage == 2]
        for axis in (above, middle, below) if second else ():
            axis.axvline(second[0] - 0.5, color="0.6", linewidth=1)
        with whole_file(self.folder / "progress.png") as partial:
            figure.savefig(partial, format="png")
        self._drawn = time.monotonic()

    def _draw_validation(self, axis: Axes) -> None:
        validated = [(i, r) for i, r in enumerate(self.records) if r.val_loss is not None]
        if not validated:
            return
        x = [i for i, _ in validated]
        axis.plot(x, [float(r.val_loss or 0) for _, r in validated], color=_ORANGE, label="validation loss")
        right = axis.twinx()
        right.plot(x, [_mean(r.dice) for _, r in validated], ":", color=_GREEN, label="Dice")
        right.plot(x, [float(r.smoothed_dice or 0) for _, r in validated], color=_GREEN, label="Dice, smoothed")
        right.set_ylabel("Dice")
        right.legend(loc="lower right")

    def state(self) -> list[dict[str, Any]]:
        """Plain data for a checkpoint."""
        return [asdict(r) for r in self.records]

    def nnunet_logging(self) -> dict[str, list[Any]]:
        """The epochs of both stages one after the other, as nnU-Net's checkpoints keep them; NaN: not there."""
        return {
            "mean_fg_dice": [_mean(r.dice) for r in self.records],
            "ema_fg_dice": [_or_nan(r.smoothed_dice) for r in self.records],
            "dice_per_class_or_region": [r.dice for r in self.records],
            "train_losses": [r.train_loss for r in self.records],
            "val_losses": [_or_nan(r.val_loss) for r in self.records],
            "lrs": [r.learning_rate for r in self.records],
            "epoch_start_timestamps": [r.started for r in self.records],
            "epoch_end_timestamps": [r.ended for r in self.records],
        }

    def load_state(self, records: list[dict[str, Any]]) -> None:
        """Inverse of `state`."""
        self.records = [EpochRecord(**r) for r in records]


def _mean(values: list[float]) -> float:
    known = [v for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
