"""The kinds of noisy prompts of the benchmark, and the prompt files of a setting.

Most are spdnet's own recipes; the ladders, along which one fault grows and all else stays, are defined here. Points are
drawn at the resolution of the image, in the slices in which spdnet's planner slices the data set; each class is a
problem of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from spdnet.dataset import CaseFiles, RawDataset
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import copy_file, make_folder
from spdnet.geometry import default_slicing_axis
from spdnet.prompts import (
    NoiseRecipe,
    PromptRecipe,
    Simulation,
    SlicePrompts,
    simulate_case,
    true_points,
    write_markups,
)
from spdnet.prompts.noise_centreline import Centreline, smooth_walk
from spdnet.prompts.simulate import HALF_PIXEL, TruePoints, number_of, sorted_by_slice

POINTS_PER_SLICE = 4
TURN_LENGTH_MM = 30.0
TURN_RADIANS = 1.0
_DIRECTIONS = 64


@dataclass(frozen=True)
class BadShare:
    """Points of which a given share lies outside the target, every slice treated alike.

    Each slice, with target or without, has `points_per_slice` places, and a place is bad with the same chance q in all
    of them. A bad place holds a point uniform over the pixels that are not target, any other a point uniform over the
    target, or nothing where the slice has none. If a share t of the slices has target, q = bt / (1 - b + bt) makes b
    the share of bad points among all. So a slice with target has `points_per_slice` points whatever b is; a slice
    without has none at b = 0, which tells where the target is not, and as many as the others at b = 1.

    Attributes:
        bad: b; in each case the number of bad places is rounded up or down at random.
        points_per_slice: places.
    """

    draws_curves: ClassVar[bool] = False
    named: ClassVar[bool] = True

    bad: float
    points_per_slice: int = POINTS_PER_SLICE

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """As `PromptRecipe.draw`; lengths play no part."""
        (top, bottom), (left, right) = content_box
        image = np.zeros(masks.shape[2:], dtype=bool)
        image[top:bottom, left:right] = True
        parts = []
        for k in range(masks.shape[1]):
            target = masks[:, k].astype(bool)
            share = target.any(axis=(1, 2)).mean()
            if share == 0:
                continue
            chance = self.bad * share / (1 - self.bad + self.bad * share)
            places = rng.permutation(np.repeat(np.arange(len(target)), self.points_per_slice))
            n_bad = number_of(chance, len(places), rng)
            allowed = np.stack([target, image & ~target])
            points = [_point(allowed[int(n < n_bad), s], s, rng) for n, s in enumerate(places)]
            found = np.array([p for p in points if p is not None]).reshape(-1, 3)
            parts.append(SlicePrompts(found, np.full(len(found), k, dtype=np.int64)))
        return sorted_by_slice(SlicePrompts.concatenate(parts))


@dataclass(frozen=True)
class Shift:
    """True points, all of a slice moved by one vector of a given length.

    Attributes:
        distance_mm: length of the vector.
        coherent: False: each slice has a direction of its own, uniform. True: the direction turns slowly from slice to
            slice, a smooth random angle of standard deviation `TURN_RADIANS` round a uniform one, whose correlation
            falls to 1/e over `TURN_LENGTH_MM`.
        points_per_slice: points in each slice with target.

    Among 64 directions, of a slice or, if coherent, to start from, the first one in random order is taken that leaves
    the fewest points outside the image; those are moved to its border.
    """

    draws_curves: ClassVar[bool] = False
    named: ClassVar[bool] = True

    distance_mm: float
    coherent: bool
    points_per_slice: int = POINTS_PER_SLICE

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """As `PromptRecipe.draw`."""
        true = true_points(masks, rng, self.points_per_slice)
        low = np.array([first for first, _ in content_box]) - HALF_PIXEL
        high = np.array([stop for _, stop in content_box]) - 1 + HALF_PIXEL
        moved = true.points_syx.copy()
        for k in range(masks.shape[1]):
            turn = TURN_RADIANS * smooth_walk(len(masks), TURN_LENGTH_MM / 2 / mm_per_pixel[2], rng)[:, 0]
            own = true.class_index == k
            groups = [own] if self.coherent else [own & (true.slice_index == s) for s in range(len(masks))]
            for group in groups:
                start = rng.uniform(0, 2 * np.pi) + 2 * np.pi / _DIRECTIONS * rng.permutation(_DIRECTIONS)
                angles = start[:, None] + turn[true.slice_index[group]]
                vectors = self.distance_mm * np.stack([np.sin(angles), np.cos(angles)], axis=-1) / mm_per_pixel[:2]
                places = true.points_syx[group, 1:] + vectors
                n_outside = np.any((places < low) | (places > high), axis=2).sum(axis=1)
                moved[group, 1:] = np.clip(places[n_outside.argmin()], low, high)
        return SlicePrompts(moved, true.class_index)


@dataclass(frozen=True)
class Noise:
    """A kind of noisy prompts.

    Attributes:
        name: key of `NOISES`.
        title: for tables and figures.
        recipe: what draws; None: the prompts that the data set comes with.
        ladder: the curve that it is a point of, or None.
        value: its place there: share of bad points in per cent, or displacement in mm.
    """

    name: str
    title: str
    recipe: PromptRecipe | None
    ladder: str | None = None
    value: float | None = None


def write_training_prompts(noise: Noise, raw: Path, seed: int) -> None:
    """Write `promptsTr/CASE.mrk.json` for every training case of a raw data set, in place of any that are there.

    Raises:
        ConfigurationError: the data set's own prompts are asked for and it has none.
        DatasetError: a case has no label, or one on another grid than its image.
    """
    dataset = RawDataset(raw)
    if noise.recipe is None:
        _own_prompts(dataset, dataset.cases("Tr"))
        return
    shutil.rmtree(raw / "promptsTr", ignore_errors=True)
    _simulate(noise.recipe, dataset, dataset.cases("Tr"), raw / "promptsTr", seed)


def write_test_prompts(noise: Noise, raw: Path, folder: Path, seed: int) -> None:
    """Write `folder/CASE.mrk.json` for every test case of a raw data set; raises as `write_training_prompts`."""
    dataset = RawDataset(raw)
    cases = dataset.cases("Ts")
    if noise.recipe is not None:
        _simulate(noise.recipe, dataset, cases, folder, seed)
        return
    make_folder(folder)
    for file in _own_prompts(dataset, cases):
        copy_file(file, folder / file.name)


def _own_prompts(dataset: RawDataset, cases: list[CaseFiles]) -> list[Path]:
    files = [c.prompts for c in cases if c.prompts is not None]
    if len(files) < len(cases):
        raise ConfigurationError(
            f"{len(cases) - len(files)} of {len(cases)} cases of {dataset.folder} come without prompts of their own; "
            "choose another noise than native"
        )
    return files


def _simulate(recipe: PromptRecipe, dataset: RawDataset, cases: list[CaseFiles], folder: Path, seed: int) -> None:
    make_folder(folder)
    simulation = Simulation(recipe, seed, slicing_axis(dataset))
    for case in cases:
        if case.label is None:
            raise DatasetError(f"case {case.case}: {dataset.folder} has no label of it, from which prompts are drawn")
        markups, _ = simulate_case(case, dataset.reader, dataset.labels, simulation)
        write_markups(folder / f"{case.case}.mrk.json", markups)


def slicing_axis(dataset: RawDataset) -> int:
    """The canonical axis along which spdnet's planner slices a data set, by the training cases' median spacing."""
    geometries = [dataset.reader.read_geometry(c.images[0], c.case) for c in dataset.training_cases()]
    return default_slicing_axis(np.median([g.canonical_spacing_mm() for g in geometries], axis=0).tolist())


def _point(allowed: np.ndarray, slice_index: int, rng: np.random.Generator) -> np.ndarray | None:
    """A place uniform over the True pixels of a slice, float64 slice, y, x; None if there are none."""
    pixels = np.flatnonzero(allowed)
    if not len(pixels):
        return None
    y, x = np.unravel_index(pixels[rng.integers(len(pixels))], allowed.shape)
    return np.array([slice_index, *(np.array([y, x]) + rng.uniform(-HALF_PIXEL, HALF_PIXEL, 2))])


NOISES: dict[str, Noise] = {
    noise.name: noise
    for noise in (
        Noise("native", "the data set's own prompts", None),
        Noise("recipe", "1 point inside, 2 to 5 anywhere, on every slice", NoiseRecipe()),
        Noise("recipe_literal", "1 inside, 2 to 5 anywhere, on target slices", NoiseRecipe(empty_slices="none")),
        Noise("centreline", "drifting centreline", Centreline(uncovered=0.4, overrun_mm=15.0)),
        Noise("true", "4 true points on target slices", TruePoints(POINTS_PER_SLICE)),
        *(Noise(f"bad{b}", f"{b} % bad points", BadShare(b / 100), "bad", b) for b in (0, 25, 50, 75, 90, 100)),
        *(
            Noise(f"shift{mm}", f"displaced by {mm} mm, every slice its own way", Shift(mm, False), "shift", mm)
            for mm in (2, 5, 10, 20)
        ),
        *(
            Noise(f"drift{mm}", f"displaced by {mm} mm, slowly turning", Shift(mm, True), "drift", mm)
            for mm in (5, 10, 20)
        ),
    )
}
