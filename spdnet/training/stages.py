"""What the two stages have in common: an optimiser over one part of the network, epochs and validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from spdnet.network import SPDNetwork
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import StageSettings
from spdnet.training.losses import segmentation_loss

MAX_GRADIENT_NORM = 12.0  # nnU-Net's


@dataclass(frozen=True)
class ValidationResult:
    """Mean loss, and Dice per class over all validation slices."""

    loss: float
    dice: list[float]

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that occur."""
        return float(np.nanmean(self.dice)) if not np.isnan(self.dice).all() else 0.0


class Stage(ABC):
    """One stage of the training; the trainer drives it epoch by epoch.

    Attributes:
        number: 1 or 2. name: for messages.
    """

    number: int
    name: str

    def __init__(
        self,
        network: SPDNetwork,
        settings: SPDSettings,
        train_cases: list[StoredCase],
        val_cases: list[StoredCase],
        device: torch.device,
        seed: int,
    ) -> None:
        self.network = network
        self.settings = settings
        self.train_cases = train_cases
        self.val_cases = val_cases
        self.device = device
        self.seed = seed
        self.optimizer: torch.optim.Adam
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None

    @property
    @abstractmethod
    def stage_settings(self) -> StageSettings:
        """Length and learning rate."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""

    @abstractmethod
    def train_epoch(self, epoch: int) -> float:
        """One epoch; returns the mean training loss. All draws depend on the seed and the epoch alone."""

    @abstractmethod
    def validate(self) -> ValidationResult:
        """Score the validation cases."""

    def prepare(self) -> None:
        """Build the optimiser; called once before the first epoch and after a resume."""
        s = self.stage_settings
        self.optimizer = torch.optim.Adam(self.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
        if s.scheduler == "plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, factor=0.5, patience=4)

    def freeze_other_parts(self) -> None:
        """Leave gradients to this stage's parameters alone."""
        self.network.requires_grad_(False)
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def finish(self) -> None:  # noqa: B027 - optional hook
        """Release what `prepare` made."""

    def set_learning_rate(self, epoch: int) -> float:
        """Set the learning rate of an epoch by the plans' schedule; returns it."""
        s = self.stage_settings
        if s.scheduler == "poly":
            for group in self.optimizer.param_groups:
                group["lr"] = s.learning_rate * (1 - epoch / s.epochs) ** 0.9
        return float(self.optimizer.param_groups[0]["lr"])

    def after_epoch(self, loss: float) -> None:
        """Tell the plateau schedule the validation loss (without validation cases, the training loss)."""
        if self._plateau is not None:
            self._plateau.step(loss)

    def state(self) -> dict[str, object]:
        """What a resume needs beside the weights."""
        plateau = self._plateau.state_dict() if self._plateau is not None else None
        return {"optimizer": self.optimizer.state_dict(), "plateau": plateau}

    def load_state(self, state: dict[str, dict]) -> None:
        """Inverse of `state`, after `prepare`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The segmentation loss of the plans; shapes as in `segmentation_loss`."""
        return segmentation_loss(logits, target, self.settings.loss, self.stage_settings.focal_alpha)

    def step(self, loss: torch.Tensor) -> None:
        """One step of the optimiser, gradients clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()

    def seed_epoch(self, epoch: int) -> np.random.Generator:
        """Seed torch (dropout) for an epoch, and return a generator for everything else."""
        rng = np.random.default_rng([self.seed, self.number, epoch])
        torch.manual_seed(int(rng.integers(2**63)))
        return rng
