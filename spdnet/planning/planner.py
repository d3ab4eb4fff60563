"""The planner: from a fingerprint to plans, by rules that are written beside each decision.

A planner variant is a subclass that overrides one rule; it is chosen by name (`-pl`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spdnet.geometry.image_geometry import axis_from_name
from spdnet.network.backbones import Backbone, get_backbone
from spdnet.paths import DEFAULT_PLANS_NAME
from spdnet.planning.embedding_rule import choose_storage
from spdnet.planning.fingerprint import CaseFingerprint, Fingerprint
from spdnet.planning.nnunet_plans import nnunet_keys
from spdnet.planning.plans import (
    AugmentationSettings,
    ConsistencySettings,
    DensePromptSettings,
    DistillationSettings,
    LoraSettings,
    LossSettings,
    NormalizationSettings,
    PromptSettings,
    RecipeSettings,
    SelectionSettings,
    SPDPlans,
    SPDSettings,
    StageSettings,
)
from spdnet.prompts.imitation import recipe_like

logger = logging.getLogger(__name__)

# A target that is only two or three tokens wide cannot be delineated. Four is a choice, not yet a measured one.
MIN_TOKENS_ACROSS_TARGET = 4.0
MIN_CASES_TO_HOLD_OUT = 10  # of the data set; four fifths of them train in a fold
HELD_OUT_SHARE = 0.2
PASSES_UNCHECKED = 10  # over the slices, in stage 1 without held-out cases; see docs/choices.md
LEAST_ITERATIONS = 250  # however few the slices are
IMITATED_SHARE = 0.5  # of the training prompts, where there are files; see docs/choices.md
# Largest input by device: beyond it a slice costs more than a user would wait for.
LARGEST_IMAGE = {("lite", "cpu"): 112, ("lite", "cuda"): 224, ("vit", "cpu"): 224, ("vit", "cuda"): 448}
# Memory of one training slice per pixel of the input, forward and backward through the encoder.
TRAINING_BYTES_PER_PIXEL = {"lite": 18_000, "vit": 24_000}
NORMALIZATION_BY_NAME = {"ct": "window", "rgb_to_0_1": "window", "rescale_to_0_1": "percentile"}


@dataclass
class SPDPlanner:
    """Decides the plans of one data set.

    Attributes:
        fingerprint: the data set, measured.
        device: "cuda" or "cpu", where training will run.
        memory_gb: memory that training may use on it.
        backbone: SAM backbone, or None to let the rule choose.
        image_size: side of the input, or None to let the rule choose.
        pixel_spacing_mm: side of a pixel of the input, or None to let the rule choose.
        plans_name: name of the plans file.
        free_disk_gb: room for what stage 2 stores of the slices, or None if nothing limits it.
    """

    fingerprint: Fingerprint
    device: str
    memory_gb: float
    backbone: str | None = None
    image_size: int | None = None
    pixel_spacing_mm: float | None = None
    plans_name: str = DEFAULT_PLANS_NAME
    free_disk_gb: float | None = None

    def plan(self) -> SPDPlans:
        """Make every decision."""
        self.reasons: dict[str, str] = {}
        self.reasons["slicing_axis"] = self.slicing_axis_reason()
        crop = self.choose_crop()
        backbone = self.choose_backbone()
        image_size, pixel_spacing_mm = self.choose_image_size(backbone, crop)
        stage1, stage2 = self.choose_stages(backbone, image_size)
        decoder_encoder = self.choose_decoder_encoder()
        settings = SPDSettings(
            slicing_axis=self.fingerprint.slicing_axis,  # type: ignore[arg-type]
            image_size=image_size,
            pixel_spacing_mm=pixel_spacing_mm,
            crop_to_nonzero=crop,
            backbone=backbone.name,
            normalization=self.choose_normalization(),
            lora=self.choose_lora(),
            loss=self.choose_loss(),
            distillation=self.choose_distillation(),
            consistency=ConsistencySettings(),
            stage1=stage1,
            stage2=stage2,
            augmentation=self.choose_augmentation(backbone, image_size, decoder_encoder == "shared"),
            prompts=self.choose_prompts(),
            selection=self.choose_selection(),
            dense_prompt=self.choose_dense_prompt(),
            decoder_encoder=decoder_encoder,
        )
        f = self.fingerprint
        names = f.dataset_name, self.plans_name, f.image_reader_writer
        plans = SPDPlans(*names, settings, self.reasons, nnunet_keys(f, settings, type(self).__name__))
        return plans.with_checksum()

    def slicing_axis_reason(self) -> str:
        """Why the fingerprint's slicing axis is what it is."""
        if not self.fingerprint.cases[0].has_patient_axes:
            return "2D images: each is one slice"
        spacing = np.median([c.spacing_mm for c in self.fingerprint.cases], axis=0)
        return (
            "patient axis of the largest median spacing, axial (S) if they tie; median spacing along S, P, L is "
            f"{_numbers(spacing)} mm. nnU-Net would slice along the stored axes instead"
        )

    def choose_crop(self) -> bool:
        """Crop slices to their non-zero content where that removes at least a quarter of the pixels."""
        kept = [self._area_share(c) for c in self.fingerprint.cases]
        crop = float(np.median(kept)) < 0.75
        self.reasons["crop_to_nonzero"] = (
            f"the non-zero box holds {100 * float(np.median(kept)):.0f} % of a slice in the median case; crop "
            "below 75 %"
        )
        return crop

    def choose_backbone(self) -> Backbone:
        """ViT-B on CUDA, LiteMedSAM on a CPU, unless the user names one."""
        if self.backbone is not None:
            self.reasons["backbone"] = "chosen by the user"
            return get_backbone(self.backbone)
        name = "vit_b" if self.device == "cuda" else "lite"
        self.reasons["backbone"] = f"{name}: the rule for device {self.device} (vit_b where CUDA is present, else lite)"
        return get_backbone(name)

    def choose_image_size(self, backbone: Backbone, crop: bool) -> tuple[int, float]:
        """Smallest size that keeps the stored resolution and puts enough tokens across the target.

        With a given spacing, the smallest size that holds the slices at that spacing, within the device's limit.

        Returns:
            image_size in pixels, and the side of a pixel in mm.
        """
        spacing = min(float(np.median([self._in_plane_spacing(c)[i] for c in self.fingerprint.cases])) for i in (0, 1))
        extents = [max(self._in_plane_extent_mm(c, crop)) for c in self.fingerprint.cases]
        extent = float(np.percentile(extents, 95))
        native = extent / spacing
        width_mm, name = self._smallest_target_width_mm()
        resolving = MIN_TOKENS_ACROSS_TARGET * backbone.token_stride * extent / width_mm
        family = "lite" if backbone.name == "lite" else "vit"
        largest = LARGEST_IMAGE[(family, self.device)]
        needed = max(native, resolving) if self.pixel_spacing_mm is None else extent / self.pixel_spacing_mm
        wanted = math.ceil(needed / backbone.size_multiple - 1e-6) * backbone.size_multiple
        size = max(backbone.size_multiple, min(wanted, largest // backbone.size_multiple * backbone.size_multiple))
        if self.image_size is not None:
            size = self.image_size
            backbone.check_image_size(size)
        tokens = width_mm / ((self.pixel_spacing_mm or extent / size) * backbone.token_stride)
        self.reasons["image_size"] = (
            f"{'chosen by the user' if self.image_size is not None else 'rule'}: slices extend {extent:.1f} mm "
            f"(95th percentile), {native:.0f} pixels as stored; the smallest class, {name}, is {width_mm:.1f} mm wide "
            f"and needs {resolving:.0f} pixels for {MIN_TOKENS_ACROSS_TARGET:.0f} tokens of {backbone.token_stride} "
            f"pixels across; that makes {wanted} as a multiple of {backbone.size_multiple}, at most {largest} on "
            f"{self.device}; at {size} it is {tokens:.1f} tokens wide"
        )
        if self.pixel_spacing_mm is not None:
            self.reasons["pixel_spacing_mm"] = "chosen by the user; slices that do not fit are scaled down"
            if size < wanted:
                logger.warning(
                    "slices extend %.1f mm, but %d pixels of %g mm hold %.1f mm: those that do not fit are scaled "
                    "down, to coarser pixels than asked for. Give -image_size %d if the device takes it, or a larger "
                    "-overwrite_target_spacing",
                    *(extent, size, self.pixel_spacing_mm, size * self.pixel_spacing_mm, wanted),
                )
            return size, self.pixel_spacing_mm
        self.reasons["pixel_spacing_mm"] = f"{extent:.1f} mm on {size} pixels; larger slices are scaled down to fit"
        return size, extent / size

    def choose_lora(self) -> LoraSettings:
        """The paper's dropout where drawing its masks is cheap."""
        dropout = 0.1 if self.device == "cuda" else 0.0
        self.reasons["lora"] = (
            "rank and alpha 16; dropout 0.1 as in the paper"
            if dropout
            else "rank and alpha 16; no dropout on a CPU, where drawing its masks takes a fifth of the training time"
        )
        return LoraSettings(dropout=dropout)

    def choose_loss(self) -> LossSettings:
        """The Dice loss over the batch; see `LossSettings`."""
        return LossSettings()

    def choose_normalization(self) -> tuple[NormalizationSettings, ...]:
        """CT and RGB by a fixed window, everything else by percentiles of each image."""
        settings, reasons = [], []
        for index, name in enumerate(self.fingerprint.channel_names):
            scheme = NORMALIZATION_BY_NAME.get(str(name).lower(), "percentile")
            if scheme == "percentile":
                settings.append(NormalizationSettings("percentile", 0.5, 99.5))
                reasons.append(f"{name}: percentiles 0.5 and 99.5 of each image to 0 and 1")
            elif str(name).lower() == "ct":
                low, high = self._foreground_window(index)
                settings.append(NormalizationSettings("window", low, high))
                reasons.append(f"{name}: {low:.0f} to {high:.0f}, the foreground's percentiles, as in nnU-Net")
            else:
                settings.append(NormalizationSettings("window", 0.0, 255.0))
                reasons.append(f"{name}: 0 to 255")
        self.reasons["normalization"] = "; ".join(reasons)
        return tuple(settings)

    def choose_stages(self, backbone: Backbone, image_size: int) -> tuple[StageSettings, StageSettings]:
        """Batch size by memory, length by the number of slices and the device."""
        n_slices = sum(c.n_slices for c in self.fingerprint.cases)
        per_slice = TRAINING_BYTES_PER_PIXEL["lite" if backbone.name == "lite" else "vit"] * image_size**2
        batch = int(np.clip(0.5 * self.memory_gb * 2**30 / per_slice, 2, 16 if self.device == "cpu" else 32))
        batch = max(2, 2 ** int(math.log2(batch)))
        per_epoch = int(np.clip(math.ceil(n_slices / batch), 25, 250))
        total1, total2 = (2500, 1500) if self.device == "cpu" else (12500, 7500)
        why = f"on {self.device}"
        if not self.can_hold_out():
            total1 = min(total1, max(LEAST_ITERATIONS, math.ceil(PASSES_UNCHECKED * n_slices / batch)))
            why += (
                f"; stage 1 has too few cases to hold some out, so it makes at most {PASSES_UNCHECKED} passes, or "
                f"{LEAST_ITERATIONS} iterations"
            )
        epochs1, epochs2 = (int(np.clip(round(total / per_epoch), 5, 100)) for total in (total1, total2))
        self.reasons["batch_size"] = (
            f"{batch} slices: about {per_slice / 2**20:.0f} MiB each, at most half of {self.memory_gb:.0f} GB"
        )
        self.reasons["iterations_per_epoch"] = f"one pass over {n_slices} slices, 25 to 250 iterations"
        self.reasons["focal_alpha"] = (
            "0.75 in both stages: distillation can drop what saliency finds too much, but never add what it misses; "
            "with 0.5 a decoder that is given one point per slice can stay at empty masks"
        )
        self.reasons["epochs"] = f"about {total1} and {total2} iterations {why}"
        self.reasons["warmup_iterations"] = "at the full rate at once, a decoder can end in empty masks"
        return (
            StageSettings(epochs1, per_epoch, batch, 1e-3, focal_alpha=0.75),
            StageSettings(epochs2, per_epoch, batch, 5e-4, focal_alpha=0.75, warmup_iterations=per_epoch),
        )

    def can_hold_out(self) -> bool:
        """Whether there are enough cases for stage 1 to do without some."""
        return len(self.fingerprint.cases) >= MIN_CASES_TO_HOLD_OUT

    def choose_selection(self) -> SelectionSettings:
        """Stage 1 ends with the weights that suit a fifth of the cases best, if there are enough to do without them."""
        if not self.can_hold_out():
            self.reasons["selection"] = f"{len(self.fingerprint.cases)} cases: too few for stage 1 to do without some"
            return SelectionSettings()
        self.reasons["selection"] = (
            "stage 1 ends when cases that it holds out fare best, before it knows the others by heart"
        )
        return SelectionSettings(HELD_OUT_SHARE)

    def choose_augmentation(self, backbone: Backbone, image_size: int, may_store: bool) -> AugmentationSettings:
        """The same for all data, but for what stage 2 stores: by the room on the disk; see `choose_storage`.

        Args:
            backbone, image_size: what makes the embeddings.
            may_store: whether these stay as they are in stage 2, so that they can be stored.
        """
        if self.free_disk_gb is None:
            return AugmentationSettings()
        n_slices, n_classes = sum(c.n_slices for c in self.fingerprint.cases), len(self.fingerprint.class_names)
        free = self.free_disk_gb * 2**30
        size = backbone.grid(image_size), n_classes, image_size
        augmentation, self.reasons["stored_embeddings"] = choose_storage(
            AugmentationSettings(), n_slices, *size, free, may_store
        )
        return augmentation

    def choose_distillation(self) -> DistillationSettings:
        """Weighed points, the paper's tau and n; local validation where there are no neighbouring slices."""
        self.reasons["random_points"] = "points that hit the saliency like random ones may be those of another image"
        if self.is_flat():
            self.reasons["distillation"] = "2D images have no neighbouring slices: local validation only"
            return DistillationSettings(n_context=0, random_points="refuse")
        self.reasons["distillation"] = (
            "the decoder weighs all points by maps of them and of the saliency; with the mode consensus it gets those "
            "that saliency confirms. tau 0.5 and n 2 as in the paper"
        )
        self.reasons["lone_pieces"] = "stage 2 sees by the training cases whether all pieces of a target hold points"
        return DistillationSettings(mode="weighed", random_points="refuse", lone_pieces="auto")

    def is_flat(self) -> bool:
        """Whether all images are 2D."""
        return all(c.n_slices == 1 for c in self.fingerprint.cases)

    def choose_dense_prompt(self) -> DensePromptSettings:
        """Maps of four slices to either side where there are any; 2D images were not measured."""
        if self.is_flat():
            self.reasons["dense_prompt"] = "2D images: SAM's own"
            return DensePromptSettings()
        self.reasons["dense_prompt"] = (
            "all points and the saliency, also of the slices around, tell what a point is worth"
        )
        return DensePromptSettings("maps")

    def choose_decoder_encoder(self) -> Literal["shared", "own"]:
        """One of its own, except for 2D images, for which it was not measured."""
        if self.is_flat():
            self.reasons["decoder_encoder"] = "2D images: that of stage 1"
            return "shared"
        self.reasons["decoder_encoder"] = (
            "stage 2 trains an encoder for the decoder, while stage 1's keeps the saliency as it is on new cases"
        )
        return "own"

    def choose_prompts(self) -> PromptSettings:
        """Prompt files where every training case has one, and points that resemble theirs; else such points alone.

        The decoder has to be trained on prompts like those it will get, but not always on the same ones;
        `docs/choices.md` has the measurements.
        """
        f = self.fingerprint
        statistics, n_files, n_cases = f.prompt_statistics, f.n_prompt_files, len(f.cases)
        if statistics is None:
            self.reasons["prompts"] = (
                "promptsTr holds no prompt file, so prompts are simulated from the labels by the paper's recipe, "
                "freshly each epoch; prompts of another kind at prediction would be new to the model"
            )
            return PromptSettings("simulated")
        seen = (
            f"{f.prompt_type}, {100 * statistics.precision:.0f} % of the points inside the target, a point inside in "
            f"{100 * statistics.coverage:.0f} % of its slices"
            + ("; most points name no class and count for each" if statistics.is_unnamed else "")
        )
        recipe = RecipeSettings(*recipe_like(statistics, f.n_curves)) if statistics.points else RecipeSettings()
        if n_files == n_cases:
            self.reasons["prompts"] = f"promptsTr holds a file for each of the {n_cases} training cases: {seen}"
            if not statistics.points:
                return PromptSettings("files")
            if statistics.is_line and recipe.mode != "centreline":
                self.reasons["prompts"] += "; they follow one another as along a line, which no recipe resembles"
                return PromptSettings("files", recipe)
            self.reasons["prompts"] += (
                f"; {100 * IMITATED_SHARE:.0f} % of the draws are simulated to resemble them, freshly each epoch: "
                f"{_in_words(recipe)}"
            )
            return PromptSettings("files", recipe, IMITATED_SHARE)
        start = (
            f"promptsTr holds files for {n_files} of {n_cases} training cases ({seen}), so prompts are simulated from "
        )
        if not statistics.points:
            self.reasons["prompts"] = start + "the labels as coarse boxes, freshly each epoch"
            return PromptSettings("none", boxes="simulated")
        self.reasons["prompts"] = start + f"the labels to resemble these, freshly each epoch: {_in_words(recipe)}"
        return PromptSettings("simulated", recipe)

    def _foreground_window(self, channel: int) -> tuple[float, float]:
        pooled = self.fingerprint.foreground_intensities[channel]
        return pooled["percentile_00_5"], pooled["percentile_99_5"]

    def _in_plane_axes(self) -> list[int]:
        axis = axis_from_name(self.fingerprint.slicing_axis)
        return [a for a in range(3) if a != axis]

    def _in_plane_spacing(self, case: CaseFingerprint) -> list[float]:
        return [case.spacing_mm[a] for a in self._in_plane_axes()]

    def _in_plane_extent_mm(self, case: CaseFingerprint, crop: bool) -> list[float]:
        sides = [hi - lo for lo, hi in case.nonzero_box] if crop else list(case.shape)
        return [sides[a] * case.spacing_mm[a] for a in self._in_plane_axes()]

    def _area_share(self, case: CaseFingerprint) -> float:
        rows, columns = self._in_plane_axes()
        sides = [hi - lo for lo, hi in case.nonzero_box]
        return sides[rows] * sides[columns] / (case.shape[rows] * case.shape[columns])

    def _smallest_target_width_mm(self) -> tuple[float, str]:
        """Side of the square with the median in-slice area of the smallest class, mm, and the class's name."""
        widths = []
        for index, name in enumerate(self.fingerprint.class_names):
            areas = [c.classes[index].median_slice_area_mm2 for c in self.fingerprint.cases]
            areas = [a for a in areas if a > 0]
            if areas:
                widths.append((math.sqrt(float(np.median(areas))), name))
        return min(widths)


def _in_words(recipe: RecipeSettings) -> str:
    return ", ".join([recipe.mode, *(f"{name} {value}" for name, value in recipe.parameters.items())])


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{v:.3g}" for v in values)


class SPDPlannerPaper(SPDPlanner):
    """The paper's settings where it states them: Dice of every slice, no weight on either kind of error, plateaus."""

    def choose_dense_prompt(self) -> DensePromptSettings:
        """SAM's own."""
        self.reasons["dense_prompt"] = "as in the paper"
        return DensePromptSettings()

    def choose_decoder_encoder(self) -> Literal["shared", "own"]:
        """That of stage 1."""
        self.reasons["decoder_encoder"] = "as in the paper"
        return "shared"

    def choose_loss(self) -> LossSettings:
        """The Dice loss of every slice."""
        self.reasons["loss"] = "the paper's: Dice of every slice, not of the batch"
        return LossSettings(batch_dice=False)

    def choose_stages(self, backbone: Backbone, image_size: int) -> tuple[StageSettings, StageSettings]:
        """Focal weight 0.5 and ReduceLROnPlateau in both stages."""
        stage1, stage2 = super().choose_stages(backbone, image_size)
        self.reasons["focal_alpha"] = "0.5, as the paper names none"
        self.reasons["scheduler"] = "the paper's: halved after 4 epochs without progress"
        self.reasons.pop("warmup_iterations")
        return (
            replace(stage1, focal_alpha=0.5, scheduler="plateau"),
            replace(stage2, focal_alpha=0.5, scheduler="plateau", warmup_iterations=0),
        )

    def choose_distillation(self) -> DistillationSettings:
        """Salient points reach the decoder, and no others; a slice without any is decoded without."""
        for name in ("distillation", "random_points", "lone_pieces"):
            self.reasons[name] = "as in the paper"
        return DistillationSettings(n_context=0 if self.is_flat() else 2)

    def choose_prompts(self) -> PromptSettings:
        """Files as they are."""
        prompts = super().choose_prompts()
        if prompts.source == "files":
            self.reasons["prompts"] = self.reasons["prompts"].split(";")[0]
        return replace(prompts, imitated_share=0.0)

    def choose_selection(self) -> SelectionSettings:
        """The last weights."""
        self.reasons["selection"] = "as in the paper"
        return SelectionSettings()

    def choose_lora(self) -> LoraSettings:
        """The paper's dropout on any device."""
        self.reasons["lora"] = "dropout 0.1 as in the paper; rank and alpha 16 are not from there"
        return LoraSettings(dropout=0.1)


PLANNERS: dict[str, type[SPDPlanner]] = {p.__name__: p for p in (SPDPlanner, SPDPlannerPaper)}
