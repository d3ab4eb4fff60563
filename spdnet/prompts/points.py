"""Point prompts in memory: markups in the world frame, slice points in the network frame.

Owns the two value objects and what is done to them; reading files, drawing points and judging them are
the business of the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spdnet.geometry import SliceTransform, nearest_index

ALL_CLASSES = -1


@dataclass(frozen=True)
class Markup:
    """One markup of a prompt file.

    Attributes:
        name: its name; the name of a class makes it speak for that class alone.
        kind: "points" (no order), "curve" or "closed_curve" (control points in order).
        points_lps_mm: float64 (N, 3), x, y, z in LPS mm.
        point_labels: N labels, for messages.
    """

    name: str
    kind: str
    points_lps_mm: np.ndarray
    point_labels: tuple[str, ...]


@dataclass(frozen=True)
class SlicePrompts:
    """The points of one case in the network frame.

    Attributes:
        points_syx: float64 (N, 3): slice (continuous), y, x in network pixels.
        class_index: int64 (N,): foreground class (from 0) that the point speaks for, -1 for all of them.
    """

    points_syx: np.ndarray
    class_index: np.ndarray

    @classmethod
    def empty(cls) -> SlicePrompts:
        """No points."""
        return cls(np.zeros((0, 3), dtype=np.float64), np.zeros(0, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[SlicePrompts]) -> SlicePrompts:
        """All points of several sets, in their order; none for an empty sequence."""
        if not parts:
            return cls.empty()
        return cls(np.concatenate([p.points_syx for p in parts]), np.concatenate([p.class_index for p in parts]))

    def __len__(self) -> int:
        return len(self.points_syx)

    @property
    def slice_index(self) -> np.ndarray:
        """Slice that each point belongs to, the one whose centre plane is nearest: int64 (N,)."""
        return nearest_index(self.points_syx[:, 0])

    def select(self, chosen: np.ndarray) -> SlicePrompts:
        """The points of a bool mask (N,) or of an array of indices."""
        return SlicePrompts(self.points_syx[chosen], self.class_index[chosen])

    def for_class(self, k: int) -> SlicePrompts:
        """The points that speak for class `k` (from 0), those for all classes included."""
        return self.select((self.class_index == k) | (self.class_index == ALL_CLASSES))

    def for_all_classes(self) -> SlicePrompts:
        """The same points without a class: they speak for all."""
        return SlicePrompts(self.points_syx, np.full(len(self), ALL_CLASSES, dtype=np.int64))

    def transformed(self, transform: SliceTransform, image_size: int) -> SlicePrompts:
        """The points moved as `transform` moves the slices; those that leave the square are dropped with it."""
        moved = self.points_syx.copy()
        moved[:, 1:] = transform.points(moved[:, 1:], image_size)
        stays = np.all((moved[:, 1:] >= -0.5) & (moved[:, 1:] < image_size - 0.5), axis=1)
        return SlicePrompts(moved, self.class_index).select(stays)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"points_syx": self.points_syx.tolist(), "class_index": self.class_index.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SlicePrompts:
        """Inverse of `to_dict`."""
        points = np.array(data["points_syx"], dtype=np.float64).reshape(-1, 3)
        return cls(points, np.array(data["class_index"], dtype=np.int64))
