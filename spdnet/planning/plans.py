"""The plans: every decision that configures a model, as data, with the rule that made it.

The file is a plans file by nnU-Net's layout with spdnet's settings under the one extra key "spd". Reading is strict:
an unknown, missing or ill-typed key is an error that names it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from spdnet.errors import ConfigurationError, PlansError, shown
from spdnet.files import read_json, write_json
from spdnet.paths import CONFIGURATION
from spdnet.prompts import PromptRecipe, make_recipe

Settings = TypeVar("Settings")

_NAMES = ("dataset_name", "plans_name", "image_reader_writer")
_CHECKSUM = "planned_sha256"  # of all else in the file, as the planner wrote it


@dataclass(frozen=True)
class NormalizationSettings:
    """How one channel's intensities become [0, 1]: v -> clip((v - low) / (high - low)).

    Attributes:
        scheme: "percentile" takes low and high from the image itself, "window" takes them from here.
        low, high: percentiles of the image, or intensities.
    """

    scheme: Literal["percentile", "window"]
    low: float
    high: float


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scaling and dropout of the adapters, as peft means them; rank 0 is no adapters."""

    rank: int = 16
    alpha: int = 16
    dropout: float = 0.1


@dataclass(frozen=True)
class LossSettings:
    """L = dice_weight * dice + focal_weight * focal, in both stages.

    Attributes:
        batch_dice: overlap and sizes are summed over the batch before the Dice is taken, as nnU-Net does in 2D. The
            paper takes the Dice of every slice, which ends in empty maps where many slices hold no target: there
            it is nothing but a penalty on every predicted pixel.
    """

    batch_dice: bool = True
    dice_weight: float = 0.7
    focal_weight: float = 0.3
    focal_gamma: float = 2.0
    dice_epsilon: float = 1.0


@dataclass(frozen=True)
class BoxSettings:
    """What becomes of coarse boxes; our extension of the paper. The defaults are reasoned, not yet measured.

    Attributes:
        mode: "distilled" (validated by saliency, shrunk to it and lent to neighbouring slices), "raw" (every box as it
            is, in its own slice, as plain SAM would get it) or "off" (boxes are ignored).
        margin: room left around the salient region of a distilled box on each side, as share of the region's side.
            The saliency is a coarse prior that may miss the target's rim, and SAM is used to boxes that are not tight.
        min_salient_share: a box is trusted where at least this share of its pixels is salient, and at least one pixel.
            A box around the whole target is mostly background in any one slice, so the share is low; it is to stop
            stray salient pixels in large boxes.
    """

    mode: Literal["distilled", "raw", "off"] = "distilled"
    margin: float = 0.1
    min_salient_share: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise PlansError(f"spd.distillation.boxes.margin is {self.margin}; it must be 0 or more")
        if not 0 <= self.min_salient_share <= 1:
            raise PlansError(
                f"spd.distillation.boxes.min_salient_share is {self.min_salient_share}; it must be from 0 to 1"
            )


@dataclass(frozen=True)
class DistillationSettings:
    """Contextual Prompt Distillation.

    Attributes:
        mode: which points reach the decoder. "consensus" (the paper's): those that are trusted. "raw": every point in
            its own slice, as plain SAM would get them. "weighed": likewise, but with the maps of `dense_prompt`, by
            which stage 2 learns what each is worth; the consensus then only tells what saliency makes of the points.
            Our extension.
        tau: saliency threshold.
        n_context: slices to either side that may lend points.
        max_points: points per slice and class that reach the decoder.
        empty_consensus: what a slice without trusted points gets with "consensus": "decode" (where any pixel is salient
            it is decoded from SAM's "not a point" token alone) or "empty" (an empty mask).
        random_points: what becomes of the points of a class that are salient no more often than random ones in a
            volume (`spdnet.prompts.random_points`): "keep" (the paper's) or "refuse": the class is predicted as without
            prompts, with a warning, if no box is trusted; not with "raw", nor with "consensus" where slices without
            trusted points are to be "empty". Our extension.
        without_prompts: how a class is predicted for which there are no prompts, or none that is trusted: "saliency"
            (the map of stage 1 is the prediction) or "decode" (the decoder has the image and the maps of the saliency;
            it should have been trained without prompts, too, see `PromptSettings.absent_share`). Our extension; see
            `docs/choices.md` for where it gains and where it costs.
        lone_pieces: what becomes of a mask's pieces that hold no point and meet no trusted box
            (`spdnet.inference.pieces`): "keep" (the paper's), "drop", or "auto": for each class "drop" if stage 2 finds
            that nearly all of the target in the training cases is in pieces that hold one. None is dropped where no
            piece holds one, nor where a volume's points are salient no more often than random ones. Our extension.
        boxes: the same for coarse boxes, with this tau and n_context.
    """

    mode: Literal["consensus", "raw", "weighed"] = "consensus"
    tau: float = 0.5
    n_context: int = 2
    max_points: int = 10
    empty_consensus: Literal["decode", "empty"] = "decode"
    random_points: Literal["refuse", "keep"] = "keep"
    without_prompts: Literal["saliency", "decode"] = "saliency"
    lone_pieces: Literal["keep", "drop", "auto"] = "keep"
    boxes: BoxSettings = BoxSettings()

    @property
    def may_do_without_prompts(self) -> bool:
        """Whether a volume of which nothing is trusted is predicted as without prompts."""
        return self.mode == "weighed" or (self.mode == "consensus" and self.empty_consensus == "decode")


