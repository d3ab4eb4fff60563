"""Stage 2 that trains the encoder on: adapters and saliency head learn what points tell, too. Our extension.

Nothing of a slice can be stored then but its masks: it is encoded in every step, and its saliency, by which points are
weighed, anew before every epoch. Prediction is as after the other stage 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spdnet.inference.volume import EncodedVolume, encode_volume
from spdnet.network import SPDNetwork
from spdnet.network.precision import autocast
from spdnet.planning import SPDSettings, StoredCase
from spdnet.training.embedding_store import EmbeddingStore, StoredVariant
from spdnet.training.prompt_stage import PromptStage, Run


class JointStage(PromptStage):
    """Encodes as it trains; arguments as in the base class."""

    name = "stage 2 (prompts, encoder trained on)"

    def __init__(
        self,
        network: SPDNetwork,
        settings: SPDSettings,
        train_cases: list[StoredCase],
        val_cases: list[StoredCase],
        device: torch.device,
        seed: int,
        cache_folder: Path,
        keep_embeddings: bool = False,
        held_out_cases: Sequence[StoredCase] = (),
    ) -> None:
        where = device, seed, cache_folder, keep_embeddings, held_out_cases
        super().__init__(network, settings, train_cases, val_cases, *where)
        masks_alone = replace(settings, augmentation=replace(settings.augmentation, stored_embeddings=False))
        self._store = EmbeddingStore(cache_folder, network, masks_alone, seed, keep_embeddings)

    def parameters(self) -> list[nn.Parameter]:
        """Those of both stages."""
        return [*self.network.stage1_parameters().values(), *super().parameters()]

    def training_loss(self, batch: list[Run]) -> torch.Tensor:
        """Loss of the decoded masks, and of the saliency of each row's class."""
        slices = np.concatenate([run.variant.slices_of(run.rows.slice_index[run.indices]) for run in batch])
        images = torch.from_numpy(slices).to(self.device, memory_format=torch.channels_last)
        classes = np.concatenate([run.rows.class_index[run.indices] for run in batch])
        with autocast(self.device):
            embeddings = self.network.encode(images)
            logits = self.network.saliency_logits(embeddings)
        own = logits[torch.arange(len(classes)), torch.from_numpy(classes)][:, None]
        of_saliency = self.loss(own, self.target_of(batch), self.valid_pixels(batch), self.team.total)
        return self.loss_of_masks(batch, embeddings) + self.settings.joint.saliency_weight * of_saliency

    def saliency_of(self, variant: StoredVariant) -> np.ndarray:
        """float32 (S, k, M, M), in [0, 1]: by the weights as they are."""
        return self.encoded(variant).saliency

    def encoded(self, variant: StoredVariant) -> EncodedVolume:
        """A variant as the encoder has it: by the weights as they are."""
        was_training = self.network.training
        self.network.eval()
        slices = variant.slices_of(np.arange(len(variant.masks)))
        volume = encode_volume(self.network, slices, self.settings.stage1.batch_size, self.device)
        self.network.train(was_training)
        return volume
