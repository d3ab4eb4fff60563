"""The published SAM as it is, nothing trained, given points from several sources (Figure 5 of arXiv 2604.23314).

The paper asks how much better distillation makes the points, apart from all tuning: a few points drawn from the raw
ones, all raw points, or the consensus. "All" are those that a slice itself has. As a consensus also takes points from
neighbouring slices, all points of these, unvalidated, are a further source; true points are the upper end.

The network runs as in SPD: the decoder's single mask, the plans' input size, the points of one class at a time. Slices
without points get an empty mask; so the consensus is the paper's. A curve has one point for
each visit to a slice, as for every method.

    python -m evidence.methods.frozen_sam RAW -source all -plans FILE -prompts FOLDER -o FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from evidence.case_prediction import predict_test_cases, prediction_parser
from evidence.consensus import Distiller
from evidence.jobs import RunRecord
from evidence.methods.base import Method
from evidence.methods.spd import PLANS, STAGE1, device, plan, shared_stage1
from evidence.workspace import Workspace
from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import decoder_rows, distill_volume
from spdnet.inference.volume import EncodedVolume, decode_volume, encode_volume
from spdnet.network.precision import compute_dtype, get_device, place
from spdnet.network.prediction_form import optimize_for_prediction
from spdnet.planning import NetworkCase, SPDPlans, SPDSettings, build_planned_network
from spdnet.planning.plans import DensePromptSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.simulate_files import case_generator

BOX_ONLY = ("lite",)  # backbones that were trained with boxes alone: no point, no mask prompt, no several masks
FEW = 2  # points of a slice; the paper does not say how many its few are
SOURCES = ("few", "all", "neighbours", "consensus")
_NO_LIMIT = 1_000_000


class PublishedSAM:
    """SAM with its published weights, run as spdnet runs it on slices of some settings."""

    def __init__(self, settings: SPDSettings, n_classes: int, device: torch.device) -> None:
        self.settings, self.device = settings, device
        published = replace(
            settings,
            lora=replace(settings.lora, rank=0),
            distillation=replace(settings.distillation, mode="raw", without_prompts="saliency"),
            dense_prompt=DensePromptSettings(),
            decoder_encoder="shared",
        )
        self.network = build_planned_network(published, n_classes)
        place(self.network, device)
        optimize_for_prediction(self.network, compute_dtype(device))

    def encode(self, slices: np.ndarray) -> EncodedVolume:
        """Slices float (S, c, size, size) in [0, 1]; the saliency that comes along is an untrained head's."""
        return encode_volume(self.network, slices, self.settings.stage1.batch_size, self.device)

    def segment(self, volume: EncodedVolume, points: SlicePrompts, max_points: int = _NO_LIMIT) -> np.ndarray:
        """Probabilities float32 (S, k, M, M) from at most `max_points` of each slice's points; 0 without any."""
        size = self.settings.image_size
        raw = Rules(DistillationSettings(mode="raw", max_points=max_points), size)
        only_prompted = Rules(DistillationSettings(empty_consensus="empty"), size)
        rows = decoder_rows(distill_volume(points, volume.saliency, raw), volume.saliency, only_prompted)
        return decode_volume(self.network, volume, rows, self.device)


def with_neighbours(points: SlicePrompts, n_context: int) -> SlicePrompts:
    """Every point in its own slice and, at the same place, in `n_context` slices to either side."""
    offsets = [np.array([d, 0.0, 0.0]) for d in range(-n_context, n_context + 1)]
    return SlicePrompts.concatenate([replace(points, points_syx=points.points_syx + d) for d in offsets])


@dataclass(frozen=True)
class FrozenSAM(Method):
    """One source of points.

    Attributes:
        source: one of `SOURCES`.
        true_prompts: given the true points, whatever the test prompts.
    """

    source: str = "all"
    true_prompts: bool = False

    def remarks(self, record: RunRecord) -> list[str]:
        """What of the prompts the backbone cannot know."""
        if record.budget.backbone in BOX_ONLY:
            return [f"{record.budget.backbone} was trained with boxes alone; untuned, it does not know points"]
        return []

    def training_steps(self) -> list[str]:
        """Nothing but the stage 1 that a consensus comes from."""
        return [STAGE1] if self.source == "consensus" else []

    def train(self, workspace: Workspace) -> None:
        """Plan, and train SPD if its consensus is needed and nobody has."""
        plan(workspace, workspace.raw.name)
        if self.source == "consensus":
            shared_stage1(workspace)

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Predict all test cases."""
        given = workspace.prompts("true") if self.true_prompts else prompts
        command: list[str | Path] = ["python", "-m", "evidence.methods.frozen_sam", workspace.raw]
        command += ["-source", self.source, "-plans", workspace.preprocessed() / f"{PLANS}.json", "-prompts", given]
        if self.source == "consensus":
            command += ["-stage1", shared_stage1(workspace)]
        command += ["-seed", str(workspace.setting.seed), "-o", output, *device(workspace)]
        workspace.run(command, f"{self.name}_predict", f"{self.name}/predict")


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Predict all test cases."""
    parser = prediction_parser(__doc__)
    parser.add_argument("-source", choices=SOURCES, required=True)
    parser.add_argument("-stage1", type=Path, help="checkpoint of SPD, for the consensus")
    parser.add_argument("-seed", type=int, default=0, help="of the draw of few points")
    args = parser.parse_args(argv)
    if (args.source == "consensus") != (args.stage1 is not None):
        parser.error("-stage1 is for the consensus, and the consensus needs it")
    settings, n_classes = SPDPlans.load(args.plans).settings, len(RawDataset(args.raw).labels)
    settings = replace(settings, distillation=replace(settings.distillation, empty_consensus="empty"))
    on_device = get_device(args.device)
    distiller = Distiller(settings, n_classes, args.stage1, on_device) if args.stage1 is not None else None
    sam = PublishedSAM(settings, n_classes, on_device)

    def segment(name: str, case: NetworkCase, points: SlicePrompts) -> np.ndarray:
        volume = sam.encode(case.slices)
        if args.source == "few":
            order = case_generator(args.seed, name).permutation(len(points))
            return sam.segment(volume, points.select(order), FEW)
        if args.source == "neighbours":
            points = with_neighbours(points, settings.distillation.n_context)
        if distiller is not None:
            points = distiller.distill(case, points)
        return sam.segment(volume, points)

    predict_test_cases(args.raw, args.prompts, args.o, settings, segment)


_GROUP = "frozen SAM"
METHODS: dict[str, FrozenSAM] = {
    m.name: m
    for m in (
        FrozenSAM("frozen_few", f"frozen SAM, {FEW} raw points a slice", _GROUP, source="few"),
        FrozenSAM("frozen_all", "frozen SAM, all raw points", _GROUP),
        FrozenSAM("frozen_neighbours", "frozen SAM, raw points of neighbours too", _GROUP, source="neighbours"),
        FrozenSAM("frozen_consensus", "frozen SAM, consensus points", _GROUP, source="consensus"),
        FrozenSAM("frozen_true", "frozen SAM, true points", _GROUP, uses_prompts=False, true_prompts=True),
    )
}


if __name__ == "__main__":
    main()
