"""Point prompts with a known fault: a given share of bad points, or true points displaced by a given distance.

Unlike the paper's recipe in `simulate`, which mixes true points with random ones, these vary one fault alone, so that
what a model makes of it can be plotted against its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spdnet.prompts.points import SlicePrompts
from spdnet.prompts.simulate import (
    HALF_PIXEL,
    check_empty_slices,
    check_length,
    check_points_per_slice,
    check_share,
    number_of,
    problem_masks,
    sorted_by_slice,
    true_points,
)

_DIRECTIONS = 32
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class BadPoints:
    """As many points as the target's slices call for, of which a given share lies outside the target.

    Attributes:
        bad: share of all points that lies outside, uniform over the pixels of their slice that are not target.
        points_per_slice: mean number of points per slice with target, good and bad ones together, whatever the share.
            The good ones are spread evenly over the slices with target.
        empty_slices: "random": a bad point lies in any slice, with target or not; "none": in slices with target only.
        named: each class is a problem of its own; False: one anonymous set of points for all classes together.
        by_class: of anonymous points, each good one lies on a class of its slice, drawn with equal chances, so
            that small classes get as many as large ones; False: uniform over the pixels of all classes.

    Raises:
        ConfigurationError: a share beyond 0 to 1, no points, or an unknown word for `empty_slices`.
    """

    draws_curves: ClassVar[bool] = False

    bad: float = 0.5
    points_per_slice: int = 4
    empty_slices: str = "random"
    named: bool = True
    by_class: bool = False

    def __post_init__(self) -> None:
        check_share("bad", self.bad)
        check_points_per_slice(self.points_per_slice)
        check_empty_slices(self.empty_slices)

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """Draw the points of one case.

        Args:
            masks: bool or uint8 (slices, classes, rows, columns).
            content_box: half-open rows and columns that hold image; bad points lie in it.
            mm_per_pixel: distance of rows, of columns and of slices, mm; plays no part here.
            rng: source of all draws.

        Returns:
            Points sorted by slice, at the centre plane of their slice. Where the target fills every slice there is no
            place for bad points, and there are none.
        """
        (top, bottom), (left, right) = content_box
        image = np.zeros(masks.shape[2:], dtype=bool)
        image[top:bottom, left:right] = True
        problems = problem_masks(masks, self.named)
        on = masks.astype(bool, copy=False) if self.by_class and not self.named else None
        drawn = [self._draw_problem(problems[:, k], image, k, rng, on) for k in range(problems.shape[1])]
        prompts = sorted_by_slice(SlicePrompts.concatenate(drawn))
        return prompts if self.named else prompts.for_all_classes()

    def _draw_problem(
        self, masks: np.ndarray, image: np.ndarray, k: int, rng: np.random.Generator, on: np.ndarray | None
    ) -> SlicePrompts:
        """Points for one class; `masks` is bool (slices, rows, columns), `image` (rows, columns).

        `on`, if given, (slices, classes, rows, columns), has the classes among which good points are divided.
        """
        has_target = masks.any(axis=(1, 2))
        slots = np.repeat(np.flatnonzero(has_target), self.points_per_slice)
        n_bad = number_of(self.bad, len(slots), rng)
        good_slices = rng.permutation(slots)[n_bad:]
        if on is None:
            places = [_pixels(masks[s], s, n, rng) for s, n in _counted(good_slices)]
        else:
            present = np.asarray(on.any(axis=(2, 3)))
            chosen = [(s, rng.choice(np.flatnonzero(present[s]), n)) for s, n in _counted(good_slices)]
            places = [_pixels(on[s, c], s, n, rng) for s, classes in chosen for c, n in _counted(classes)]
        room = (masks & image).sum(axis=(1, 2)) < image.sum()
        candidates = np.flatnonzero(room & has_target if self.empty_slices == "none" else room)
        if n_bad and len(candidates):
            places += [_pixels(image & ~masks[s], s, n, rng) for s, n in _counted(rng.choice(candidates, n_bad))]
        if not places:
            return SlicePrompts.empty()
        points = np.concatenate(places)
        return SlicePrompts(points, np.full(len(points), k, dtype=np.int64))


@dataclass(frozen=True)
class DisplacedPoints:
    """True points, each moved within its slice in a random direction.

    The distances are those of a Gaussian error, the same along rows and columns (a Rayleigh distribution).

    Attributes:
        displacement_mm: mean distance between a point and the true place that it was moved from, mm.
        points_per_slice: points for each slice with target.
        named: each class is a problem of its own; False: one anonymous set of points for all classes together.

    Raises:
        ConfigurationError: a negative distance or no points.
    """

    draws_curves: ClassVar[bool] = False

    displacement_mm: float = 5.0
    points_per_slice: int = 1
    named: bool = True

    def __post_init__(self) -> None:
        check_length("displacement_mm", self.displacement_mm)
        check_points_per_slice(self.points_per_slice)

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """Draw the points of one case.

        A direction that leads out of the image is drawn again, the distance is not, so that the mean distance holds
        near the border too. Where no direction stays in the image, the point stops at the border.

        Args:
            masks: bool or uint8 (slices, classes, rows, columns).
            content_box: half-open rows and columns that hold image.
            mm_per_pixel: distance of rows, of columns and of slices, mm.
            rng: source of all draws.

        Returns:
            Points sorted by slice, at the centre plane of their slice.
        """
        true = true_points(problem_masks(masks, self.named), rng, self.points_per_slice)
        distance_mm = rng.rayleigh(self.displacement_mm / np.sqrt(np.pi / 2), len(true))
        angles = rng.uniform(0, 2 * np.pi, (len(true), 1)) + _GOLDEN_ANGLE * np.arange(_DIRECTIONS)
        steps = distance_mm[:, None, None] * np.stack([np.sin(angles), np.cos(angles)], axis=2)
        moved = true.points_syx[:, None, 1:] + steps / mm_per_pixel[:2]
        low = np.array([lo for lo, _ in content_box]) - HALF_PIXEL
        high = np.array([hi for _, hi in content_box]) - 1 + HALF_PIXEL
        first = np.all((moved >= low) & (moved <= high), axis=2).argmax(axis=1)
        chosen = np.clip(moved[np.arange(len(true)), first], low, high)
        points = np.concatenate([true.points_syx[:, :1], chosen], axis=1)
        prompts = SlicePrompts(points, true.class_index)
        return prompts if self.named else prompts.for_all_classes()


def _counted(slices: np.ndarray) -> Iterable[tuple[int, int]]:
    """Each different slice, ascending, and how often it occurs."""
    return zip(*np.unique(slices, return_counts=True), strict=True)


def _pixels(allowed: np.ndarray, slice_index: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` places uniform over the True pixels of a slice, float64 (count, 3) slice, y, x."""
    inside = np.flatnonzero(allowed)
    chosen = inside[rng.integers(len(inside), size=count)]
    places = np.stack([np.full(count, slice_index), *np.unravel_index(chosen, allowed.shape)], axis=1)
    return places + np.pad(rng.uniform(-HALF_PIXEL, HALF_PIXEL, (count, 2)), ((0, 0), (1, 0)))
