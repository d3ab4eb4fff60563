"""Whether a checkpoint can be used with the plans that it is packed with."""

from __future__ import annotations

from pathlib import Path

from spdnet.dataset import Labels
from spdnet.errors import ModelError, PlansError
from spdnet.network.checkpoint import read_checkpoint
from spdnet.planning import SPDSettings
from spdnet.planning.plans import input_difference
from spdnet.planning.trained import trained_labels


def check_checkpoint(file: Path, settings: SPDSettings, labels: Labels) -> None:
    """Read a checkpoint and compare it with the plans' settings and the classes of dataset.json.

    Raises:
        ModelError: it is missing, damaged, or was trained on another input, with other layers or on other labels.
    """
    content = read_checkpoint(file)
    if trained_labels(content, str(file)) != labels:
        raise ModelError(f"{file} was trained on other labels than the dataset.json of its model has")
    try:
        difference = input_difference(content["spd"]["settings"], settings)
    except PlansError as error:
        raise ModelError(f"{file}: {error}") from error
    if difference:
        raise ModelError(f"{file} and the plans.json of its model do not belong together: {difference}")
