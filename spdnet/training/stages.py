"""What the two stages have in common: which weights they train, what their batches are, and what a batch costs.

A stage knows nothing of optimisers, epochs and files; these are the trainer's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from spdnet.network import SPDNetwork
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import StageSettings
from spdnet.training.distributed import current_team
from spdnet.training.losses import Total, alone, segmentation_loss
from spdnet.training.selection import Checked
from spdnet.training.stopping import StopRequest


class Batches(Protocol):
    """The batches of one epoch: iterable once or more, of known number."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Stage(ABC):
    """One stage of the training.

    Attributes:
        number: 1 or 2. name: for messages.
        chooses_weights: whether it is not trained on `held_out_cases`, but ends with the weights that suit them best.
        held_out_cases: those that stage 1 is not trained on: there the saliency is as on new cases.
        some_unused: whether some of the parameters do not take part in every loss.
        team: the processes that train together. Batches, training and validation alike, are this process' share; the
            training loss is that of the whole batch.
        stop: to be looked at in what takes long; set by the trainer.
    """

    number: int
    name: str
    some_unused: bool = False
    chooses_weights: bool = False

    def __init__(
        self,
        network: SPDNetwork,
        settings: SPDSettings,
        train_cases: list[StoredCase],
        val_cases: list[StoredCase],
        device: torch.device,
        seed: int,
        held_out_cases: Sequence[StoredCase] = (),
    ) -> None:
        self.network = network
        self.settings = settings
        self.train_cases = train_cases
        self.val_cases = val_cases
        self.device = device
        self.seed = seed
        self.held_out_cases = list(held_out_cases)
        self.team = current_team()
        self.stop = StopRequest()

    @property
    @abstractmethod
    def stage_settings(self) -> StageSettings:
        """Length and learning rate."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""

    @abstractmethod
    def training_batches(self, epoch: int) -> Batches:
        """This process' share of the batches of an epoch, as many in every process.

        All draws depend on the seed and the epoch alone; torch is seeded for dropout.
        """

    @abstractmethod
    def training_loss(self, batch: Any) -> torch.Tensor:
        """Forward pass of a training batch; the loss to go back from."""

    @abstractmethod
    def validation_batches(self) -> Batches:
        """This process' share of the validation cases, in batches; the same in every epoch."""

    @abstractmethod
    def validation_scores(self, batch: Any) -> dict[str, np.ndarray]:
        """Forward pass of a validation batch: "loss" and the counts of `pixel_counts`."""

    def held_out_batches(self) -> Batches:
        """This process' share of the cases that are held out to choose the stage's weights by, in batches."""
        return []

    def check_held_out(self, batch: Any) -> Checked:
        """What a batch of held-out cases says of the weights."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Leave gradients to this stage's parameters alone; called once before the first epoch or after a resume."""
        self.network.requires_grad_(False)
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def begin(self) -> None:  # noqa: B027 - optional hook
        """Bring the weights into the state that the stage starts from; called once, also if it has no epochs."""

    def decide(self, class_names: Sequence[str]) -> list[str]:
        """Settle by the training cases what the plans leave to them; called before the stage's very first epoch.

        Returns:
            What was found, in sentences for the log.
        """
        return []

    def finish(self) -> None:  # noqa: B027 - optional hook
        """Release what `prepare` made."""

    def describe(self, batch: Any) -> list[str]:
        """What a training batch is made of, in words, for reports of problems."""
        return []

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None, total: Total = alone
    ) -> torch.Tensor:
        """The segmentation loss of the plans; arguments as in `segmentation_loss`."""
        return segmentation_loss(logits, target, self.settings.loss, self.stage_settings.focal_alpha, valid, total)

    def seed_epoch(self, epoch: int) -> np.random.Generator:
        """Seed torch (dropout) for an epoch, and return a generator for everything else, the same in every process."""
        rng = np.random.default_rng([self.seed, self.number, epoch])
        torch.manual_seed(int(rng.integers(2**63)) + self.team.rank)
        return rng
