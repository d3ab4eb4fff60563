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
from spdnet.inference.earlier import remove_earlier
from spdnet.inference.export import nnunet_probabilities, probabilities_on_raw_grid, write_prediction
from spdnet.inference.prompt_report import JudgedPrompts, write_prompt_report
from spdnet.inference.saliency_files import write_saliency
from spdnet.inference.work_list import FileCase
from spdnet.planning import NetworkCase, SPDSettings, preprocess_image
from spdnet.prompts import ALL_CLASSES, PromptReading, SliceBoxes, SlicePrompts
from spdnet.prompts.boxes import check_extent, corners_between, cut_into_slices, overlaps_image
from spdnet.prompts.loading import load_given_prompts
from spdnet.prompts.used_points import GivenPrompts, log_outside_crop, sort_out

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
class ArrayPrompts:
    """Points and boxes that come with an array, as continuous voxel indices into it.

    Attributes:
        points_zyx: float64 (N, 3).
        class_index: int64 (N,), foreground class (from 0) of each point, -1 for all.
        boxes_zyx: float64 (B, 2, 3), opposite corners of coarse boxes.
        box_class_index: int64 (B,), like `class_index`.
    """

    points_zyx: np.ndarray
    class_index: np.ndarray
    boxes_zyx: np.ndarray
    box_class_index: np.ndarray


@dataclass(frozen=True)
class ArrayCase:
    """A case to predict from an array, in stored order.

    Attributes:
        case: name for messages.
        image: (c, z, y, x), intensities as in the training files.
        geometry: its grid.
        prompts: points and boxes, or None to do without.
        target: path of the prediction without file ending, or None if it is returned.
    """

    case: str
    image: np.ndarray
    geometry: ImageGeometry
    prompts: ArrayPrompts | None
    target: Path | None


@dataclass(frozen=True)
class PreparedCase:
    """A case in the network frame; `prompts` None is without any. `given`: all prompts of its file."""

    case: str
    target: Path | None
    network_case: NetworkCase
    prompts: SlicePrompts | None
    given: GivenPrompts | None = None


@dataclass(frozen=True)
class NetworkResult:
    """What the network made of a case, and the way back to the image.

    Attributes:
        case: identifier. target: path of the prediction without file ending, or None.
        probabilities: float32 (S, k, M, M).
        mapping, geometry: of the case.
        judged: what became of its points, if that is to be written.
        saliency: float32 (S, k, M, M), if that is to be written.
    """

    case: str
    target: Path | None
    probabilities: np.ndarray
    mapping: CaseMapping
    geometry: ImageGeometry
    judged: JudgedPrompts | None = None
    saliency: np.ndarray | None = None


def prepare_case(item: FileCase | ArrayCase, tools: CaseTools) -> PreparedCase:
    """Read a case, if it is one of files, and bring image and points into the network frame.

    Raises:
        DatasetError, PromptFileError: a file, or a box of an array, is not what it must be.
    """
    if isinstance(item, FileCase):
        if item.fault is not None:
            raise item.fault
        return _prepare_files(item, tools)
    network_case = preprocess_image(item.image, item.geometry, tools.settings, item.case)
    prompts = None if item.prompts is None else _array_prompts(item.prompts, network_case, item.case)
    return PreparedCase(item.case, item.target, network_case, prompts)


def network_prompts(
    case: CaseFiles, network_case: NetworkCase, labels: Labels, reading: PromptReading = PromptReading()
) -> SlicePrompts:
    """The points of a case's prompt file in its network frame; raises `PromptFileError`."""
    return _given_prompts(case, network_case, labels, reading).for_network()


def finish_case(result: NetworkResult, tools: CaseTools, save_probabilities: bool) -> CaseResult:
    """Bring a prediction back to the image's grid, and write or return it.

    Returns:
        None if the case has a target. Else the segmentation (z, y, x), with `save_probabilities` together with
        nnU-Net's probabilities float32 (K, z, y, x), both in the order of nnU-Net's reader.

    Raises:
        DatasetError, StorageError: see `write_prediction`.
    """
    foreground = probabilities_on_raw_grid(result.probabilities, result.mapping)
    target, labels, reader = result.target, tools.labels, tools.reader
    if target is not None:
        if result.judged is not None:  # before the segmentation, which marks the case as complete
            write_prompt_report(target.parent, target.name, result.judged, result.mapping, result.geometry, labels)
        if result.saliency is not None:
            write_saliency(
                target.parent, target.name, tools.file_ending, result.saliency, result.mapping, result.geometry, reader
            )
        write_prediction(
            target.parent, target.name, tools.file_ending, foreground, result.geometry, labels, reader,
            save_probabilities,
        )  # fmt: skip
        remove_earlier(target, tools.file_ending)
        return None
    segmentation = np.ascontiguousarray(reader.to_reader_order(labels.merge(foreground), result.geometry))
    if not save_probabilities:
        return segmentation
    probabilities = reader.to_reader_order(nnunet_probabilities(foreground, labels), result.geometry)
    return segmentation, np.ascontiguousarray(probabilities)


