"""Points as further channels of images, for programs that read channels but no prompt files, as nnU-Net does.

A channel shows the points of one class as Gaussians of height 1, as wide as those of SPD's dense prompt; for each class
there is one for the slice itself and one for each slice around it, so that a network of single slices is given the
points that SPD's decoder is. The prompt maps of interactive segmentation (for example DeepIGeoS, Wang et al., TPAMI
2019) are like it; those of the slices around are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spdnet.dataset import CaseFiles, RawDataset, ReaderWriter
from spdnet.dataset.image_io.simpleitk import write_on_grid
from spdnet.errors import ConfigurationError, DatasetError, PromptFileError
from spdnet.files import copy_file, make_folder, whole_file, whole_folder, write_json
from spdnet.geometry import CaseMapping, ImageGeometry, nearest_index
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.inference.prompt_maps import SIGMAS_ACROSS
from spdnet.inference.steps import CaseTools, prepare_case
from spdnet.inference.work_list import FileCase, checked_markups, with_prompts_of_folder
from spdnet.parallel import map_cases, progress_bar
from spdnet.prompts import SlicePrompts

CHANNEL_NAME = "noNorm"  # tells nnU-Net to leave a channel as it is
FILE_ENDINGS = (".nii.gz", ".nrrd", ".mha")  # formats that hold fractions on a grid
_REACH = 4  # standard deviations


def with_prompt_files(cases: Sequence[CaseFiles], folder: Path) -> list[FileCase]:
    """Cases with their prompt files of a folder.

    Raises:
        PromptFileError: there is no such folder, a case has no file there, or several, or a file is of another kind.
    """
    prompted, faults = with_prompts_of_folder(list(cases), folder)
    for fault in faults.values():
        raise fault
    return [FileCase(case, None) for case in prompted]


def check_points(cases: Sequence[FileCase], tools: CaseTools) -> None:
    """Check before any work that the points of every case lie in its image, and that there are no boxes.

    Raises:
        DatasetError, PromptFileError: the first case that cannot be used, and why.
    """
    axis = axis_from_name(tools.settings.slicing_axis)
    with progress_bar(cases, "checking prompts", leave=False) as bar:
        for case in bar:
            markups = checked_markups(case, tools.reader, tools.labels, tools.reading, False, axis)
            if any(markup.kind == "box" for markup in markups):
                raise PromptFileError(
                    f"case {case.case}: {case.files.prompts} holds boxes; only points can be used here"
                )


def write_images_with_points(
    dataset: RawDataset, cases: Sequence[FileCase], tools: CaseTools, n_slices: int, folder: Path, n_processes: int
) -> None:
    """Copy the images of cases to a new folder, each with the channels of its points behind its own.

    Args:
        dataset: whose training cases tell nnU-Net along which axis of its arrays to slice.
        cases: with a prompt file each; all are checked before anything is written.
        tools: of the plans, which say along which axis slices lie.
        n_slices: to either side whose points are shown, too.
        folder: to make; whole, or not at all.
        n_processes: worker processes.

    Raises:
        ConfigurationError: the folder exists, images are such that channels cannot stand beside them, or nnU-Net would
            slice along another axis than SPD does, so that the channels of slices around would not be of its slices.
        DatasetError, PromptFileError: a case or its prompt file is not what it must be, or has boxes.
        StorageError: a file cannot be written.
    """
    _check(cases, tools, folder)
    if n_slices:
        _check_axis(dataset, cases, tools)
    with whole_folder(folder) as partial:
        _write_cases(cases, tools, n_slices, partial, n_processes)


def write_dataset_with_points(
    dataset: RawDataset, cases: Sequence[FileCase], tools: CaseTools, n_slices: int, folder: Path, n_processes: int
) -> None:
    """Write a raw data set: training cases of another one with channels of their points.

    Args:
        dataset: whose description it gets.
        cases: with label and prompt file each.
        tools, n_slices, n_processes: as in `write_images_with_points`, which tells what is raised.
        folder: to make, `nnUNet_raw/DatasetNNN_Name`; whole, or not at all.
    """
    _check(cases, tools, folder)
    if n_slices:
        _check_axis(dataset, cases, tools)
    names = [*dataset.channel_names, *[CHANNEL_NAME] * (len(tools.labels) * (2 * n_slices + 1))]
    content = {key: value for key, value in dataset.dataset_json.items() if key not in ("dataset", "modality")}
    channels = {str(index): name for index, name in enumerate(names)}
    with whole_folder(folder) as partial:
        for name in ("imagesTr", "labelsTr"):
            make_folder(partial / name)
        _write_cases(cases, tools, n_slices, partial / "imagesTr", n_processes)
        for case in cases:
            assert case.files.label is not None, "training cases have one"
            copy_file(case.files.label, partial / "labelsTr" / f"{case.case}{tools.file_ending}")
        write_json(partial / "dataset.json", {**content, "channel_names": channels, "numTraining": len(cases)})


def point_channels(prompts: SlicePrompts, mapping: CaseMapping, n_classes: int, n_slices: int) -> Iterator[np.ndarray]:
    """The channels of a case: class after class, and in it from the slices before to those behind.

    Before is toward the patient's inferior, anterior or right side, however the image is stored.

    Args:
        prompts: points in the network frame.
        mapping: of the case.
        n_classes: number of classes; a point for all of them is in each one's channels.
        n_slices: to either side whose points are shown, too.

    Yields:
        float32 (z, y, x) on the raw grid, in [0, 1].
    """
    axis, forward = mapping.permutation[0], -1 if mapping.flips[0] else 1
    for k in range(n_classes):
        heat = raw_heat_map(prompts.for_class(k), mapping)
        for offset in range(-n_slices, n_slices + 1):
            yield shifted(heat, axis, offset * forward)


def write_channel(file: Path, channel: np.ndarray, geometry: ImageGeometry) -> None:
    """Write float32 (z, y, x) on the grid of an image, whole or not at all; raises as `write_on_grid`."""
    with whole_file(file, file.name.lower()) as partial:  # ITK knows lower-case endings alone
        write_on_grid(partial, channel, geometry)


def channel_file(case: str, index: int, file_ending: str) -> str:
    """nnU-Net's name for a channel of a case."""
    return f"{case}_{index:04d}{file_ending}"


