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

from spdnet.dataset import CaseFiles, Labels, RawDataset, ReaderWriter, check_prompt_names
from spdnet.dataset.raw_dataset import check_channels
from spdnet.errors import DatasetError, PlansError
from spdnet.files import read_json, write_json
from spdnet.geometry import ImageGeometry, default_slicing_axis, raw_resolution_mapping
from spdnet.geometry.image_geometry import axis_name
from spdnet.parallel import map_cases
from spdnet.planning.case_checks import check_cases, check_grid
from spdnet.planning.raw_files import RawFiles
from spdnet.prompts import (
    PromptReading,
    PromptStatistics,
    count_prompts,
    load_given_prompts,
    prompt_type,
    read_checked_markups,
)
from spdnet.prompts.simulate_files import pixel_size_mm

PERCENTILES = (0.5, 50.0, 99.5)
FOREGROUND_SAMPLES = 10_000_000  # of all cases together; nnU-Net draws ten times as many


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
        cropped_mean_std: for each channel mean and standard deviation within the non-zero box.
        reader_axes, reader_flips: for each canonical axis the axis of nnU-Net's array that is closest to it, and
            whether that one runs the other way.
        reader_spacing_mm, reader_shape_after_crop: spacing as nnU-Net's reader gives it, and the size of the non-zero
            box, both in the axis order of nnU-Net's array.
        prompt_statistics: of the case's prompt file, or None without one.
        prompt_curves, prompt_boxes: how many curves and boxes that file holds.
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
    cropped_mean_std: tuple[tuple[float, float], ...]
    reader_axes: tuple[int, int, int]
    reader_flips: tuple[bool, bool, bool]
    reader_spacing_mm: tuple[float, float, float]
    reader_shape_after_crop: tuple[int, int, int]
    prompt_statistics: PromptStatistics | None
    prompt_curves: int = 0
    prompt_boxes: int = 0


@dataclass(frozen=True)
class Fingerprint:
    """A data set, measured.

    Attributes:
        image_reader_writer: name of the reader that fits it.
        slicing_axis: S, P or L.
        has_regions: whether the classes are regions.
        foreground_intensities: for each channel statistics of the target's voxels in all cases together, named as in
            nnU-Net's fingerprint.
        measured_from: the raw files; None in a fingerprint of an earlier version, which has to be measured again.
    """

    dataset_name: str
    image_reader_writer: str
    slicing_axis: str
    class_names: tuple[str, ...]
    has_regions: bool
    channel_names: tuple[str, ...]
    foreground_intensities: tuple[dict[str, float], ...]
    cases: tuple[CaseFingerprint, ...]
    measured_from: RawFiles | None = None

    @property
    def prompt_statistics(self) -> PromptStatistics | None:
        """Sum over the cases that have prompts, or None if none has."""
        measured = [c.prompt_statistics for c in self.cases if c.prompt_statistics is not None]
        return sum(measured, PromptStatistics()) if measured else None

    @property
    def n_prompt_files(self) -> int:
        """How many cases have a prompt file."""
        return sum(c.prompt_statistics is not None for c in self.cases)

    @property
    def n_curves(self) -> int:
        """Curves in all prompt files."""
        return sum(c.prompt_curves for c in self.cases)

    @property
    def prompt_type(self) -> str:
        """What the prompts of the training cases are: "centreline", "points", "boxes" or "none"."""
        total = self.prompt_statistics
        if total is None:
            return "none"
        return prompt_type(total, self.n_curves, sum(c.prompt_boxes for c in self.cases))

    def out_of_date(self, now: RawFiles) -> str | None:
        """Why it has to be measured again, in words; None if the raw files are those that it was measured from."""
        if self.measured_from is None:
            return "it was written by an earlier version, which noted less"
        return self.measured_from.difference(now)

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
            "prompt_type": self.prompt_type,
            "n_prompt_files": self.n_prompt_files,
            "prompts": (
                {**statistics.as_floats(), "quality": statistics.quality}
                if statistics is not None
                else "none: prompts will be simulated"
            ),
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
                content["has_regions"],
                tuple(content["channel_names"]),
                tuple(content["foreground_intensities"]),
                tuple(_case_from_dict(case) for case in content["cases"]),
                RawFiles.from_dict(content["measured_from"]) if _measures_all(content) else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlansError(
                f"{file} is not a fingerprint of this version of spdnet ({error}); run spd_extract_fingerprint --clean"
            ) from error


