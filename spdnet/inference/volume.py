"""One volume through the network: encode every slice once, distil its prompts, decode what is to be decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spdnet.inference.prompting import DecoderRows, decoder_rows, distill_volume, distill_volume_boxes
from spdnet.network import SPDNetwork
from spdnet.network.precision import autocast
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.box_distillation import BoxConsensus
from spdnet.prompts.distillation import Consensus

DECODER_BATCH = 16


@dataclass(frozen=True)
class EncodedVolume:
    """What one encoder pass gives.

    Attributes:
        embeddings: float16 (S, 256, grid, grid), on the CPU.
        saliency: float32 (S, k, M, M), in [0, 1].
    """

    embeddings: torch.Tensor
    saliency: np.ndarray


@dataclass(frozen=True)
class VolumePrediction:
    """Foreground probabilities float32 (S, k, M, M) in the network frame, and what led to them.

    Attributes:
        probabilities: 0 where nothing was decoded.
        saliency: of stage 1, same shape.
        consensus: points, one per class; None if no prompts were used.
        boxes: coarse boxes, likewise.
    """

    probabilities: np.ndarray
    saliency: np.ndarray
    consensus: list[Consensus] | None
    boxes: list[BoxConsensus] | None = None


@torch.no_grad()
def encode_volume(network: SPDNetwork, slices: np.ndarray, batch_size: int, device: torch.device) -> EncodedVolume:
    """Encode slices (S, c, size, size) of any float type, in [0, 1]."""
    embeddings, saliency = [], []
    for start in range(0, len(slices), batch_size):
        images = torch.from_numpy(np.ascontiguousarray(slices[start : start + batch_size], dtype=np.float32))
        with autocast(device):
            encoded = network.encode(images.to(device, memory_format=torch.channels_last))
            logits = network.saliency_logits(encoded)
        embeddings.append(encoded.to("cpu", torch.float16))
        saliency.append(torch.sigmoid(logits.float()).cpu().numpy())
    return EncodedVolume(torch.cat(embeddings), np.concatenate(saliency))


@torch.no_grad()
def decode_volume(network: SPDNetwork, volume: EncodedVolume, rows: DecoderRows, device: torch.device) -> np.ndarray:
    """Decode rows to probabilities float32 (S, k, M, M); 0 where there is no row."""
    probabilities = np.zeros_like(volume.saliency)
    for start in range(0, len(rows), DECODER_BATCH):
        part = slice(start, start + DECODER_BATCH)
        with autocast(device):
            logits = decode_rows(network, volume.embeddings[rows.slice_index[part]], rows, part, device)
        probabilities[rows.slice_index[part], rows.class_index[part]] = torch.sigmoid(logits.float()).cpu().numpy()
    return probabilities


def decode_rows(
    network: SPDNetwork, embeddings: torch.Tensor, rows: DecoderRows, part: slice | np.ndarray, device: torch.device
) -> torch.Tensor:
    """Mask logits (r, M, M) of some rows, given the embeddings (r, 256, grid, grid) of their slices."""
    boxes = []
    if rows.has_box[part].any():
        boxes = [torch.from_numpy(array[part]).to(device) for array in (rows.box_yxyx, rows.has_box)]
    return network.decode(
        embeddings.to(device, torch.float32),
        torch.from_numpy(rows.points_yx[part]).to(device),
        torch.from_numpy(rows.point_is_real[part]).to(device),
        torch.from_numpy(rows.class_index[part]).to(device),
        *boxes,
    )


def predict_volume(
    network: SPDNetwork,
    slices: np.ndarray,
    prompts: SlicePrompts | None,
    settings: DistillationSettings,
    batch_size: int,
    device: torch.device,
) -> VolumePrediction:
    """Segment one volume.

    Args:
        network: in evaluation mode, on `device`.
        slices: (S, c, size, size) in [0, 1].
        prompts: points and boxes in network pixels, or None for the saliency prior alone.
        settings: of the plans.
        batch_size: slices per encoder pass.
        device: where to compute.
    """
    volume = encode_volume(network, slices, batch_size, device)
    if prompts is None:
        return VolumePrediction(volume.saliency, volume.saliency, None)
    consensus = distill_volume(prompts, volume.saliency, network.image_size, settings)
    boxes = distill_volume_boxes(prompts, volume.saliency, network.image_size, settings)
    rows = decoder_rows(consensus, volume.saliency, network.image_size, settings, boxes)
    return VolumePrediction(decode_volume(network, volume, rows, device), volume.saliency, consensus, boxes)
