"""Files that methods without training start from: plans, and the checkpoint of a stage 1 that finds all or nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from spdnet.network.checkpoint import write_checkpoint
from spdnet.planning import SPDPlans, SPDSettings, build_planned_network


def write_plans(file: Path, settings: SPDSettings) -> Path:
    """A plans file of some settings."""
    SPDPlans("Dataset507_Blobs", file.stem, "SimpleITKIO", settings).save(file)
    return file


def write_stage1(file: Path, settings: SPDSettings, n_classes: int, salient: bool) -> Path:
    """A checkpoint whose saliency is nearly 1 everywhere, or nearly 0."""
    network = build_planned_network(settings, n_classes)
    last = network.saliency_head.layers[-1]
    assert isinstance(last, torch.nn.Conv2d) and last.bias is not None
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 10.0 if salient else -10.0)
    content = {
        "network_weights": network.own_state(),
        "init_args": {},
        "current_epoch": 0,
        "inference_allowed_mirroring_axes": None,
        "spd": {"trainer_name": "SPDTrainerStage1", "settings": asdict(settings)},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(file, content)
    return file
