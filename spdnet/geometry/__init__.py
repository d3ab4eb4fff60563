"""The three frames of a case and the maps between them.

World (LPS, mm) is what prompt files store; raw voxel indices (z, y, x) are the image as read; network
pixels (slice, y, x) are what the model sees. `ImageGeometry` joins the first two, `CaseMapping` the
last two. No other package computes coordinates.
"""

from spdnet.geometry.case_mapping import CaseMapping, plan_case_mapping, raw_resolution_mapping, rescale_points
from spdnet.geometry.image_geometry import ImageGeometry, default_slicing_axis, nearest_index
from spdnet.geometry.slice_transform import SliceTransform

__all__ = [
    "CaseMapping",
    "ImageGeometry",
    "SliceTransform",
    "default_slicing_axis",
    "nearest_index",
    "plan_case_mapping",
    "raw_resolution_mapping",
    "rescale_points",
]
