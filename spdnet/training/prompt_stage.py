"""Stage 2, prompt-guided segmentation: the mask decoder learns to make masks from prompts, and what these are worth.

Encoder, LoRA and saliency head of stage 1 are frozen, so each case is encoded once. Where the decoder has an encoder of
its own, slices go through that one in every step. Every epoch draws prompts, makes of them what the decoder is asked,
and puts runs of adjacent slices into batches, so that the consistency term finds its pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from spdnet.inference.volume import EncodedVolume, decode_rows, predict_encoded
from spdnet.network import SPDNetwork
from spdnet.network.precision import autocast
from spdnet.network.spd_network import MEASURED
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import StageSettings
from spdnet.prompts import SlicePrompts
from spdnet.training.batch_shares import share_batches
from spdnet.training.case_shares import CaseShares
from spdnet.training.embedding_store import EmbeddingStore, StoredVariant
from spdnet.training.loading import RequestList, data_loader, end_workers
from spdnet.training.losses import consistency_loss
from spdnet.training.prompt_batches import (
    PromptBatch,
    PromptBatches,
    RowsRequest,
    Run,
    StoredRows,
    adjacent_pairs,
    cut_into_runs,
)
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
        rows = StoredRows((v for variants in self._train for v in variants), self.settings.stores_embeddings)
        self._requests: RequestList[list[RowsRequest]] = RequestList([])
        self._loader = data_loader(rows, self._requests, self.device, self.team.size)

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
        """End the data workers, and remove what is stored, unless it is to be kept."""
        if "_loader" in self.__dict__:
            end_workers(self.__dict__.pop("_loader"))
        self._store.close()

    def training_batches(self, epoch: int) -> Batches:
        """This process' share of at most `iterations_per_epoch` batches of rows, drawn without replacement."""
        batches = self._draw_batches(self.seed_epoch(epoch))
        if not batches:
            logger.warning(
                "epoch %d has nothing to decode: no pixel of any training slice is salient. Train stage 1 longer.",
                epoch,
            )
        own = share_batches(batches, self.team)
        self._requests.requests = [[RowsRequest.of(run) for run in batch] for batch in own]
        return PromptBatches(own, self._loader)

    def training_loss(self, batch: PromptBatch) -> torch.Tensor:
        """Loss of the decoded masks, with the consistency term on adjacent slices."""
        loaded = batch.loaded
        with autocast(self.device):
            logits = self._decode(batch)
        masks = self._on_device(loaded.masks)[:, None].float()
        valid = None if loaded.valid is None else self._on_device(loaded.valid)[:, None].float()
        loss = self.loss(logits[:, None], masks, valid, self.team.total)
        rule = self.settings.consistency
        if rule.weight > 0:
            pairs = self._on_device(torch.from_numpy(adjacent_pairs(batch.runs, loaded.masks.numpy())))
            term = consistency_loss(logits, pairs, self.settings.loss.dice_epsilon, self.team.total, rule.toward)
            loss = loss + rule.weight * term
        return loss

    def describe(self, batch: PromptBatch) -> list[str]:
        """Variants, classes and slices."""
        return [str(run) for run in batch.runs]

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

    def _draw_batches(self, rng: np.random.Generator) -> list[list[Run]]:
        """Draw a variant and prompts for every case, cut the rows into runs, shuffle, and fill batches."""
        runs: list[Run] = []
        for variants in self._train:
            variant = variants[rng.integers(len(variants))]
            prompts = variant.move(training_prompts(variant.case, self.settings.prompts, rng))
            saliency = np.asarray(variant.saliency, dtype=np.float32)
            rows = self._rows(prompts, saliency, rng)
            points = points_of_classes(prompts, saliency, self.network.image_size)
            maps = PromptMaps.of(self.network, points, saliency)
            runs += [
                Run(variant, rows, part, maps)
                for part in cut_into_runs(rows, self.settings.consistency.run_length, rng)
            ]
        s = self.stage_settings
        batches: list[list[Run]] = [[]]
        for i in rng.permutation(len(runs)):
            if sum(len(r.indices) for r in batches[-1]) >= s.batch_size:
                batches.append([])
            batches[-1].append(runs[i])
        return [b for b in batches if b][: s.iterations_per_epoch]

    def _decode(self, batch: PromptBatch) -> torch.Tensor:
        """Decode all rows of a batch in one pass."""
        rows = DecoderRows.concatenate([run.rows.select(run.indices) for run in batch.runs])
        maps = [r.maps.of_rows(r.rows.select(r.indices), self.device) for r in batch.runs if r.maps is not None]
        of_rows = torch.cat(maps) if maps else None
        return decode_rows(self.network, self._embeddings(batch), rows, self.device, of_rows)

    def _embeddings(self, batch: PromptBatch) -> torch.Tensor:
        """(R, 256, grid, grid): as stored, or by the encoder that is trained, or by the frozen one."""
        inputs = batch.loaded.inputs
        if self.settings.stores_embeddings:
            return inputs
        if self.network.decoder_encoder is not None:
            return self.network.encode_for_decoder(self._on_device(inputs, memory_format=torch.channels_last))
        encode = batch.runs[0].variant.encode
        assert encode is not None
        return torch.from_numpy(encode(inputs.numpy()))

    def _on_device(self, tensor: torch.Tensor, **how: Any) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True, **how)
