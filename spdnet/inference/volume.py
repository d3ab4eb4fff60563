"""One volume through the network: encode every slice, distil its prompts, decode what is to be decoded.

Prediction is a stream: a slice is decoded as soon as the slices that may lend it prompts, or that its maps show, are
encoded, and its embedding is dropped then. So embeddings never leave the device, and however many slices there are,
those of `DECODED_TOGETHER` and the reach of the context to either side, with two batches, are all that is held.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from spdnet.inference.class_rules import Rules
from spdnet.inference.pieces import drop_lone_pieces
from spdnet.inference.prompt_maps import PromptMaps
from spdnet.inference.prompting import (
    DecoderRows,
    DistilledVolume,
    asked_points,
    decoder_rows,
    distill_whole_volume,
    points_of_classes,
    reach_of_context,
    rows_of_slices,
)
from spdnet.network import SPDNetwork
from spdnet.network.precision import autocast
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.box_distillation import BoxConsensus
from spdnet.prompts.distillation import Consensus

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

DECODER_BATCH = {"cuda": 64}  # rows
DECODER_BATCH_ELSEWHERE = 16
DECODED_TOGETHER = 64  # slices


@dataclass(frozen=True)
class EncodedVolume:
    """What the encoder gives.

    Attributes:
        embeddings: float16 (S, 256, grid, grid), on the CPU; the decoder's.
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
        random: bool (k,), the classes whose points look random; None if no prompts were used.
        refused: bool (k,), those of them whose points are refused for it; None if no prompts were used.
        untrusted: bool (k,), the classes that are predicted as without prompts because none of them is trusted, those
            that are refused among them; None if no prompts were used.
    """

    probabilities: np.ndarray
    saliency: np.ndarray
    consensus: list[Consensus] | None
    boxes: list[BoxConsensus] | None = None
    random: np.ndarray | None = None
    refused: np.ndarray | None = None
    untrusted: np.ndarray | None = None


@torch.no_grad()
def encode_volume(network: SPDNetwork, slices: np.ndarray, batch_size: int, device: torch.device) -> EncodedVolume:
    """Encode slices (S, c, size, size) of any float type, in [0, 1], and keep all that is made of them."""

    def encode(part: slice) -> tuple[torch.Tensor, np.ndarray]:
        embeddings, saliency = _encode(network, slices[part], device)
        return embeddings.cpu(), saliency.cpu().numpy()

    embeddings, saliency = zip(*BatchSize(batch_size).collect(encode, len(slices)), strict=True)
    return EncodedVolume(torch.cat(embeddings), np.concatenate(saliency))


@torch.no_grad()
def encode_for_decoder(network: SPDNetwork, slices: np.ndarray, batch_size: int, device: torch.device) -> torch.Tensor:
    """The embeddings of `encode_volume` alone."""

    def encode(part: slice) -> torch.Tensor:
        with autocast(device):
            embeddings = network.encode_for_decoder(on_device(slices[part], device))
        return embeddings.to(torch.float16).cpu()

    return torch.cat(BatchSize(batch_size).collect(encode, len(slices)))


@torch.no_grad()
def saliency_of_volume(network: SPDNetwork, slices: np.ndarray, batch_size: int, device: torch.device) -> np.ndarray:
    """The saliency of `encode_volume` alone."""

    def encode(part: slice) -> np.ndarray:
        _, saliency = _encode(network, slices[part], device, for_decoder=False)
        return saliency.cpu().numpy()

    return np.concatenate(BatchSize(batch_size).collect(encode, len(slices)))


@torch.no_grad()
def decode_volume(
    network: SPDNetwork, volume: EncodedVolume, rows: DecoderRows, device: torch.device, maps: PromptMaps | None = None
) -> np.ndarray:
    """Decode rows to probabilities float32 (S, k, M, M); 0 where there is no row. `maps` as the network needs them."""
    probabilities = np.zeros_like(volume.saliency)

    def decode(part: slice) -> None:
        decoded = _decode(network, volume.embeddings[rows.slice_index[part]], rows.select(part), maps, device)
        probabilities[rows.slice_index[part], rows.class_index[part]] = decoded.cpu().numpy()

    BatchSize(_decoder_batch(device)).run(decode, len(rows))
    return probabilities


def predict_encoded(
    network: SPDNetwork,
    volume: EncodedVolume,
    given: DistilledVolume,
    prompts: SlicePrompts,
    rules: Rules,
    device: torch.device,
) -> np.ndarray:
    """What `predict_volume` makes of an encoded volume, all at once.

    Args:
        network, volume: encoded slices.
        given: the prompts as they were distilled.
        prompts: as they were given, in network pixels.
        rules: of the network.
        device: where to compute.

    Returns:
        Probabilities float32 (S, k, M, M), 0 where nothing is decoded.
    """
    probabilities = _decode_encoded(network, volume, prompts, given.boxes, rules, device)
    points = points_of_classes(prompts, volume.saliency, network.image_size)
    if rules.settings.without_prompts == "saliency":
        probabilities[:, given.untrusted] = volume.saliency[:, given.untrusted]
    elif _had_points(points, given.untrusted):
        without = _decode_encoded(network, volume, SlicePrompts.empty(), None, rules, device)
        probabilities[:, given.untrusted] = without[:, given.untrusted]
    drop_lone_pieces(probabilities, points, given, rules)
    return probabilities


def _had_points(points_syx: list[np.ndarray], untrusted: np.ndarray) -> bool:
    """Whether the decoder was given points of an untrusted class, so that it has to be asked again without."""
    return any(len(points_syx[k]) for k in np.flatnonzero(untrusted).tolist())


def _decode_encoded(
    network: SPDNetwork,
    volume: EncodedVolume,
    prompts: SlicePrompts,
    boxes: list[BoxConsensus] | None,
    rules: Rules,
    device: torch.device,
) -> np.ndarray:
    """Probabilities as the decoder has them, before anything is said of the volume as a whole."""
    saliency = volume.saliency
    rows = decoder_rows(asked_points(prompts, saliency, rules), saliency, rules, boxes)
    points = points_of_classes(prompts, saliency, network.image_size)
    return decode_volume(network, volume, rows, device, PromptMaps.of(network, points, saliency))


def decode_rows(
    network: SPDNetwork,
    embeddings: torch.Tensor,
    rows: DecoderRows,
    device: torch.device,
    maps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mask logits (R, M, M) of rows, given the embeddings (R, 256, grid, grid) of their slices.

    Args:
        network: on `device`.
        embeddings: float, anywhere.
        rows: what is asked.
        device: where to compute.
        maps: of `PromptMaps.of_rows` on `device`, or None for a network without dense prompt.
    """
    boxes: dict[str, torch.Tensor] = {}
    if rows.has_box.any():
        boxes = {name: torch.from_numpy(getattr(rows, name)).to(device) for name in ("box_yxyx", "has_box")}
    return network.decode(
        embeddings.to(device, torch.float32),
        torch.from_numpy(rows.points_yx).to(device),
        torch.from_numpy(rows.point_is_real).to(device),
        torch.from_numpy(rows.class_index).to(device),
        **boxes,
        maps=maps,
    )


