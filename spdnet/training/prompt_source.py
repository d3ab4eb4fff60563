"""Where a training case's noisy points come from, as the plans say."""

from __future__ import annotations

import zlib

import numpy as np

from spdnet.errors import PlansError
from spdnet.planning import StoredCase
from spdnet.planning.plans import PromptSettings
from spdnet.prompts import NoiseRecipe, SlicePrompts, simulate_prompts, true_points

VALIDATION_SEED = 1234


def draw_prompts(case: StoredCase, settings: PromptSettings, rng: np.random.Generator) -> SlicePrompts:
    """Points of one case in the network frame: read from its file, or drawn from its masks.

    Raises:
        PlansError: the plans name a source that does not exist.
    """
    if settings.source == "files":
        return case.prompts
    if settings.source == "true":
        return true_points(np.asarray(case.masks), rng)
    if settings.source == "simulated":
        recipe = NoiseRecipe(
            settings.inside_points, settings.min_random_points, settings.max_random_points, settings.empty_slices
        )
        return simulate_prompts(np.asarray(case.masks), case.mapping.content_box, rng, recipe)
    raise PlansError(f"spd.prompts.source is {settings.source!r}; known are files, simulated and true")


def validation_prompts(case: StoredCase, settings: PromptSettings) -> SlicePrompts:
    """Points of a validation case: the same in every epoch and every training."""
    rng = np.random.default_rng([VALIDATION_SEED, zlib.crc32(case.case.encode())])
    return draw_prompts(case, settings, rng)
