"""nnU-Net's own training for a given number of epochs; found through nnUNet_extTrainer."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCHS_VARIABLE, SEED_VARIABLE = "NNUNET_EPOCHS", "NNUNET_SEED"
PARTS_ON_CPU = 10


class nnUNetTrainerBudget(nnUNetTrainer):  # noqa: N801  # nnU-Net finds the class by this name
    """nnU-Net's trainer with `NNUNET_EPOCHS` epochs, its learning rate decaying over these.

    A checkpoint follows every epoch, whole or not at all, and SIGTERM ends the process. On a CPU, where an epoch of
    250 steps takes long, it is cut into ten. The validation after the training is left out: with fold "all" it would
    predict the training volumes.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  # nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        parts = PARTS_ON_CPU if device.type == "cpu" else 1
        self.num_epochs = parts * int(os.environ[EPOCHS_VARIABLE])
        self.num_iterations_per_epoch //= parts
        self.num_val_iterations_per_epoch //= parts
        self.save_every = 1

    def initialize(self) -> None:
        """Draw the weights by `NNUNET_SEED`."""
        seed = int(os.environ.get(SEED_VARIABLE, "0"))
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        super().initialize()

    def run_training(self) -> None:
        """Train; SIGTERM is an exit, so that the processes that prepare data end too."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        super().run_training()

    def save_checkpoint(self, filename: str) -> None:
        """Write it beside and move it."""
        partial = Path(f"{filename}.partial")
        super().save_checkpoint(str(partial))
        partial.replace(filename)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing."""