@torch.no_grad()
def predict_volume(
    network: SPDNetwork,
    slices: np.ndarray,
    prompts: SlicePrompts | None,
    settings: DistillationSettings,
    batch_size: int,
    device: torch.device,
    content_share: float = 1.0,
    random: np.ndarray | None = None,
) -> VolumePrediction:
    """Segment one volume.

    A class of which no prompt is trusted in any slice (if the decoder weighs the points, one that has none), or whose
    points look random, is predicted as without prompts, unless the plans say that such slices are empty
    (`distill_whole_volume`). If the decoder is to do that, and such a class does have points, the volume goes through
    the network a second time.

    Where the GPU's memory does not suffice for a batch, batches are halved, which is logged; only a single slice that
    does not fit is an error.

    Args:
        network: in evaluation mode, on `device`.
        slices: (S, c, size, size) in [0, 1]; read batch by batch, so that a memory map need not fit into memory.
        prompts: points and boxes in network pixels, or None to do without.
        settings: of the plans.
        batch_size: slices per encoder pass.
        device: where to compute.
        content_share, random: as in `distill_whole_volume`.

    Raises:
        torch.cuda.OutOfMemoryError: not even one slice fits.
    """
    none_given = SlicePrompts.empty() if settings.without_prompts == "decode" else None
    stream = _Stream(network, slices, none_given if prompts is None else prompts, settings, device)
    stream.run(batch_size)
    probabilities, saliency = stream.probabilities, stream.saliency
    if prompts is None:
        return VolumePrediction(probabilities, saliency, None)
    found = distill_whole_volume(prompts, saliency, stream.rules, content_share, random)
    if none_given is None:
        probabilities[:, found.untrusted] = saliency[:, found.untrusted]
    elif _had_points(stream.points, found.untrusted):
        again = _Stream(network, slices, none_given, settings, device)
        again.run(batch_size)
        probabilities[:, found.untrusted] = again.probabilities[:, found.untrusted]
    drop_lone_pieces(probabilities, stream.points, found, stream.rules)
    return VolumePrediction(
        probabilities, saliency, found.consensus, found.boxes, found.random, found.refused, found.untrusted
    )


