"""Trainers that change one open choice of the consensus each, for `choices.sh`.

`SPDTrainerContextN` and `SPDTrainerPointsN` were measured with a focal weight of 0.5 in stage 2 and keep it;
`SPDTrainerFocalW` and `SPDTrainerFocalWPoints1` are about that weight.
"""

from __future__ import annotations

from dataclasses import replace

from spdnet.planning import SPDSettings
from spdnet.training.trainer import SPDTrainer
from spdnet.training.variants.ablations import SPDTrainerConsensus


def _with(settings: SPDSettings, focal_alpha: float = 0.5, **changes: int) -> SPDSettings:
    settings = SPDTrainerConsensus.adapt_settings(settings)
    distillation = replace(settings.distillation, **changes)
    return replace(settings, distillation=distillation, stage2=replace(settings.stage2, focal_alpha=focal_alpha))


class SPDTrainerContext0(SPDTrainer):
    """Points of no neighbouring slice."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """n = 0."""
        return _with(settings, n_context=0)


class SPDTrainerContext1(SPDTrainer):
    """Points of one slice to either side."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """n = 1."""
        return _with(settings, n_context=1)


class SPDTrainerContext2(SPDTrainer):
    """Points of two slices to either side."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """n = 2."""
        return _with(settings, n_context=2)


class SPDTrainerContext4(SPDTrainer):
    """Points of four slices to either side."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """n = 4."""
        return _with(settings, n_context=4)


class SPDTrainerPoints1(SPDTrainer):
    """One point per slice and class for the decoder."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """At most 1."""
        return _with(settings, max_points=1)


class SPDTrainerPoints3(SPDTrainer):
    """Three points per slice and class for the decoder."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """At most 3."""
        return _with(settings, max_points=3)


class SPDTrainerPoints20(SPDTrainer):
    """Twenty points per slice and class for the decoder."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """At most 20."""
        return _with(settings, max_points=20)


class SPDTrainerFocal75(SPDTrainer):
    """The foreground weighs 0.75 in stage 2."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Weight 0.75."""
        return _with(settings, 0.75)


class SPDTrainerFocal60Points1(SPDTrainer):
    """The foreground weighs 0.6 in stage 2; one point per slice and class."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Weight 0.6, at most 1 point."""
        return _with(settings, 0.6, max_points=1)


class SPDTrainerFocal75Points1(SPDTrainer):
    """The foreground weighs 0.75 in stage 2; one point per slice and class."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Weight 0.75, at most 1 point."""
        return _with(settings, 0.75, max_points=1)
