"""Point prompts: their files, their place in the network frame, drawing them, and distilling them.

A prompt file stores world coordinates (LPS, mm); models see `SlicePrompts` in the network frame.
"""

from spdnet.prompts.loading import load_slice_prompts, resample_curve
from spdnet.prompts.markups import read_markups, write_markups
from spdnet.prompts.points import ALL_CLASSES, Markup, SliceBoxes, SlicePrompts
from spdnet.prompts.simulate import NoiseRecipe, simulate_prompts, true_points
from spdnet.prompts.simulate_files import check_can_simulate, simulate_case
from spdnet.prompts.statistics import PromptStatistics, count_prompts, prompt_statistics

__all__ = [
    "ALL_CLASSES",
    "Markup",
    "NoiseRecipe",
    "PromptStatistics",
    "SliceBoxes",
    "SlicePrompts",
    "check_can_simulate",
    "count_prompts",
    "load_slice_prompts",
    "prompt_statistics",
    "read_markups",
    "resample_curve",
    "simulate_case",
    "simulate_prompts",
    "true_points",
    "write_markups",
]
