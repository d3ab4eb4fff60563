"""The fingerprint: what a data set looks like, measured, without any decision about the model.

One pass reads the headers and settles the slicing axis (needed to count slices), a second reads every case
once and checks it while it is in memory.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask

from spdnet.dataset import CaseFiles, Labels, RawDataset, ReaderWriter
from spdnet.errors import DatasetError, PlansError
from spdnet.files import read_json, write_json
from spdnet.geometry import ImageGeometry, default_slicing_axis, raw_resolution_mapping
from spdnet.geometry.image_geometry import axis_name
from spdnet.parallel import map_cases
from spdnet.prompts import PromptStatistics, count_prompts, load_slice_prompts

PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class ClassFingerprint:
    """One class in one case.

    Attributes:
        voxels: size. target_slices: slices that hold it.
        median_slice_area_mm2: over those slices; 0 if there are none.
        adjacent_dice: mean Dice of the masks of adjacent slices that both hold it; None without such a pair.
    """

    voxels: int
    target_slices: int
    median_slice_area_mm2: float
    adjacent_dice: float | None


@dataclass(frozen=True)
class CaseFingerprint:
    """One case, axes in canonical order (superior, posterior, left).

    Attributes:
        nonzero_box: half-open box of the voxels that are not zero in every channel, canonical axes.
        intensity: for each channel min, max and the percentiles 0.5, 50 and 99.5 of the image.
        foreground_intensity: the same within the target; zeros if there is none.
        prompt_statistics: of the case's prompt file, or None without one.
    """

    case: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    has_patient_axes: bool
    n_slices: int
    nonzero_box: tuple[tuple[int, int], ...]
    classes: tuple[ClassFingerprint, ...]
    intensity: tuple[tuple[float, ...], ...]
    foreground_intensity: tuple[tuple[float, ...], ...]
    prompt_statistics: PromptStatistics | None


@dataclass(frozen=True)
class Fingerprint:
    """A data set, measured: the reader that fits it, slicing axis (S, P or L), class names and all training cases."""

    dataset_name: str
    image_reader_writer: str
    slicing_axis: str
    class_names: tuple[str, ...]
    channel_names: tuple[str, ...]
    cases: tuple[CaseFingerprint, ...]

    @property
    def prompt_statistics(self) -> PromptStatistics | None:
        """Sum over all cases, or None unless every case has prompts."""
        total = None
        for case in self.cases:
            if case.prompt_statistics is None:
                return None
            total = case.prompt_statistics if total is None else total + case.prompt_statistics
        return total

    def save(self, file: Path) -> None:
        """Write the fingerprint file: the measurements and a readable summary of them."""
        write_json(file, {"summary": self.summary(), **dataclasses.asdict(self)})

    def summary(self) -> dict[str, Any]:
        """Medians over cases, and prompt statistics in words; for people, not read back."""
        spacing = np.median([c.spacing_mm for c in self.cases], axis=0)
        shape = np.median([c.shape for c in self.cases], axis=0)
        classes = {}
        for index, name in enumerate(self.class_names):
            per_case = [c.classes[index] for c in self.cases]
            slices = sum(c.n_slices for c in self.cases)
            classes[name] = {
                "share_of_voxels": sum(p.voxels for p in per_case) / sum(int(np.prod(c.shape)) for c in self.cases),
                "share_of_slices": sum(p.target_slices for p in per_case) / slices,
                "median_slice_area_mm2": _median([p.median_slice_area_mm2 for p in per_case if p.target_slices]),
                "adjacent_slice_dice": _median([p.adjacent_dice for p in per_case]),
            }
        statistics = self.prompt_statistics
        return {
            "n_cases": len(self.cases),
            "n_slices": sum(c.n_slices for c in self.cases),
            "median_spacing_SPL_mm": spacing.tolist(),
            "median_shape_SPL": shape.tolist(),
            "classes": classes,
            "prompts": statistics.as_floats() if statistics is not None else "none: prompts will be simulated",
        }

    @classmethod
    def load(cls, file: Path) -> Fingerprint:
        """Read a fingerprint file.

        Raises:
            PlansError: missing or not a fingerprint of spdnet.
        """
        content = read_json(file, "fingerprint", "Run spd_extract_fingerprint first.", PlansError)
        try:
            return cls(
                content["dataset_name"],
                content["image_reader_writer"],
                content["slicing_axis"],
                tuple(content["class_names"]),
                tuple(content["channel_names"]),
                tuple(_case_from_dict(case) for case in content["cases"]),
            )
        except (KeyError, TypeError) as error:
            raise PlansError(
                f"{file} is not a fingerprint of this version of spdnet ({error}); run spd_extract_fingerprint --clean"
            ) from error


def extract_fingerprint(dataset: RawDataset, n_processes: int) -> Fingerprint:
    """Measure all training cases, and check each while it is read.

    Raises:
        DatasetError, PromptFileError: a case is not what it must be; see `measure_case`.
    """
    if dataset.labels.ignore_value is not None:
        raise DatasetError(
            f"{dataset.folder}: dataset.json declares an ignore label, which spdnet does not support yet"
        )
    cases = dataset.training_cases()
    reader = dataset.reader
    geometries = [reader.read_geometry(case.images[0], case.case) for case in cases]
    spacing = np.median([g.canonical_spacing_mm() for g in geometries], axis=0)
    axis = default_slicing_axis(spacing.tolist()) if geometries[0].has_patient_axes else 0
    measure = functools.partial(measure_case, reader=reader, labels=dataset.labels, slicing_axis=axis)
    measured = map_cases(measure, cases, n_processes, "fingerprint")
    if not any(c.target_slices for case in measured for c in case.classes):
        raise DatasetError(f"{dataset.folder}: the labels of all {len(cases)} training cases are empty")
    return Fingerprint(
        dataset.folder.name,
        reader.name,
        axis_name(axis),
        dataset.labels.names,
        tuple(dataset.channel_names),
        tuple(measured),
    )


def measure_case(case: CaseFiles, reader: ReaderWriter, labels: Labels, slicing_axis: int) -> CaseFingerprint:
    """Read, check and measure one case.

    Raises:
        DatasetError: unreadable files, image and label on different grids, undeclared label values.
        PromptFileError: unreadable prompts or points outside the image.
    """
    image, geometry = reader.read_image(case.images, case.case)
    mapping = raw_resolution_mapping(geometry, slicing_axis)
    assert case.label is not None
    label_map = read_checked_label(case, reader, labels, geometry)
    masks = mapping.orient(labels.masks(label_map))
    area_mm2, spacing = _pixel_area_mm2(geometry, slicing_axis), geometry.canonical_spacing_mm()
    foreground = masks.any(axis=0)
    oriented = mapping.orient(image)
    statistics = None
    if case.prompts is not None:
        prompts = load_slice_prompts(case.prompts, case.case, geometry, mapping, labels)
        statistics = count_prompts(prompts, masks.swapaxes(0, 1))
    return CaseFingerprint(
        case.case,
        geometry.canonical_shape(),
        spacing,
        geometry.has_patient_axes,
        masks.shape[1],
        tuple(nonzero_box(image, geometry)),
        tuple(_measure_class(mask, area_mm2) for mask in masks),
        tuple(_intensity(channel) for channel in oriented),
        tuple(_intensity(channel[foreground]) for channel in oriented),
        statistics,
    )


def read_checked_label(case: CaseFiles, reader: ReaderWriter, labels: Labels, geometry: ImageGeometry) -> np.ndarray:
    """Label map (z, y, x) of a case, checked against its image's grid and the declared values.

    Raises:
        DatasetError: naming case, file, what differs, and what to do.
    """
    assert case.label is not None
    label_map, label_geometry = reader.read_label(case.label, case.case)
    if difference := geometry.difference(label_geometry):
        raise DatasetError(
            f"case {case.case}: image {case.images[0]} and label {case.label} are not on the same grid: {difference}. "
            "Resample one onto the other."
        )
    undeclared = sorted(set(np.unique(label_map).tolist()) - labels.declared_values)
    if undeclared:
        raise DatasetError(
            f"case {case.case}: label {case.label} holds values {undeclared} that dataset.json does not declare "
            f"(declared: {sorted(labels.declared_values)})"
        )
    return label_map


def nonzero_box(image: np.ndarray, geometry: ImageGeometry) -> list[tuple[int, int]]:
    """Half-open box of the voxels of an image (c, z, y, x) that are not zero in every channel, canonical axes.

    An image of zeros is kept whole.
    """
    permutation, flips = geometry.canonical_axes()
    nonzero = np.flip(np.transpose((image != 0).any(axis=0), permutation), tuple(i for i in range(3) if flips[i]))
    if not nonzero.any():
        return [(0, n) for n in nonzero.shape]
    return [(int(lo), int(hi)) for lo, hi in get_bbox_from_mask(nonzero)]


def _measure_class(mask: np.ndarray, pixel_area_mm2: float) -> ClassFingerprint:
    pixels = mask.sum(axis=(1, 2))
    present = pixels > 0
    overlap = (mask[1:] & mask[:-1]).sum(axis=(1, 2))
    both = present[1:] & present[:-1]
    dice = 2 * overlap[both] / (pixels[1:] + pixels[:-1])[both]
    return ClassFingerprint(
        int(pixels.sum()),
        int(present.sum()),
        float(np.median(pixels[present]) * pixel_area_mm2) if present.any() else 0.0,
        float(dice.mean()) if both.any() else None,
    )


def _intensity(values: np.ndarray) -> tuple[float, ...]:
    if values.size == 0:
        return (0.0,) * (2 + len(PERCENTILES))
    return (float(values.min()), float(values.max()), *(float(p) for p in np.percentile(values, PERCENTILES)))


def _pixel_area_mm2(geometry: ImageGeometry, slicing_axis: int) -> float:
    spacing = geometry.canonical_spacing_mm()
    return float(np.prod(spacing) / spacing[slicing_axis])


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _case_from_dict(content: dict[str, Any]) -> CaseFingerprint:
    statistics = content["prompt_statistics"]
    return CaseFingerprint(
        content["case"],
        tuple(content["shape"]),
        tuple(content["spacing_mm"]),
        content["has_patient_axes"],
        content["n_slices"],
        tuple((lo, hi) for lo, hi in content["nonzero_box"]),
        tuple(ClassFingerprint(**c) for c in content["classes"]),
        tuple(tuple(c) for c in content["intensity"]),
        tuple(tuple(c) for c in content["foreground_intensity"]),
        PromptStatistics(**statistics) if statistics is not None else None,
    )
