"""World frame to raw voxel frame: the grid of one image.

Voxel indices denote voxel centres, as in ITK and nibabel: the image extends from -0.5 to N - 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel.orientations
import numpy as np
import SimpleITK as sitk

_AXIS_NAMES = ("S", "P", "L")  # canonical z, y, x: increasing towards superior, posterior, left


def nearest_index(coordinate: np.ndarray) -> np.ndarray:
    """The integer index whose voxel holds a continuous index; halves round up, as in ITK. Returns int64."""
    return np.floor(np.asarray(coordinate, dtype=np.float64) + 0.5).astype(np.int64)


@dataclass(frozen=True)
class ImageGeometry:
    """Size, spacing, origin and direction of an image.

    A 2D image is a volume of one slice without patient axes (`has_patient_axes` False).

    Attributes:
        shape_zyx: voxels along the array axes.
        spacing_zyx_mm: distance of voxel centres along the array axes, mm.
        origin_lps_mm: world position (x, y, z) of the centre of voxel 0, LPS mm.
        direction: 3x3 direction cosines, row-major, as SimpleITK gives them (columns are the voxel axes x, y, z).
        has_patient_axes: False for 2D images, whose stored axes are kept as they are.
    """

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    origin_lps_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    has_patient_axes: bool = True

    @classmethod
    def from_sitk(cls, image: sitk.Image | sitk.ImageFileReader) -> ImageGeometry:
        """Geometry of a 2D or 3D SimpleITK image, or of a reader that has read an image's header.

        Raises:
            ValueError: the image has another number of dimensions.
        """
        size, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
        if image.GetDimension() == 3:
            return cls(_reversed3(size, int), _reversed3(spacing, float), _triple(origin), image.GetDirection())
        if image.GetDimension() == 2:
            xx, xy, yx, yy = image.GetDirection()
            return cls(
                (1, size[1], size[0]),
                (1.0, spacing[1], spacing[0]),
                (origin[0], origin[1], 0.0),
                (xx, xy, 0.0, yx, yy, 0.0, 0.0, 0.0, 1.0),
                has_patient_axes=False,
            )
        raise ValueError(f"an image of {image.GetDimension()} dimensions; spdnet reads 2D and 3D images")

    @classmethod
    def from_affine_ras(cls, shape_zyx: Sequence[int], affine: np.ndarray) -> ImageGeometry:
        """Geometry of a volume from nibabel's affine.

        Args:
            shape_zyx: voxels along the array axes.
            affine: 4x4 from continuous voxel index (x, y, z, 1) to RAS mm. Shear stays in `direction`.

        Raises:
            ValueError: the affine is not finite or has no inverse.
        """
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if not np.isfinite(matrix).all() or not spacing.all():
            raise ValueError(f"an image with the affine {np.asarray(affine).tolist()}, which has no spacing")
        direction = matrix[:3, :3] / spacing + 0.0  # no negative zeros
        if abs(np.linalg.det(direction)) < 1e-6:
            raise ValueError(f"an image with the affine {np.asarray(affine).tolist()}, whose axes are not independent")
        return cls(
            _triple([int(n) for n in shape_zyx]),
            _reversed3(spacing.tolist(), float),
            _triple((matrix[:3, 3] + 0.0).tolist()),
            tuple(direction.ravel().tolist()),
        )

    def apply_to_sitk(self, image: sitk.Image) -> None:
        """Give a SimpleITK image made from an array of this grid its spacing, origin and direction."""
        spacing = self.spacing_zyx_mm[::-1]
        if self.has_patient_axes:
            image.SetSpacing(spacing)
            image.SetOrigin(self.origin_lps_mm)
            image.SetDirection(self.direction)
        else:
            d = self.direction
            image.SetSpacing(spacing[:2])
            image.SetOrigin(self.origin_lps_mm[:2])
            image.SetDirection((d[0], d[1], d[3], d[4]))

    @property
    def affine_lps(self) -> np.ndarray:
        """4x4 float64 matrix from continuous voxel index (x, y, z, 1) to LPS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.direction).reshape(3, 3) * np.asarray(self.spacing_zyx_mm[::-1])
        affine[:3, 3] = self.origin_lps_mm
        return affine

    @property
    def affine_ras(self) -> np.ndarray:
        """4x4 float64 matrix from continuous voxel index (x, y, z, 1) to RAS mm, as nibabel has it."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine_lps + 0.0  # no negative zeros

    def world_to_voxel(self, points_lps_mm: np.ndarray) -> np.ndarray:
        """LPS mm (N, 3) in x, y, z order to continuous voxel indices (N, 3) in z, y, x order, float64."""
        points = np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)
        affine = self.affine_lps
        return np.linalg.solve(affine[:3, :3], (points - affine[:3, 3]).T).T[:, ::-1]

    def voxel_to_world(self, points_zyx: np.ndarray) -> np.ndarray:
        """Continuous voxel indices (N, 3) in z, y, x order to LPS mm (N, 3) in x, y, z order, float64."""
        points = np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3)[:, ::-1]
        affine = self.affine_lps
        return points @ affine[:3, :3].T + affine[:3, 3]

    def contains(self, points_zyx: np.ndarray) -> np.ndarray:
        """Which continuous voxel indices (N, 3) lie in the image, -0.5 <= v < N - 0.5. Returns bool (N,)."""
        points = np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3)
        return np.all((points >= -0.5) & (points < np.asarray(self.shape_zyx) - 0.5), axis=1)

    def difference(self, other: ImageGeometry, tolerance_mm: float = 1e-2) -> str | None:
        """What differs between two grids, in words, or None if they are the same.

        Positions are compared at the eight corners, so that spacing, origin and direction are judged by their
        effect in mm. They may differ by `tolerance_mm`, and by a tenth of the smallest spacing at most.
        """
        if self.shape_zyx != other.shape_zyx:
            return f"shape (z, y, x) {self.shape_zyx} against {other.shape_zyx}"
        last = np.asarray(self.shape_zyx) - 1
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * last
        distance = np.linalg.norm(self.voxel_to_world(corners) - other.voxel_to_world(corners), axis=1).max()
        spacing_gap = np.abs(np.subtract(self.spacing_zyx_mm, other.spacing_zyx_mm)).max()
        if max(distance, spacing_gap) <= min(tolerance_mm, 0.1 * min(self.spacing_zyx_mm)):
            return None
        return (
            f"corners up to {distance:.3g} mm apart: spacing (z, y, x) {_short(self.spacing_zyx_mm)} against "
            f"{_short(other.spacing_zyx_mm)} mm, origin {_short(self.origin_lps_mm)} against "
            f"{_short(other.origin_lps_mm)} mm, direction {_short(self.direction)} against {_short(other.direction)}"
        )

    def canonical_axes(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """How to permute and flip the array to the closest patient axes, without resampling.

        Returns:
            permutation: for each canonical axis (superior, posterior, left) the array axis (z, y, x) that is
                closest to it; flips: whether that array axis runs the other way.
        """
        if not self.has_patient_axes:
            return (0, 1, 2), (False, False, False)
        orientation = nibabel.orientations.io_orientation(self.affine_lps)
        permutation, flips = [0, 0, 0], [False, False, False]
        for voxel_axis_x, (world_axis_x, sign) in enumerate(orientation):
            permutation[2 - int(world_axis_x)] = 2 - voxel_axis_x
            flips[2 - int(world_axis_x)] = bool(sign < 0)
        return _triple(permutation), _triple(flips)

    def canonical_spacing_mm(self) -> tuple[float, float, float]:
        """Spacing along the canonical axes (superior, posterior, left), mm."""
        permutation, _ = self.canonical_axes()
        return _triple([self.spacing_zyx_mm[a] for a in permutation])

    def canonical_shape(self) -> tuple[int, int, int]:
        """Voxels along the canonical axes (superior, posterior, left)."""
        permutation, _ = self.canonical_axes()
        return _triple([self.shape_zyx[a] for a in permutation])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "shape_zyx": list(self.shape_zyx),
            "spacing_zyx_mm": list(self.spacing_zyx_mm),
            "origin_lps_mm": list(self.origin_lps_mm),
            "direction": list(self.direction),
            "has_patient_axes": self.has_patient_axes,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageGeometry:
        """Inverse of `to_dict`."""
        return cls(
            _triple(data["shape_zyx"]),
            _triple(data["spacing_zyx_mm"]),
            _triple(data["origin_lps_mm"]),
            tuple(data["direction"]),
            bool(data["has_patient_axes"]),
        )


def default_slicing_axis(spacing_mm: Sequence[float]) -> int:
    """The canonical axis to slice along: the one of largest spacing, axial if others come within 1 % of it.

    Args:
        spacing_mm: spacing along the canonical axes (superior, posterior, left).

    Returns:
        0 superior (axial slices), 1 posterior, 2 left.
    """
    largest = max(spacing_mm)
    return next(axis for axis, spacing in enumerate(spacing_mm) if spacing >= 0.99 * largest)


def axis_name(canonical_axis: int) -> str:
    """Name of a canonical axis: S, P or L, the direction in which its index increases."""
    return _AXIS_NAMES[canonical_axis]


def axis_from_name(name: str) -> int:
    """Inverse of `axis_name`."""
    return _AXIS_NAMES.index(name)


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    first, second, third = values
    return first, second, third


def _reversed3(values: Sequence[Any], kind: type) -> tuple[Any, Any, Any]:
    return _triple([kind(v) for v in values[::-1]])


def _short(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.5g}" for v in values) + ")"
