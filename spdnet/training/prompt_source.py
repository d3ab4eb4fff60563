"""Where a training case's noisy points and coarse boxes come from, as the plans say."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from spdnet.planning import StoredCase
from spdnet.planning.plans import PromptSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.coarse_boxes import CoarseBoxes

VALIDATION_SEED = 1234


def draw_prompts(case: StoredCase, settings: PromptSettings, rng: np.random.Generator) -> SlicePrompts:
    """Points and boxes of one case in the network frame: read from its file, or drawn from its masks."""
    if settings.boxes == "none":
        return _from_source(case, settings, rng)
    recipe = CoarseBoxes(settings.box_enlarge, settings.box_shift, settings.box_per_slice)
    # boxes first, so that they are the same whatever points there are beside them
    boxes = recipe.draw(np.asarray(case.masks), case.mapping.content_box, _mm_per_pixel(case), rng)
    return SlicePrompts.concatenate([_from_source(case, settings, rng), boxes])


def training_prompts(case: StoredCase, settings: PromptSettings, rng: np.random.Generator) -> SlicePrompts:
    """Points and boxes of one case for an epoch of stage 2: as `draw_prompts`, or none at all, as the plans say."""
    if settings.absent_share and rng.random() < settings.absent_share:
        return SlicePrompts.empty()
    return draw_prompts(case, settings, rng)


def _from_source(case: StoredCase, settings: PromptSettings, rng: np.random.Generator) -> SlicePrompts:
    if settings.source == "files" and not (settings.imitated_share and rng.random() < settings.imitated_share):
        return case.prompts
    if settings.source == "none":
        return SlicePrompts.empty()
    return settings.recipe.make().draw(np.asarray(case.masks), case.mapping.content_box, _mm_per_pixel(case), rng)


def validation_prompts(case: StoredCase, settings: PromptSettings) -> SlicePrompts:
    """Points and boxes of a validation case, those of its file if there are files: the same in every epoch."""
    rng = np.random.default_rng([VALIDATION_SEED, zlib.crc32(case.case.encode())])
    return draw_prompts(case, replace(settings, imitated_share=0.0), rng)


def _mm_per_pixel(case: StoredCase) -> tuple[float, float, float]:
    """Distance of the rows, of the columns and of the slices of a case in the network frame, mm."""
    mapping, spacing = case.mapping, case.geometry.spacing_zyx_mm
    slices, rows, columns = (spacing[axis] for axis in mapping.permutation)
    return rows / mapping.scale[0], columns / mapping.scale[1], slices
