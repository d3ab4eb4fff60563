"""What a training left for the overview: its epochs, the quality of its prompts, and its plans in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spdnet.errors import ModelError
from spdnet.files import read_json
from spdnet.network.checkpoint import BEST, FINAL, LATEST, read_checkpoint

PROMPT_QUALITY_FILE = "prompts.json"
_PLANE = {"S": "axial slices (along S)", "P": "coronal slices (along P)", "L": "sagittal slices (along L)"}
_RECORD_KEYS = ("stage", "epoch", "train_loss", "val_loss", "dice", "smoothed_dice", "learning_rate")


def read_curves(fold: Path) -> list[dict[str, Any]]:
    """The epochs of both stages as the fold's checkpoint tells them; none without a checkpoint.

    Each has `stage`, `epoch`, `train_loss`, `val_loss`, `dice` (per class), `smoothed_dice`, `learning_rate` and
    `seconds`; what is not known is None.

    Raises:
        ModelError: the checkpoint is damaged.
    """
    file = next((fold / name for name in (FINAL, LATEST, BEST) if (fold / name).exists()), None)
    if file is None:
        return []
    records = read_checkpoint(file)["spd"].get("records", [])
    return [
        {**{key: _finite(record[key]) for key in _RECORD_KEYS}, "seconds": record["ended"] - record["started"]}
        for record in records
    ]


def read_prompt_quality(validation: Path) -> dict[str, Any] | None:
    """The content of `validation/prompts.json`, or None if it is not there.

    Raises:
        ModelError: it is damaged.
    """
    file = validation / PROMPT_QUALITY_FILE
    if not file.exists():
        return None
    content = read_json(file, "quality of prompts", "Validate again: spd_train DATASET FOLD --val", ModelError)
    counts = content.get("all_cases") if isinstance(content, dict) else None
    kinds = [counts.get(kind) for kind in ("raw", "distilled")] if isinstance(counts, dict) else [None]
    if not all(isinstance(kind, dict) for kind in kinds):
        raise ModelError(f"{file} is not what a validation writes; validate again: spd_train DATASET FOLD --val")
    return content


def plans_in_words(plans: dict[str, Any] | None) -> list[dict[str, str]]:
    """The part "spd" of the plans as rows for people: `topic`, `choice`, `why` (empty where no rule is noted)."""
    if plans is None:
        return []
    reasons = plans.get("reasons", {})
    rows = []
    for key, topic, words in _TOPICS:
        try:
            choice = words(plans)
        except (KeyError, TypeError, IndexError):
            continue  # plans of another version
        rows.append({"topic": topic, "choice": choice, "why": str(reasons.get(key, ""))})
    return rows


def _slices(p: dict[str, Any]) -> str:
    return _PLANE.get(p["slicing_axis"], str(p["slicing_axis"]))


def _normalization(p: dict[str, Any]) -> str:
    def one(entry: dict[str, Any]) -> str:
        unit = "percentiles" if entry["scheme"] == "percentile" else "intensities"
        return f"{unit} {entry['low']:g} to {entry['high']:g}"

    return "; ".join(one(entry) for entry in p["normalization"])


def _stages(p: dict[str, Any], key: str, form: str) -> str:
    return f"{p['stage1'][key]:{form}} in stage 1, {p['stage2'][key]:{form}} in stage 2"


def _warm_up(p: dict[str, Any]) -> str:
    steps = [p[stage].get("warmup_iterations", 0) for stage in ("stage1", "stage2")]
    rises = [f"the first {n} steps of stage {i}" for i, n in enumerate(steps, 1) if n]
    return f"over {' and '.join(rises)}" if rises else "none"


def _distillation(p: dict[str, Any]) -> str:
    d = p["distillation"]
    if d["mode"] == "raw":
        return "none: every point goes to the decoder as it is"
    if d["mode"] == "weighed":
        return f"every point goes to the decoder, which weighs it by maps; at most {d['max_points']} per slice"
    return (
        f"a point counts if its saliency is above {d['tau']:g}; lent to {d['n_context']} slices on either side; "
        f"at most {d['max_points']} points per slice"
    )


def _without_prompts(p: dict[str, Any]) -> str:
    if p["distillation"].get("without_prompts", "saliency") == "saliency":
        return "predicted from the saliency alone"
    return "decoded from the image and the maps of the saliency"


def _without_points(p: dict[str, Any]) -> str:
    if p["distillation"]["mode"] != "consensus":
        return "decoded with the points they have"
    return "empty" if p["distillation"]["empty_consensus"] == "empty" else "decoded without a point"


def _random_points(p: dict[str, Any]) -> str:
    d = p["distillation"]
    falls_back = d["mode"] == "weighed" or (d["mode"] == "consensus" and d["empty_consensus"] == "decode")
    if d["random_points"] == "keep" or not falls_back:
        return "used all the same"
    return "refused: such a volume is predicted as without prompts"


def _lone_pieces(p: dict[str, Any]) -> str:
    ways = {
        "keep": "kept",
        "drop": "dropped",
        "auto": "dropped where the training cases' targets have hardly any such piece",
    }
    return ways[p["distillation"].get("lone_pieces", "keep")]


def _dense_prompt(p: dict[str, Any]) -> str:
    rule = p.get("dense_prompt", {"mode": "none"})
    if rule["mode"] == "none":
        return "SAM's own, that of no mask"
    return f"maps of all points and of the saliency, of a slice and of {rule['n_slices']} on either side"


def _selection(p: dict[str, Any]) -> str:
    rule = p.get("selection", {"held_out_share": 0.0})
    if not rule["held_out_share"]:
        return "the last ones"
    return f"those that suit {rule['held_out_share']:.0%} of the training cases best, which it is not trained on"


def _decoder_encoder(p: dict[str, Any]) -> str:
    if p.get("decoder_encoder", "shared") == "shared":
        return "as stage 1 leaves it"
    return "one of its own, whose adapters begin as stage 1 leaves them and are trained in stage 2"


def _prompts(p: dict[str, Any]) -> str:
    prompts = p["prompts"]
    words = {"files": "from the prompt files", "simulated": "points simulated from the labels", "none": "no points"}
    text = words.get(prompts["source"], str(prompts["source"]))
    if prompts["source"] == "simulated" and prompts.get("recipe", {}).get("mode", "recipe") != "recipe":
        text += f" ({prompts['recipe']['mode']})"
    text += ", coarse boxes simulated" if prompts.get("boxes") == "simulated" else ""
    absent = prompts.get("absent_share", 0)
    return text + (f"; {absent:.0%} of the draws have none" if absent else "")


_TOPICS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("slicing_axis", "Slices", _slices),
    ("image_size", "Image size", lambda p: f"{p['image_size']} x {p['image_size']} pixels"),
    ("pixel_spacing_mm", "Pixel size", lambda p: f"{p['pixel_spacing_mm']:.3g} mm"),
    ("backbone", "Backbone", lambda p: f"SAM, {p['backbone']}"),
    ("normalization", "Intensities", _normalization),
    ("crop_to_nonzero", "Crop", lambda p: "to the non-zero region" if p["crop_to_nonzero"] else "none"),
    ("lora", "Adapters", lambda p: f"LoRA of rank {p['lora']['rank']}"),
    ("prompts", "Prompts in training", _prompts),
    ("distillation", "Distillation", _distillation),
    ("empty_consensus", "Slices without trusted points", _without_points),
    ("dense_prompt", "Dense prompt", _dense_prompt),
    ("lone_pieces", "Pieces of masks without any point", _lone_pieces),
    ("random_points", "Volumes whose points look random", _random_points),
    ("without_prompts", "Volumes without prompts", _without_prompts),
    ("selection", "Weights of stage 1", _selection),
    ("decoder_encoder", "Encoder of the decoder", _decoder_encoder),
    ("epochs", "Epochs", lambda p: _stages(p, "epochs", "d")),
    ("iterations_per_epoch", "Steps per epoch", lambda p: _stages(p, "iterations_per_epoch", "d")),
    ("batch_size", "Batch size", lambda p: _stages(p, "batch_size", "d")),
    ("learning_rate", "Learning rate", lambda p: _stages(p, "learning_rate", "g")),
    ("warmup_iterations", "Rise of the learning rate", _warm_up),
    ("focal_alpha", "Focal alpha", lambda p: _stages(p, "focal_alpha", "g")),
)


def _finite(value: Any) -> Any:
    """None for NaN and infinity, also within lists."""
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
