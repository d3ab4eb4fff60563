"""What is done with one case before and after the network; runs in worker processes as well as in the main one.

Arrays of nnU-Net's interface are in the order of its reader; inside spdnet everything is in stored order. The
translation of arrays, grids and points between the two is here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spdnet.dataset import CaseFiles, Labels, ReaderWriter
from spdnet.errors import DatasetError, PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.inference.export import nnunet_probabilities, probabilities_on_raw_grid, write_prediction
from spdnet.inference.prompt_report import JudgedPrompts, write_prompt_report
from spdnet.inference.work_list import FileCase
from spdnet.planning import NetworkCase, SPDSettings, preprocess_image
from spdnet.prompts import ALL_CLASSES, PromptReading, SlicePrompts, load_slice_prompts
from spdnet.prompts.loading import in_crop

SegmentationAndProbabilities = tuple[np.ndarray, np.ndarray]
CaseResult = np.ndarray | SegmentationAndProbabilities | None


@dataclass(frozen=True)
class CaseTools:
    """What the steps need to know of a model: no weights, and picklable.

    Attributes:
        settings: of the plans. labels: the classes. reader: of images and predictions. file_ending: with the dot.
        reading: what the user says of prompt files.
    """

    settings: SPDSettings
    labels: Labels
    reader: ReaderWriter
    file_ending: str
    reading: PromptReading = PromptReading()


@dataclass(frozen=True)
class ArrayCase:
    """A case to predict from an array, in stored order.

    Attributes:
        case: name for messages.
        image: (c, z, y, x), intensities as in the training files.
        geometry: its grid.
        points_zyx: float64 (N, 3) continuous voxel indices, or None for the saliency prior alone.
        class_index: int64 (N,), foreground class (from 0) of each point, -1 for all.
        target: path of the prediction without file ending, or None if it is returned.
    """

    case: str
    image: np.ndarray
    geometry: ImageGeometry
    points_zyx: np.ndarray | None
    class_index: np.ndarray | None
    target: Path | None


@dataclass(frozen=True)
class PreparedCase:
    """A case in the network frame; `prompts` None is the saliency prior alone."""

    case: str
    target: Path | None
    network_case: NetworkCase
    prompts: SlicePrompts | None


@dataclass(frozen=True)
class NetworkResult:
    """What the network made of a case, and the way back to the image.

    Attributes:
        case: identifier. target: path of the prediction without file ending, or None.
        probabilities: float32 (S, k, M, M).
        mapping, geometry: of the case.
        judged: what became of its points, if that is to be written.
    """

    case: str
    target: Path | None
    probabilities: np.ndarray
    mapping: CaseMapping
    geometry: ImageGeometry
    judged: JudgedPrompts | None = None


def prepare_case(item: FileCase | ArrayCase, tools: CaseTools) -> PreparedCase:
    """Read a case, if it is one of files, and bring image and points into the network frame.

    Raises:
        DatasetError, PromptFileError: a file is not what it must be.
    """
    if isinstance(item, FileCase):
        return _prepare_files(item, tools)
    network_case = preprocess_image(item.image, item.geometry, tools.settings, item.case)
    prompts = None
    if item.points_zyx is not None and item.class_index is not None:
        mapping = network_case.mapping
        prompts = SlicePrompts(mapping.points_to_network(item.points_zyx), item.class_index)
        prompts = prompts.select(in_crop(prompts, mapping))
    return PreparedCase(item.case, item.target, network_case, prompts)


def network_prompts(
    case: CaseFiles, network_case: NetworkCase, labels: Labels, reading: PromptReading = PromptReading()
) -> SlicePrompts:
    """The points of a case's prompt file in its network frame; raises `PromptFileError`."""
    if case.prompts is None:
        raise PromptFileError(f"case {case.case} has no prompt file")
    geometry, mapping = network_case.geometry, network_case.mapping
    return load_slice_prompts(case.prompts, case.case, geometry, mapping, labels, reading=reading)


def finish_case(result: NetworkResult, tools: CaseTools, save_probabilities: bool) -> CaseResult:
    """Bring a prediction back to the image's grid, and write or return it.

    Returns:
        None if the case has a target. Else the segmentation (z, y, x), with `save_probabilities` together with
        nnU-Net's probabilities float32 (K, z, y, x), both in the order of nnU-Net's reader.

    Raises:
        DatasetError: see `write_prediction`.
    """
    foreground = probabilities_on_raw_grid(result.probabilities, result.mapping)
    target, labels, reader = result.target, tools.labels, tools.reader
    if target is not None:
        if result.judged is not None:  # before the segmentation, which marks the case as complete
            write_prompt_report(target.parent, target.name, result.judged, result.mapping, result.geometry, labels)
        write_prediction(
            target.parent, target.name, tools.file_ending, foreground, result.geometry, labels, reader,
            save_probabilities,
        )  # fmt: skip
        return None
    segmentation = np.ascontiguousarray(reader.to_reader_order(labels.merge(foreground), result.geometry))
    if not save_probabilities:
        return segmentation
    probabilities = reader.to_reader_order(nnunet_probabilities(foreground, labels), result.geometry)
    return segmentation, np.ascontiguousarray(probabilities)


