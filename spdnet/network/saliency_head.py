"""The saliency head of stage 1: a small convolutional decoder on SAM's image embedding."""

from __future__ import annotations

import torch
from torch import nn


class SaliencyHead(nn.Module):
    """Embedding (B, in_channels, grid, grid) to logits (B, n_classes, 4 * grid, 4 * grid).

    Three convolutions with two transposed ones between them, so that the map has the resolution of SAM's
    masks; 0.19 M parameters for SAM's 256 channels. The paper gives no shape beyond "lightweight".
    """

    def __init__(self, n_classes: int, in_channels: int = 256, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2),
            nn.GroupNorm(8, width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2),
            nn.GELU(),
            nn.Conv2d(width // 4, n_classes, kernel_size=1),
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Saliency logits; see the class."""
        return self.layers(embeddings)
