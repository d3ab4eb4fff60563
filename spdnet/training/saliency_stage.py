"""Stage 1, the anatomical prior: LoRA and the saliency head learn to find the target without any prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from spdnet.network.precision import autocast
from spdnet.planning import StoredCase
from spdnet.planning.plans import StageSettings
from spdnet.training.sampling import SliceBatches, draw_batches
from spdnet.training.scores import DiceCounter
from spdnet.training.stages import Stage, ValidationResult


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
        self.freeze_other_parts()
        self._train_table = slice_table(self.train_cases)
        self._is_target = np.concatenate([c.target_slices for c in self.train_cases])
        self._val_table = slice_table(self.val_cases)

    def train_epoch(self, epoch: int) -> float:
        """One pass over `iterations_per_epoch` batches."""
        rng = self.seed_epoch(epoch)
        s = self.stage_settings
        batches = draw_batches(self._is_target, s.batch_size, s.iterations_per_epoch, rng)
        seed = [self.seed, self.number, epoch]
        data = SliceBatches(self.train_cases, self._train_table, batches, self.settings.augmentation, seed)
        self.network.train()
        losses = []
        for images, masks in tqdm(self._load(data), total=len(data), desc=f"epoch {epoch}", leave=False):
            with autocast(self.device):
                logits = self.network.saliency_logits(self.network.encode(images))
            loss = self.loss(logits, masks)
            self.step(loss)
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def validate(self) -> ValidationResult:
        """Dice of the saliency map, cut at 0.5."""
        self.network.eval()
        size = self.stage_settings.batch_size
        batches = [np.arange(i, min(i + size, len(self._val_table))) for i in range(0, len(self._val_table), size)]
        counter, losses = DiceCounter(self.network.n_classes), []
        for images, masks in self._load(SliceBatches(self.val_cases, self._val_table, batches, None, [])):
            with autocast(self.device):
                logits = self.network.saliency_logits(self.network.encode(images))
            losses.append(self.loss(logits, masks))
            resized = nn.functional.interpolate(logits.float(), masks.shape[-2:], mode="bilinear")
            counter.add((resized > 0).cpu().numpy(), masks.cpu().numpy())
        return ValidationResult(float(torch.stack(losses).mean()), counter.dice())

    def _load(self, data: SliceBatches) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = DataLoader(
            data, batch_size=None, num_workers=data_workers(self.device), pin_memory=self.device.type == "cuda"
        )
        for images, masks in loader:
            images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            yield images, masks.to(self.device, non_blocking=True)


def slice_table(cases: list[StoredCase]) -> np.ndarray:
    """Case and slice of every slice of some cases: int64 (N, 2)."""
    rows = [np.stack([np.full(len(c.slices), i), np.arange(len(c.slices))], axis=1) for i, c in enumerate(cases)]
    return np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)


def data_workers(device: torch.device) -> int:
    """Loader processes: `nnUNet_n_proc_DA` if set; on a GPU one per core up to 8; on a CPU none, it computes."""
    if "nnUNet_n_proc_DA" in os.environ:
        return int(os.environ["nnUNet_n_proc_DA"])
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
