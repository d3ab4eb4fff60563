"""The paper's ablations and point-prompted baselines, the ceiling, and other uses of coarse boxes.

Each changes settings only, so that the stored plans say everything and prediction needs no variant's code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from spdnet.planning import SPDSettings
from spdnet.planning.plans import DensePromptSettings, DistillationSettings, RecipeSettings
from spdnet.training.trainer import SPDTrainer


def _with_box_mode(
    distillation: DistillationSettings, mode: Literal["distilled", "raw", "off"]
) -> DistillationSettings:
    return replace(distillation, boxes=replace(distillation.boxes, mode=mode))


def _raw(settings: SPDSettings) -> SPDSettings:
    """The settings with all points and boxes as they are, every piece of a mask, and no consistency term.

    There are always prompts in the training, as in SAM-Tuning.
    """
    distillation = replace(settings.distillation, mode="raw", lone_pieces="keep", without_prompts="saliency")
    return replace(
        settings,
        distillation=_with_box_mode(distillation, "raw"),
        consistency=replace(settings.consistency, weight=0.0),
        prompts=replace(settings.prompts, absent_share=0.0),
    )


def _consensus(settings: SPDSettings, **changes: Any) -> SPDSettings:
    """The settings with the consensus and no maps, one encoder, and other fields of their distillation.

    There are always prompts in the training.
    """
    changes = {"mode": "consensus", "lone_pieces": "keep", "without_prompts": "saliency", **changes}
    prompts = replace(settings.prompts, absent_share=0.0)
    return replace(_with_plain_decoder(_distilled(settings, **changes)), prompts=prompts)


def _with_plain_decoder(settings: SPDSettings) -> SPDSettings:
    """The settings with SAM's own dense prompt, and the decoder on the encoder of stage 1."""
    return replace(settings, dense_prompt=DensePromptSettings(), decoder_encoder="shared")


def _distilled(settings: SPDSettings, **changes: Any) -> SPDSettings:
    """The settings with other fields of their distillation."""
    return replace(settings, distillation=replace(settings.distillation, **changes))


class SPDTrainerNoPSC(SPDTrainer):
    """Without the consistency term between adjacent slices."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """PSC weight 0."""
        return replace(settings, consistency=replace(settings.consistency, weight=0.0))


class SPDTrainerConsensus(SPDTrainer):
    """The decoder is given the points that saliency confirms, no maps and no own encoder; every piece is kept."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """The consensus of the plans' tau and n."""
        return _consensus(settings)


class SPDTrainerLocalOnly(SPDTrainer):
    """The consensus by local validation only: neighbouring slices lend no points."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """n = 0."""
        return _consensus(settings, n_context=0)


class SPDTrainerKeepPieces(SPDTrainer):
    """No piece of a mask is dropped because no prompt lies in it."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Lone pieces kept."""
        return _distilled(settings, lone_pieces="keep")


class SPDTrainerRawPrompts(SPDTrainer):
    """The stage-1 encoder, but the decoder is tuned on and given all points and boxes as they are."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Raw prompts, SAM's own dense prompt; no consistency term, as in SAM-Tuning."""
        return _with_plain_decoder(_raw(settings))


class SPDTrainerRawBoxes(SPDTrainer):
    """Points are distilled, but every coarse box is given as it is, in its own slice."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Raw boxes."""
        return replace(settings, distillation=_with_box_mode(settings.distillation, "raw"))


class SPDTrainerNoBoxes(SPDTrainer):
    """Points alone: coarse boxes are ignored."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Boxes off."""
        return replace(settings, distillation=_with_box_mode(settings.distillation, "off"))


class SPDTrainerBoxOnly(SPDTrainer):
    """Coarse boxes simulated from the labels, distilled, and no points at all."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Simulated boxes in every slice of the target, no points."""
        return replace(settings, prompts=replace(settings.prompts, source="none", boxes="simulated"))


class SPDTrainerRawBoxOnly(SPDTrainerBoxOnly):
    """The same boxes as they are, in their own slices."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Simulated boxes, raw."""
        return SPDTrainerRawBoxes.adapt_settings(SPDTrainerBoxOnly.adapt_settings(settings))


class SPDTrainerSAMTuning(SPDTrainerRawPrompts):
    """The paper's SAM-Tuning: published encoder, mask decoder tuned on the raw points; no stage 1."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Raw prompts, no adapters, no epochs of stage 1."""
        raw = SPDTrainerRawPrompts.adapt_settings(settings)
        return replace(raw, lora=replace(raw.lora, rank=0), stage1=replace(raw.stage1, epochs=0))


class SPDTrainerTruePoints(SPDTrainer):
    """The ceiling: trained on, and to be given, true points only, which need no distillation."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Raw prompts drawn inside the masks."""
        raw = _raw(settings)
        prompts = replace(raw.prompts, source="simulated", recipe=RecipeSettings("true_points"), boxes="none")
        return replace(raw, prompts=prompts)


class SPDTrainerEmptyMask(SPDTrainer):
    """The consensus; slices without trusted points get an empty mask."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Empty consensus, empty mask."""
        return _consensus(settings, empty_consensus="empty")


class SPDTrainerKeepRandom(SPDTrainer):
    """No volume's points are refused because they look random."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Random points kept."""
        return _distilled(settings, random_points="keep")


class SPDTrainerSharedEncoder(SPDTrainer):
    """The decoder has no encoder of its own: stage 2 trains none, and every slice is encoded once."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """The encoder of stage 1 for both."""
        return replace(settings, decoder_encoder="shared")


class SPDTrainerPromptsOptional(SPDTrainer):
    """Also trained without prompts, so that volumes that have none are decoded, not left to the saliency alone."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """A tenth of the draws without prompts; without any, the decoder decides."""
        settings = _distilled(settings, without_prompts="decode")
        return replace(settings, prompts=replace(settings.prompts, absent_share=0.1))


class SPDTrainerPlateau(SPDTrainer):
    """The paper's learning-rate schedule, ReduceLROnPlateau from the full rate on, in both stages."""

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """Plateau schedule, no warm-up."""
        return replace(
            settings,
            stage1=replace(settings.stage1, scheduler="plateau", warmup_iterations=0),
            stage2=replace(settings.stage2, scheduler="plateau", warmup_iterations=0),
        )
