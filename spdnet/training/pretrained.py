"""Weights of one training taken over by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spdnet.errors import ModelError
from spdnet.network import SPDNetwork
from spdnet.network.spd_network import MEASURED

# Layers that depend on the classes or channels of a data set, or on whether the plans ask for them.
_MAY_DIFFER = ("saliency_head.", "class_embedding.", "channel_projection.", "dense_prompt.")
_BEGINS_ANEW = "decoder_encoder."  # as stage 1 of this training leaves the first encoder


def load_stage1_weights(network: SPDNetwork, given: dict[str, torch.Tensor], source: Path) -> None:
    """Load LoRA, saliency head and channel projection; the rest of the network stays as it is.

    Raises:
        ModelError: one is missing or has another shape.
    """
    stage1 = network.stage1_parameters()
    missing = [name for name in stage1 if name not in given]
    if missing:
        raise ModelError(f"{source} lacks {missing[0]} and {len(missing) - 1} more weights of stage 1")
    try:
        network.load_own_state({**network.own_state(), **{name: given[name] for name in stage1}})
    except ValueError as error:
        raise ModelError(f"{source} does not fit the plans of this training: {error}") from error


def load_pretrained_weights(network: SPDNetwork, checkpoint: dict[str, Any], backbone: str, source: Path) -> list[str]:
    """Load what fits of another training's checkpoint, as nnU-Net's option of that name does.

    Everything must fit but the layers that depend on the data set's classes and channels, and the dense prompt, which
    are skipped where they differ. The decoder's own encoder is skipped always: stage 2 begins with that of stage 1.

    Returns:
        Names of the layers that were skipped.

    Raises:
        ModelError: another backbone, or other adapters.
    """
    there = checkpoint["spd"]["settings"]["backbone"]
    if there != backbone:
        raise ModelError(f"-pretrained_weights {source} is a model on {there}, the plans are for {backbone}")
    own, given = network.own_state(), checkpoint["network_weights"]
    weights = {name: value for name, value in own.items() if name not in MEASURED}  # what was measured is no weight
    wanted = {name: value for name, value in weights.items() if not name.startswith(_BEGINS_ANEW)}
    fits = {name for name, value in wanted.items() if name in given and given[name].shape == value.shape}
    skipped = [name for name in weights if name not in fits]
    foreign = [name for name in wanted if name not in fits and not name.startswith(_MAY_DIFFER)]
    if foreign:
        raise ModelError(
            f"-pretrained_weights {source}: {foreign[0]} and {len(foreign) - 1} more weights are missing or of another "
            "shape; was it trained with the same LoRA settings?"
        )
    network.load_own_state({**own, **{name: given[name] for name in fits}})
    return skipped
