"""Points as further channels of images, for programs that read channels but no prompt files, as nnU-Net does.

A channel shows the points of one class as Gaussians of height 1, as wide as those of SPD's dense prompt; for each class
there is one for the slice itself and one for each slice around it, so that a network of single slices is told what
SPD's decoder is. The prompt maps of interactive segmentation (for example DeepIGeoS, Wang et al., TPAMI 2019) are like
it; those of the slices around are ours.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from spdnet.dataset import RawDataset
from spdnet.errors import ConfigurationError, PromptFileError
from spdnet.files import copy_file, make_folder, storage_errors, whole_file, write_json
from spdnet.geometry import CaseMapping, ImageGeometry, nearest_index
from spdnet.inference.prompt_maps import SIGMAS_ACROSS
from spdnet.inference.steps import CaseTools, prepare_case
from spdnet.inference.work_list import FileCase, checked_markups
from spdnet.parallel import map_cases, progress_bar
from spdnet.prompts import SlicePrompts

CHANNEL_NAME = "noNorm"  # tells nnU-Net to leave a channel as it is
FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")  # formats of one file that hold fractions on a grid
_REACH = 4  # standard deviations


def write_images_with_points(
    cases: Sequence[FileCase], tools: CaseTools, n_slices: int, folder: Path, n_processes: int
) -> None:
    """Copy the images of cases to a new folder, each with the channels of its points behind its own.

    Args:
        cases: with a prompt file each; all are checked before anything is written.
        tools: of the plans, which say along which axis slices lie.
        n_slices: to either side whose points are shown, too.
        folder: to make; whole, or not at all.
        n_processes: worker processes.

    Raises:
        ConfigurationError: the folder exists, or images are of a format that cannot hold such channels.
        DatasetError, PromptFileError: a case or its prompt file is not what it must be, or has boxes.
        StorageError: a file cannot be written.
    """
    _check(cases, tools, folder)
    with _new_folder(folder) as partial:
        _write_cases(cases, tools, n_slices, partial, n_processes)


def write_dataset_with_points(
    dataset: RawDataset, tools: CaseTools, n_slices: int, folder: Path, n_processes: int
) -> None:
    """Write a raw data set: the training cases of another one with channels of their points.

    Args:
        dataset: with a prompt file for each training case.
        tools, n_slices, n_processes: as in `write_images_with_points`, which tells what is raised.
        folder: to make, `nnUNet_raw/DatasetNNN_Name`; whole, or not at all.
    """
    cases = [FileCase(files, None) for files in dataset.training_cases()]
    _check(cases, tools, folder)
    with _new_folder(folder) as partial:
        for name in ("imagesTr", "labelsTr"):
            make_folder(partial / name)
        _write_cases(cases, tools, n_slices, partial / "imagesTr", n_processes)
        for case in cases:
            if case.files.label is not None:
                copy_file(case.files.label, partial / "labelsTr" / f"{case.case}{tools.file_ending}")
        names = [*dataset.channel_names, *[CHANNEL_NAME] * (len(tools.labels) * (2 * n_slices + 1))]
        content = {key: value for key, value in dataset.dataset_json.items() if key not in ("dataset", "modality")}
        channels = {str(index): name for index, name in enumerate(names)}
        write_json(partial / "dataset.json", {**content, "channel_names": channels, "numTraining": len(cases)})


def point_channels(prompts: SlicePrompts, mapping: CaseMapping, n_classes: int, n_slices: int) -> np.ndarray:
    """The channels of a case: class after class, and in it from the slices before to those behind, as stored.

    Args:
        prompts: points in the network frame.
        mapping: of the case.
        n_classes: number of classes; a point for all of them is in each one's channels.
        n_slices: to either side whose points are shown, too.

    Returns:
        float32 (n_classes * (2 * n_slices + 1), z, y, x) on the raw grid, in [0, 1].
    """
    heats = [raw_heat_map(prompts.for_class(k).points_syx, mapping) for k in range(n_classes)]
    offsets = range(-n_slices, n_slices + 1)
    return np.stack([shifted(heat, mapping.permutation[0], offset) for heat in heats for offset in offsets])


def write_channel(file: Path, channel: np.ndarray, geometry: ImageGeometry) -> None:
    """Write float32 (z, y, x) on the grid of an image, whole or not at all; raises `StorageError`."""
    image = sitk.GetImageFromArray(channel)
    geometry.apply_to_sitk(image)
    with whole_file(file) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)


def channel_file(case: str, index: int, file_ending: str) -> str:
    """nnU-Net's name for a channel of a case."""
    return f"{case}_{index:04d}{file_ending}"


def raw_heat_map(points_syx: np.ndarray, mapping: CaseMapping) -> np.ndarray:
    """Gaussians as wide in mm as those of SPD's dense prompt, each in its point's slice alone.

    Args:
        points_syx: float (N, 3), slice, y, x in network pixels.
        mapping: of the case.

    Returns:
        float32 (z, y, x) on the raw grid, in [0, 1].
    """
    sigma = np.zeros(3)
    sigma[list(mapping.permutation[1:])] = mapping.image_size / SIGMAS_ACROSS / np.array(mapping.scale)
    return heat_map(mapping.points_to_raw(points_syx), mapping.raw_shape_zyx, sigma.tolist())


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


def check_points(cases: Sequence[FileCase], tools: CaseTools) -> None:
    """Check before any work that every case has a prompt file of its image's points, and no boxes.

    Raises:
        DatasetError, PromptFileError: the first case that cannot be used, and why.
    """
    with progress_bar(cases, "checking prompts", leave=False) as bar:
        for case in bar:
            if case.fault is not None:
                raise case.fault
            markups = checked_markups(case, tools.reader, tools.labels, tools.reading)
            if any(markup.kind == "box" for markup in markups):
                raise PromptFileError(
                    f"case {case.case}: {case.files.prompts} holds boxes; only points can be used here"
                )


def _check(cases: Sequence[FileCase], tools: CaseTools, folder: Path) -> None:
    """Everything that can be known before work starts."""
    if folder.exists():
        raise ConfigurationError(f"{folder} exists; nothing is replaced. Remove it, or choose another")
    if not tools.file_ending.lower().endswith(FILE_ENDINGS):
        raise ConfigurationError(
            f"points cannot be written as channels of {tools.file_ending} images; that needs one of "
            f"{', '.join(FILE_ENDINGS)}"
        )
    check_points(cases, tools)


def _write_cases(cases: Sequence[FileCase], tools: CaseTools, n_slices: int, folder: Path, n_processes: int) -> None:
    write = functools.partial(_write_case, tools=tools, n_slices=n_slices, folder=folder)
    map_cases(write, list(cases), n_processes, "writing channels")


def _write_case(case: FileCase, tools: CaseTools, n_slices: int, folder: Path) -> None:
    images, ending = case.files.images, tools.file_ending
    prepared = prepare_case(case, tools)
    prompts, mapping = prepared.prompts or SlicePrompts.empty(), prepared.network_case.mapping
    for index, image in enumerate(images):
        copy_file(image, folder / channel_file(case.case, index, ending))
    channels = point_channels(prompts, mapping, len(tools.labels), n_slices)
    for index, channel in enumerate(channels, start=len(images)):
        write_channel(folder / channel_file(case.case, index, ending), channel, prepared.network_case.geometry)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to that becomes `folder` when the block ends; what an earlier attempt left is removed."""
    partial = folder.with_name(f".partial_{folder.name}")
    with storage_errors(partial, "remove"):
        if partial.exists():
            shutil.rmtree(partial)
    make_folder(partial)
    yield partial
    with storage_errors(folder):
        partial.rename(folder)