def array_case(
    image: np.ndarray,
    properties: dict[str, Any],
    prompts: ArrayPrompts | None,
    target: Path | None,
    tools: CaseTools,
    name: str = "array",
) -> ArrayCase:
    """Turn an image of nnU-Net's interface, and prompts that fit it, to stored order.

    Args:
        image: (c, z, y, x) in the order of nnU-Net's reader.
        properties: that reader's; "spacing" is enough for an image whose axes are the patient's.
        prompts: in the order of the image as it is given, or None.
        target: where the prediction goes, without file ending, or None.
        tools: of the model.
        name: for messages.

    Raises:
        DatasetError: wrong number of axes or channels, or no spacing.
        PromptFileError: a point or a box lies outside the image.
    """
    n_channels = len(tools.settings.normalization)
    if image.ndim != 4:
        raise DatasetError(f"case {name}: the image must have axes (c, z, y, x), not shape {image.shape}")
    if len(image) != n_channels:
        raise DatasetError(f"case {name}: {len(image)} channels; the plans are for {n_channels}")
    if not np.isfinite(image).all():
        raise DatasetError(f"case {name}: the image holds NaN or infinite values; replace them before use")
    geometry = tools.reader.geometry_from_properties(properties, image.shape[1:])
    if prompts is not None:
        _check_inside(prompts, image.shape[1:], name)
        corners = points_from_reader_order(prompts.boxes_zyx.reshape(-1, 3), tools.reader, geometry)
        prompts = replace(
            prompts,
            points_zyx=points_from_reader_order(prompts.points_zyx, tools.reader, geometry),
            boxes_zyx=corners.reshape(-1, 2, 3),
        )
    stored = tools.reader.from_reader_order(image, geometry)
    return ArrayCase(name, stored, geometry, prompts, target)


def array_prompts(
    points_zyx: np.ndarray | None,
    class_index: np.ndarray | None,
    boxes_zyx: np.ndarray | None,
    box_class_index: np.ndarray | None,
    labels: Labels,
) -> ArrayPrompts | None:
    """The prompts of nnU-Net's array interface, checked; None where there are neither points nor boxes.

    Args:
        points_zyx: (N, 3), or None for no points. class_index: (N,), or None for all classes.
        boxes_zyx: (B, 2, 3), or None for no boxes. box_class_index: (B,), or None for all classes.
        labels: of the model.

    Raises:
        PromptFileError: shapes or classes do not fit.
    """
    if points_zyx is None and boxes_zyx is None:
        return None
    points = _of_shape(points_zyx, (3,), "points_zyx")
    boxes = _of_shape(boxes_zyx, (2, 3), "boxes_zyx")
    return ArrayPrompts(
        points,
        _class_index(class_index, len(points), labels, "class_index"),
        boxes,
        _class_index(box_class_index, len(boxes), labels, "box_class_index"),
    )


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
    if files.prompts is None:
        return PreparedCase(files.case, item.target, network_case, None)
    given = _given_prompts(files, network_case, tools.labels, tools.reading)
    return PreparedCase(files.case, item.target, network_case, given.for_network(), given)


def _given_prompts(case: CaseFiles, network_case: NetworkCase, labels: Labels, reading: PromptReading) -> GivenPrompts:
    if case.prompts is None:
        raise PromptFileError(f"case {case.case} has no prompt file")
    geometry, mapping = network_case.geometry, network_case.mapping
    return load_given_prompts(case.prompts, case.case, geometry, mapping, labels, reading=reading)


def _array_prompts(prompts: ArrayPrompts, network_case: NetworkCase, case: str) -> SlicePrompts:
    """Prompts in voxels of the stored image, in the network frame, less what is dropped of a file's too."""
    geometry, mapping = network_case.geometry, network_case.mapping
    cut = []
    for number, (first, second) in enumerate(prompts.boxes_zyx):
        corners = mapping.points_to_network(corners_between(first, second))
        check_extent(corners, f"case {case}: box {number}")
        cut.append(cut_into_slices(corners, mapping, int(prompts.box_class_index[number])))
    log_outside_crop(case, sum(len(boxes) > 0 for boxes in cut), len(cut), "boxes")
    points = SlicePrompts(mapping.points_to_network(prompts.points_zyx), prompts.class_index)
    used = sort_out(points, geometry, mapping, case).for_network()
    return replace(used, boxes=SliceBoxes.concatenate(cut))


def _check_inside(prompts: ArrayPrompts, shape_zyx: tuple[int, ...], name: str) -> None:
    points = prompts.points_zyx
    inside = np.all((points >= -0.5) & (points < np.array(shape_zyx) - 0.5), axis=1)
    outside = np.flatnonzero(~inside)
    if len(outside):
        raise PromptFileError(
            f"case {name}: point {outside[0]} at voxel (z, y, x) {points[outside[0]].tolist()} lies outside the "
            f"image of shape {tuple(shape_zyx)}"
        )
    for number, corners in enumerate(prompts.boxes_zyx):
        if not overlaps_image(corners, (shape_zyx[0], shape_zyx[1], shape_zyx[2])):
            raise PromptFileError(
                f"case {name}: box {number} with corners (z, y, x) {corners.tolist()} lies outside the image of shape "
                f"{tuple(shape_zyx)}"
            )


def _of_shape(values: np.ndarray | None, shape: tuple[int, ...], name: str) -> np.ndarray:
    """float64 (N, *shape), empty for None; PromptFileError for another shape or values that are not finite."""
    if values is None:
        return np.zeros((0, *shape))
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, *shape))
    if array.shape[1:] != shape or not np.isfinite(array).all():
        raise PromptFileError(
            f"{name} must be finite numbers of shape (N, {', '.join(map(str, shape))}), not {array.shape}"
        )
    return array


def _class_index(class_index: np.ndarray | None, count: int, labels: Labels, name: str) -> np.ndarray:
    classes = np.full(count, ALL_CLASSES) if class_index is None else np.asarray(class_index)
    if classes.shape != (count,) or not np.isin(classes, np.arange(-1, len(labels))).all():
        raise PromptFileError(
            f"{name} must give each of the {count} prompts a class from 0 to {len(labels) - 1}, or -1 for all; "
            f"it is {classes.tolist()}"
        )
    return classes.astype(np.int64)
