"""The saliency map of stage 1 as a network that nnU-Net can import, build and load, so that `nnUNetv2_predict` runs.

Without prompts: what nnU-Net predicts with it is the prior that SPD judges points by, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from spdnet.network import build_network

_ONLY_FOR_PROMPTS = ("dense_prompt.", "decoder_encoder.")  # parts of a trained network that this one does without


class SaliencyNetwork(nn.Module):
    """SAM's encoder with LoRA and saliency head, as nnU-Net calls a 2D network.

    Args:
        input_channels: of the image.
        num_classes: nnU-Net's output channels.
        deep_supervision: must be False; there are no intermediate outputs.
        backbone, image_size, lora: as in the plans; `lora` has rank, alpha and dropout.
        has_background_channel: with labels; data sets with regions have none.
        input_windows: for each channel the two intensities that become 0 and 1.
        flips: whether rows and columns of nnU-Net's slices run against the ones that the network was trained on.

    Raises:
        ConfigurationError: unknown backbone. ModelError: its weights cannot be had.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        backbone: str,
        image_size: int,
        lora: Mapping[str, Any],
        has_background_channel: bool,
        input_windows: Sequence[tuple[float, float]],
        flips: Sequence[bool],
    ) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError("SaliencyNetwork has no deep supervision")
        n_classes = num_classes - 1 if has_background_channel else num_classes
        self.network = build_network(
            backbone, input_channels, n_classes, image_size, lora["rank"], lora["alpha"], lora["dropout"]
        )
        self.has_background_channel = has_background_channel
        self.flipped_axes = [axis for axis, flipped in zip((-2, -1), flips, strict=True) if flipped]
        low, high = torch.tensor(input_windows, dtype=torch.float32).T.reshape(2, 1, -1, 1, 1)
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint's `network_weights`, which leave out SAM's published ones; those are there already.

        Raises:
            KeyError, ValueError: the weights are of another network.
        """
        own = {name: value for name, value in state_dict.items() if not name.startswith(_ONLY_FOR_PROMPTS)}
        self.network.load_own_state(own)
        return nn.modules.module._IncompatibleKeys([], [])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Slices as nnU-Net preprocesses them, (B, c, size, size), to its logits (B, K, size, size).

        With labels, the background's logit is 0, so that a class wins exactly where its saliency exceeds 0.5.
        """
        scaled = ((images - self.low) / (self.high - self.low)).clamp(0, 1) * _content(images)
        logits = self.network.saliency_logits(self.network.encode(scaled.flip(self.flipped_axes)))
        logits = nn.functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        logits = logits.flip(self.flipped_axes)
        if self.has_background_channel:
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        return logits


def _content(images: torch.Tensor) -> torch.Tensor:
    """What nnU-Net has not padded: (B, 1, H, W), 0 in rows and columns at the border that are exactly zero, else 1.

    nnU-Net pads with zeros after normalisation, which is some grey; spdnet's networks know padding as black.
    """
    nonzero = (images != 0).any(dim=1, keepdim=True)
    return (_between(nonzero.any(dim=-1, keepdim=True), -2) & _between(nonzero.any(dim=-2, keepdim=True), -1)).float()


def _between(filled: torch.Tensor, axis: int) -> torch.Tensor:
    """True from the first to the last True of a bool tensor along an axis."""
    counts = filled.to(torch.int32)
    after_first = counts.cumsum(axis) > 0
    return after_first & (counts.flip(axis).cumsum(axis) > 0).flip(axis)