@dataclass(frozen=True)
class DensePromptSettings:
    """What the decoder is given beside points and boxes; our extension.

    Attributes:
        mode: "none" (SAM's own dense prompt, that of no mask) or "maps": maps of all points and of the saliency, of the
            slice and of those around it, which stage 2 learns to weigh (`spdnet.network.dense_prompt`). Every slice is
            decoded then.
        n_slices: to either side whose maps count.
    """

    mode: Literal["none", "maps"] = "none"
    n_slices: int = 4


@dataclass(frozen=True)
class ConsistencySettings:
    """Pairwise Slice Consistency.

    Attributes:
        weight: of the term.
        run_length: of the runs of adjacent slices in a batch.
        toward: which neighbour a slice is drawn to: "previous" or "next" (the neighbour's map is held fixed), or "both"
            (of a pair, each to the other).
    """

    weight: float = 0.1
    run_length: int = 4
    toward: Literal["both", "previous", "next"] = "both"


@dataclass(frozen=True)
class StageSettings:
    """One stage of the training.

    Attributes:
        epochs, iterations_per_epoch, batch_size: length; the batch is in slices.
        learning_rate, weight_decay: of Adam.
        focal_alpha: weight of the foreground in the focal loss; above 0.5 prefers finding too much over too little.
        scheduler: "poly" (nnU-Net's, exponent 0.9, per epoch) or "plateau" (the paper's: factor 0.5, patience 4).
        warmup_iterations: over so many steps the learning rate rises linearly to what the scheduler says.
    """

    epochs: int
    iterations_per_epoch: int
    batch_size: int
    learning_rate: float
    focal_alpha: float = 0.5
    weight_decay: float = 0.0
    scheduler: Literal["poly", "plateau"] = "poly"
    warmup_iterations: int = 0


@dataclass(frozen=True)
class SelectionSettings:
    """Which weights stage 1 ends with; our extension.

    Attributes:
        held_out_share: of the training cases, those that stage 1 does not train on. It ends with the running average of
            its weights of the epoch in which they fared best (`spdnet.training.selection`). 0: it trains on all cases
            and ends with its last weights. Stage 2 trains on all cases.
        decay: of the running average, for each step of the optimiser.
    """

    held_out_share: float = 0.0
    decay: float = 0.98

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share < 1:
            raise PlansError(f"spd.selection.held_out_share is {self.held_out_share}; it must be from 0 to below 1")
        if not 0 <= self.decay < 1:
            raise PlansError(f"spd.selection.decay is {self.decay}; it must be from 0 to below 1")