def raw_points(points: SlicePrompts, mapping: CaseMapping) -> np.ndarray:
    """Continuous indices float (N, 3) of points into the raw array, on the centre planes of the slices they belong to.

    A point half-way between two slices belongs to the one that the network frame counts it to, in which the order of
    the slices may be the reverse.
    """
    return mapping.points_to_raw(np.column_stack([points.slice_index, points.points_syx[:, 1:]]))


def raw_heat_map(points: SlicePrompts, mapping: CaseMapping) -> np.ndarray:
    """Gaussians as wide in mm as those of SPD's dense prompt, each in its point's slice alone.

    Args:
        points: in network pixels.
        mapping: of the case.

    Returns:
        float32 (z, y, x) on the raw grid, in [0, 1].
    """
    sigma = np.zeros(3)
    sigma[list(mapping.permutation[1:])] = mapping.image_size / SIGMAS_ACROSS / np.array(mapping.scale)
    return heat_map(raw_points(points, mapping), mapping.raw_shape_zyx, sigma.tolist())


def shifted(array: np.ndarray, axis: int, offset: int) -> np.ndarray:
    """An array in which every slice along an axis is the one `offset` further on; zeros where there is none."""
    moved = np.zeros_like(array)
    n = array.shape[axis]
    if abs(offset) < n:
        index, source = [slice(None)] * array.ndim, [slice(None)] * array.ndim
        index[axis], source[axis] = (slice(max(0, -s), n - max(0, s)) for s in (offset, -offset))
        moved[tuple(index)] = array[tuple(source)]
    return moved


def heat_map(points: np.ndarray, shape: Sequence[int], sigma: Sequence[float]) -> np.ndarray:
    """Gaussians of height 1 around points, the highest where several overlap.

    Args:
        points: float (N, 3), continuous indices into the array; voxel centres are integers.
        shape: of the array.
        sigma: standard deviation along each axis, voxels; 0: the point is in its nearest voxel alone.

    Returns:
        float32 of that shape, in [0, 1]; 0 farther than four standard deviations from every point.
    """
    heat = np.zeros(tuple(shape), dtype=np.float32)
    for point in np.asarray(points, dtype=np.float64).reshape(-1, 3):
        profiles, window = [], []
        for centre, size, width in zip(point, shape, sigma, strict=True):
            nearest, reach = int(nearest_index(centre)), int(np.ceil(_REACH * width))
            first, stop = np.clip([nearest - reach, nearest + reach + 1], 0, size).tolist()
            offsets = np.arange(first, stop) - centre
            profiles.append(np.exp(-0.5 * (offsets / width) ** 2) if width else np.ones(stop - first))
            window.append(slice(first, stop))
        own = heat[tuple(window)]
        own[:] = np.maximum(own, np.einsum("a,b,c->abc", *profiles))
    return heat


