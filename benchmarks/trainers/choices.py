"""Trainers that change one open choice each, for `choices.sh`: `SPDTrainerContextN` and `SPDTrainerPointsN`."""

from __future__ import annotations

from dataclasses import replace

from spdnet.planning import SPDSettings
from spdnet.training.trainer import SPDTrainer


def _with(settings: SPDSettings, **changes: int) -> SPDSettings:
    return replace(settings, distillation=replace(settings.distillation, **changes))


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
    """The default."""

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