@dataclass(frozen=True)
class AugmentationSettings:
    """Spatial and intensity augmentation of slices.

    Attributes:
        max_angle_degrees, scale_range, flip_columns, flip_rows: what `SliceTransform.draw` takes.
        intensity: gamma, contrast, brightness and noise as well.
        stored_variants: how many augmented copies of every training case stage 2 keeps the saliency of, the first
            one unaugmented.
        stored_embeddings: whether it keeps their embeddings, too, if the decoder shares the encoder that makes them.
            False where the disk does not hold them: the encoder then runs again for every batch.
    """

    max_angle_degrees: float = 20.0
    scale_range: tuple[float, float] = (0.85, 1.15)
    flip_columns: bool = True
    flip_rows: bool = False
    intensity: bool = True
    stored_variants: int = 2
    stored_embeddings: bool = True

    @property
    def mirroring_axes(self) -> tuple[int, ...]:
        """Axes of a slice (0 rows, 1 columns) that training mirrors, so that prediction may."""
        return tuple(axis for axis, flipped in enumerate((self.flip_rows, self.flip_columns)) if flipped)


@dataclass(frozen=True)
class RecipeSettings:
    """A recipe of simulated prompts, with the names that `spd_prompts.json` has for it.

    Attributes:
        mode: one of `spdnet.prompts.noise_modes.MODES`; "true_points" is the ceiling that no real prompts reach.
        parameters: the mode's parameters by name; those that are not here have the mode's defaults.
        dropped_share: share of the target's slices that get no prompts.
    """

    mode: str = "recipe"
    parameters: dict[str, bool | int | float | str] = field(default_factory=dict)
    dropped_share: float = 0.0

    def __post_init__(self) -> None:
        try:
            self.make()
        except ConfigurationError as error:
            raise PlansError(f"spd.prompts.recipe: {error}") from error

    def make(self) -> PromptRecipe:
        """The recipe."""
        return make_recipe(self.mode, self.parameters, self.dropped_share)


