"""Spatial augmentation in the network frame, for slices and points alike.

The random draw is apart from the application: a `SliceTransform` is data, can be recorded and replayed,
and moves images, masks and points by the same matrix. Flips and rotations are exact inverses of each other
up to interpolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SliceTransform:
    """Flip, rotation and scaling about the centre of the square slices.

    Attributes:
        flip_columns: mirror left and right.
        flip_rows: mirror top and bottom.
        angle_degrees: rotation from the row axis towards the column axis.
        scale: > 1 makes structures larger.
    """

    flip_columns: bool = False
    flip_rows: bool = False
    angle_degrees: float = 0.0
    scale: float = 1.0

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        max_angle_degrees: float,
        scale_range: tuple[float, float],
        flip_columns: bool,
        flip_rows: bool,
    ) -> SliceTransform:
        """Draw one transform; flips have probability one half where allowed."""
        return cls(
            bool(flip_columns and rng.random() < 0.5),
            bool(flip_rows and rng.random() < 0.5),
            float(rng.uniform(-max_angle_degrees, max_angle_degrees)),
            float(rng.uniform(*scale_range)),
        )

    @property
    def matrix(self) -> np.ndarray:
        """2x2 matrix that moves (y, x) offsets from the centre."""
        angle = math.radians(self.angle_degrees)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        flips = np.diag([-1.0 if self.flip_rows else 1.0, -1.0 if self.flip_columns else 1.0])
        return self.scale * rotation @ flips

    def points(self, points_yx: np.ndarray, image_size: int) -> np.ndarray:
        """Move points (N, 2) y, x in pixels of a square of `image_size`; returns float64 (N, 2)."""
        centre = (image_size - 1) / 2
        return (np.asarray(points_yx, dtype=np.float64) - centre) @ self.matrix.T + centre

    def slices(self, slices: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """Move slices (n, c, size, size), float; what comes from outside is 0. `mode` as in `grid_sample`."""
        return transform_slices([self] * slices.shape[0], slices, mode)


def transform_slices(transforms: list[SliceTransform], slices: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Apply one transform to each of the slices (n, c, size, size), float."""
    matrices = []
    for transform in transforms:
        inverse_yx = np.linalg.inv(transform.matrix)
        inverse_xy = inverse_yx[::-1, ::-1]
        matrices.append(np.concatenate([inverse_xy, np.zeros((2, 1))], axis=1))
    theta = torch.from_numpy(np.stack(matrices)).to(slices)
    grid = F.affine_grid(theta, list(slices.shape), align_corners=False)
    return F.grid_sample(slices, grid, mode=mode, padding_mode="zeros", align_corners=False)
