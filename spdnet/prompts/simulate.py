"""Drawing point prompts from masks: the paper's noisy prompts, and true points for ceilings.

Called for every case in every epoch, so the work per slice is one pass over its mask. The other kinds of noise are in
`noise_points`, `noise_centreline` and `coarse_boxes`; `noise_modes` knows them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spdnet.errors import ConfigurationError
from spdnet.prompts.points import SlicePrompts

# Just under half a pixel, so that rounding on the way to world coordinates and back cannot move a point
# into the next pixel or out of the image.
HALF_PIXEL = 0.499
_LONGEST_MM = 1e4  # of a whole scan with room to spare


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

    draws_curves: ClassVar[bool] = False

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
        check_empty_slices(self.empty_slices)

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """`simulate_prompts` by this recipe; lengths play no part in it."""
        return simulate_prompts(masks, content_box, rng, self)


@dataclass(frozen=True)
class TruePoints:
    """Points inside the target only, for ceilings.

    Attributes:
        points_per_slice: points in each slice with target, uniform over the mask of the slice.
        named: points speak for their class alone; False: for all classes.

    Raises:
        ConfigurationError: `points_per_slice` is not positive.
    """

    draws_curves: ClassVar[bool] = False

    points_per_slice: int = 4
    named: bool = True

    def __post_init__(self) -> None:
        check_points_per_slice(self.points_per_slice)

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """`true_points` by this recipe; only masks and generator play a part in it."""
        points = true_points(masks, rng, self.points_per_slice)
        return points if self.named else points.for_all_classes()


def check_empty_slices(empty_slices: str) -> None:
    """Raise ConfigurationError for a word that does not say what slices without target get."""
    if empty_slices not in ("random", "none"):
        raise ConfigurationError(f"empty_slices is {empty_slices!r}; it must be 'random' or 'none'")


def check_points_per_slice(number: int) -> None:
    """Raise ConfigurationError unless there is at least one point in each slice with target."""
    if number < 1:
        raise ConfigurationError(f"points_per_slice is {number}; it must be 1 or more")


def check_share(name: str, share: float) -> None:
    """Raise ConfigurationError, naming the parameter, unless `share` is a number from 0 to 1."""
    if not 0 <= share <= 1:
        raise ConfigurationError(f"{name} is {share:g}; it must be a share from 0 to 1")


def check_length(name: str, length_mm: float) -> None:
    """Raise ConfigurationError, naming the parameter, unless a length is one that a body can have."""
    if not 0 <= length_mm <= _LONGEST_MM:
        raise ConfigurationError(f"{name} is {length_mm:g} mm; it must be from 0 to {_LONGEST_MM:g} mm")


def problem_masks(masks: np.ndarray, named: bool) -> np.ndarray:
    """The masks that points are drawn for: of each class, or of all classes together if points are anonymous.

    Args:
        masks: bool or uint8 (slices, classes, rows, columns).
        named: whether each class is a problem of its own.

    Returns:
        bool (slices, problems, rows, columns), where problem k is class k, or everything.
    """
    return masks.astype(bool, copy=False) if named else np.any(masks, axis=1, keepdims=True)


def number_of(share: float, total: int, rng: np.random.Generator) -> int:
    """A share of a number of things as a whole number, rounded up or down at random so that its mean is exact."""
    return min(total, int(np.floor(share * total + rng.random())))


def sorted_by_slice(prompts: SlicePrompts) -> SlicePrompts:
    """Points in the order of their slices; those of one slice stay in their order."""
    return prompts.select(np.argsort(prompts.points_syx[:, 0], kind="stable"))


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
    points = sorted_by_slice(SlicePrompts.concatenate([inside, noise]))
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
    points[:, 1:] += rng.uniform(-HALF_PIXEL, HALF_PIXEL, size=(len(points), 2))
    return SlicePrompts(points, np.concatenate(classes))


def _random_points(
    gets_points: np.ndarray, content_box: Sequence[tuple[int, int]], rng: np.random.Generator, recipe: NoiseRecipe
) -> SlicePrompts:
    """Points uniform over the content box for each True of `gets_points` (slices, classes)."""
    slices, classes = np.nonzero(gets_points)
    counts = rng.integers(recipe.min_random_points, recipe.max_random_points, size=len(slices), endpoint=True)
    (top, bottom), (left, right) = content_box
    low = np.array([top, left]) - HALF_PIXEL
    high = np.array([bottom, right]) - 1 + HALF_PIXEL
    positions = rng.uniform(low, high, size=(int(counts.sum()), 2))
    points = np.concatenate([np.repeat(slices, counts)[:, None].astype(np.float64), positions], axis=1)
    return SlicePrompts(points, np.repeat(classes, counts).astype(np.int64))
