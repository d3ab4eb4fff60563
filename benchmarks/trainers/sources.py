"""Trainers that draw their training prompts from the labels where the plans say files, for `prompt_sources.sh`."""

from __future__ import annotations

from dataclasses import replace

from spdnet.planning import SPDSettings
from spdnet.planning.plans import RecipeSettings
from spdnet.training.trainer import SPDTrainer


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