@dataclass(frozen=True)
class PromptSettings:
    """Where training prompts come from.

    Attributes:
        source: "files" (promptsTr), "simulated" (from the labels, freshly each epoch) or "none".
        recipe: how they are simulated.
        imitated_share: with "files", so many of the draws with prompts are simulated by the recipe instead, freshly
            each epoch.
            A file's points are the same in every epoch, and a decoder that knows them by heart need not look at them.
        absent_share: of the draws for stage 2, how many are without any prompt, so that the decoder knows volumes that
            have none.
        boxes: coarse boxes beside those that the source has: "none" or "simulated" (from the labels, freshly each
            epoch, by `CoarseBoxes`).
        box_enlarge, box_shift, box_per_slice: the recipe of simulated boxes.
        box_share: share of the slices with a trusted box that are trained with it; the others are trained without, so
            that the decoder knows both. Prediction and validation use every trusted box. Not yet measured.
    """

    source: Literal["files", "simulated", "none"]
    recipe: RecipeSettings = RecipeSettings()
    imitated_share: float = 0.0
    absent_share: float = 0.0
    boxes: Literal["none", "simulated"] = "none"
    box_enlarge: float = 0.5
    box_shift: float = 0.2
    box_per_slice: bool = False
    box_share: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.box_enlarge < math.inf:
            raise PlansError(f"spd.prompts.box_enlarge is {self.box_enlarge}; it must be 0 or more")
        if not 0 <= self.box_shift <= 1:
            raise PlansError(f"spd.prompts.box_shift is {self.box_shift}; it must be from 0 to 1")
        for name in ("imitated_share", "absent_share", "box_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlansError(f"spd.prompts.{name} is {getattr(self, name)}; it must be from 0 to 1")

    @property
    def are_fixed(self) -> bool:
        """Whether a case has the same prompts in every draw that is not without any."""
        return self.source != "simulated" and self.imitated_share == 0 and self.boxes == "none"


@dataclass(frozen=True)
class SPDSettings:
    """Everything that spdnet itself decides; see the parts.

    Attributes:
        decoder_encoder: which embeddings the decoder gets: "shared" (the paper's: those that the saliency head gets, so
            that stage 2 trains no encoder) or "own" (of a second encoder, whose adapters begin as those of stage 1 and
            are trained in stage 2). With the latter every slice is encoded twice, and stage 2 takes as long for a step
            as stage 1. Our extension.
    """

    slicing_axis: Literal["S", "P", "L"]
    image_size: int
    pixel_spacing_mm: float
    crop_to_nonzero: bool
    backbone: str
    normalization: tuple[NormalizationSettings, ...]
    lora: LoraSettings
    loss: LossSettings
    distillation: DistillationSettings
    consistency: ConsistencySettings
    stage1: StageSettings
    stage2: StageSettings
    augmentation: AugmentationSettings
    prompts: PromptSettings
    selection: SelectionSettings = SelectionSettings()
    dense_prompt: DensePromptSettings = DensePromptSettings()
    decoder_encoder: Literal["shared", "own"] = "shared"

    @property
    def stores_embeddings(self) -> bool:
        """Whether stage 2 keeps embeddings on disk: not if the encoder that makes them is trained."""
        return self.augmentation.stored_embeddings and self.decoder_encoder == "shared"

    def __post_init__(self) -> None:
        if self.decoder_encoder == "own" and self.lora.rank == 0:
            raise PlansError(
                'spd.decoder_encoder is "own", but spd.lora.rank 0: an encoder of its own differs by its adapters. Set '
                'the former to "shared" or the latter to 1 or more'
            )
        if self.distillation.mode == "weighed" and self.dense_prompt.mode == "none":
            raise PlansError(
                'spd.distillation.mode is "weighed", but spd.dense_prompt.mode "none": points are weighed by maps. Set '
                'the former to "consensus" or the latter to "maps"'
            )
        if self.distillation.without_prompts == "decode" and self.dense_prompt.mode == "none":
            raise PlansError(
                'spd.distillation.without_prompts is "decode", but spd.dense_prompt.mode "none": without prompts the '
                'decoder goes by maps. Set the former to "saliency" or the latter to "maps"'
            )


@dataclass(frozen=True)
class SPDPlans:
    """A plans file.

    Attributes:
        dataset_name: `DatasetNNN_Name`.
        plans_name: name of the file and part of the model folder's name.
        image_reader_writer: name of the reader of images and labels, nnU-Net's.
        settings: the decisions.
        reasons: for each decision ("image_size", "stage1.epochs", ...) the rule that made it, in words.
        nnunet: what else nnU-Net's tools read, see `nnunet_plans`; spdnet only passes it on. It is not compared.
    """

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    settings: SPDSettings
    reasons: dict[str, str] = field(default_factory=dict)
    nnunet: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def data_identifier(self) -> str:
        """Name of the folder of preprocessed cases."""
        return f"{self.plans_name}_{CONFIGURATION}"

    def save(self, file: Path) -> None:
        """Write the plans file."""
        write_json(file, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain data in nnU-Net's layout."""
        s = self.settings
        content = copy.deepcopy(self.nnunet)
        configuration = content.setdefault("configurations", {}).setdefault(CONFIGURATION, {})
        configuration.update(
            {
                # nnUNetv2_preprocess empties the folder that this names, so it must not be spdnet's
                "data_identifier": f"{self.data_identifier}_nnUNet",
                "batch_size": s.stage1.batch_size,
                "patch_size": [s.image_size, s.image_size],
                "spacing": [s.pixel_spacing_mm, s.pixel_spacing_mm],
            }
        )
        layers = {"backbone": s.backbone, "image_size": s.image_size, "lora": dataclasses.asdict(s.lora)}
        configuration.setdefault("architecture", {}).setdefault("arch_kwargs", {}).update(layers)
        return {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_name,
            "image_reader_writer": self.image_reader_writer,
            **content,
            "spd": {**dataclasses.asdict(s), "reasons": self.reasons},
        }

    def with_checksum(self) -> SPDPlans:
        """The same with a checksum of the content, by which `was_edited` tells whether the file has been edited."""
        return dataclasses.replace(self, nnunet={**self.nnunet, _CHECKSUM: _checksum(self.to_dict())})

    @classmethod
    def load_named(cls, folder: Path, name: str) -> SPDPlans:
        """Read and check the plans of a name in a data set's folder.

        Raises:
            PlansError: as in `load`, or the file has the name of other plans or of another data set in it.
        """
        file = folder / f"{name}.json"
        plans = cls.load(file)
        for key, there, needed, what in (
            ("plans_name", plans.plans_name, name, "the file's name"),
            ("dataset_name", plans.dataset_name, folder.name, "the name of the data set's folder"),
        ):
            if there != needed:
                raise PlansError(
                    f'{file}: "{key}" is {shown(there)}; it must be {needed!r}, {what}, or the cases and models of '
                    f"{there} would be used. Set it in the file"
                )
        return plans

    @classmethod
    def load(cls, file: Path) -> SPDPlans:
        """Read and check a plans file.

        Raises:
            PlansError: missing, not JSON, or a key is missing, unknown or of the wrong type.
        """
        content = read_json(file, "plans file", "Run spd_plan_and_preprocess first.", PlansError)
        return cls.from_dict(content, str(file))

    @classmethod
    def from_dict(cls, content: dict[str, Any], source: str = "plans") -> SPDPlans:
        """Inverse of `to_dict`; errors as in `load`."""
        for key in (*_NAMES, "spd"):
            if not isinstance(content, dict) or key not in content:
                raise PlansError(f'{source}: key "{key}" is missing; is this a plans file of spdnet?')
        names = [content[key] for key in _NAMES]
        for key, name in zip(_NAMES, names, strict=True):
            if not isinstance(name, str):
                raise PlansError(f'{source}: "{key}" must be a text, not {shown(name)}')
            if not name or name in (".", "..") or set(name) & set("/\\\0"):
                raise PlansError(f'{source}: "{key}" is {shown(name)}; it must be a name, not a path')
        if not isinstance(content["spd"], dict):
            raise PlansError(f'{source}: "spd" must be an object with keys, not {shown(content["spd"])}')
        own = dict(content["spd"])
        reasons = own.pop("reasons", {})
        if not isinstance(reasons, dict):
            raise PlansError(f"{source}: spd.reasons must be an object of texts, not {shown(reasons)}")
        settings = settings_from_dict(SPDSettings, own, f"{source}: spd")
        nnunet = {key: copy.deepcopy(value) for key, value in content.items() if key not in (*_NAMES, "spd")}
        place: Any = nnunet
        for key in ("configurations", CONFIGURATION, "architecture", "arch_kwargs"):  # what nnU-Net looks up
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise PlansError(f"{source}: configurations.{CONFIGURATION}.architecture.arch_kwargs is missing")
        return cls(names[0], names[1], names[2], settings, reasons, nnunet)


def was_edited(file: Path) -> bool:
    """Whether a plans file is not what was planned; one of an earlier version has no checksum and counts as planned.

    A file that cannot be read as plans is not what was planned, either.
    """
    try:
        content = read_json(file, "plans file", "", PlansError)
    except PlansError:
        return True
    return not isinstance(content, dict) or content.get(_CHECKSUM, _checksum(content)) != _checksum(content)


def _checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def settings_from_dict(kind: type[Settings], content: Any, where: str) -> Settings:
    """Build a settings dataclass from plain data, strictly.

    Raises:
        PlansError: naming the place, the offending key or value, and what is expected.
    """
    if not isinstance(content, dict):
        raise PlansError(f"{where} must be an object with keys, not {shown(content)}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(content.keys() - fields.keys())
    if unknown:
        raise PlansError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(fields)}. If these are plans of another "
            "version of spdnet, make them anew with spd_plan_and_preprocess"
        )
    values = {}
    for name, declared in fields.items():
        if name in content:
            values[name] = _value(hints[name], content[name], f"{where}.{name}")
        elif declared.default is dataclasses.MISSING:
            raise PlansError(f"{where}: key {name} is missing")
    _check_ranges(kind, values, where)
    try:
        return kind(**values)
    except PlansError as error:  # which names the field, but does not know the file
        file, has_file, _ = where.partition(": spd")
        raise PlansError(f"{file}: {error}" if has_file else str(error)) from error


@dataclass(frozen=True)
class _Range:
    """Numbers that make sense; the limits belong to them unless `above_low`."""

    low: float = 0
    high: float = math.inf
    above_low: bool = False

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above_low and value == self.low)

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low:g} to {self.high:g}"
        return f"more than {self.low:g}" if self.above_low else f"{self.low:g} or more"


