"""SPD's saliency and consensus points, for methods that are given them in place of the raw points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from spdnet.errors import ModelError
from spdnet.geometry import rescale_points
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import distill_volume
from spdnet.inference.volume import predict_volume
from spdnet.network.checkpoint import read_checkpoint
from spdnet.network.precision import compute_dtype, place
from spdnet.network.prediction_form import optimize_for_prediction
from spdnet.planning import NetworkCase, SPDSettings, StoredCase, build_planned_network
from spdnet.planning.plans import input_difference
from spdnet.prompts import SlicePrompts
from spdnet.training.pretrained import load_stage1_weights

# What a table says of the methods that are given these points.
CONSENSUS_ALONE = "it gets the points that saliency confirms, SPD all of them"
OWN_SLICE_ALONE = "it gets the points of each slice alone, SPD's decoder also those of four slices to either side"


class Distiller:
    """Distils points by the saliency of a trained SPD.

    Args:
        settings: of the plans.
        n_classes: foreground classes.
        trained: checkpoint of the training.
        device: where to compute.

    Raises:
        ModelError: the checkpoint is missing, damaged, or of another network or input.
    """

    def __init__(self, settings: SPDSettings, n_classes: int, trained: Path, device: torch.device) -> None:
        content = read_checkpoint(trained)
        if difference := input_difference(content["spd"]["settings"], settings, of_stage1=True):
            raise ModelError(f"{trained} was trained with other plans: {difference}")
        self._settings, self._device = settings, device
        self._network = build_planned_network(replace(settings, decoder_encoder="shared"), n_classes)
        load_stage1_weights(self._network, content["network_weights"], trained)
        place(self._network, device)
        optimize_for_prediction(self._network, compute_dtype(device))

    def saliency(self, slices: np.ndarray) -> np.ndarray:
        """Saliency float32 (S, k, M, M) in [0, 1] of the slices (S, c, size, size) of a volume."""
        s = self._settings
        alone = replace(s.distillation, without_prompts="saliency")
        return predict_volume(self._network, slices, None, alone, s.stage1.batch_size, self._device).saliency

    def distill(self, case: NetworkCase | StoredCase, prompts: SlicePrompts) -> SlicePrompts:
        """`consensus_points` of a case."""
        return consensus_points(prompts, self.saliency(case.slices), self._settings)


def consensus_points(prompts: SlicePrompts, saliency: np.ndarray, settings: SPDSettings) -> SlicePrompts:
    """The points of SPD's consensus, each with the class and the slice that it prompts.

    No volume's points are refused as random.

    Args:
        prompts: points of a volume, network frame; boxes are ignored.
        saliency: float (S, k, M, M) in [0, 1].
        settings: of the plans; its `distillation` has tau and n.
    """
    rules = Rules(replace(settings.distillation, mode="consensus"), settings.image_size)
    parts = []
    for k, found in enumerate(distill_volume(prompts, saliency, rules)):
        places = rescale_points(found.points_yx, saliency.shape[-1], settings.image_size)
        points = np.column_stack([found.slice_index, places]).astype(np.float64)
        parts.append(SlicePrompts(points, np.full(len(points), k, dtype=np.int64)))
    return SlicePrompts.concatenate(parts)
