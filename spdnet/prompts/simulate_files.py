"""Prompt files drawn from the label files of a data set, at the resolution of the image, and the record of how.

Owns the way from a label file to markups; how prompts are drawn is said in `noise_modes` and the modules it names.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import spdnet
from spdnet.dataset import CaseFiles, Labels, ReaderWriter
from spdnet.dataset.raw_dataset import PROMPTS_RECORD, find_prompt_file
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import read_json, write_text
from spdnet.geometry import CaseMapping, ImageGeometry, default_slicing_axis, raw_resolution_mapping
from spdnet.geometry.image_geometry import axis_from_name, axis_name
from spdnet.prompts.boxes import corners_between
from spdnet.prompts.noise_modes import PromptRecipe, recipe_from_dict, recipe_to_dict
from spdnet.prompts.points import Markup, SliceBoxes, SlicePrompts
from spdnet.prompts.statistics import PromptStatistics, count_prompts

RECORD_FILE = PROMPTS_RECORD
ANONYMOUS_MARKUP = "noisy points"
ANONYMOUS_CURVE = "drifting centreline"
ANONYMOUS_BOX = "coarse box"

_LARGEST_SPACING = "largest spacing"


@dataclass(frozen=True)
class Simulation:
    """Everything that decides the prompt files of a data set but its labels.

    Attributes:
        recipe: how the prompts of a case are drawn.
        seed: together with the case identifier decides every draw.
        slicing_axis: canonical axis, or None for each case's axis of largest spacing.
        curves_as_points: write a recipe's curves as point lists.
    """

    recipe: PromptRecipe
    seed: int
    slicing_axis: int | None = None
    curves_as_points: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the record file, with the version of spdnet that draws."""
        return {
            "spdnet_version": spdnet.__version__,
            **recipe_to_dict(self.recipe),
            "seed": self.seed,
            "slicing_axis": _LARGEST_SPACING if self.slicing_axis is None else axis_name(self.slicing_axis),
            "curves_as_points": self.curves_as_points,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Simulation:
        """Inverse of `to_dict`, whatever the version.

        Raises:
            ConfigurationError: an entry is missing or not what it must be.
        """
        recipe = recipe_from_dict(data)
        seed, axis, as_points = (data.get(name) for name in ("seed", "slicing_axis", "curves_as_points"))
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigurationError(f"seed is {seed!r}; it must be a whole number from 0")
        if axis not in ("S", "P", "L", _LARGEST_SPACING):
            raise ConfigurationError(f"slicing_axis is {axis!r}; it must be S, P, L or {_LARGEST_SPACING!r}")
        if not isinstance(as_points, bool):
            raise ConfigurationError(f"curves_as_points is {as_points!r}; it must be true or false")
        return cls(recipe, seed, None if axis == _LARGEST_SPACING else axis_from_name(str(axis)), as_points)


def write_record(folder: Path, simulation: Simulation) -> None:
    """Write the record of a simulation beside its prompt files; it appears whole or not at all."""
    file = folder / RECORD_FILE
    write_text(file, json.dumps(simulation.to_dict(), indent=4) + "\n")


def read_record(file: Path) -> tuple[Simulation, str]:
    """The simulation that a record file describes, and the version of spdnet that drew it.

    Raises:
        ConfigurationError: the file is missing or not such a record.
    """
    remedy = f"It must be a {RECORD_FILE} that spd_simulate_prompts wrote."
    content = read_json(file, "record of simulated prompts", remedy, ConfigurationError)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} is not a record of simulated prompts. {remedy}")
    try:
        return Simulation.from_dict(content), str(content.get("spdnet_version"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}. {remedy}") from error


def case_generator(seed: int, case: str) -> np.random.Generator:
    """The generator of one case, which depends on nothing but the seed and the case identifier."""
    digest = hashlib.sha256(case.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def check_can_simulate(
    cases: list[CaseFiles], folder: Path, overwrite: bool, simulation: Simulation | None = None
) -> None:
    """Check that every case has a label and, unless `overwrite`, that nothing would be replaced.

    Raises:
        DatasetError: cases without label. ConfigurationError: cases with prompt file in `folder`, or a record of
            another simulation there; also with `overwrite`, prompt files of another kind, which would stand beside.
    """
    unlabelled = [case.case for case in cases if case.label is None]
    if unlabelled:
        raise DatasetError(
            f"{len(unlabelled)} of {len(cases)} cases have no label file, from which prompts are drawn: "
            f"{_first_few(unlabelled)}. Add their labels beside the images, in labelsTr or labelsTs"
        )
    files = [find_prompt_file(folder, case.case) for case in cases]
    existing = [case.case for case, file in zip(cases, files, strict=True) if file is not None]
    if overwrite:
        others = [file.name for file in files if file is not None and not file.name.endswith(".mrk.json")]
        if others:
            raise ConfigurationError(
                f"{folder} holds prompts of another kind, which would stand beside the new ones: {_first_few(others)}. "
                "Move them away, or give another folder with -o"
            )
        return
    if existing:
        raise ConfigurationError(
            f"{folder} already holds prompts of {len(existing)} of {len(cases)} cases: {_first_few(existing)}. "
            "Give another folder with -o, or --overwrite to replace them"
        )
    record = folder / RECORD_FILE
    if simulation is not None and record.exists() and _content(record) != simulation.to_dict():
        raise ConfigurationError(
            f"{record} records how other prompts in this folder were drawn. Give another folder with -o, or "
            "--overwrite to replace it"
        )


def simulate_case(
    files: CaseFiles, reader: ReaderWriter, labels: Labels, simulation: Simulation
) -> tuple[list[Markup], PromptStatistics]:
    """Draw the prompts of one case from its label file.

    Args:
        files: the case; its label must be there.
        reader: of images and labels.
        labels: classes of the data set.
        simulation: what decides the draws.

    Returns:
        Markups named like their class, or anonymous ones if the recipe is, and the statistics of the prompts drawn: a
        point list for each class, or a curve for each run of slices without gap, or an ROI for each run of slices with
        the same box.

    Raises:
        DatasetError: the label cannot be read or is on another grid than the image, or boxes are to be written on a
            grid without right angles.
    """
    assert files.label is not None
    label_map, geometry = reader.read_label(files.label, files.case)
    if difference := reader.read_geometry(files.images[0], files.case).difference(geometry):
        raise DatasetError(f"case {files.case}: image and label {files.label} are on different grids: {difference}")
    slicing_axis = simulation.slicing_axis
    if slicing_axis is None or not geometry.has_patient_axes:
        slicing_axis = default_slicing_axis(geometry.canonical_spacing_mm()) if geometry.has_patient_axes else 0
    mapping = raw_resolution_mapping(geometry, slicing_axis)
    masks = mapping.orient(labels.masks(label_map)).swapaxes(0, 1)
    mm_per_pixel = pixel_size_mm(geometry, mapping)
    recipe = simulation.recipe
    prompts = recipe.draw(masks, mapping.content_box, mm_per_pixel, case_generator(simulation.seed, files.case))
    axes = np.asarray(geometry.direction).reshape(3, 3)
    if len(prompts.boxes) and not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise DatasetError(
            f"case {files.case}: the axes of {files.label} are not at right angles, so boxes cannot be written; "
            "simulate points, or resample the image"
        )
    as_curves = recipe.draws_curves and not simulation.curves_as_points
    markups = []
    if len(prompts) or not len(prompts.boxes):
        names = labels.names if recipe.named else (ANONYMOUS_CURVE if as_curves else ANONYMOUS_MARKUP,)
        markups += _point_markups(prompts, names, mapping, geometry, as_curves)
    markups += _box_markups(prompts.boxes, labels.names if recipe.named else (ANONYMOUS_BOX,), mapping, geometry)
    return markups, count_prompts(prompts, masks, mm_per_pixel)


def pixel_size_mm(geometry: ImageGeometry, mapping: CaseMapping) -> tuple[float, float, float]:
    """Distance of rows, of columns and of slices in the network frame of a mapping, mm."""
    slices, rows, columns = (geometry.spacing_zyx_mm[axis] for axis in mapping.permutation)
    return rows / mapping.scale[0], columns / mapping.scale[1], slices


def _point_markups(
    prompts: SlicePrompts, names: tuple[str, ...], mapping: CaseMapping, geometry: ImageGeometry, as_curves: bool
) -> list[Markup]:
    """Point lists or curves; a name stands for the class of the same position."""
    markups = []
    for k, name in enumerate(names):
        own = prompts.for_class(k).points_syx
        points = geometry.voxel_to_world(mapping.points_to_raw(own))
        point_labels = tuple(f"{name}-{i}" for i in range(1, len(points) + 1))
        gaps: list[int] = (np.flatnonzero(np.diff(own[:, 0]) > 1.5) + 1).tolist() if as_curves else []
        for start, end in itertools.pairwise([0, *gaps, len(points)]):
            kind = "curve" if as_curves else "points"
            markups.append(Markup(name, kind, points[start:end], point_labels[start:end]))
    return markups


def _box_markups(
    boxes: SliceBoxes, names: tuple[str, ...], mapping: CaseMapping, geometry: ImageGeometry
) -> list[Markup]:
    """An ROI for each run of adjacent slices with the same box; it reaches to the slices' outer faces."""
    markups = []
    for k, name in enumerate(names):
        own = boxes.for_class(k)
        is_new = np.ones(len(own), dtype=bool)
        is_new[1:] = (np.diff(own.slice_index) != 1) | np.any(np.diff(own.boxes_yxyx, axis=0) != 0, axis=1)
        borders = [*np.flatnonzero(is_new), len(own)]
        for start, end in itertools.pairwise(borders):
            top, left, bottom, right = own.boxes_yxyx[start]
            first, last = own.slice_index[start] - 0.5, own.slice_index[end - 1] + 0.5
            corners_syx = corners_between(np.array([first, top, left]), np.array([last, bottom, right]))
            corners = geometry.voxel_to_world(mapping.points_to_raw(corners_syx))
            markups.append(Markup(name, "box", _right_handed(corners), (name,) * len(corners)))
    return markups


def _right_handed(corners: np.ndarray) -> np.ndarray:
    """Corners (8, 3) of a box in an order in which its edges make a right-handed frame, as 3D Slicer wants it."""
    edges = corners[[4, 2, 1]] - corners[0]
    return corners if np.linalg.det(edges) > 0 else corners[[4, 5, 6, 7, 0, 1, 2, 3]]


def _content(file: Path) -> Any:
    """JSON of a file, or None if it is none."""
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        return None


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