_NOT_NEGATIVE, _FROM_ONE, _SHARE = _Range(), _Range(1), _Range(0, 1)
_POSITIVE = _Range(0, above_low=True)
_RANGES: dict[type, dict[str, _Range]] = {
    SPDSettings: {"image_size": _Range(1, 8192), "pixel_spacing_mm": _POSITIVE},
    LoraSettings: {"rank": _NOT_NEGATIVE, "alpha": _NOT_NEGATIVE, "dropout": _SHARE},
    LossSettings: dict.fromkeys(("dice_weight", "focal_weight", "focal_gamma", "dice_epsilon"), _NOT_NEGATIVE),
    DistillationSettings: {"tau": _SHARE, "n_context": _NOT_NEGATIVE, "max_points": _FROM_ONE},
    DensePromptSettings: {"n_slices": _NOT_NEGATIVE},
    ConsistencySettings: {"weight": _NOT_NEGATIVE, "run_length": _FROM_ONE},
    StageSettings: {
        "epochs": _NOT_NEGATIVE,
        "iterations_per_epoch": _FROM_ONE,
        "batch_size": _FROM_ONE,
        "learning_rate": _NOT_NEGATIVE,
        "focal_alpha": _SHARE,
        "weight_decay": _NOT_NEGATIVE,
        "warmup_iterations": _NOT_NEGATIVE,
    },
    AugmentationSettings: {
        "max_angle_degrees": _Range(0, 360),
        "scale_range": _POSITIVE,
        "stored_variants": _FROM_ONE,
    },
}
# settings of which the first must not be above the second
_ASCENDING: dict[type, tuple[str, str]] = {NormalizationSettings: ("low", "high")}


