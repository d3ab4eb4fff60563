"""The model: SAM from its own package, LoRA on its encoder, a saliency head, and its mask decoder in batches.

Knows tensors only; nothing of files, cases or training.
"""

from spdnet.network.backbones import Backbone, SamParts, get_backbone, register_backbone
from spdnet.network.spd_network import SPDNetwork, build_network

__all__ = ["Backbone", "SPDNetwork", "SamParts", "build_network", "get_backbone", "register_backbone"]
