"""Stage 1, the anatomical prior: LoRA and the saliency head learn to find the target without any prompt."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from spdnet.network.precision import autocast
from spdnet.planning import StoredCase
from spdnet.planning.plans import LossSettings, StageSettings
from spdnet.training.loading import RequestList, data_loader, end_workers
from spdnet.training.losses import segmentation_loss
from spdnet.training.sampling import BatchRequest, SliceBatch, SliceBatches, draw_batches
from spdnet.training.scores import pixel_counts
from spdnet.training.selection import Checked
from spdnet.training.stages import Batches, Stage

_CROSS_ENTROPY = LossSettings(dice_weight=0.0, focal_weight=1.0, focal_gamma=0.0)
_CHECKED = 0.25  # held-out slices of an epoch, at most, for each that is trained on


class SaliencyStage(Stage):
    """Trains on single slices, augmented afresh every time."""

    number = 1
    name = "stage 1 (saliency)"
    chooses_weights = True

    @property
    def stage_settings(self) -> StageSettings:
        """The plans' stage 1."""
        return self.settings.stage1

    def parameters(self) -> list[nn.Parameter]:
        """LoRA, saliency head, channel projection."""
        return list(self.network.stage1_parameters().values())

    def prepare(self) -> None:
        """List the slices and start the data workers; see the base class."""
        super().prepare()
        self._is_target = np.concatenate([c.target_slices for c in self.train_cases])
        self._train_requests: RequestList[BatchRequest] = RequestList([])
        self._train_loader = self._loader(self.train_cases, self._train_requests)
        self._val_loader = self._ordered_loader(self.val_cases, None)
        s = self.stage_settings
        most = math.ceil(s.batch_size * s.iterations_per_epoch * _CHECKED)
        self._held_out_loader = self._ordered_loader(self.held_out_cases, most)

    def finish(self) -> None:
        """End the data workers, also if somebody still holds the loaders."""
        for name in ("_train_loader", "_val_loader", "_held_out_loader"):
            loader = self.__dict__.pop(name, None)
            if loader is not None:
                end_workers(loader)

    def training_batches(self, epoch: int) -> Batches:
        """This process' share of `iterations_per_epoch` batches of slices."""
        rng = self.seed_epoch(epoch)
        s = self.stage_settings
        batches = draw_batches(self._is_target, s.batch_size, s.iterations_per_epoch, rng)
        requests = BatchRequest.of_epoch(batches, (self.seed, self.number, epoch))
        self._train_requests.requests = [r.share(self.team.rank, self.team.size) for r in requests]
        return self._train_loader

    def training_loss(self, batch: SliceBatch) -> torch.Tensor:
        """Loss of the saliency map."""
        batch = batch.to(self.device)
        with autocast(self.device):
            logits = self.network.saliency_logits(self.network.encode(batch.images))
        return self.loss(logits, batch.masks, batch.valid, self.team.total)

    def describe(self, batch: SliceBatch) -> list[str]:
        """Case and slice."""
        return list(batch.names)

    def validation_batches(self) -> Batches:
        """All slices of the validation cases, in order; this process' share of the batches."""
        return self._val_loader

    def held_out_batches(self) -> Batches:
        """Slices of the held-out cases, in order: all, or evenly spaced as many as cost little beside an epoch."""
        return self._held_out_loader

    def validation_scores(self, batch: SliceBatch) -> dict[str, np.ndarray]:
        """Loss and pixel counts of the saliency map, cut at 0.5."""
        batch = batch.to(self.device)
        with autocast(self.device):
            logits = self.network.saliency_logits(self.network.encode(batch.images))
        loss = self.loss(logits, batch.masks, batch.valid)
        found = nn.functional.interpolate(logits.float(), batch.masks.shape[-2:], mode="bilinear") > 0
        valid = None if batch.valid is None else batch.valid.cpu().numpy()
        return {"loss": loss.cpu().numpy(), **pixel_counts(found.cpu().numpy(), batch.masks.cpu().numpy(), valid)}

    def check_held_out(self, batch: SliceBatch) -> Checked:
        """Cross-entropy of the pixels, foreground weighted as in training, and the loss.

        The loss alone would not do: the Dice of a prior that knows its training cases by heart stays as good as it was,
        while what it misses it misses ever more surely, and a point there is never trusted.
        """
        batch = batch.to(self.device)
        with autocast(self.device):
            logits = self.network.saliency_logits(self.network.encode(batch.images))
        alpha = self.stage_settings.focal_alpha
        cross_entropy = segmentation_loss(logits, batch.masks, _CROSS_ENTROPY, alpha, batch.valid)
        return Checked(float(cross_entropy), float(self.loss(logits, batch.masks, batch.valid)))

    def _ordered_loader(self, cases: list[StoredCase], most: int | None) -> DataLoader:
        """This process' share of the cases' slices in batches, in order, at most so many of all."""
        n, size = len(slice_table(cases)), self.stage_settings.batch_size
        rows = np.arange(n) if most is None or n <= most else np.linspace(0, n - 1, most).round().astype(np.int64)
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return self._loader(cases, RequestList([BatchRequest(part) for part in self.team.share(batches)]))

    def _loader(self, cases: list[StoredCase], requests: RequestList[BatchRequest]) -> DataLoader:
        slices = SliceBatches(cases, slice_table(cases), self.settings.augmentation)
        return data_loader(slices, requests, self.device, self.team.size, in_use=len(cases) > 0)


def slice_table(cases: list[StoredCase]) -> np.ndarray:
    """Case and slice of every slice of some cases: int64 (N, 2)."""
    rows = [np.stack([np.full(len(c.slices), i), np.arange(len(c.slices))], axis=1) for i, c in enumerate(cases)]
    return np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)
