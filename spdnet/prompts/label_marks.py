"""Label maps of marks (NIfTI): each connected group of voxels of one value is a point at its centre of mass.

This is how programs without point files (ITK-SNAP) store clicks: a single voxel or a small ball for each. The map needs
not be on the image's grid, since points are taken in the world. Drawn regions are not marks, and are refused where they
can be told from them: by their shape, or by a size that no mark needs.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from spdnet.dataset import Labels, get_reader
from spdnet.errors import DatasetError, PromptFileError
from spdnet.geometry import ImageGeometry, nearest_index
from spdnet.prompts.points import Markup
from spdnet.prompts.text_files import MAX_POINTS, check_count, check_range

logger = logging.getLogger(__name__)

MAX_VOXELS = 2**29
MAX_MARKED_VOXELS = 2 * 10**6
MAX_LENGTH_MM = 20.0  # a ball of ITK-SNAP's brush is some millimetres wide
MAX_SHARE = 0.25  # of the map, along two of its axes; what is large there is no point, whatever its millimetres
MAX_SMALL_VOXELS = 5  # a ball that is not too large, however small the map
_MAX_VALUES = 256
_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a corner are one mark


def read_label_marks(file: Path, labels: Labels | None = None) -> list[Markup]:
    """Read the marks of a label map, one markup for each class, in LPS mm.

    A mark of a value that makes up several regions speaks for each of them.

    Args:
        file: NIfTI label map.
        labels: classes of the data set, which say what the values mean; without them the markups are named
            "label VALUE".

    Raises:
        PromptFileError: the file cannot be read as a label map, its s-form and q-form disagree, it is too large, a
            value is no class of dataset.json, or a group of voxels is no mark: its centre lies outside it, it is longer
            than `MAX_LENGTH_MM` between its outermost voxels, or larger than `MAX_SHARE` of the map along two axes.
    """
    label_map, geometry = _read_map(file)
    values = np.unique(label_map)
    values = values[values != 0]
    check_count(len(values), str(file), "values", _MAX_VALUES)
    if np.count_nonzero(label_map) > MAX_MARKED_VOXELS:
        raise PromptFileError(
            f"{file} has more than {MAX_MARKED_VOXELS} marked voxels. A map of marks has a voxel or a small ball for "
            "each point; is this a segmentation?"
        )
    names = {int(value): _class_names(int(value), labels, file) for value in values}
    by_name: dict[str, list[tuple[int, np.ndarray]]] = {}
    for value in names:
        centres = geometry.voxel_to_world(_centres_zyx(label_map, value, geometry, file))
        for name in names[value]:
            by_name.setdefault(name, []).append((value, centres))
    check_count(sum(len(c) for parts in by_name.values() for _, c in parts), str(file))
    if not by_name:
        logger.info("%s holds no marks", file)
    return [_markup(name, parts, file) for name, parts in by_name.items()]


def _read_map(file: Path) -> tuple[np.ndarray, ImageGeometry]:
    """Label map int32 (z, y, x) and its grid, after the checks that the header allows."""
    if not file.is_file():
        raise PromptFileError(f"prompt file {file} cannot be read: there is no such file")
    reader = get_reader("SimpleITKIO")
    try:
        geometry = reader.read_geometry(file)
        if np.prod(geometry.shape_zyx, dtype=np.float64) > MAX_VOXELS:
            raise PromptFileError(f"{file} has {geometry.shape_zyx} voxels, more than maps of marks may have")
        return reader.read_label(file)
    except (DatasetError, ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise PromptFileError(f"{file} cannot be read as a label map of marks: {error}") from error


def _class_names(value: int, labels: Labels | None, file: Path) -> list[str]:
    """Names of the classes that a value is part of."""
    if labels is None:
        return [f"label {value}"]
    names = [name for name, values in zip(labels.names, labels.values, strict=True) if value in values]
    if not names:
        declared = ", ".join(f"{'+'.join(map(str, v))} {n}" for n, v in zip(labels.names, labels.values, strict=True))
        raise PromptFileError(
            f"{file} has marks of value {value}, which is no class of dataset.json (these are {declared}). Mark with "
            "the values of the classes"
        )
    return names


def _centres_zyx(label_map: np.ndarray, value: int, geometry: ImageGeometry, file: Path) -> np.ndarray:
    """Centre of mass of each group of touching voxels of a value: continuous voxel index, float64 (N, 3)."""
    marked = label_map == value
    box = ndimage.find_objects(marked.view(np.uint8))[0]
    marked = marked[box]
    groups, n = ndimage.label(marked, _TOUCHING)
    check_count(n, str(file), limit=MAX_POINTS)
    coordinates = np.stack(np.nonzero(groups), axis=1)
    group = groups[tuple(coordinates.T)] - 1
    sizes = np.bincount(group, minlength=n)
    centres = np.stack([np.bincount(group, axis, n) / sizes for axis in coordinates.T.astype(np.float64)], axis=1)
    own = groups[tuple(nearest_index(centres).T)] == np.arange(1, n + 1)
    corner = np.array([side.start for side in box])
    centres += corner
    if not own.all():
        first = int(np.flatnonzero(~own)[0])
        raise PromptFileError(
            f"{_in_words(sizes[first], value, centres[first], file)} does not hold its own centre, so it is a drawing "
            "and no mark. Mark single voxels or balls"
        )
    extents = np.array([[side.stop - side.start for side in sides] for sides in ndimage.find_objects(groups)])
    for n_voxels, centre, extent in zip(sizes, centres, extents, strict=True):
        _check_is_small(extent, geometry, _in_words(n_voxels, value, centre, file))
    return centres


def _check_is_small(extent_zyx: np.ndarray, geometry: ImageGeometry, what: str) -> None:
    """Refuse a group of voxels that is too large for a mark; `extent_zyx` in voxels along each axis."""
    length_mm = float(((extent_zyx - 1) * np.array(geometry.spacing_zyx_mm)).max())
    remedy = "Each connected group of voxels is one point: mark single voxels or small balls"
    if length_mm > MAX_LENGTH_MM:
        raise PromptFileError(
            f"{what} is {length_mm:.0f} mm long, more than the {MAX_LENGTH_MM:.0f} mm that a mark may have, so it is a "
            f"drawing or a segmentation. {remedy}"
        )
    is_large = (extent_zyx > MAX_SHARE * np.array(geometry.shape_zyx)) & (extent_zyx > MAX_SMALL_VOXELS)
    if is_large.sum() >= 2:
        raise PromptFileError(
            f"{what} is {' x '.join(map(str, extent_zyx[::-1]))} voxels large, more than a quarter of the map along "
            f"two of its axes, so it is a drawing or a segmentation. {remedy}"
        )


def _in_words(n_voxels: int, value: int, centre_zyx: np.ndarray, file: Path) -> str:
    z, y, x = centre_zyx
    return f"{file}: a group of {n_voxels} voxels of value {value} around voxel (z {z:.1f}, y {y:.1f}, x {x:.1f})"


def _markup(name: str, parts: list[tuple[int, np.ndarray]], file: Path) -> Markup:
    points = np.concatenate([centres for _, centres in parts])
    point_labels = tuple(f"{value}-{i}" for value, centres in parts for i in range(1, len(centres) + 1))
    check_range(points, point_labels, str(file))
    return Markup(name, "points", points, point_labels)
