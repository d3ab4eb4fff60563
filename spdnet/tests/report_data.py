"""A small set of images, references, predictions, fates and saliency on disk, for tests of reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.dataset import Labels, get_reader
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompt_report import JudgedPrompts, judge_prompts, write_prompt_report
from spdnet.inference.saliency_files import write_saliency
from spdnet.planning.plans import DistillationSettings
from spdnet.planning.preprocessor import preprocess_image
from spdnet.prompts import SlicePrompts
from spdnet.tests.tiny import oblique_direction, tiny_settings, write_volume

SPACING_ZYX_MM = (4.0, 1.5, 1.0)
SHAPE_ZYX = (7, 30, 26)
DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "left": 1, "right": 2},
    "numTraining": 0,
    "file_ending": ".nii.gz",
}
LABELS = Labels.from_dataset_json(DATASET_JSON)


@dataclass(frozen=True)
class ReportFolders:
    """Where the files lie."""

    root: Path

    @property
    def images(self) -> Path:
        """Folder of images."""
        return self.root / "imagesTs"

    @property
    def references(self) -> Path:
        """Folder of references."""
        return self.root / "labelsTs"

    def predictions(self, name: str = "preds") -> Path:
        """Folder of predictions."""
        return self.root / name

    def arguments(self, *predictions: str) -> list[str]:
        """Options of spd_report."""
        folders = [str(self.predictions(name)) for name in predictions or ("preds",)]
        return ["-i", str(self.images), "-p", *folders, "-ref", str(self.references)]


def case_arrays(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image float32, reference and prediction uint8 (z, y, x), no slice like another."""
    rng = np.random.default_rng([5, seed])
    z, y, x = np.indices(SHAPE_ZYX)
    reference = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    inside = (z > 0) & (z < SHAPE_ZYX[0] - 1)
    reference[(np.hypot(y - 10 - z, x - 8) < 5) & inside] = 1
    reference[(np.hypot(y - 19, x - 17 + z / 2) < 4) & inside] = 2
    prediction = np.roll(reference, (1, 0), (1, 2))
    prediction[3] = np.roll(reference[3], 6, 1)  # the worst slice
    image = 100.0 * reference + 10 * z + rng.normal(0, 8, SHAPE_ZYX)
    return image.astype(np.float32), reference, prediction.astype(np.uint8)


def given_points(reference: np.ndarray) -> np.ndarray:
    """Voxel indices float64 (N, 3) z, y, x: one inside the first class in every other slice, and a wrong one."""
    points = []
    for z in range(1, SHAPE_ZYX[0] - 1, 2):
        y, x = np.argwhere(reference[z] == 1).mean(axis=0)
        points += [[z, y, x], [z, 3.0 + z, 22.0]]
    return np.array(points)


def write_report_data(
    root: Path, cases: Sequence[str] = ("case_a", "case_b"), with_fates: bool = True
) -> ReportFolders:
    """Write the files; the second prediction folder, "other", has neither fates nor saliency."""
    folders = ReportFolders(root)
    direction = oblique_direction()
    for seed, case in enumerate(cases):
        image, reference, prediction = case_arrays(seed)
        write_volume(folders.images / f"{case}_0000.nii.gz", image, direction, SPACING_ZYX_MM)
        for folder, array in ((folders.references, reference), (folders.predictions(), prediction)):
            write_volume(folder / f"{case}.nii.gz", array, direction, SPACING_ZYX_MM)
        write_volume(folders.predictions("other") / f"{case}.nii.gz", reference, direction, SPACING_ZYX_MM)
        if with_fates:
            write_fates(folders, case, reference)
    for name in ("preds", "other"):
        (folders.predictions(name) / "dataset.json").write_text(json.dumps(DATASET_JSON), encoding="utf-8")
    return folders


def write_fates(folders: ReportFolders, case: str, reference: np.ndarray) -> JudgedPrompts:
    """Judge the given points by a saliency that is the reference, and write fates and saliency."""
    reader = get_reader("SimpleITKIO")
    image, geometry = reader.read_image([folders.images / f"{case}_0000.nii.gz"], case)
    network_case = preprocess_image(image, geometry, tiny_settings(), case)
    mapping = network_case.mapping
    saliency = 0.9 * mapping.masks_to_network(LABELS.masks(reference)).astype(np.float32)
    points = mapping.points_to_network(given_points(reference))
    prompts = SlicePrompts(points, np.full(len(points), -1, dtype=np.int64))
    judged = judge_prompts(prompts, saliency, Rules(DistillationSettings(), mapping.image_size))
    write_prompt_report(folders.predictions(), case, judged, mapping, geometry, LABELS)
    write_saliency(folders.predictions(), case, ".nii.gz", saliency, mapping, geometry, reader)
    return judged