class BatchSize:
    """How many items are computed at once: as many as asked for, halved whenever the GPU runs out of memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, compute: Callable[[slice], None], n_items: int) -> None:
        """Call `compute` on one part of the items after the other; a part that did not fit is computed in halves."""
        done = 0
        while done < n_items:
            done = self.step(compute, done, n_items)

    def collect(self, compute: Callable[[slice], Made], n_items: int) -> list[Made]:
        """What `compute` makes of one part of the items after the other, likewise."""
        made: list[Made] = []
        self.run(lambda part: made.append(compute(part)), n_items)
        return made

    def step(self, compute: Callable[[slice], None], first: int, n_items: int) -> int:
        """Call `compute` on the part that begins at `first`; returns where the next one begins."""
        part = slice(first, min(first + self.size, n_items))
        return part.stop if self._fits(compute, part) else first

    def _fits(self, compute: Callable[[slice], None], part: slice) -> bool:
        try:
            compute(part)
        except torch.cuda.OutOfMemoryError:
            n_items = part.stop - part.start
            if n_items == 1:
                raise
            self.size = n_items // 2
        else:
            return True
        # here the error is gone, and with it what its frames held
        _say_halved(self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False


class _Stream:
    """A volume on its way through the network. Slices go in by batches, in order; maps come out on the host.

    The host lags one batch behind, so that a GPU has work queued while the host distils prompts.
    """

    def __init__(
        self,
        network: SPDNetwork,
        slices: np.ndarray,
        prompts: SlicePrompts | None,
        settings: DistillationSettings,
        device: torch.device,
    ) -> None:
        self.network, self.slices, self.prompts = network, slices, prompts
        self.rules, self.device = Rules.of(settings, network), device
        self.saliency = self.probabilities = np.zeros(0, dtype=np.float32)  # made when their shape is known
        self._reach = reach_of_context(self.rules)
        self._embeddings: list[torch.Tensor] = []  # of the slices from `_decoded` on
        self._encoded = self._decoded = 0  # so many slices
        self._salient: tuple[slice, _Download] | None = None
        self._masks: list[_Masks] = []
        self._decoder_batch = BatchSize(_decoder_batch(device))

    @functools.cached_property
    def points(self) -> list[np.ndarray]:
        """All points of each class, in pixels of the maps; once the first slices are encoded, and with prompts only."""
        assert self.prompts is not None
        return points_of_classes(self.prompts, self.saliency, self.network.image_size)

    @functools.cached_property
    def maps(self) -> PromptMaps | None:
        """What a dense prompt is made of; likewise."""
        return PromptMaps.of(self.network, self.points, self.saliency)

    def run(self, batch_size: int) -> None:
        """Take all slices through, and wait for everything."""
        batches, fed = BatchSize(batch_size), 0
        while fed < len(self.slices):
            fed = batches.step(self._encode, fed, len(self.slices))
            if self._encoded - self._reach - self._decoded >= DECODED_TOGETHER:
                self._decode_until(self._encoded - self._reach)
        self._take_saliency()
        while self._decoded < len(self.slices):
            self._decode_until(min(self._decoded + DECODED_TOGETHER, len(self.slices)))
        self._take_masks()

    def _encode(self, part: slice) -> None:
        embeddings, saliency = _encode(self.network, self.slices[part], self.device, self.prompts is not None)
        salient = part, _Download(saliency)
        if self.prompts is not None:
            self._embeddings.append(embeddings)
        self._take_saliency()
        self._salient = salient

    def _take_saliency(self) -> None:
        if self._salient is not None:
            part, download = self._salient
            found = download.wait()
            if not self.saliency.size:
                self.saliency = np.zeros((len(self.slices), *found.shape[1:]), dtype=np.float32)
                self.probabilities = np.zeros_like(self.saliency) if self.prompts is not None else self.saliency
            self.saliency[part] = found
            self._encoded, self._salient = part.stop, None

    def _take_masks(self) -> None:
        for place, download in self._masks:
            self.probabilities[place] = download.wait()
        self._masks.clear()

    def _decode_until(self, stop: int) -> None:
        """Decode the slices up to `stop`, and drop what no later one needs; nothing is decoded if `prompts` is None."""
        first = self._decoded
        if self.prompts is not None:
            rows = rows_of_slices(self.prompts, self.saliency, first, stop, self.rules)
            self._embeddings = [torch.cat(self._embeddings)]
            self._take_masks()
            self._decode(rows, first)
            self._embeddings = [self._embeddings[0][stop - first :].clone()]
        self._decoded = stop

    def _decode(self, rows: DecoderRows, first: int) -> None:
        """Have rows decoded; the embeddings are those of the slices from `first` on."""
        (embeddings,) = self._embeddings

        def decode(part: slice) -> None:
            own = embeddings[torch.from_numpy(rows.slice_index[part] - first).to(self.device)]
            place = rows.slice_index[part], rows.class_index[part]
            decoded = _decode(self.network, own, rows.select(part), self.maps, self.device)
            self._masks.append((place, _Download(decoded)))

        self._decoder_batch.run(decode, len(rows))


class _Download:
    """A tensor on its way to the host, beside the computation if it comes from a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))
        else:
            self._host = tensor.cpu()

    def wait(self) -> np.ndarray:
        """The array, once it has arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


_Masks = tuple[tuple[np.ndarray, np.ndarray], _Download]  # slices and classes of rows, and their masks


def _encode(
    network: SPDNetwork, slices: np.ndarray, device: torch.device, for_decoder: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices to embeddings float16 (s, 256, grid, grid) and saliency float32 (s, k, M, M), both on the device.

    The embeddings are the decoder's, unless they are not `for_decoder`.
    """
    images = on_device(slices, device)
    with autocast(device):
        if for_decoder:
            for_head, encoded = network.encode_for_both(images)
        else:
            for_head = encoded = network.encode(images)
        logits = network.saliency_logits(for_head)
    return encoded.to(torch.float16), torch.sigmoid(logits.float())


def on_device(slices: np.ndarray, device: torch.device) -> torch.Tensor:
    """Slices of any float type as float32, for the encoder."""
    images = torch.from_numpy(np.array(slices))
    if device.type == "cuda":
        images = images.pin_memory()
    return images.to(device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)


def _decode(
    network: SPDNetwork, embeddings: torch.Tensor, rows: DecoderRows, maps: PromptMaps | None, device: torch.device
) -> torch.Tensor:
    """Probabilities float32 (R, M, M) of rows, on the device."""
    of_rows = None if maps is None else maps.of_rows(rows, device)
    with autocast(device):
        logits = decode_rows(network, embeddings, rows, device, of_rows)
    return torch.sigmoid(logits.float())


def _decoder_batch(device: torch.device) -> int:
    return DECODER_BATCH.get(device.type, DECODER_BATCH_ELSEWHERE)


@functools.cache
def _say_halved(size: int) -> None:
    logger.warning(
        "the GPU's memory does not suffice: going on with batches of %d. A smaller batch_size, or a GPU that nothing "
        "else uses, avoids this",
        size,
    )
