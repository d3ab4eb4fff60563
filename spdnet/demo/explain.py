"""Draws what became of a case's points: raw, kept, rejected, and the masks that came out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spdnet.dataset import CaseFiles
from spdnet.demo.figure import choose_slices, draw_demo_figure
from spdnet.geometry import rescale_points
from spdnet.inference import SPDPredictor


def draw_case(
    file: Path, case: CaseFiles, model_folder: Path, label_maps: dict[str, np.ndarray], device: str | None
) -> None:
    """Draw slices of one case in the network frame, for the first class.

    Args:
        file: picture to write.
        case: with label and prompts.
        model_folder: the SPD model whose saliency and consensus are shown.
        label_maps: predictions (z, y, x) on the image's grid, by method.
        device: where to run the model.
    """
    predictor = SPDPredictor(device=device)
    predictor.initialize_from_trained_model_folder(model_folder)
    prediction, _ = predictor.predict_case(case)
    assert case.label is not None
    mapping, volume = prediction.network_case.mapping, prediction.volumes[0]
    assert volume.consensus is not None

    def to_network(label_map: np.ndarray) -> np.ndarray:
        return mapping.masks_to_network(predictor.labels.masks(label_map))[:, 0].astype(bool)

    consensus, size = volume.consensus[0], mapping.image_size
    mask_size = volume.saliency.shape[-1]
    prompts = predictor.network_prompts(case, prediction.network_case).for_class(0).points_syx
    kept = np.column_stack([consensus.slice_index, rescale_points(consensus.points_yx, mask_size, size)])
    reference = to_network(predictor.reader.read_label(case.label, case.case)[0])
    draw_demo_figure(
        file,
        prediction.network_case.slices[:, 0],
        reference,
        {method: to_network(label_map) for method, label_map in label_maps.items()},
        prompts,
        kept,
        prompts[~np.isin(np.arange(len(prompts)), consensus.point_index)],
        choose_slices(reference, 4),
        volume.saliency[:, 0] if mask_size == size else None,
    )
