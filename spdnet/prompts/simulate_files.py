"""Prompt files drawn from the label files of a data set, at the resolution of the image.

Owns the way from a label file to markups; how points are drawn is said in `simulate`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from spdnet.dataset import CaseFiles, Labels, ReaderWriter
from spdnet.dataset.raw_dataset import find_prompt_file
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.geometry import CaseMapping, ImageGeometry, default_slicing_axis, raw_resolution_mapping
from spdnet.prompts.points import Markup, SlicePrompts
from spdnet.prompts.simulate import NoiseRecipe, simulate_prompts, true_points
from spdnet.prompts.statistics import PromptStatistics, count_prompts

ANONYMOUS_MARKUP = "noisy points"


def case_generator(seed: int, case: str) -> np.random.Generator:
    """The generator of one case, which depends on nothing but the seed and the case identifier."""
    digest = hashlib.sha256(case.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def check_can_simulate(cases: list[CaseFiles], folder: Path, overwrite: bool) -> None:
    """Check that every case has a label and, unless `overwrite`, that no prompt file would be replaced.

    Raises:
        DatasetError: cases without label. ConfigurationError: cases with prompt file in `folder`.
    """
    unlabelled = [case.case for case in cases if case.label is None]
    if unlabelled:
        raise DatasetError(
            f"{len(unlabelled)} of {len(cases)} cases have no label file, from which prompts are drawn: "
            f"{_first_few(unlabelled)}. Add their labels beside the images, in labelsTr or labelsTs"
        )
    existing = [case.case for case in cases if find_prompt_file(folder, case.case) is not None]
    if existing and not overwrite:
        raise ConfigurationError(
            f"{folder} already holds prompts of {len(existing)} of {len(cases)} cases: {_first_few(existing)}. "
            "Give another folder with -o, or --overwrite to replace them"
        )


def simulate_case(
    files: CaseFiles,
    reader: ReaderWriter,
    labels: Labels,
    slicing_axis: int | None,
    seed: int,
    recipe: NoiseRecipe,
    true_points_per_slice: int | None = None,
) -> tuple[list[Markup], PromptStatistics]:
    """Draw the prompts of one case from its label file.

    Args:
        files: the case; its label must be there.
        reader: of images and labels.
        labels: classes of the data set.
        slicing_axis: canonical axis, or None for the axis of largest spacing.
        seed: together with the case identifier decides every draw.
        recipe: how noisy points are drawn.
        true_points_per_slice: draw this many points inside the target of each slice instead, and no noise.

    Returns:
        One markup per class, named like it, or one for all if the recipe is anonymous; and their statistics.

    Raises:
        DatasetError: the label cannot be read or is on another grid than the image.
    """
    assert files.label is not None
    label_map, geometry = reader.read_label(files.label, files.case)
    if difference := reader.read_geometry(files.images[0], files.case).difference(geometry):
        raise DatasetError(f"case {files.case}: image and label {files.label} are on different grids: {difference}")
    if slicing_axis is None or not geometry.has_patient_axes:
        slicing_axis = default_slicing_axis(geometry.canonical_spacing_mm()) if geometry.has_patient_axes else 0
    mapping = raw_resolution_mapping(geometry, slicing_axis)
    masks = mapping.orient(labels.masks(label_map)).swapaxes(0, 1)
    rng = case_generator(seed, files.case)
    if true_points_per_slice is None:
        prompts = simulate_prompts(masks, mapping.content_box, rng, recipe)
    else:
        prompts = true_points(masks, rng, true_points_per_slice)
    if not recipe.named:
        prompts = prompts.for_all_classes()
    markups = _to_markups(prompts, labels.names if recipe.named else (ANONYMOUS_MARKUP,), mapping, geometry)
    return markups, count_prompts(prompts, masks)


def _to_markups(
    prompts: SlicePrompts, names: tuple[str, ...], mapping: CaseMapping, geometry: ImageGeometry
) -> list[Markup]:
    """One point list per name, which stands for the class of the same position."""
    markups = []
    for k, name in enumerate(names):
        points = geometry.voxel_to_world(mapping.points_to_raw(prompts.for_class(k).points_syx))
        point_labels = tuple(f"{name}-{i}" for i in range(1, len(points) + 1))
        markups.append(Markup(name, "points", points, point_labels))
    return markups


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
