"""The validation at the end of a training: whole cases, on their own grid, into nnU-Net's `validation/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from spdnet.dataset import Labels, get_reader
from spdnet.evaluation import nnunet_summary, write_summary_json
from spdnet.files import write_json
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.steps import CaseTools, NetworkResult, finish_case
from spdnet.inference.volume import predict_volume
from spdnet.network import SPDNetwork
from spdnet.planning import SPDPlans, StoredCase
from spdnet.training.distributed import current_team
from spdnet.training.prompt_quality import prompt_quality, summarise_quality
from spdnet.training.prompt_source import validation_prompts

PROMPT_QUALITY_FILE = "prompts.json"


def validate_cases(
    network: SPDNetwork,
    cases: list[StoredCase],
    plans: SPDPlans,
    dataset_json: dict[str, Any],
    ground_truth_folder: Path,
    folder: Path,
    device: torch.device,
    save_probabilities: bool,
) -> dict[str, Any]:
    """Predict preprocessed cases into a folder and score them there.

    Beside nnU-Net's files, `prompts.json` tells the precision (share of points inside the target) and the recall (share
    of target slices with a point inside) of the prompts before and after distillation; where points are distilled,
    `prompts/` tells what became of each and `saliency/` holds the saliency, both for `spd_report`.

    Args:
        network: in evaluation mode, on `device`.
        cases: their prompts are those of every validation: from files, or drawn from a fixed seed.
        plans, dataset_json: of the model.
        ground_truth_folder: `gt_segmentations`.
        folder: gets a segmentation for each case and summary.json.
        device: where to compute.
        save_probabilities: also write nnU-Net's `CASE.npz` and `CASE.pkl`.

    Returns:
        The content of summary.json; where several processes share the cases, in the main one only, else nothing.
    """
    team = current_team()
    folder.mkdir(parents=True, exist_ok=True)
    ending, labels = str(dataset_json["file_ending"]), Labels.from_dataset_json(dataset_json)
    reader, s = get_reader(plans.image_reader_writer), plans.settings
    tools = CaseTools(s, labels, reader, ending)
    quality = []
    for case in tqdm(team.share(cases), desc="validating", leave=False, disable=not team.is_main):
        prompts = validation_prompts(case, s.prompts)
        how = s.distillation, s.stage1.batch_size, device, case.mapping.content_share
        prediction = predict_volume(network, case.slices, prompts, *how)
        quality.append(prompt_quality(case, prompts, prediction))
        judged = saliency = None
        if s.distillation.mode != "raw":
            saliency = prediction.saliency
            judged = judge_prompts(prompts, saliency, Rules.of(s.distillation, network), prediction.refused)
        target, maps = folder / case.case, prediction.probabilities
        result = NetworkResult(case.case, target, maps, case.mapping, case.geometry, judged, saliency)
        finish_case(result, tools, save_probabilities)
    quality = team.collect(quality)
    if not team.is_main:
        return {}
    names = [f"{case.case}{ending}" for case in cases]
    pairs = [(ground_truth_folder / name, folder / name) for name in names]
    summary = nnunet_summary(pairs, reader, labels)
    write_summary_json(folder / "summary.json", summary)
    write_json(folder / PROMPT_QUALITY_FILE, summarise_quality(quality))
    return summary
