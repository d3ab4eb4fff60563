"""Medical SAM Adapter (Wu et al., arXiv 2304.12620), its 2D form: SAM is frozen, adapters within it are trained.

Carried over: an adapter is a bottleneck, down to a quarter of the channels, ReLU, and up again. In every transformer
block of the encoder there are two, one after the attention and before its residual connection, one beside the MLP and
scaled by s = 0.5; in every two-way block of the mask decoder three, one after the residual connection of the attention
of tokens to the image, one beside the MLP, and one after the residual connection of the attention of the image to
tokens. In `lite` the encoder's are in TinyViT's transformer blocks alone; its convolutional stage has none.

Different: the first adapter of a decoder block is not conditioned on the prompt embedding otherwise than by the tokens
that it adapts (no hyper-prompting). Adapters end in zeros, so that training starts from the published SAM. The
paper leaves open whether norms are trained: they are frozen here. With several classes spdnet's class embedding is
trained too. The authors' code trains the whole mask decoder and has no adapters in it; this is the paper's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from evidence.methods.medsam import SamMethod
from evidence.slice_method import SliceMethod
from evidence.slice_models import PromptedSam, SliceModel, build_plain_sam
from spdnet.network import SPDNetwork
from spdnet.planning import SPDSettings

BOTTLENECK = 4
SCALE = 0.5
TRAINED_BESIDE = ("class_embedding.", "channel_projection.")


class Adapter(nn.Module):
    """Bottleneck on the last axis of (..., channels), to the same shape; 0 before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, channels // BOTTLENECK)
        self.up = nn.Linear(channels // BOTTLENECK, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.up(torch.relu(self.down(x)))


class Adapted(nn.Module):
    """A published module followed by an adapter with a residual connection."""

    def __init__(self, published: nn.Module, channels: int) -> None:
        super().__init__()
        self.published, self.adapter = published, Adapter(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the published module makes of x, adapted."""
        found = self.published(x)
        return found + self.adapter(found)


class AdaptedInput(nn.Module):
    """A published module behind an adapter with a residual connection."""

    def __init__(self, published: nn.Module, channels: int) -> None:
        super().__init__()
        self.published, self.adapter = published, Adapter(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the published module makes of the adapted x."""
        return self.published(x + self.adapter(x))


class ParallelAdapter(nn.Module):
    """A published MLP with a scaled adapter beside it; TinyViT's norm, which is inside the MLP, precedes both."""

    def __init__(self, published: Any, channels: int) -> None:
        super().__init__()
        self.published, self.adapter = published, Adapter(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., channels) to the same."""
        normed = self.published.norm(x) if hasattr(self.published, "norm") else x
        return self.published(x) + SCALE * self.adapter(normed)


def add_adapters(network: SPDNetwork) -> None:
    """Put adapters into a network's encoder and mask decoder, in place; its output does not change."""
    blocks: list[Any] = [m for m in network.image_encoder.modules() if hasattr(m, "attn") and hasattr(m, "mlp")]
    for block in blocks:
        channels = block.attn.proj.out_features
        block.attn.proj = Adapted(block.attn.proj, channels)
        block.mlp = ParallelAdapter(block.mlp, channels)
    for layer in network.mask_decoder.transformer.layers:
        channels = layer.norm2.normalized_shape[0]
        layer.norm2 = AdaptedInput(layer.norm2, channels)
        layer.mlp = ParallelAdapter(layer.mlp, channels)
        layer.norm4 = AdaptedInput(layer.norm4, channels)


class SamAdapter(PromptedSam):
    """SAM with trained adapters."""

    learning_rate = 1e-3
    weight_decay = 0.0


@dataclass(frozen=True)
class SamAdapterMethod(SamMethod):
    """Medical SAM Adapter."""

    def build(self, settings: SPDSettings, n_classes: int) -> SliceModel:
        """See the base class."""
        network = build_plain_sam(settings, n_classes)
        add_adapters(network)
        return SamAdapter(network, settings, False, lambda n: ".adapter." in n or n.startswith(TRAINED_BESIDE))


METHODS: dict[str, SliceMethod] = {
    m.name: m for m in (SamAdapterMethod("sam_adapter", "Medical SAM Adapter, raw points", "SAM", points="raw"),)
}