def _check_ranges(kind: type, values: dict[str, Any], where: str) -> None:
    """Raise `PlansError` for numbers that cannot be meant."""
    for name, allowed in _RANGES.get(kind, {}).items():
        value = values.get(name, ())  # defaults are good
        for number in value if isinstance(value, tuple) else (value,):
            if not allowed.holds(number):
                raise PlansError(f"{where}.{name} is {shown(value)}; it must be {allowed}")
    first, second = _ASCENDING.get(kind, ("", ""))
    if first in values and second in values and values[first] > values[second]:
        raise PlansError(f"{where}.{first} is {values[first]}; it must not be above {second}, {values[second]}")
    if kind is NormalizationSettings and values["scheme"] == "percentile":
        for name in ("low", "high"):
            if not 0 <= values[name] <= 100:
                raise PlansError(f"{where}.{name} is {values[name]}; a percentile must be from 0 to 100")


# What decides which input and which layers a network was trained with; the rest may differ from its plans.
_INPUT_SETTINGS = (
    "slicing_axis", "image_size", "pixel_spacing_mm", "crop_to_nonzero", "backbone", "normalization", "lora",
)  # fmt: skip


def input_difference(stored: Any, settings: SPDSettings, of_stage1: bool = False) -> str | None:
    """How the settings in a checkpoint contradict a plans file about a network's input and layers, in words.

    Args:
        stored: settings as plain data, or None (of a checkpoint without), which contradicts nothing.
        settings: of the plans.
        of_stage1: whether only the layers of stage 1 are to be taken over.

    Raises:
        PlansError: `stored` is not settings.
    """
    if stored is None:
        return None
    there = settings_from_dict(SPDSettings, stored, "checkpoint: settings")
    for name in _INPUT_SETTINGS if of_stage1 else (*_INPUT_SETTINGS, "dense_prompt", "decoder_encoder"):
        before, now = getattr(there, name), getattr(settings, name)
        if before != now:
            return f"{name} was {before!r}, the plans say {now!r}"
    return None


def _value(kind: Any, value: Any, where: str) -> Any:
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise PlansError(f"{where} must be one of {', '.join(typing.get_args(kind))}, not {shown(value)}")
        return value
    if dataclasses.is_dataclass(kind):
        return settings_from_dict(kind, value, where)  # type: ignore[arg-type]
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise PlansError(f"{where} must be an object with keys, not {shown(value)}")
        return dict(value)
    if isinstance(kind, types.GenericAlias):
        if not isinstance(value, list | tuple):
            raise PlansError(f"{where} must be a list, not {shown(value)}")
        arguments = typing.get_args(kind)
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise PlansError(f"{where} must have {len(kinds)} values, not {shown(value)}")
        return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if not isinstance(value, (int, float) if kind is float else kind) or (kind is not bool and isinstance(value, bool)):
        raise PlansError(f"{where} must be of type {kind.__name__}, not {shown(value)}")
    if kind is float and not abs(value) <= sys.float_info.max:
        raise PlansError(f"{where} must be a finite number, not {shown(value)}")
    return float(value) if kind is float else value
