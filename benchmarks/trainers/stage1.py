"""A trainer whose model is used for its stage 1 only."""

from __future__ import annotations

from spdnet.training.trainer import SPDTrainer


class SPDTrainerStage1(SPDTrainer):
    """SPDTrainer under a name of its own, so that the model folder of SPD is left free."""
