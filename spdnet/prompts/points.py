"""Point prompts in memory: markups in the world frame, slice points in the network frame.

Owns the two value objects and what is done to them; reading files, drawing points and judging them are
the business of the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spdnet.geometry import SliceTransform, nearest_index

ALL_CLASSES = -1


@dataclass(frozen=True)
class Markup:
    """One markup of a prompt file.

    Attributes:
        name: its name; the name of a class makes it speak for that class alone.
        kind: "points" (no order), "curve" or "closed_curve" (control points in order), or "box" (the eight corners).
        points_lps_mm: float64 (N, 3), x, y, z in LPS mm.
        point_labels: N labels, for messages.
        in_voxels: whether the file gave them as voxel indices, for messages.
    """

    name: str
    kind: str
    points_lps_mm: np.ndarray
    point_labels: tuple[str, ...]
    in_voxels: bool = False


@dataclass(frozen=True)
class SliceBoxes:
    """Coarse boxes of one case in the network frame, cut into slices.

    Attributes:
        slice_index: int64 (M,), slice that each box belongs to.
        boxes_yxyx: float64 (M, 4), edges top, left, bottom, right in network pixels, where pixel centres are integers:
            the box of pixels 2 to 5 has the edges 1.5 and 5.5.
        class_index: int64 (M,), foreground class (from 0) that the box speaks for, -1 for all of them.
    """

    slice_index: np.ndarray
    boxes_yxyx: np.ndarray
    class_index: np.ndarray

    @classmethod
    def empty(cls) -> SliceBoxes:
        """No boxes."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, 4), dtype=np.float64), np.zeros(0, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[SliceBoxes]) -> SliceBoxes:
        """All boxes of several sets, in their order; none for an empty sequence."""
        if not parts:
            return cls.empty()
        names = ("slice_index", "boxes_yxyx", "class_index")
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.boxes_yxyx)

    def select(self, chosen: np.ndarray) -> SliceBoxes:
        """The boxes of a bool mask (M,) or of an array of indices."""
        return SliceBoxes(self.slice_index[chosen], self.boxes_yxyx[chosen], self.class_index[chosen])

    def for_class(self, k: int) -> SliceBoxes:
        """The boxes that speak for class `k` (from 0), those for all classes included."""
        return self.select((self.class_index == k) | (self.class_index == ALL_CLASSES))

    def for_all_classes(self) -> SliceBoxes:
        """The same boxes without a class: they speak for all."""
        return SliceBoxes(self.slice_index, self.boxes_yxyx, np.full(len(self), ALL_CLASSES, dtype=np.int64))

    def mirrored(self, axes: Sequence[int], image_size: int) -> SliceBoxes:
        """The boxes of slices mirrored along in-plane axes, 0 rows and 1 columns."""
        boxes = self.boxes_yxyx.copy()
        for axis in axes:
            boxes[:, [axis, axis + 2]] = image_size - 1 - boxes[:, [axis + 2, axis]]
        return SliceBoxes(self.slice_index, boxes, self.class_index)

    def transformed(self, transform: SliceTransform, image_size: int) -> SliceBoxes:
        """Upright boxes around the moved ones, cut at the square; those outside it are dropped."""
        top, left, bottom, right = self.boxes_yxyx.T
        corners = np.stack([[top, left], [top, right], [bottom, right], [bottom, left]]).transpose(2, 0, 1)
        moved = transform.points(corners.reshape(-1, 2), image_size).reshape(-1, 4, 2)
        boxes = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1) if len(self) else self.boxes_yxyx
        boxes = np.clip(boxes, -0.5, image_size - 0.5)
        stays = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return SliceBoxes(self.slice_index, boxes, self.class_index).select(stays)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "slice_index": self.slice_index.tolist(),
            "boxes_yxyx": self.boxes_yxyx.tolist(),
            "class_index": self.class_index.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SliceBoxes:
        """Inverse of `to_dict`."""
        boxes = np.array(data["boxes_yxyx"], dtype=np.float64).reshape(-1, 4)
        slice_index, class_index = (np.array(data[k], dtype=np.int64) for k in ("slice_index", "class_index"))
        return cls(slice_index, boxes, class_index)


