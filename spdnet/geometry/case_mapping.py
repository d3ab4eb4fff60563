"""Raw voxel frame to network frame: one value object per case, made by the preprocessor.

Four steps, each invertible: orient (permute and flip to patient axes, slicing axis first), crop (to a
half-open box), scale (in plane, one factor per axis), pad (to a square). Images, labels, prompts and
predictions all go through the same object. Pixel centres are mapped by (x + 0.5) * s - 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from spdnet.geometry.image_geometry import ImageGeometry

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def rescale_points(points_yx: np.ndarray, from_size: float, to_size: float) -> np.ndarray:
    """Points (..., 2) in pixels of a square of one size, to pixels of the same square at another size."""
    return (np.asarray(points_yx, dtype=np.float64) + 0.5) * (to_size / from_size) - 0.5


@dataclass(frozen=True)
class CaseMapping:
    """Maps one case between raw voxels (z, y, x) and network pixels (slice, y, x).

    Attributes:
        raw_shape_zyx: shape of the array as read.
        permutation: raw array axis that becomes network axis 0 (slices), 1 (rows), 2 (columns).
        flips: whether each network axis runs against its raw axis.
        crop_box: half-open ranges in the oriented array.
        scaled_size: rows and columns of the cropped slices after scaling.
        pad_offset: rows above and columns left of them in the square.
        image_size: side of the square slices, pixels.
    """

    raw_shape_zyx: tuple[int, int, int]
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    crop_box: Box
    scaled_size: tuple[int, int]
    pad_offset: tuple[int, int]
    image_size: int

    @property
    def n_slices(self) -> int:
        """Number of slices in the network frame."""
        return self.crop_box[0][1] - self.crop_box[0][0]

    @property
    def content_box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Half-open rows and columns of the square that hold image, not padding."""
        return tuple((o, o + s) for o, s in zip(self.pad_offset, self.scaled_size, strict=True))  # type: ignore[return-value]

    @property
    def content_share(self) -> float:
        """The share of the square slices that the image fills."""
        (top, bottom), (left, right) = self.content_box
        return (bottom - top) * (right - left) / self.image_size**2

    @property
    def scale(self) -> tuple[float, float]:
        """Network pixels per raw voxel along rows and columns."""
        rows, columns = (hi - lo for lo, hi in self.crop_box[1:])
        return self.scaled_size[0] / rows, self.scaled_size[1] / columns

    def orient(self, array: np.ndarray) -> np.ndarray:
        """Raw (..., z, y, x) to oriented (..., slice, row, column), uncropped; a view."""
        oriented = np.moveaxis(array, [a - 3 for a in self.permutation], [-3, -2, -1])
        return np.flip(oriented, tuple(i - 3 for i in range(3) if self.flips[i]))

    def unorient(self, array: np.ndarray) -> np.ndarray:
        """Inverse of `orient`; a view."""
        unflipped = np.flip(array, tuple(i - 3 for i in range(3) if self.flips[i]))
        return np.moveaxis(unflipped, [-3, -2, -1], [a - 3 for a in self.permutation])

    def image_to_network(self, image: np.ndarray) -> np.ndarray:
        """Image float (c, z, y, x) to network slices float32 (slice, c, size, size); padding is 0.

        Bicubic with antialiasing, clipped to the range of each channel of the crop.
        """
        slices = self._crop(self.orient(image)).swapaxes(0, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32))
        scaled = _resize(tensor, self.scaled_size, "bicubic")
        low, high = (getattr(tensor, f)(dim=(0, 2, 3), keepdim=True) for f in ("amin", "amax"))
        return self._pad(torch.clamp(scaled, low, high)).numpy()

    def masks_to_network(self, masks: np.ndarray) -> np.ndarray:
        """Binary masks (k, z, y, x) to network masks uint8 (slice, k, size, size), by their area (> 0.5)."""
        slices = self._crop(self.orient(masks)).swapaxes(0, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32))
        return (self._pad(_resize(tensor, self.scaled_size, "bilinear")) > 0.5).to(torch.uint8).numpy()

    def probabilities_to_raw(self, probabilities: np.ndarray) -> np.ndarray:
        """Network maps float (slice, k, size, size) to the raw grid, float32 (k, z, y, x); 0 outside the crop."""
        (top, bottom), (left, right) = self.content_box
        content = np.ascontiguousarray(probabilities[:, :, top:bottom, left:right], dtype=np.float32)
        (s0, s1), (r0, r1), (c0, c1) = self.crop_box
        resized = _resize(torch.from_numpy(content), (r1 - r0, c1 - c0), "bilinear").numpy()
        oriented_shape = [self.raw_shape_zyx[a] for a in self.permutation]
        oriented = np.zeros((probabilities.shape[1], *oriented_shape), dtype=np.float32)
        oriented[:, s0:s1, r0:r1, c0:c1] = resized.swapaxes(0, 1)
        return np.ascontiguousarray(self.unorient(oriented))

    def points_to_network(self, points_zyx: np.ndarray) -> np.ndarray:
        """Continuous raw indices (N, 3) z, y, x to continuous network coordinates (N, 3) slice, y, x, float64."""
        points = np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3)[:, list(self.permutation)]
        sizes = np.array([self.raw_shape_zyx[a] for a in self.permutation])
        points = np.where(self.flips, sizes - 1 - points, points)
        points = points - [lo for lo, _ in self.crop_box]
        points[:, 1:] = (points[:, 1:] + 0.5) * self.scale - 0.5 + self.pad_offset
        return points

    def points_to_raw(self, points_syx: np.ndarray) -> np.ndarray:
        """Inverse of `points_to_network`."""
        points = np.array(points_syx, dtype=np.float64).reshape(-1, 3)
        points[:, 1:] = (points[:, 1:] - self.pad_offset + 0.5) / self.scale - 0.5
        points = points + [lo for lo, _ in self.crop_box]
        sizes = np.array([self.raw_shape_zyx[a] for a in self.permutation])
        points = np.where(self.flips, sizes - 1 - points, points)
        raw = np.empty_like(points)
        raw[:, list(self.permutation)] = points
        return raw

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CaseMapping:
        """Inverse of `to_dict`."""
        lists = {key: tuple(value) for key, value in data.items() if key not in ("crop_box", "image_size")}
        box = tuple((int(lo), int(hi)) for lo, hi in data["crop_box"])
        return cls(**lists, crop_box=box, image_size=int(data["image_size"]))  # type: ignore[arg-type]

    def _crop(self, oriented: np.ndarray) -> np.ndarray:
        (s0, s1), (r0, r1), (c0, c1) = self.crop_box
        return oriented[..., s0:s1, r0:r1, c0:c1]

    def _pad(self, slices: torch.Tensor) -> torch.Tensor:
        (top, bottom), (left, right) = self.content_box
        return F.pad(slices, (left, self.image_size - right, top, self.image_size - bottom))