def array_case(
    image: np.ndarray,
    properties: dict[str, Any],
    points_zyx: np.ndarray | None,
    class_index: np.ndarray | None,
    target: Path | None,
    tools: CaseTools,
    name: str = "array",
) -> ArrayCase:
    """Check an image of nnU-Net's interface, with its points, and turn both to stored order.

    Args:
        image: (c, z, y, x) in the order of nnU-Net's reader.
        properties: that reader's; "spacing" is enough for an image whose axes are the patient's.
        points_zyx: (N, 3) continuous indices into the image as it is given, or None.
        class_index: (N,) foreground class (from 0) of each point, -1 for all; None for all.
        target: where the prediction goes, without file ending, or None.
        tools: of the model.
        name: for messages.

    Raises:
        DatasetError: wrong number of axes or channels, or no spacing.
        PromptFileError: a point lies outside the image, or `class_index` does not fit.
    """
    n_channels = len(tools.settings.normalization)
    if image.ndim != 4:
        raise DatasetError(f"case {name}: the image must have axes (c, z, y, x), not shape {image.shape}")
    if len(image) != n_channels:
        raise DatasetError(f"case {name}: {len(image)} channels; the plans are for {n_channels}")
    if not np.isfinite(image).all():
        raise DatasetError(f"case {name}: the image holds NaN or infinite values; replace them before use")
    geometry = tools.reader.geometry_from_properties(properties, image.shape[1:])
    points = classes = None
    if points_zyx is not None:
        points = np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3)
        _check_inside(points, image.shape[1:], name)
        classes = _class_index(class_index, len(points), tools.labels)
        points = points_from_reader_order(points, tools.reader, geometry)
    stored = tools.reader.from_reader_order(image, geometry)
    return ArrayCase(name, stored, geometry, points, classes, target)


def points_from_reader_order(points_zyx: np.ndarray, reader: ReaderWriter, geometry: ImageGeometry) -> np.ndarray:
    """Continuous indices (N, 3) into an array of nnU-Net's reader, to indices into the array in stored order.

    Args:
        points_zyx: float64.
        reader: of the array.
        geometry: the stored grid.
    """
    probe = reader.to_reader_order(np.indices((2, 2, 2)), replace(geometry, shape_zyx=(2, 2, 2)))
    stored = np.empty_like(points_zyx)
    for axis, size in enumerate(geometry.shape_zyx):
        along = np.array([probe[axis, 1, 0, 0], probe[axis, 0, 1, 0], probe[axis, 0, 0, 1]]) - probe[axis, 0, 0, 0]
        own = points_zyx[:, int(np.flatnonzero(along)[0])]
        stored[:, axis] = own if along.sum() > 0 else size - 1 - own
    return stored


def _prepare_files(item: FileCase, tools: CaseTools) -> PreparedCase:
    files = item.files
    image, geometry = tools.reader.read_image(files.images, files.case)
    network_case = preprocess_image(image, geometry, tools.settings, files.case)
    prompts = None
    if files.prompts is not None:
        prompts = network_prompts(files, network_case, tools.labels, tools.reading)
    return PreparedCase(files.case, item.target, network_case, prompts)


def _check_inside(points_zyx: np.ndarray, shape_zyx: tuple[int, ...], name: str) -> None:
    inside = np.all((points_zyx >= -0.5) & (points_zyx < np.array(shape_zyx) - 0.5), axis=1)
    outside = np.flatnonzero(~inside)
    if len(outside):
        raise PromptFileError(
            f"case {name}: point {outside[0]} at voxel (z, y, x) {points_zyx[outside[0]].tolist()} lies outside the "
            f"image of shape {tuple(shape_zyx)}"
        )


def _class_index(class_index: np.ndarray | None, n_points: int, labels: Labels) -> np.ndarray:
    classes = np.full(n_points, ALL_CLASSES) if class_index is None else np.asarray(class_index)
    if classes.shape != (n_points,) or not np.isin(classes, np.arange(-1, len(labels))).all():
        raise PromptFileError(
            f"class_index must give each of the {n_points} points a class from 0 to {len(labels) - 1}, or -1 for all; "
            f"it is {classes.tolist()}"
        )
    return classes.astype(np.int64)
