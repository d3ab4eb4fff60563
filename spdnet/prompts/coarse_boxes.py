"""Coarse bounding boxes drawn from masks: larger than the target and shifted, as a hurried reader would draw them.

Coarser than the jitter of a few pixels with which box-prompted models are trained. One box around the whole target, cut
into slices, is the default; a box for each slice is the other kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spdnet.errors import ConfigurationError
from spdnet.prompts.points import SliceBoxes, SlicePrompts
from spdnet.prompts.simulate import check_share, problem_masks


@dataclass(frozen=True)
class CoarseBoxes:
    """How coarse boxes are drawn around the target.

    Attributes:
        enlarge: each edge moves outward by a part of the target's size along its axis, uniform from 0 to this share.
        shift: the whole box moves along each axis by a part of the target's size, uniform to this share either way.
        per_slice: a box of its own in each slice with target; False: one box around the target in the volume, which
            appears in each slice whose centre plane it holds.
        named: boxes for each class; False: anonymous boxes around all classes together.

    Raises:
        ConfigurationError: a negative or infinite `enlarge`, or `shift` beyond 0 to 1.
    """

    draws_curves: ClassVar[bool] = False

    enlarge: float = 0.5
    shift: float = 0.2
    per_slice: bool = False
    named: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.enlarge < np.inf:
            raise ConfigurationError(f"enlarge is {self.enlarge:g}; it must be 0 or more and finite")
        check_share("shift", self.shift)

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """Draw the boxes of one case.

        Args:
            masks: bool or uint8 (slices, classes, rows, columns).
            content_box: half-open rows and columns that hold image; boxes are cut at its edges, and one that was
                shifted out of it keeps its outermost pixel.
            mm_per_pixel: distance of rows, of columns and of slices, mm; plays no part here.
            rng: source of all draws.

        Returns:
            Boxes sorted by class and slice, and no points.
        """
        problems = problem_masks(masks, self.named)
        limits = np.array([(0, len(masks)), *content_box], dtype=np.float64).T - 0.5
        parts = []
        for k in range(problems.shape[1]):
            slices, boxes = self._draw_problem(problems[:, k], limits, rng)
            parts.append(SliceBoxes(slices, boxes, np.full(len(slices), k, dtype=np.int64)))
        nothing = SlicePrompts.empty()
        prompts = SlicePrompts(nothing.points_syx, nothing.class_index, SliceBoxes.concatenate(parts))
        return prompts if self.named else prompts.for_all_classes()

    def _draw_problem(
        self, masks: np.ndarray, limits: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slices (n,) and boxes (n, 4) for one class; `limits` (2, 3) are the edges of the image, slices first."""
        target = np.flatnonzero(masks.any(axis=(1, 2)))
        if not len(target):
            return np.zeros(0, dtype=np.int64), np.zeros((0, 4))
        if self.per_slice:
            edges = np.stack([bounding_edges(masks[s]) for s in target])
            return target, self._coarsened(edges, limits[:, 1:], rng).reshape(-1, 4)
        in_plane = bounding_edges(np.any(masks, axis=0))
        tight = np.concatenate([[[target[0] - 0.5], [target[-1] + 0.5]], in_plane], axis=1)
        box = self._coarsened(tight[None], limits, rng)[0]
        slices = np.arange(int(np.ceil(box[0, 0])), int(np.ceil(box[1, 0])))
        return slices, np.tile(box[:, 1:].reshape(4), (len(slices), 1))

    def _coarsened(self, edges: np.ndarray, limits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Boxes (n, 2, axes), low edges and high edges, enlarged and shifted, then cut at `limits` (2, axes)."""
        size = edges[:, 1] - edges[:, 0]
        outward = rng.uniform(0, self.enlarge, edges.shape) * size[:, None] * np.array([[-1.0], [1.0]])
        shift = rng.uniform(-self.shift, self.shift, size.shape) * size
        low, high = np.moveaxis(edges + outward + shift[:, None], 1, 0)
        low = np.clip(low, limits[0], limits[1] - 1)
        high = np.clip(high, np.maximum(limits[0] + 1, low + 1), limits[1])
        return np.stack([low, high], axis=1)


def bounding_edges(mask: np.ndarray) -> np.ndarray:
    """Edges of the smallest box around the True pixels of a mask (rows, columns), which must not be empty.

    Returns:
        float64 (2, 2): low row and column edge, high row and column edge; pixel centres are integers.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([[rows[0] - 0.5, columns[0] - 0.5], [rows[-1] + 0.5, columns[-1] + 0.5]])
