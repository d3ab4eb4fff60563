"""Turning the axes of stored arrays to RAS, for the readers whose nnU-Net counterparts do so when they read."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from spdnet.dataset.image_io.base import ReaderWriter
from spdnet.geometry import ImageGeometry


@dataclass(frozen=True)
class AxisTurn:
    """A permutation of the axes (z, y, x) followed by flips; no voxel value changes.

    Attributes:
        permutation: for each turned axis, the axis it was before.
        flips: whether each turned axis runs the other way than before.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def to_ras(cls, orientation: np.ndarray) -> AxisTurn:
        """The turn to RAS, that is towards superior, anterior, right in (z, y, x).

        Args:
            orientation: (3, 2) as nibabel's `io_orientation` gives it: for each voxel axis x, y, z the closest of
                the axes R, A, S, and 1 or -1 for the same or the opposite way.
        """
        permutation, flips = [0, 0, 0], [False, False, False]
        for voxel_axis, (world_axis, sign) in enumerate(orientation):
            permutation[2 - int(world_axis)] = 2 - voxel_axis
            flips[2 - int(world_axis)] = bool(sign < 0)
        return cls((permutation[0], permutation[1], permutation[2]), (flips[0], flips[1], flips[2]))

    def inverse(self) -> AxisTurn:
        """The turn that undoes this one."""
        before = [self.permutation.index(axis) for axis in range(3)]
        first, second, third = (self.flips[axis] for axis in before)
        return AxisTurn((before[0], before[1], before[2]), (first, second, third))

    def array(self, array: np.ndarray) -> np.ndarray:
        """Turn an array (..., z, y, x); returns a view."""
        leading = array.ndim - 3
        turned = array.transpose(*range(leading), *(leading + axis for axis in self.permutation))
        return np.flip(turned, tuple(leading + axis for axis in range(3) if self.flips[axis]))

    def geometry(self, geometry: ImageGeometry) -> ImageGeometry:
        """The grid of an array after the turn: every voxel stays where it is in the world."""
        columns = np.asarray(geometry.direction).reshape(3, 3)[:, ::-1]  # of the voxel axes z, y, x
        signs = np.where(self.flips, -1.0, 1.0)
        direction = (columns[:, list(self.permutation)] * signs)[:, ::-1] + 0.0  # no negative zeros
        corner = np.zeros(3)
        for axis, flip in zip(self.permutation, self.flips, strict=True):
            corner[axis] = geometry.shape_zyx[axis] - 1 if flip else 0
        z, y, x = self.permutation
        shape, spacing = geometry.shape_zyx, geometry.spacing_zyx_mm
        origin = geometry.voxel_to_world(corner[None])[0].tolist()
        return ImageGeometry(
            (shape[z], shape[y], shape[x]),
            (spacing[z], spacing[y], spacing[x]),
            (origin[0], origin[1], origin[2]),
            tuple(direction.ravel().tolist()),
            geometry.has_patient_axes,
        )


class ReorientingReader(ReaderWriter):
    """A reader whose nnU-Net counterpart turns arrays to RAS."""

    def to_reader_order(self, array: np.ndarray, geometry: ImageGeometry) -> np.ndarray:
        """See the base class."""
        return self._turn(geometry).array(array)

    def from_reader_order(self, array: np.ndarray, geometry: ImageGeometry) -> np.ndarray:
        """See the base class."""
        return self._turn(geometry).inverse().array(array)

    @abstractmethod
    def _turn(self, geometry: ImageGeometry) -> AxisTurn:
        """From the stored axes to RAS, by the counterpart's own rule for oblique images."""


def ras_aligned(shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]) -> ImageGeometry:
    """An axis-aligned grid that needs no turn to RAS."""
    return ImageGeometry(shape_zyx, spacing_zyx_mm, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
