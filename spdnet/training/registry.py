"""Trainer classes by name, for `spd_train -tr NAME`."""

from __future__ import annotations

from spdnet.errors import ConfigurationError
from spdnet.training.trainer import SPDTrainer
from spdnet.training.variants import ablations

TRAINERS: dict[str, type[SPDTrainer]] = {
    trainer.__name__: trainer
    for trainer in (
        SPDTrainer,
        ablations.SPDTrainerNoPSC,
        ablations.SPDTrainerLocalOnly,
        ablations.SPDTrainerRawPrompts,
        ablations.SPDTrainerSAMTuning,
        ablations.SPDTrainerTruePoints,
        ablations.SPDTrainerEmptyMask,
        ablations.SPDTrainerPlateau,
    )
}


def get_trainer(name: str) -> type[SPDTrainer]:
    """Look a trainer class up.

    Raises:
        ConfigurationError: unknown name; lists the known ones.
    """
    if name not in TRAINERS:
        raise ConfigurationError(f"Unknown trainer {name!r}; known are {', '.join(TRAINERS)}")
    return TRAINERS[name]
