"""What a checkpoint says of the training that wrote it, beside the weights."""

from __future__ import annotations

from typing import Any

from spdnet.dataset import Labels
from spdnet.errors import DatasetError, ModelError
from spdnet.planning.plans import SPDSettings, settings_from_dict


def trained_labels(checkpoint: dict[str, Any], source: str) -> Labels:
    """The classes that a model was trained on.

    Args:
        checkpoint: as `read_checkpoint` returns it.
        source: its name, for messages.

    Raises:
        ModelError: it does not say.
    """
    arguments = checkpoint["init_args"]
    dataset_json = arguments.get("dataset_json") if isinstance(arguments, dict) else None
    if not isinstance(dataset_json, dict):
        raise ModelError(f"{source} does not say what its classes are: its init_args hold no dataset_json")
    try:
        return Labels.from_dataset_json(dataset_json, f"the dataset_json in {source}")
    except DatasetError as error:
        raise ModelError(str(error)) from error


def has_saliency(checkpoint: dict[str, Any]) -> bool:
    """Whether the saliency head of a checkpoint was ever trained; older ones only say whether that was planned.

    Raises:
        PlansError: an older one whose settings are none.
    """
    own = checkpoint["spd"]
    if "has_saliency" in own:
        return bool(own["has_saliency"])
    return settings_from_dict(SPDSettings, own["settings"], "checkpoint: settings").stage1.epochs > 0
