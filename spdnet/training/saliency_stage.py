"""Stage 1, the anatomical prior: LoRA and the saliency head learn to find the target without any prompt."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from spdnet.network.precision import autocast
from spdnet.planning import StoredCase
from spdnet.planning.plans import StageSettings
from spdnet.training.sampling import SliceBatch, SliceBatches, draw_batches
from spdnet.training.scores import pixel_counts
from spdnet.training.stages import Batches, Stage


class SaliencyStage(Stage):
    """Trains on single slices, augmented afresh every time."""

    number = 1
    name = "stage 1 (saliency)"

    @property
    def stage_settings(self) -> StageSettings:
        """The plans' stage 1."""
        return self.settings.stage1

    def parameters(self) -> list[nn.Parameter]:
        """LoRA, saliency head, channel projection."""
        return list(self.network.stage1_parameters().values())

    def prepare(self) -> None:
        """List the slices; see the base class."""
        super().prepare()
        self._train_table = slice_table(self.train_cases)
        self._is_target = np.concatenate([c.target_slices for c in self.train_cases])
        self._val_table = slice_table(self.val_cases)

    def training_batches(self, epoch: int) -> Batches:
        """`iterations_per_epoch` batches of slices."""
        rng = self.seed_epoch(epoch)
        s = self.stage_settings
        batches = draw_batches(self._is_target, s.batch_size, s.iterations_per_epoch, rng)
        seed = [self.seed, self.number, epoch]
        return self._loader(
            SliceBatches(self.train_cases, self._train_table, batches, self.settings.augmentation, seed)
        )

    def training_loss(self, batch: SliceBatch) -> torch.Tensor:
        """Loss of the saliency map."""
        batch = batch.to(self.device)
        with autocast(self.device):
            logits = self.network.saliency_logits(self.network.encode(batch.images))
        return self.loss(logits, batch.masks, batch.valid)

    def validation_batches(self) -> Batches:
        """All slices of the validation cases, in order."""
        size = self.stage_settings.batch_size
        batches = [np.arange(i, min(i + size, len(self._val_table))) for i in range(0, len(self._val_table), size)]
        return self._loader(SliceBatches(self.val_cases, self._val_table, batches, None, []))

    def validation_scores(self, batch: SliceBatch) -> dict[str, np.ndarray]:
        """Loss and pixel counts of the saliency map, cut at 0.5."""
        batch = batch.to(self.device)
        with autocast(self.device):
            logits = self.network.saliency_logits(self.network.encode(batch.images))
        loss = self.loss(logits, batch.masks, batch.valid)
        found = nn.functional.interpolate(logits.float(), batch.masks.shape[-2:], mode="bilinear") > 0
        valid = None if batch.valid is None else batch.valid.cpu().numpy()
        return {"loss": loss.cpu().numpy(), **pixel_counts(found.cpu().numpy(), batch.masks.cpu().numpy(), valid)}

    def _loader(self, data: SliceBatches) -> DataLoader:
        pin = self.device.type == "cuda"
        return DataLoader(data, batch_size=None, num_workers=data_workers(self.device), pin_memory=pin)


def slice_table(cases: list[StoredCase]) -> np.ndarray:
    """Case and slice of every slice of some cases: int64 (N, 2)."""
    rows = [np.stack([np.full(len(c.slices), i), np.arange(len(c.slices))], axis=1) for i, c in enumerate(cases)]
    return np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)


def data_workers(device: torch.device) -> int:
    """Loader processes: `nnUNet_n_proc_DA` if set; on a GPU one per core up to 8; on a CPU none, it computes."""
    if "nnUNet_n_proc_DA" in os.environ:
        return int(os.environ["nnUNet_n_proc_DA"])
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