def extract_fingerprint(dataset: RawDataset, n_processes: int, reading: PromptReading = PromptReading()) -> Fingerprint:
    """Check headers and prompt files of all training cases, then measure each, and check it while it is read.

    Raises:
        DatasetError, PromptFileError: a case is not what it must be; see `check_cases` and `measure_case`.
    """
    cases = dataset.training_cases()
    measured_from = RawFiles.of(dataset.folder, cases, reading)  # before they are read
    if any(case.prompts is None for case in cases):  # is it that their prompt files have wrong names?
        check_prompt_names(dataset, cases)
    check_cases(dataset, cases, reading)
    reader = dataset.reader
    geometries = [reader.read_geometry(case.images[0], case.case) for case in cases]
    spacing = np.median([g.canonical_spacing_mm() for g in geometries], axis=0)
    axis = default_slicing_axis(spacing.tolist()) if geometries[0].has_patient_axes else 0
    measure = functools.partial(
        measure_case,
        reader=reader,
        labels=dataset.labels,
        slicing_axis=axis,
        n_channels=len(dataset.channel_names),
        n_samples=FOREGROUND_SAMPLES // len(cases),
        reading=reading,
    )
    results = map_cases(measure, cases, n_processes, "fingerprint")
    measured = [r.fingerprint for r in results]
    if not any(c.target_slices for case in measured for c in case.classes):
        raise DatasetError(f"{dataset.folder}: the labels of all {len(cases)} training cases are empty")
    return Fingerprint(
        dataset.folder.name,
        reader.name,
        axis_name(axis),
        dataset.labels.names,
        dataset.labels.is_regions,
        tuple(dataset.channel_names),
        tuple(_pooled_intensities(channel) for channel in np.concatenate([r.samples for r in results], axis=1)),
        tuple(measured),
        measured_from,
    )


@dataclass(frozen=True)
class CaseMeasurement:
    """A measured case, and foreground intensities drawn from it: float32 (c, n)."""

    fingerprint: CaseFingerprint
    samples: np.ndarray


def measure_case(
    case: CaseFiles,
    reader: ReaderWriter,
    labels: Labels,
    slicing_axis: int,
    n_channels: int,
    n_samples: int,
    reading: PromptReading = PromptReading(),
) -> CaseMeasurement:
    """Read, check and measure one case.

    Args:
        case: with label.
        reader: of image and label.
        labels: the classes.
        slicing_axis: canonical axis.
        n_channels: that dataset.json declares.
        n_samples: foreground voxels to draw for the statistics of the whole data set, with replacement.
        reading: what the user says of prompt files.

    Raises:
        DatasetError: unreadable files, image and label on different grids, undeclared label values.
        PromptFileError: unreadable prompts or points outside the image.
    """
    image, geometry = reader.read_image(case.images, case.case)
    check_channels(image, n_channels, case.case)
    mapping = raw_resolution_mapping(geometry, slicing_axis)
    assert case.label is not None
    label_map = read_checked_label(case, reader, labels, geometry)
    masks = mapping.orient(labels.masks(label_map))
    area_mm2, spacing = _pixel_area_mm2(geometry, slicing_axis), geometry.canonical_spacing_mm()
    foreground = masks.any(axis=0)
    oriented = mapping.orient(image)
    statistics, markups = None, []
    if case.prompts is not None:
        how = reading.frame, reading.outside, False  # `check_cases` has logged what is dropped
        markups = read_checked_markups(case.prompts, case.case, geometry, labels, *how)
        given = load_given_prompts(
            case.prompts, case.case, geometry, mapping, labels, reading=reading, log_dropped=False
        )
        prompts = given.for_network()
        statistics = count_prompts(prompts, masks.swapaxes(0, 1), pixel_size_mm(geometry, mapping))
    box = tuple(nonzero_box(image, geometry))
    sliced_box = [box[slicing_axis], *(box[a] for a in range(3) if a != slicing_axis)]
    (s0, s1), (r0, r1), (c0, c1) = sliced_box
    cropped = oriented[:, s0:s1, r0:r1, c0:c1]
    axes, flips = reader_axes(reader, geometry)
    spacing_of_reader = [float(v) for v in reader.properties(geometry)["spacing"]]
    fingerprint = CaseFingerprint(
        case.case,
        geometry.canonical_shape(),
        spacing,
        geometry.has_patient_axes,
        masks.shape[1],
        box,
        tuple(_measure_class(mask, area_mm2) for mask in masks),
        tuple(_intensity(channel) for channel in oriented),
        tuple(_intensity(channel[foreground]) for channel in oriented),
        tuple((float(channel.mean()), float(channel.std())) for channel in cropped),
        axes,
        flips,
        (spacing_of_reader[0], spacing_of_reader[1], spacing_of_reader[2]),
        tuple(box[axes.index(a)][1] - box[axes.index(a)][0] for a in range(3)),  # type: ignore[arg-type]
        statistics,
        sum(m.kind in ("curve", "closed_curve") and len(m.points_lps_mm) > 0 for m in markups),
        sum(m.kind == "box" for m in markups),
    )
    values = oriented[:, foreground]
    if values.shape[1]:
        values = values[:, np.random.default_rng(0).integers(values.shape[1], size=n_samples)]
    return CaseMeasurement(fingerprint, values)


