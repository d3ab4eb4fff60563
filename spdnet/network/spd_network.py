"""The whole model: SAM's encoder with adapters, which serves the saliency head and the mask decoder.

The decoder may have an encoder of its own: the same published weights with further adapters, which stage 2 trains.

Frames: images, points and masks are in network pixels; the maps of head and decoder have `mask_size` pixels
a side, which covers the same square at another resolution.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from spdnet.network.backbones import Backbone, EncoderWithStem, SamParts, get_backbone
from spdnet.network.decoding import decode_masks
from spdnet.network.dense_prompt import DensePrompt
from spdnet.network.lora import adapters_disabled, add_lora, set_lora_dropout, with_adapters_of_its_own
from spdnet.network.saliency_head import SaliencyHead

EMBEDDING_CHANNELS = 256
# What stage 2 counts in the training cases, for each class: part of a trained model.
MEASURED = ("salient_share", "confirmed_share")


class SPDNetwork(nn.Module):
    """SAM with LoRA, a saliency head, and a batched mask decoder.

    Args:
        parts: SAM's modules with their weights.
        backbone: what they are.
        n_channels: image channels; 1 is repeated to 3, 2 are padded with zeros, 3 are used as they are, more are
            projected by a learned 1x1 convolution.
        n_classes: foreground classes.
        image_size: side of the square slices, pixels.
        lora_rank, lora_alpha, lora_dropout: see peft; rank 0 is no adapters.
        dense_slices: slices to either side that the dense prompt sees; None: SAM's own, which sees nothing.
        decoder_encoder: whether the decoder has an encoder of its own; that needs adapters.

    Attributes:
        is_prediction_form: `optimize_for_prediction` has been here; the network cannot be trained or loaded any more.
        encoder_dtype: format of the encoder's frozen matrices; another one than float32 in that form only.
        salient_share: float32 (n_classes,), of the points of the training cases the share that is salient in its own
            slice, as stage 2 measured it; 0 where there was none. Part of `own_state`.
        confirmed_share: likewise, of the target in the training cases, the share that is in pieces with a point.
    """

    def __init__(
        self,
        parts: SamParts,
        backbone: Backbone,
        n_channels: int,
        n_classes: int,
        image_size: int,
        lora_rank: int,
        lora_alpha: int,
        lora_dropout: float,
        dense_slices: int | None = None,
        decoder_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.n_classes = n_classes
        self.n_channels = n_channels
        self.is_prediction_form = False
        self.encoder_dtype = torch.float32
        self.mask_size = 4 * backbone.grid(image_size)
        self.channel_projection = nn.Conv2d(n_channels, 3, kernel_size=1) if n_channels > 3 else None
        self.image_encoder: Any = parts.image_encoder
        self.salient_share: torch.Tensor
        self.confirmed_share: torch.Tensor
        for name in MEASURED:
            self.register_buffer(name, torch.zeros(n_classes))
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor
        self.prompt_encoder: Any = parts.prompt_encoder
        self.mask_decoder: Any = parts.mask_decoder
        self.register_buffer("pixel_mean", torch.tensor(parts.pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(parts.pixel_std).view(1, 3, 1, 1), persistent=False)
        self.image_encoder.requires_grad_(False)
        self.prompt_encoder.requires_grad_(False)
        if lora_rank > 0:
            add_lora(self.image_encoder, backbone.attention_projections, lora_rank, lora_alpha, lora_dropout)
        self.decoder_encoder: Any = with_adapters_of_its_own(self.image_encoder) if decoder_encoder else None
        self.saliency_head = SaliencyHead(n_classes, EMBEDDING_CHANNELS)
        self.class_embedding = nn.Embedding(n_classes, EMBEDDING_CHANNELS)
        nn.init.zeros_(self.class_embedding.weight)
        self.dense_prompt = None if dense_slices is None else DensePrompt(dense_slices, EMBEDDING_CHANNELS)

    def train(self, mode: bool = True) -> SPDNetwork:
        """The pre-trained encoder stays in evaluation mode; only the adapters' dropout follows `mode`.

        Raises:
            RuntimeError: the network has the form for prediction.
        """
        if mode:
            self._refuse_prediction_form()
        super().train(mode)
        for frozen in (self.image_encoder, self.decoder_encoder, self.prompt_encoder):
            if frozen is not None:
                frozen.eval()
        set_lora_dropout(self, mode)
        return self

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, n_channels, size, size) in [0, 1] to embeddings (B, 256, grid, grid), for the saliency head."""
        return self._encode(self.image_encoder, images)

    def encode_for_decoder(self, images: torch.Tensor) -> torch.Tensor:
        """The same for the mask decoder: by its own encoder, if it has one."""
        return self._encode(self.image_encoder if self.decoder_encoder is None else self.decoder_encoder, images)

    def encode_for_both(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of `encode` and of `encode_for_decoder`; what the encoders have in common is computed once."""
        if self.decoder_encoder is None:
            embeddings = self.encode(images)
            return embeddings, embeddings
        if not isinstance(self.image_encoder, EncoderWithStem):
            return self.encode(images), self.encode_for_decoder(images)
        normalized = self._normalized(images)
        with self._encoder_format(images.device):
            features = self.image_encoder.stem(normalized)
            return self.image_encoder.after_stem(features), self.decoder_encoder.after_stem(features)

    def copy_adapters_to_decoder(self) -> None:
        """Have the decoder's own encoder, if it has one, begin as stage 1 has left the first.

        Raises:
            RuntimeError: the network has the form for prediction.
        """
        self._refuse_prediction_form()
        if self.decoder_encoder is not None:
            for name, parameter in self.image_encoder.named_parameters():
                if "lora_" in name:
                    self.decoder_encoder.get_parameter(name).data.copy_(parameter)

    def _encode(self, encoder: Any, images: torch.Tensor) -> torch.Tensor:
        normalized = self._normalized(images)
        with self._encoder_format(images.device):
            return encoder(normalized)

    def _encoder_format(self, device: torch.device) -> AbstractContextManager[None]:
        if self.encoder_dtype == torch.float32:
            return nullcontext()  # under the caller's autocast, if there is one
        return torch.autocast(device.type, self.encoder_dtype)

    def saliency_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings to saliency logits (B, n_classes, mask_size, mask_size)."""
        return self.saliency_head(embeddings)

    def decode(
        self,
        embeddings: torch.Tensor,
        points_yx: torch.Tensor,
        point_is_real: torch.Tensor,
        class_index: torch.Tensor,
        box_yxyx: torch.Tensor | None = None,
        has_box: torch.Tensor | None = None,
        maps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Masks from positive points, boxes, or both together.

        Rows of all kinds may share a batch; each is decoded as segment-anything decodes it alone.

        Args:
            embeddings: (B, 256, grid, grid), one slice per row.
            points_yx: float (B, P, 2), y, x in network pixels; rows with fewer points are padded.
            point_is_real: bool (B, P), False where a row is padded. A row without any point or box is decoded from
                SAM's "not a point" token alone.
            class_index: int64 (B,), which class each row asks for.
            box_yxyx: float (B, 4), edges top, left, bottom, right in network pixels; None if no row has a box.
            has_box: bool (B,), False where the box of a row is to be ignored; None if no row has a box.
            maps: (B, n_maps, mask_size, mask_size), for the dense prompt, if the network has one.

        Returns:
            Mask logits (B, mask_size, mask_size).

        Raises:
            ValueError: the network has a dense prompt, and there are no maps for it.
        """
        points_xy = points_yx.flip(-1)
        box_xyxy = None if box_yxyx is None else box_yxyx[:, [1, 0, 3, 2]]
        with torch.autocast(points_yx.device.type, enabled=False):  # bfloat16 would move points by half a pixel
            sparse, dense, token_is_real = self._prompt_tokens(points_xy, point_is_real, box_xyxy, has_box)
            image_pe = self.prompt_encoder.get_dense_pe()
        sparse, image_pe = (_as_under_autocast(t) for t in (sparse, image_pe))
        if self.n_classes > 1:
            sparse = sparse + self.class_embedding(class_index)[:, None]
        if self.dense_prompt is not None:
            if maps is None:
                raise ValueError("this network has a dense prompt, which needs maps")
            dense = dense + self.dense_prompt(maps, embeddings)
        return decode_masks(self.mask_decoder, embeddings, image_pe, sparse, dense, token_is_real)

    def _prompt_tokens(
        self,
        points_xy: torch.Tensor,
        point_is_real: torch.Tensor,
        box_xyxy: torch.Tensor | None,
        has_box: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """SAM's prompt tokens (B, N, 256), its dense prompt, and which of the tokens are real: bool (B, N).

        As in segment-anything, points without a box are closed by the "not a point" token, and a box is two tokens,
        its corners, without that one.
        """
        points = points_xy, torch.where(point_is_real, 1, -1)
        always = point_is_real.new_ones(len(points_xy), 1)
        if box_xyxy is None or has_box is None:
            sparse, dense = self.prompt_encoder(points=points, boxes=None, masks=None)
            return sparse, dense, torch.cat([point_is_real, always], dim=1)
        if bool(has_box.all()):
            sparse, dense = self.prompt_encoder(points=points, boxes=box_xyxy, masks=None)
            return sparse, dense, torch.cat([point_is_real, always, always], dim=1)
        sparse, dense = self.prompt_encoder(points=points, boxes=None, masks=None)
        corners, _ = self.prompt_encoder(points=None, boxes=box_xyxy, masks=None)
        boxed = has_box[:, None]
        return torch.cat([sparse, corners], dim=1), dense, torch.cat([point_is_real, ~boxed, boxed, boxed], dim=1)

    def plain_sam(self) -> AbstractContextManager[None]:
        """Context in which the encoders are the published one (adapters off)."""
        return adapters_disabled(self)

    def stage1_parameters(self) -> dict[str, nn.Parameter]:
        """What stage 1 trains: LoRA of the first encoder, saliency head and, if there is one, channel projection."""
        return {n: p for n, p in self.named_parameters() if _part(n) == 1}

    def stage2_parameters(self) -> dict[str, nn.Parameter]:
        """What stage 2 trains: mask decoder, class embedding, dense prompt and the LoRA of the decoder's encoder."""
        return {n: p for n, p in self.named_parameters() if _part(n) == 2}

    def own_state(self) -> dict[str, torch.Tensor]:
        """All that differs from the published SAM: what a checkpoint has to hold."""
        return {n: p.detach().cpu().clone() for n, p in self._own().items()}

    def load_own_state(self, state: dict[str, torch.Tensor]) -> None:
        """Inverse of `own_state`.

        Raises:
            KeyError: names are missing or unknown. ValueError: a shape does not fit.
            RuntimeError: the network has the form for prediction.
        """
        self._refuse_prediction_form()
        own = self._own()
        if own.keys() != state.keys():
            raise KeyError(f"missing {sorted(own.keys() - state.keys())}, unknown {sorted(state.keys() - own.keys())}")
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ValueError(f"{name}: shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}")
            parameter.data.copy_(state[name])

    def _own(self) -> dict[str, torch.Tensor]:
        measured = {name: self.get_buffer(name) for name in MEASURED}
        return {**self.stage1_parameters(), **self.stage2_parameters(), **measured}

    def _refuse_prediction_form(self) -> None:
        if self.is_prediction_form:
            raise RuntimeError("this network was optimised for prediction, which cannot be undone; load it again")

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        return (self._three_channels(images) - self.pixel_mean) / self.pixel_std

    def _three_channels(self, images: torch.Tensor) -> torch.Tensor:
        if self.channel_projection is not None:
            return self.channel_projection(images)
        if self.n_channels == 1:
            return images.expand(-1, 3, -1, -1)
        missing = 3 - self.n_channels
        return (
            torch.cat([images, images.new_zeros(len(images), missing, *images.shape[2:])], dim=1) if missing else images
        )


def _part(name: str) -> int:
    if name.startswith("decoder_encoder."):
        return 2 if "lora_" in name else 0
    if "lora_" in name or name.startswith(("saliency_head.", "channel_projection.")):
        return 1
    return 2 if name.startswith(("mask_decoder.", "class_embedding.", "dense_prompt.")) else 0


def build_network(
    backbone_name: str,
    n_channels: int,
    n_classes: int,
    image_size: int,
    lora_rank: int,
    lora_alpha: int,
    lora_dropout: float,
    load_weights: bool = True,
    dense_slices: int | None = None,
    decoder_encoder: bool = False,
) -> SPDNetwork:
    """Build the model of a backbone, with SAM's published weights unless `load_weights` is False.

    Raises:
        ConfigurationError: unknown backbone, or not whole tokens. ModelError: its weights cannot be had.
    """
    backbone = get_backbone(backbone_name)
    backbone.check_image_size(image_size)
    parts = backbone.build(image_size, load_weights)
    lora = lora_rank, lora_alpha, lora_dropout
    return SPDNetwork(parts, backbone, n_channels, n_classes, image_size, *lora, dense_slices, decoder_encoder).eval()


def _as_under_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """In the number format that matrix products have where this is called."""
    kind = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else tensor