def _check(cases: Sequence[FileCase], tools: CaseTools, folder: Path) -> None:
    """Everything that can be known before work starts."""
    if folder.exists():
        raise ConfigurationError(f"{folder} exists; nothing is replaced. Remove it, or choose another")
    ending, n_channels = tools.file_ending, len(tools.settings.normalization)
    if ending.lower() not in FILE_ENDINGS:
        raise ConfigurationError(
            f"points cannot be written as channels of {ending} images; that needs one of {', '.join(FILE_ENDINGS)}"
        )
    for case in cases:
        files = [*case.files.images, *([case.files.label] if case.files.label is not None else [])]
        other = next((f for f in files if not f.name.endswith(ending)), None)
        if other is not None:
            raise DatasetError(f"case {case.case}: {other} is not a {ending} file, as all files have to be here")
        if len(case.files.images) != n_channels:
            raise DatasetError(
                f"case {case.case}: {case.files.images[0]} holds several channels; nnU-Net reads channels of points "
                "only beside files of one channel each"
            )
        if not tools.reader.read_geometry(case.files.images[0], case.case).has_patient_axes:
            raise DatasetError(
                f"case {case.case}: {case.files.images[0]} is a 2D image; points are shown in volumes only"
            )
    check_points(cases, tools)


def _check_axis(dataset: RawDataset, cases: Sequence[FileCase], tools: CaseTools) -> None:
    """Whether nnU-Net slices where SPD does: along the array's axis of the largest median spacing in training.

    Source: nnU-Net's `ExperimentPlanner.determine_transpose`.
    """
    reader = tools.reader
    training = [reader.read_geometry(case.images[0], case.case) for case in dataset.training_cases()]
    nnunet = int(np.argmax(np.median([reader.properties(geometry)["spacing"] for geometry in training], axis=0)))
    for case in cases:
        geometry = reader.read_geometry(case.files.images[0], case.case)
        stored = geometry.canonical_axes()[0][axis_from_name(tools.settings.slicing_axis)]
        axis = _axis_in_reader_order(stored, reader, geometry)
        if axis != nnunet:
            raise ConfigurationError(
                f"case {case.case}: nnU-Net would slice along array axis {nnunet}, SPD slices along {axis}, so "
                "channels of the slices around would not fit nnU-Net's slices. Show the points of each slice alone, "
                "with -n_slices 0 in both calls, or store all images alike, with the slices along the first axis of "
                "their arrays"
            )


def _axis_in_reader_order(stored: int, reader: ReaderWriter, geometry: ImageGeometry) -> int:
    """Where the reader's array has an axis of the stored one."""
    sizes = (2, 3, 4)
    turned = reader.to_reader_order(np.zeros(sizes), replace(geometry, shape_zyx=sizes)).shape
    return turned.index(sizes[stored])


def _write_cases(cases: Sequence[FileCase], tools: CaseTools, n_slices: int, folder: Path, n_processes: int) -> None:
    write = functools.partial(_write_case, tools=tools, n_slices=n_slices, folder=folder)
    map_cases(write, list(cases), n_processes, "writing channels")


def _write_case(case: FileCase, tools: CaseTools, n_slices: int, folder: Path) -> None:
    images, ending = case.files.images, tools.file_ending
    prepared = prepare_case(case, tools)
    prompts, network_case = prepared.prompts or SlicePrompts.empty(), prepared.network_case
    for index, image in enumerate(images):
        copy_file(image, folder / channel_file(case.case, index, ending))
    channels = point_channels(prompts, network_case.mapping, len(tools.labels), n_slices)
    for index, channel in enumerate(channels, start=len(images)):
        write_channel(folder / channel_file(case.case, index, ending), channel, network_case.geometry)
