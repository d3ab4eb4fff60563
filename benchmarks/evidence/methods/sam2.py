"""SAM 2 and MedSAM2: a volume as a video, points on some slices, masks carried to all others by the model's memory.

Ravi et al., arXiv 2408.00714, and Ma et al., arXiv 2504.03600, whose models are SAM 2's with other weights. Nothing is
trained. The slices are SPD's, each a frame, written as JPEG files of the best quality, which is what the package reads.
The slice with most raw points is prompted, as one would in practice, or every slice that has any; the masks are
carried forward, then backward. A class without points gets an empty mask.

The package is `sam2`; the environment names the weights, and the configuration that belongs to them: one of the
package's (`configs/sam2.1/sam2.1_hiera_t.yaml`) or a file, as MedSAM2 has its own.

    export SPD_SAM2_CHECKPOINT=sam2.1_hiera_tiny.pt SPD_SAM2_CONFIG=configs/sam2.1/sam2.1_hiera_t.yaml
    python -m evidence.methods.sam2 RAW -prompted most -plans FILE -prompts FOLDER -o FOLDER
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evidence.case_prediction import predict_test_cases, prediction_parser
from evidence.methods.base import Method
from evidence.methods.spd import PLANS, device, plan
from evidence.workspace import Workspace
from spdnet.cli.common import entry_point
from spdnet.dataset import RawDataset
from spdnet.errors import ConfigurationError
from spdnet.geometry import rescale_points
from spdnet.network.precision import autocast, get_device
from spdnet.planning import NetworkCase, SPDPlans
from spdnet.prompts import SlicePrompts

CHECKPOINT_VARIABLE, CONFIG_VARIABLE = "SPD_SAM2_CHECKPOINT", "SPD_SAM2_CONFIG"
PROMPTED = ("most", "all")


def load_predictor(config: str, checkpoint: Path, on_device: torch.device) -> Any:
    """The package's video predictor.

    Args:
        config: name of a configuration of the package, or a file.
        checkpoint: weights.
        on_device: where to compute.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from sam2.build_sam import build_sam2_video_predictor

    file = Path(config).resolve()
    if file.is_file():
        GlobalHydra.instance().clear()
        initialize_config_dir(str(file.parent), version_base="1.2")
        config = file.name
    return build_sam2_video_predictor(config, str(checkpoint), device=str(on_device))


def segment_volume(
    predictor: Any, slices: np.ndarray, points: SlicePrompts, n_classes: int, prompted: str
) -> np.ndarray:
    """Probabilities float32 (S, k, size, size) of every class, each tracked on its own.

    Args:
        predictor: SAM 2's.
        slices: float (S, c, size, size) in [0, 1]; one channel, or three as colours; of two the first.
        points: network pixels.
        n_classes: foreground classes.
        prompted: one of `PROMPTED`.
    """
    n_slices, _, size, _ = slices.shape
    probabilities = np.zeros((n_slices, n_classes, size, size), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_frames(slices, Path(folder))
        state = predictor.init_state(folder)
    for k in range(n_classes):
        by_slice = points_by_slice(points.for_class(k), n_slices, prompted)
        if not by_slice:
            continue
        predictor.reset_state(state)
        for number, own in by_slice.items():
            relative_xy = rescale_points(own, size, predictor.image_size)[:, ::-1] / predictor.image_size
            labels = np.ones(len(own), dtype=np.int32)
            predictor.add_new_points_or_box(
                state, number, k, points=relative_xy.copy(), labels=labels, normalize_coords=False
            )
        for reverse in (False, True):
            for number, _, logits in predictor.propagate_in_video(state, min(by_slice), reverse=reverse):
                probabilities[number, k] = torch.sigmoid(logits[0, 0].float()).cpu().numpy()
    return probabilities


def write_frames(slices: np.ndarray, folder: Path) -> None:
    """Write slices float (S, c, size, size) in [0, 1] as 00000.jpg and so on."""
    for number, channels in enumerate(slices):
        colours = channels if len(channels) == 3 else channels[[0, 0, 0]]
        pixels = np.rint(255 * colours.transpose(1, 2, 0)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=100, subsampling=0)


def points_by_slice(points: SlicePrompts, n_slices: int, prompted: str) -> dict[int, np.ndarray]:
    """The points (n, 2) y, x of every slice that is to be prompted; of slices with equally many points the first."""
    inside = points.select((points.slice_index >= 0) & (points.slice_index < n_slices))
    counts = np.bincount(inside.slice_index, minlength=n_slices)
    chosen = np.flatnonzero(counts) if prompted == "all" else np.flatnonzero(counts == counts.max())[:1]
    if not len(inside):
        return {}
    return {int(s): inside.points_syx[inside.slice_index == s, 1:] for s in chosen}


@dataclass(frozen=True)
class SAM2(Method):
    """SAM 2 or MedSAM2, whichever the environment names.

    Attributes:
        prompted: one of `PROMPTED`.
    """

    prompted: str = "most"

    def missing(self, workspace: Workspace) -> str | None:
        """Whether package and weights are there."""
        if find_spec("sam2") is None:
            return "needs the package sam2"
        if not Path(os.environ.get(CHECKPOINT_VARIABLE, "")).is_file() or CONFIG_VARIABLE not in os.environ:
            return "no checkpoint here"
        return None

    def notes(self, workspace: Workspace) -> list[str]:
        """Which weights these were."""
        return [f"weights: {Path(os.environ[CHECKPOINT_VARIABLE]).name}"]

    def training_steps(self) -> list[str]:
        """None."""
        return []

    def train(self, workspace: Workspace) -> None:
        """Plan: it gives the slices."""
        plan(workspace, workspace.raw.name)

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Predict all test cases."""
        command: list[str | Path] = ["python", "-m", "evidence.methods.sam2", workspace.raw, "-prompted", self.prompted]
        command += ["-plans", workspace.preprocessed() / f"{PLANS}.json", "-prompts", prompts, "-o", output]
        workspace.run([*command, *device(workspace)], f"{self.name}_predict", f"{self.name}/predict")


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Predict all test cases."""
    parser = prediction_parser(__doc__)
    parser.add_argument("-prompted", choices=PROMPTED, required=True)
    args = parser.parse_args(argv)
    for variable in (CHECKPOINT_VARIABLE, CONFIG_VARIABLE):
        if variable not in os.environ:
            raise ConfigurationError(f"{variable} is not set; see -h")
    settings, n_classes = SPDPlans.load(args.plans).settings, len(RawDataset(args.raw).labels)
    on_device = get_device(args.device)
    predictor = load_predictor(os.environ[CONFIG_VARIABLE], Path(os.environ[CHECKPOINT_VARIABLE]), on_device)

    def segment(name: str, case: NetworkCase, points: SlicePrompts) -> np.ndarray:
        with autocast(on_device):
            return segment_volume(predictor, case.slices, points, n_classes, args.prompted)

    predict_test_cases(args.raw, args.prompts, args.o, settings, segment)


_GROUP = "SAM 2"
METHODS: dict[str, SAM2] = {
    m.name: m
    for m in (
        SAM2("sam2", "SAM 2, points of one slice", _GROUP),
        SAM2("sam2_all", "SAM 2, points of all slices", _GROUP, prompted="all"),
    )
}


if __name__ == "__main__":
    main()
