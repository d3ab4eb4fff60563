"""What stands in for SAM's dense prompt: maps of points and saliency, of a slice and of those around it. Our extension.

SAM's decoder gets points as tokens, one by one, and a mask, if there is one, as a dense prompt that is added to the
image's embedding. Tokens cannot say which points are doubtful, or what the slices around say. The maps can: all points,
trusted or not, and the saliency, slice by slice. A few convolutions weigh them, beside the embedding itself, which
decides what a point is worth where.
"""

from __future__ import annotations

import torch
from torch import nn


class DensePrompt(nn.Module):
    """Maps and embeddings to a dense prompt; zero as long as it is not trained, so that SAM's own holds.

    Args:
        n_slices: slices to either side whose maps it gets.
        channels: of the embeddings.
        width: of the layers within.
    """

    def __init__(self, n_slices: int, channels: int, width: int = 128) -> None:
        super().__init__()
        self.n_slices = n_slices
        self.n_maps = 1 + 2 * (2 * n_slices + 1)
        self.to_grid = nn.Sequential(
            nn.Conv2d(self.n_maps, width // 4, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 2, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
        )
        self.weigh = nn.Sequential(
            nn.Conv2d(width // 2 + channels, width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, channels, kernel_size=1),
        )
        last = self.weigh[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, maps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """What is added to the dense prompt: (B, channels, grid, grid).

        Args:
            maps: (B, n_maps, 4 * grid, 4 * grid), in [0, 1]: the row's own points; all points of each slice of the
                window, the first one first; the saliency of each.
            embeddings: (B, channels, grid, grid).
        """
        return self.weigh(torch.cat([self.to_grid(maps), embeddings], dim=1))
