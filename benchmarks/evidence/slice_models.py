"""What a model of single slices is to the training loop, and how SAM is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from evidence.slices import PromptedBatch, boxes_round_points, stack_windows, window_points
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import decoder_rows, distill_volume, distill_volume_boxes
from spdnet.inference.volume import BatchSize, decode_rows
from spdnet.network import SPDNetwork, build_network
from spdnet.network.precision import autocast
from spdnet.planning import SPDSettings
from spdnet.prompts import SlicePrompts
from spdnet.training.losses import segmentation_loss


class SliceModel(nn.Module, ABC):
    """A network that segments slices, with or without their points.

    What is to be trained requires gradients, everything else does not.

    Attributes:
        learning_rate, weight_decay: of AdamW.
        reach: slices to either side whose points it gets with those of each slice.
    """

    learning_rate: float
    weight_decay: float
    reach: int = 0

    @abstractmethod
    def forward(self, images: torch.Tensor, prompts: SlicePrompts) -> torch.Tensor:
        """Slices and their points to logits (B, k, h, w), one map per class.

        Args:
            images: float32 (B, c, size, size), in [0, 1].
            prompts: as `evidence.slices.stack_windows` places them.
        """

    @abstractmethod
    def loss(self, logits: torch.Tensor, batch: PromptedBatch) -> torch.Tensor:
        """Training loss of `forward`'s result."""

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class PromptedSam(SliceModel):
    """SAM, some of whose weights are trained on raw prompts, with SPD's loss.

    Every class of every slice is decoded, from at most `max_points` points of the plans, or from one box round all
    points of the slice; without any from SAM's "not a point" token alone. Batch norms of the encoder keep their
    published statistics.

    Args:
        network: spdnet's, without LoRA; its saliency head is not used.
        settings: of the plans.
        as_box: boxes round the points instead of the points.
        is_trained: says by its name in `network` whether a parameter is trained.
    """

    def __init__(
        self, network: SPDNetwork, settings: SPDSettings, as_box: bool, is_trained: Callable[[str], bool]
    ) -> None:
        super().__init__()
        raw = settings.distillation
        self.network = network
        self.settings = settings
        self.as_box = as_box
        self._raw = replace(raw, mode="raw", boxes=replace(raw.boxes, mode="raw"))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(is_trained(name))

    def train(self, mode: bool = True) -> PromptedSam:
        """The encoder too follows `mode` (TinyViT's attention has learnable biases only then), but for batch norms."""
        super().train(mode)
        self.network.image_encoder.train(mode)
        for module in self.network.image_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: torch.Tensor, prompts: SlicePrompts) -> torch.Tensor:
        """See the base class; the maps have SAM's resolution."""
        n_slices, n_classes, size = len(images), self.network.n_classes, self.network.mask_size
        given = boxes_round_points(prompts, n_classes) if self.as_box else replace(prompts, boxes=_NO_BOXES)
        no_saliency = np.broadcast_to(np.float32(0), (n_slices, n_classes, size, size))
        rules = Rules(self._raw, self.network.image_size)
        points = distill_volume(given, no_saliency, rules)
        boxes = distill_volume_boxes(given, no_saliency, rules)
        rows = decoder_rows(points, no_saliency, rules, boxes)
        embeddings = self.network.encode(images)[torch.from_numpy(rows.slice_index).to(images.device)]
        logits = decode_rows(self.network, embeddings, rows, images.device)
        return logits.view(n_classes, n_slices, size, size).transpose(0, 1)  # rows: by class, then slice

    def loss(self, logits: torch.Tensor, batch: PromptedBatch) -> torch.Tensor:
        """SPD's segmentation loss, as in its stage 2."""
        s = self.settings
        return segmentation_loss(logits, batch.slices.masks, s.loss, s.stage2.focal_alpha, batch.slices.valid)


_NO_BOXES = SlicePrompts.empty().boxes


def build_plain_sam(settings: SPDSettings, n_classes: int) -> SPDNetwork:
    """The plans' backbone with its published weights and without LoRA."""
    s = settings
    return build_network(s.backbone, len(s.normalization), n_classes, s.image_size, 0, 0, 0.0)


@torch.no_grad()
def predict_slices(
    model: SliceModel, slices: np.ndarray, prompts: SlicePrompts, batch_size: int, device: torch.device
) -> np.ndarray:
    """Foreground probabilities float32 (S, k, h, w) of the slices (S, c, size, size) of a volume with its points."""
    found = []

    def predict(part: slice) -> None:
        images = torch.from_numpy(np.array(slices[part], dtype=np.float32)).to(device)
        with autocast(device):
            windows = [window_points(prompts, number, model.reach) for number in range(part.start, part.stop)]
            logits = model(images, stack_windows(windows, model.reach))
        found.append(torch.sigmoid(logits.float()).cpu().numpy())

    BatchSize(batch_size).run(predict, len(slices))
    return np.concatenate(found)