@dataclass(frozen=True)
class SlicePrompts:
    """The points and coarse boxes of one case in the network frame.

    Attributes:
        points_syx: float64 (N, 3): slice (continuous), y, x in network pixels.
        class_index: int64 (N,): foreground class (from 0) that the point speaks for, -1 for all of them.
        boxes: coarse boxes, by slice.
    """

    points_syx: np.ndarray
    class_index: np.ndarray
    boxes: SliceBoxes = field(default_factory=SliceBoxes.empty)

    @classmethod
    def empty(cls) -> SlicePrompts:
        """No points and no boxes."""
        return cls(np.zeros((0, 3), dtype=np.float64), np.zeros(0, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[SlicePrompts]) -> SlicePrompts:
        """All points and boxes of several sets, in their order; none for an empty sequence."""
        if not parts:
            return cls.empty()
        points, classes = ([getattr(p, name) for p in parts] for name in ("points_syx", "class_index"))
        boxes = SliceBoxes.concatenate([p.boxes for p in parts])
        return cls(np.concatenate(points), np.concatenate(classes), boxes)

    def __len__(self) -> int:
        """Number of points; boxes are counted by `boxes`."""
        return len(self.points_syx)

    @property
    def slice_index(self) -> np.ndarray:
        """Slice that each point belongs to, the one whose centre plane is nearest: int64 (N,)."""
        return nearest_index(self.points_syx[:, 0])

    def select(self, chosen: np.ndarray) -> SlicePrompts:
        """The points of a bool mask (N,) or of an array of indices; all boxes stay."""
        return SlicePrompts(self.points_syx[chosen], self.class_index[chosen], self.boxes)

    def of_slices(self, first: int, stop: int) -> SlicePrompts:
        """The points and boxes of slices `first` to `stop` - 1, their slices counted from `first`."""
        own = self.select((self.slice_index >= first) & (self.slice_index < stop))
        boxes = self.boxes.select((self.boxes.slice_index >= first) & (self.boxes.slice_index < stop))
        points = own.points_syx - np.array([first, 0.0, 0.0])
        return SlicePrompts(points, own.class_index, replace(boxes, slice_index=boxes.slice_index - first))

    def for_class(self, k: int) -> SlicePrompts:
        """What speaks for class `k` (from 0), points and boxes for all classes included."""
        chosen = (self.class_index == k) | (self.class_index == ALL_CLASSES)
        return SlicePrompts(self.points_syx[chosen], self.class_index[chosen], self.boxes.for_class(k))

    def for_all_classes(self) -> SlicePrompts:
        """The same points and boxes without a class: they speak for all."""
        everyone = np.full(len(self), ALL_CLASSES, dtype=np.int64)
        return SlicePrompts(self.points_syx, everyone, self.boxes.for_all_classes())

    def transformed(self, transform: SliceTransform, image_size: int) -> SlicePrompts:
        """Points and boxes moved as `transform` moves the slices; what leaves the square is dropped with it."""
        moved = self.points_syx.copy()
        moved[:, 1:] = transform.points(moved[:, 1:], image_size)
        stays = np.all((moved[:, 1:] >= -0.5) & (moved[:, 1:] < image_size - 0.5), axis=1)
        return SlicePrompts(moved, self.class_index, self.boxes.transformed(transform, image_size)).select(stays)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        points = {"points_syx": self.points_syx.tolist(), "class_index": self.class_index.tolist()}
        return {**points, "boxes": self.boxes.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SlicePrompts:
        """Inverse of `to_dict`."""
        points = np.array(data["points_syx"], dtype=np.float64).reshape(-1, 3)
        boxes = SliceBoxes.from_dict(data["boxes"])
        return cls(points, np.array(data["class_index"], dtype=np.int64), boxes)
