"""Trainers that draw their training prompts from the labels where the plans say files, for `prompt_sources.sh`.

Those that end in NoPeak leave slices without trusted points without any.
"""

from __future__ import annotations

from dataclasses import replace

from spdnet.planning import SPDSettings
from spdnet.planning.plans import RecipeSettings
from spdnet.training.trainer import SPDTrainer
from spdnet.training.variants.ablations import SPDTrainerNoPeak


def _simulated(settings: SPDSettings, recipe: RecipeSettings) -> SPDSettings:
    return replace(settings, prompts=replace(settings.prompts, source="simulated", recipe=recipe))


class SPDTrainerRecipePrompts(SPDTrainer):
    """The paper's recipe, whatever the files hold."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Simulated by the recipe."""
        return _simulated(settings, RecipeSettings())


class SPDTrainerCentrelinePrompts(SPDTrainer):
    """Drifting centrelines that leave 40 % of the target uncovered, as those in the files do."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Simulated centrelines."""
        return _simulated(settings, RecipeSettings("centreline", {"uncovered": 0.4}))


class SPDTrainerRecipePromptsNoPeak(SPDTrainer):
    """The recipe, without peaks."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Both changes."""
        return SPDTrainerNoPeak.adapt_settings(SPDTrainerRecipePrompts.adapt_settings(settings))


class SPDTrainerCentrelinePromptsNoPeak(SPDTrainer):
    """The centrelines, without peaks."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Both changes."""
        return SPDTrainerNoPeak.adapt_settings(SPDTrainerCentrelinePrompts.adapt_settings(settings))
