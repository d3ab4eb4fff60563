"""Stage 2, prompt-guided segmentation: the mask decoder learns to make masks from prompts, and what these are worth.

Encoder, LoRA and saliency head of stage 1 are frozen, so each case is encoded once. Where the decoder has an encoder of
its own, slices go through that one in every step. Every epoch draws prompts, makes of them what the decoder is asked,
and puts runs of adjacent slices into batches, so that the consistency term finds its pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spdnet.inference.class_rules import Rules
from spdnet.inference.prompt_maps import PromptMaps
from spdnet.inference.prompting import (
    DecoderRows,
    asked_points,
    decoder_rows,
    distill_volume_boxes,
    distill_whole_volume,
    points_of_classes,
)
from spdnet.inference.volume import EncodedVolume, decode_rows, on_device, predict_encoded
from spdnet.network import SPDNetwork
from spdnet.network.precision import autocast
from spdnet.network.spd_network import MEASURED
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import StageSettings
from spdnet.prompts import SlicePrompts
from spdnet.training.batch_shares import share_batches
from spdnet.training.case_shares import CaseShares
from spdnet.training.embedding_store import EmbeddingStore, StoredVariant
from spdnet.training.losses import consistency_loss
from spdnet.training.prompt_source import training_prompts, validation_prompts
from spdnet.training.scores import pixel_counts
from spdnet.training.stages import Batches, Stage

logger = logging.getLogger(__name__)


LEAST_SEEN = 2 / 3  # of the training points on the target, the share that has to be salient; else the log warns
_MISSES_MANY = {
    "weighed": ": stage 1 misses many of the points on it, and the decoder has to do without its word",
    "consensus": ": stage 1 misses many of the points on it, and the consensus adds little to what saliency finds",
}
_TRAIN_ANEW = (
    "Train stage 1 anew, with another --seed or for longer, or on labels of all that may be the target (-stage1_from)"
)


@dataclass(frozen=True)
class _Run:
    """Rows of one variant that follow each other: adjacent slices of one class, as far as they are decoded.

    `maps` are those of the variant.
    """

    variant: StoredVariant
    rows: DecoderRows
    indices: np.ndarray
    maps: PromptMaps | None


class PromptStage(Stage):
    """Trains on what the first encoder has made of the slices, which is stored.

    Args:
        network, settings, train_cases, val_cases, device, seed, held_out_cases: as in the base class.
        cache_folder: where what is made of the slices is stored.
        keep_embeddings: keep that after the training, too.
    """

    number = 2
    name = "stage 2 (prompts)"
    some_unused = True  # SAM's decoder has heads for masks that are not asked for

    def __init__(
        self,
        network: SPDNetwork,
        settings: SPDSettings,
        train_cases: list[StoredCase],
        val_cases: list[StoredCase],
        device: torch.device,
        seed: int,
        cache_folder: Path,
        keep_embeddings: bool = False,
        held_out_cases: Sequence[StoredCase] = (),
    ) -> None:
        super().__init__(network, settings, train_cases, val_cases, device, seed, held_out_cases)
        self._store = EmbeddingStore(cache_folder, network, settings, seed, keep_embeddings)

    @property
    def stage_settings(self) -> StageSettings:
        """The plans' stage 2."""
        return self.settings.stage2

    def parameters(self) -> list[nn.Parameter]:
        """Mask decoder, class embedding, dense prompt and the adapters of the decoder's own encoder."""
        return list(self.network.stage2_parameters().values())

    def prepare(self) -> None:
        """Encode all cases; see the base class."""
        super().prepare()
        self._store.stop = self.stop
        size = self.settings.stage1.batch_size
        self._train = self._store.encode(self.train_cases, True, size, self.device)
        stored = self._store.encode(self.val_cases, False, size, self.device)
        self._val = self.team.share([variants[0] for variants in stored])

    def begin(self) -> None:
        """The decoder's own encoder begins as stage 1 has left the first."""
        self.network.copy_adapters_to_decoder()

    def decide(self, class_names: Sequence[str]) -> list[str]:
        """Count in the training cases what decides about random points and lone pieces, and keep it in the network.

        What the main process of a team finds holds for all: floating-point results depend on the processor, and
        processes that decide otherwise would validate otherwise.
        """
        plans = self.settings.distillation
        if plans.mode == "raw":
            return []
        refuses = plans.random_points == "refuse" and plans.may_do_without_prompts
        variants = [variants[0] for variants in self._train]
        held_out = {case.case for case in self.held_out_cases}
        honest = [v for v in variants if v.case.case in held_out] or variants
        found = CaseShares.of(honest, self.settings, self.seed, self.stop)
        found.measured().keep_in(self.network)
        self.team.take_from_main(self.network.get_buffer(name) for name in MEASURED)
        rules = Rules.of(plans, self.network)
        seen, lines = found.seen.values(1), []
        for k, name in enumerate(class_names):
            if found.seen.n[k]:
                lines.append(f"{name}: of the points on it in the training cases, {found.seen.in_words(k)} are salient")
                if seen[k] < LEAST_SEEN:
                    lines.append(f"warning: {name}{_MISSES_MANY[plans.mode]}. {_TRAIN_ANEW}")
            if plans.lone_pieces == "auto":
                becomes = "dropped" if rules.drops_pieces(k) else "kept"
                lines.append(
                    f"{name}: of the target in the training cases, {found.confirmed.values(0)[k]:.0%} is in pieces "
                    f"with a point; pieces of masks without any are {becomes}"
                )
            if refuses and found.salient.n[k]:
                lines.append(
                    f"{name}: of all points of the training cases, {found.salient.in_words(k)} are salient; a volume "
                    "whose points are so no more often than random ones is predicted without them"
                )
        return lines

    def finish(self) -> None:
        """Remove the stored embeddings, unless they are to be kept."""
        self._store.close()

    def training_batches(self, epoch: int) -> Batches:
        """This process' share of at most `iterations_per_epoch` batches of rows, drawn without replacement."""
        batches = self._draw_batches(self.seed_epoch(epoch))
        if not batches:
            logger.warning(
                "epoch %d has nothing to decode: no pixel of any training slice is salient. Train stage 1 longer.",
                epoch,
            )
        return share_batches(batches, self.team)

    def training_loss(self, batch: list[_Run]) -> torch.Tensor:
        """Loss of the decoded masks, with the consistency term on adjacent slices."""
        with autocast(self.device):
            logits = self._decode(batch)
        masks = np.concatenate([_target_masks(run) for run in batch])
        target = torch.from_numpy(masks).to(self.device, torch.float32)
        loss = self.loss(logits[:, None], target[:, None], self._valid_pixels(batch), self.team.total)
        rule = self.settings.consistency
        if rule.weight > 0:
            pairs = torch.from_numpy(_adjacent_pairs(batch, masks)).to(self.device)
            term = consistency_loss(logits, pairs, self.settings.loss.dice_epsilon, self.team.total, rule.toward)
            loss = loss + rule.weight * term
        return loss

    def describe(self, batch: list[_Run]) -> list[str]:
        """Variants, classes and slices."""
        slices = [(run, run.rows.slice_index[run.indices].tolist()) for run in batch]
        return [f"{r.variant.name}, class {r.rows.class_index[r.indices[0]]}, slices {s}" for r, s in slices]

    def validation_batches(self) -> Batches:
        """One batch for each validation case of this process' share."""
        return self._val

    def validation_scores(self, batch: StoredVariant) -> dict[str, np.ndarray]:
        """Loss and pixel counts of a case as it is predicted, prompts fixed."""
        prompts = validation_prompts(batch.case, self.settings.prompts)
        saliency = np.asarray(batch.saliency, dtype=np.float32)
        embeddings = batch.embeddings_of(np.arange(len(saliency)))
        volume = EncodedVolume(torch.from_numpy(np.array(embeddings)), saliency)
        rules = Rules.of(self.settings.distillation, self.network)
        given = distill_whole_volume(prompts, saliency, rules, batch.case.mapping.content_share)
        decoded = predict_encoded(self.network, volume, given, prompts, rules, self.device)
        probabilities = torch.from_numpy(decoded)
        masks = torch.from_numpy(np.array(batch.masks))
        valid = None if batch.valid is None else torch.from_numpy(np.array(batch.valid))[:, None]
        loss = self.loss(torch.logit(probabilities, eps=1e-6), masks.float(), None if valid is None else valid.float())
        found = nn.functional.interpolate(probabilities, masks.shape[-2:], mode="bilinear") > 0.5
        counts = pixel_counts(found.numpy(), masks.numpy(), None if valid is None else valid.numpy())
        return {"loss": loss.numpy(), **counts}

    def _rows(self, prompts: SlicePrompts, saliency: np.ndarray, rng: np.random.Generator) -> DecoderRows:
        """Decoder rows of a variant to train on: only a share of the trusted boxes stays, as the plans say."""
        rules = Rules.of(self.settings.distillation, self.network)
        points = asked_points(prompts, saliency, rules)
        boxes = distill_volume_boxes(prompts, saliency, rules)
        if len(prompts.boxes):
            share = self.settings.prompts.box_share
            boxes = [b.only_slices(rng.random(len(saliency)) < share) for b in boxes]
        return decoder_rows(points, saliency, rules, boxes)

    def _draw_batches(self, rng: np.random.Generator) -> list[list[_Run]]:
        """Draw a variant and prompts for every case, cut the rows into runs, shuffle, and fill batches."""
        runs: list[_Run] = []
        for variants in self._train:
            variant = variants[rng.integers(len(variants))]
            prompts = variant.move(training_prompts(variant.case, self.settings.prompts, rng))
            saliency = np.asarray(variant.saliency, dtype=np.float32)
            rows = self._rows(prompts, saliency, rng)
            points = points_of_classes(prompts, saliency, self.network.image_size)
            maps = PromptMaps.of(self.network, points, saliency)
            runs += [_Run(variant, rows, part, maps) for part in _cut(rows, self.settings.consistency.run_length, rng)]
        s = self.stage_settings
        batches: list[list[_Run]] = [[]]
        for i in rng.permutation(len(runs)):
            if sum(len(r.indices) for r in batches[-1]) >= s.batch_size:
                batches.append([])
            batches[-1].append(runs[i])
        return [b for b in batches if b][: s.iterations_per_epoch]

    def _valid_pixels(self, runs: list[_Run]) -> torch.Tensor | None:
        parts = [r.variant.valid[r.rows.slice_index[r.indices]] for r in runs if r.variant.valid is not None]
        if not parts:
            return None
        return torch.from_numpy(np.concatenate(parts)).to(self.device, torch.float32)[:, None]

    def _decode(self, runs: list[_Run]) -> torch.Tensor:
        """Decode several runs in one pass."""
        rows = DecoderRows.concatenate([run.rows.select(run.indices) for run in runs])
        maps = [r.maps.of_rows(r.rows.select(r.indices), self.device) for r in runs if r.maps is not None]
        of_rows = torch.cat(maps) if maps else None
        return decode_rows(self.network, self._embeddings(runs), rows, self.device, of_rows)

    def _embeddings(self, runs: list[_Run]) -> torch.Tensor:
        """Those of the rows of several runs, (R, 256, grid, grid): stored, or by the encoder that is trained."""
        slices = [(run.variant, run.rows.slice_index[run.indices]) for run in runs]
        if self.network.decoder_encoder is None:
            return torch.from_numpy(np.concatenate([variant.embeddings_of(index) for variant, index in slices]))
        images = np.concatenate([variant.slices_of(index) for variant, index in slices])
        return self.network.encode_for_decoder(on_device(images, self.device))


def _cut(rows: DecoderRows, run_length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row indices in runs of at most `run_length` within a class, cut at a random offset."""
    parts = []
    for k in np.unique(rows.class_index):
        indices = np.flatnonzero(rows.class_index == k)
        first = int(rng.integers(1, run_length + 1))
        parts += np.split(indices, range(first, len(indices), run_length))
    return [p for p in parts if len(p)]


def _target_masks(run: _Run) -> np.ndarray:
    return run.variant.masks[run.rows.slice_index[run.indices], run.rows.class_index[run.indices]]


def _adjacent_pairs(runs: list[_Run], masks: np.ndarray) -> np.ndarray:
    """Rows of a batch that are adjacent slices i, i + 1 of one class and both hold target: int64 (p, 2).

    Pairs at the ends of the target are left out: there the masks do differ.
    """
    holds_target = np.asarray(masks.any(axis=(1, 2)))
    pairs, offset = [], 0
    for run in runs:
        adjacent = np.flatnonzero(np.diff(run.rows.slice_index[run.indices]) == 1) + offset
        pairs.append(adjacent[holds_target[adjacent] & holds_target[adjacent + 1]])
        offset += len(run.indices)
    first = np.concatenate(pairs)
    return np.stack([first, first + 1], axis=1)
