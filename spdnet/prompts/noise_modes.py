"""All kinds of simulated prompts under one interface, the dropping of slices, and recipes as plain data.

What a kind draws is said in its own module; here is what they share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from spdnet.errors import ConfigurationError
from spdnet.prompts.coarse_boxes import CoarseBoxes
from spdnet.prompts.noise_centreline import Centreline
from spdnet.prompts.noise_points import BadPoints, DisplacedPoints
from spdnet.prompts.points import ALL_CLASSES, SlicePrompts
from spdnet.prompts.simulate import NoiseRecipe, TruePoints, check_share, number_of, problem_masks


@runtime_checkable
class PromptRecipe(Protocol):
    """A frozen dataclass of plain numbers and words that draws the prompts of a case.

    Attributes:
        draws_curves: whether the points of a class, in order, are a curve.
        named: whether prompts speak for a class each; else for all.
    """

    @property
    def draws_curves(self) -> bool: ...

    @property
    def named(self) -> bool: ...

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """Draw the prompts of one case.

        Args:
            masks: bool or uint8 (slices, classes, rows, columns).
            content_box: half-open rows and columns that hold image.
            mm_per_pixel: distance of rows, of columns and of slices, mm.
            rng: source of all draws; the same state gives the same prompts.
        """
        ...


@dataclass(frozen=True)
class DroppedSlices:
    """Another recipe's prompts without those in a share of the target's slices, chosen at random.

    The other recipe draws as it does alone; only then slices are chosen, so the prompts that stay are the same.

    Attributes:
        recipe: what draws.
        share: of the slices with target, for each class, or of all classes together if prompts are anonymous.

    Raises:
        ConfigurationError: a share beyond 0 to 1.
    """

    recipe: PromptRecipe
    share: float

    def __post_init__(self) -> None:
        check_share("share of dropped slices", self.share)

    @property
    def draws_curves(self) -> bool:
        """Whether the other recipe does."""
        return self.recipe.draws_curves

    @property
    def named(self) -> bool:
        """Whether the other recipe's prompts are."""
        return self.recipe.named

    def draw(
        self,
        masks: np.ndarray,
        content_box: Sequence[tuple[int, int]],
        mm_per_pixel: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> SlicePrompts:
        """As `PromptRecipe.draw`."""
        prompts = self.recipe.draw(masks, content_box, mm_per_pixel, rng)
        has_target = np.any(problem_masks(masks, self.named), axis=(2, 3))
        for k in range(has_target.shape[1]):
            target = np.flatnonzero(has_target[:, k])
            dropped = rng.permutation(target)[: number_of(self.share, len(target), rng)]
            class_index = k if self.named else ALL_CLASSES
            prompts = _without(prompts, class_index, dropped)
        return prompts


_RECIPES: dict[str, type] = {
    "recipe": NoiseRecipe,
    "true_points": TruePoints,
    "centreline": Centreline,
    "bad_points": BadPoints,
    "displaced": DisplacedPoints,
    "boxes": CoarseBoxes,
}
MODES = tuple(_RECIPES)


def make_recipe(mode: str, parameters: dict[str, Any] | None = None, dropped_share: float = 0.0) -> PromptRecipe:
    """The recipe of a mode with some of its parameters, the others at their defaults.

    Args:
        mode: one of `MODES`.
        parameters: values by the names of the recipe's attributes.
        dropped_share: share of the target's slices that get no prompts.

    Raises:
        ConfigurationError: an unknown mode or parameter, or a value of the wrong type or beyond its range.
    """
    if mode not in _RECIPES:
        raise ConfigurationError(f"prompts cannot be simulated in mode {mode!r}; the modes are {', '.join(MODES)}")
    recipe_class = _RECIPES[mode]
    known = {field.name: field.default for field in dataclasses.fields(recipe_class)}
    values = {}
    for name, value in (parameters or {}).items():
        if name not in known:
            raise ConfigurationError(f"mode {mode} has no parameter {name!r}; it has {', '.join(known)}")
        values[name] = _as_type_of(known[name], value, name)
    recipe: PromptRecipe = recipe_class(**values)
    dropped = _as_type_of(0.0, dropped_share, "dropped share")
    return DroppedSlices(recipe, dropped) if dropped else recipe


def recipe_to_dict(recipe: PromptRecipe) -> dict[str, Any]:
    """Plain data for JSON: mode, every parameter, and the share of dropped slices."""
    dropped_share = 0.0
    if isinstance(recipe, DroppedSlices):
        dropped_share, recipe = recipe.share, recipe.recipe
    mode = next(name for name, recipe_class in _RECIPES.items() if isinstance(recipe, recipe_class))
    parameters = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(_RECIPES[mode])}
    return {"mode": mode, "parameters": parameters, "dropped_share": dropped_share}


def recipe_from_dict(data: dict[str, Any]) -> PromptRecipe:
    """Inverse of `recipe_to_dict`.

    Raises:
        ConfigurationError: as `make_recipe`, or an entry is missing.
    """
    missing = [name for name in ("mode", "parameters", "dropped_share") if name not in data]
    if missing:
        raise ConfigurationError(f"a recipe for simulated prompts lacks {', '.join(missing)}")
    if not isinstance(data["mode"], str) or not isinstance(data["parameters"], dict):
        raise ConfigurationError("a recipe for simulated prompts needs a word as mode and an object as parameters")
    return make_recipe(data["mode"], data["parameters"], data["dropped_share"])


def _as_type_of(default: Any, value: Any, name: str) -> Any:
    """The value, an integer made a float where a float belongs; ConfigurationError if it is of another type."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ConfigurationError(f"parameter {name} is {value!r}; it must be of the kind of {default!r}")
    return value


def _without(prompts: SlicePrompts, class_index: int, slices: np.ndarray) -> SlicePrompts:
    """Prompts less those of one class in some slices."""
    points_stay = ~(np.isin(prompts.slice_index, slices) & (prompts.class_index == class_index))
    boxes = prompts.boxes
    boxes_stay = ~(np.isin(boxes.slice_index, slices) & (boxes.class_index == class_index))
    return SlicePrompts(prompts.points_syx[points_stay], prompts.class_index[points_stay], boxes.select(boxes_stay))
