"""Drawing point prompts from masks: the paper's noisy prompts, and true points for ceilings.

Called for every case in every epoch, so the work per slice is one pass over its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spdnet.errors import ConfigurationError
from spdnet.prompts.points import SlicePrompts

# Just under half a pixel, so that rounding on the way to world coordinates and back cannot move a point
# into the next pixel or out of the image.
_HALF_PIXEL = 0.499


@dataclass(frozen=True)
class NoiseRecipe:
    """How noisy prompts are drawn; the defaults are the paper's.

    Attributes:
        inside_points: points in each slice with target, uniform over the mask of the slice.
        min_random_points: fewest points uniform over the whole slice.
        max_random_points: most of them.
        empty_slices: "random": slices without target get the random points too; "none": they get no point,
            which tells the model where the target is not.
        named: each class is a problem of its own, with inside and random points that speak for it alone;
            False: one anonymous set of points for all classes.

    Raises:
        ConfigurationError: negative or contradictory numbers, or an unknown word for `empty_slices`.
    """

    inside_points: int = 1
    min_random_points: int = 2
    max_random_points: int = 5
    empty_slices: str = "random"
    named: bool = True

    def __post_init__(self) -> None:
        if self.inside_points < 0:
            raise ConfigurationError(f"inside_points is {self.inside_points}; it must be 0 or more")
        if not 0 <= self.min_random_points <= self.max_random_points:
            raise ConfigurationError(
                f"random points from {self.min_random_points} to {self.max_random_points}: "
                "the first number must be 0 or more and not above the second"
            )
        if self.empty_slices not in ("random", "none"):
            raise ConfigurationError(f"empty_slices is {self.empty_slices!r}; it must be 'random' or 'none'")


def simulate_prompts(
    masks: np.ndarray, content_box: Sequence[tuple[int, int]], rng: np.random.Generator, recipe: NoiseRecipe
) -> SlicePrompts:
    """Draw noisy prompts for one case by a recipe.

    Args:
        masks: bool or uint8 (slices, classes, rows, columns).
        content_box: half-open rows and columns that hold image; random points are uniform over it, continuous.
        rng: source of all draws; the same state gives the same points.
        recipe: numbers and kinds of points.

    Returns:
        Points sorted by slice, at the centre plane of their slice.
    """
    masks = masks.astype(bool, copy=False)
    inside = _inside_points(masks, rng, recipe.inside_points)
    noise = _random_points(_gets_noise(masks, recipe), content_box, rng, recipe)
    points = SlicePrompts.concatenate([inside, noise])
    points = points.select(np.argsort(points.points_syx[:, 0], kind="stable"))
    return points if recipe.named else points.for_all_classes()


def true_points(masks: np.ndarray, rng: np.random.Generator, per_slice: int = 4) -> SlicePrompts:
    """Points inside the mask only, `per_slice` for each class in each slice that it is in.

    Args:
        masks: bool or uint8 (slices, classes, rows, columns).
        rng: source of all draws.
        per_slice: points for each slice and class.
    """
    return _inside_points(masks.astype(bool, copy=False), rng, per_slice)


def _gets_noise(masks: np.ndarray, recipe: NoiseRecipe) -> np.ndarray:
    """Which sets of random points there are: bool (slices, classes), one column if points are anonymous."""
    n_slices, n_classes = masks.shape[:2]
    groups = masks.reshape(n_slices, n_classes if recipe.named else 1, -1)
    return np.ones(groups.shape[:2], dtype=bool) if recipe.empty_slices == "random" else np.any(groups, axis=2)


def _inside_points(masks: np.ndarray, rng: np.random.Generator, count: int) -> SlicePrompts:
    """`count` pixels of each non-empty mask, with replacement, each jittered within its pixel."""
    width = masks.shape[3]
    pixels, classes = [], []
    for slice_index, class_masks in enumerate(masks):
        for class_index, mask in enumerate(class_masks):
            inside = np.flatnonzero(mask)
            if len(inside) and count:
                chosen = inside[rng.integers(len(inside), size=count)]
                pixels.append(np.stack([np.full(count, slice_index), chosen // width, chosen % width], axis=1))
                classes.append(np.full(count, class_index, dtype=np.int64))
    if not pixels:
        return SlicePrompts.empty()
    points = np.concatenate(pixels).astype(np.float64)
    points[:, 1:] += rng.uniform(-_HALF_PIXEL, _HALF_PIXEL, size=(len(points), 2))
    return SlicePrompts(points, np.concatenate(classes))


def _random_points(
    gets_points: np.ndarray, content_box: Sequence[tuple[int, int]], rng: np.random.Generator, recipe: NoiseRecipe
) -> SlicePrompts:
    """Points uniform over the content box for each True of `gets_points` (slices, classes)."""
    slices, classes = np.nonzero(gets_points)
    counts = rng.integers(recipe.min_random_points, recipe.max_random_points, size=len(slices), endpoint=True)
    (top, bottom), (left, right) = content_box
    low = np.array([top, left]) - _HALF_PIXEL
    high = np.array([bottom, right]) - 1 + _HALF_PIXEL
    positions = rng.uniform(low, high, size=(int(counts.sum()), 2))
    points = np.concatenate([np.repeat(slices, counts)[:, None].astype(np.float64), positions], axis=1)
    return SlicePrompts(points, np.repeat(classes, counts).astype(np.int64))
