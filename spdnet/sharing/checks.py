"""Whether a checkpoint can be used with the plans that it is packed with."""

from __future__ import annotations

from pathlib import Path

from spdnet.errors import ModelError, SPDError
from spdnet.network.checkpoint import read_checkpoint
from spdnet.planning import SPDSettings
from spdnet.planning.plans import input_difference


def check_checkpoint(file: Path, settings: SPDSettings) -> None:
    """Read a checkpoint and compare it with the plans' settings.

    Raises:
        ModelError: it is missing, damaged, or was trained on another input or with other layers.
    """
    try:
        difference = input_difference(read_checkpoint(file)["spd"]["settings"], settings)
    except ModelError:
        raise
    except SPDError as error:
        raise ModelError(f"{file}: {error}") from error
    if difference:
        raise ModelError(f"{file} and the plans.json of its model do not belong together: {difference}")
