"""The network that plans describe."""

from __future__ import annotations

from spdnet.network import SPDNetwork, build_network
from spdnet.planning.plans import SPDSettings


def build_planned_network(settings: SPDSettings, n_classes: int, load_weights: bool = True) -> SPDNetwork:
    """Build the network of some settings, with SAM's published weights unless told otherwise, in evaluation mode.

    Raises:
        ConfigurationError: unknown backbone. ModelError: its weights cannot be had.
    """
    s = settings
    n_channels = len(s.normalization)
    lora = s.lora.rank, s.lora.alpha, s.lora.dropout
    dense_slices = s.dense_prompt.n_slices if s.dense_prompt.mode == "maps" else None
    own_encoder = s.decoder_encoder == "own"
    size = n_channels, n_classes, s.image_size
    return build_network(s.backbone, *size, *lora, load_weights, dense_slices, own_encoder)