def reader_axes(reader: ReaderWriter, geometry: ImageGeometry) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """How the canonical axes (superior, posterior, left) lie in the array of nnU-Net's reader of the same name.

    Returns:
        For each canonical axis the axis of that array, and whether it runs the other way.
    """
    # a cube of two voxels a side that hold their own stored indices, as the reader would turn it
    cube = reader.to_reader_order(np.indices((2, 2, 2)), dataclasses.replace(geometry, shape_zyx=(2, 2, 2)))
    axes, reversed_axes = [], []
    for stored_axis, flipped in zip(*geometry.canonical_axes(), strict=True):
        index = cube[stored_axis]
        axis = next(a for a in range(3) if np.diff(index, axis=a).any())
        axes.append(axis)
        reversed_axes.append(flipped != bool((np.diff(index, axis=axis) < 0).any()))
    return tuple(axes), tuple(reversed_axes)  # type: ignore[return-value]


def read_checked_label(case: CaseFiles, reader: ReaderWriter, labels: Labels, geometry: ImageGeometry) -> np.ndarray:
    """Label map (z, y, x) of a case, checked against its image's grid and the declared values.

    Raises:
        DatasetError: naming case, file, what differs, and what to do.
    """
    assert case.label is not None
    label_map, label_geometry = reader.read_label(case.label, case.case)
    check_grid(case, geometry, label_geometry)
    undeclared = sorted(set(np.unique(label_map).tolist()) - labels.declared_values)
    if undeclared:
        raise DatasetError(
            f"case {case.case}: label {case.label} holds values {undeclared} that dataset.json does not declare "
            f'(declared: {sorted(labels.declared_values)}). Correct the file, or declare them under "labels"'
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


def _pooled_intensities(values: np.ndarray) -> dict[str, float]:
    """Statistics of intensities (n,), named as in nnU-Net's fingerprint; zeros if there are none."""
    if values.size == 0:
        values = np.zeros(1, dtype=np.float32)
    low, median, high = (float(p) for p in np.percentile(values, PERCENTILES))
    return {
        "max": float(values.max()),
        "mean": float(values.mean(dtype=np.float64)),
        "median": median,
        "min": float(values.min()),
        "percentile_00_5": low,
        "percentile_99_5": high,
        "std": float(values.std(dtype=np.float64)),
    }


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


def _measures_all(content: dict[str, Any]) -> bool:
    """Whether a fingerprint notes what it was measured from, and all that is counted of prompts."""
    counted = [case["prompt_statistics"] for case in content["cases"] if case["prompt_statistics"] is not None]
    return content.get("measured_from") is not None and all("short_steps" in counts for counts in counted)


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
        tuple((mean, std) for mean, std in content["cropped_mean_std"]),
        tuple(content["reader_axes"]),
        tuple(content["reader_flips"]),
        tuple(content["reader_spacing_mm"]),
        tuple(content["reader_shape_after_crop"]),
        PromptStatistics(**statistics) if statistics is not None else None,
        content["prompt_curves"],
        content["prompt_boxes"],
    )
