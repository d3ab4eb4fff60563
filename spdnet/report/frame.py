"""How a case is laid out for looking: slices along the plans' axis, at the image's own resolution, the patient upright.

Axial and coronal slices have the patient's left at the right of the screen, as radiologists hang them; in coronal and
sagittal slices the head is at the top. The mapping itself is geometry's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.geometry.case_mapping import raw_resolution_mapping
from spdnet.geometry.image_geometry import axis_name

_PLANES = {"S": "axial", "P": "coronal", "L": "sagittal"}
_OPPOSITE = {"S": "I", "P": "A", "L": "R"}


@dataclass(frozen=True)
class DisplayFrame:
    """The display frame of one case.

    Attributes:
        mapping: raw voxels to display pixels (slice, row, column); neither crops nor scales.
        spacing_mm: distance of slices, rows and columns, mm.
        letters: what lies to the left, right, top and bottom of the screen (A, P, R, L, S, I); None without patient
            axes.
        plane: "axial", "coronal", "sagittal", or "" without patient axes.
    """

    mapping: CaseMapping
    spacing_mm: tuple[float, float, float]
    letters: tuple[str, str, str, str] | None
    plane: str


def display_frame(geometry: ImageGeometry, slicing_axis: int) -> DisplayFrame:
    """The display frame of an image.

    Args:
        geometry: grid of the raw image.
        slicing_axis: canonical axis, 0 superior, 1 posterior, 2 left; 0 for a 2D image.
    """
    mapping = raw_resolution_mapping(geometry, slicing_axis)
    letters, plane = None, ""
    if geometry.has_patient_axes:
        rows, columns = (axis_name(axis) for axis in range(3) if axis != slicing_axis)
        top, bottom = _OPPOSITE[rows], rows
        if rows == "S":
            slices, flip_rows, flip_columns = mapping.flips
            mapping = replace(mapping, flips=(slices, not flip_rows, flip_columns))
            top, bottom = bottom, top
        letters, plane = (_OPPOSITE[columns], columns, top, bottom), _PLANES[axis_name(slicing_axis)]
    slices_mm, rows_mm, columns_mm = (geometry.spacing_zyx_mm[axis] for axis in mapping.permutation)
    return DisplayFrame(mapping, (slices_mm, rows_mm, columns_mm), letters, plane)