def plan_case_mapping(
    geometry: ImageGeometry,
    slicing_axis: int,
    image_size: int,
    pixel_spacing_mm: float,
    crop_box_canonical: Sequence[tuple[int, int]] | None = None,
) -> CaseMapping:
    """The mapping of one case by the rules of the plans.

    In-plane pixels become square with the plans' spacing; a case whose slices would not fit in the square at
    that spacing is scaled down until they do. The content is centred.

    Args:
        geometry: grid of the raw image.
        slicing_axis: canonical axis to slice along: 0 superior, 1 posterior, 2 left.
        image_size: side of the square, pixels.
        pixel_spacing_mm: side of a network pixel, mm.
        crop_box_canonical: half-open ranges along the canonical axes to keep, default all.
    """
    canonical_permutation, canonical_flips = geometry.canonical_axes()
    order = [slicing_axis] + [a for a in range(3) if a != slicing_axis]
    permutation = tuple(canonical_permutation[a] for a in order)
    flips = tuple(canonical_flips[a] for a in order)
    sizes = geometry.canonical_shape()
    full = [(0, sizes[a]) for a in range(3)] if crop_box_canonical is None else list(crop_box_canonical)
    crop_box = tuple(full[a] for a in order)
    spacing = geometry.canonical_spacing_mm()
    extents_mm = [(crop_box[i][1] - crop_box[i][0]) * spacing[order[i]] for i in (1, 2)]
    effective_spacing = max(pixel_spacing_mm, max(extents_mm) / image_size)
    scaled = tuple(min(image_size, max(1, round(extent / effective_spacing))) for extent in extents_mm)
    pad = tuple((image_size - side) // 2 for side in scaled)
    return CaseMapping(geometry.shape_zyx, permutation, flips, crop_box, scaled, pad, image_size)  # type: ignore[arg-type]


def raw_resolution_mapping(geometry: ImageGeometry, slicing_axis: int) -> CaseMapping:
    """A mapping that orients and slices, but neither crops nor scales: network pixels are voxels.

    Args:
        geometry: grid of the raw image.
        slicing_axis: canonical axis to slice along; must be 0 for a 2D image.
    """
    permutation, flips = geometry.canonical_axes()
    order = [slicing_axis] + [axis for axis in range(3) if axis != slicing_axis]
    slices, rows, columns = (geometry.canonical_shape()[axis] for axis in order)
    return CaseMapping(
        raw_shape_zyx=geometry.shape_zyx,
        permutation=(permutation[order[0]], permutation[order[1]], permutation[order[2]]),
        flips=(flips[order[0]], flips[order[1]], flips[order[2]]),
        crop_box=((0, slices), (0, rows), (0, columns)),
        scaled_size=(rows, columns),
        pad_offset=(0, 0),
        image_size=max(rows, columns),
    )


def _resize(slices: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    if tuple(slices.shape[-2:]) == size:
        return slices
    return F.interpolate(slices, size=size, mode=mode, align_corners=False, antialias=True)
