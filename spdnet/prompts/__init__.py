"""Point prompts: their files, their place in the network frame, drawing them, and distilling them.

A prompt file stores world coordinates (LPS, mm); models see `SlicePrompts` in the network frame.
"""

from spdnet.prompts.loading import PromptReading, load_given_prompts, read_checked_markups, resample_curve
from spdnet.prompts.markups import read_markups, write_markups
from spdnet.prompts.noise_modes import DroppedSlices, PromptRecipe, make_recipe
from spdnet.prompts.points import ALL_CLASSES, Markup, SliceBoxes, SlicePrompts
from spdnet.prompts.reading import read_prompt_file
from spdnet.prompts.simulate import NoiseRecipe, simulate_prompts, true_points
from spdnet.prompts.simulate_files import Simulation, check_can_simulate, simulate_case
from spdnet.prompts.statistics import PromptStatistics, count_prompts, prompt_statistics, prompt_type
from spdnet.prompts.used_points import GivenPrompts

__all__ = [
    "ALL_CLASSES",
    "DroppedSlices",
    "GivenPrompts",
    "Markup",
    "NoiseRecipe",
    "PromptReading",
    "PromptRecipe",
    "PromptStatistics",
    "Simulation",
    "SliceBoxes",
    "SlicePrompts",
    "check_can_simulate",
    "count_prompts",
    "load_given_prompts",
    "make_recipe",
    "prompt_statistics",
    "prompt_type",
    "read_checked_markups",
    "read_markups",
    "read_prompt_file",
    "resample_curve",
    "simulate_case",
    "simulate_prompts",
    "true_points",
    "write_markups",
]
