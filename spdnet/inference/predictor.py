"""The predictor: trained networks on images, as files or arrays, back on the images' own grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from spdnet.dataset import CaseFiles, Labels, ReaderWriter, get_reader
from spdnet.dataset.raw_dataset import find_cases, find_prompt_file
from spdnet.errors import ConfigurationError, ModelError, PromptFileError
from spdnet.files import write_json
from spdnet.geometry import ImageGeometry
from spdnet.inference.export import probabilities_on_raw_grid
from spdnet.inference.model_folder import ModelFolder
from spdnet.inference.volume import VolumePrediction, predict_volume
from spdnet.network import SPDNetwork
from spdnet.network.precision import get_device
from spdnet.planning import NetworkCase, SPDPlans, SPDSettings, preprocess_image
from spdnet.prompts import ALL_CLASSES, SlicePrompts, load_slice_prompts
from spdnet.prompts.loading import in_crop, read_checked_markups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CasePrediction:
    """A predicted case.

    Attributes:
        segmentation: uint8 or uint16 (z, y, x) on the image's grid.
        probabilities: float32 (k, z, y, x), one foreground probability per class, same grid.
        network_case: the case in the network frame. volumes: what each fold's network made of it there.
    """

    segmentation: np.ndarray
    probabilities: np.ndarray
    network_case: NetworkCase
    volumes: list[VolumePrediction]


class SPDPredictor:
    """Predicts with one or several folds of a trained model.

    Args:
        device: "cuda", "cpu", ...; None for CUDA where present, else the CPU.
        batch_size: slices per encoder pass; None for the training's.
        allow_tqdm: show progress bars.
    """

    def __init__(
        self, device: torch.device | str | None = None, batch_size: int | None = None, allow_tqdm: bool = True
    ) -> None:
        self.device = device
        self.batch_size = batch_size
        self.allow_tqdm = allow_tqdm
        self.networks: list[SPDNetwork] = []
        self.plans: SPDPlans
        self.labels: Labels
        self.reader: ReaderWriter
        self.dataset_json: dict[str, Any]

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_folds: Sequence[int | str] | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load the networks of a model folder.

        Args:
            model_training_output_dir: `nnUNet_results/Dataset/Trainer__Plans__2d`.
            use_folds: folds to average; None for all numbered ones, else "all".
            checkpoint_name: which checkpoint of each fold.

        Raises:
            ModelError, DatasetError: the folder is not a complete trained model.
            ConfigurationError: the device is not there.
        """
        folder = ModelFolder(Path(model_training_output_dir))
        self.plans, self.dataset_json, self.labels = folder.plans(), folder.dataset_json(), folder.labels()
        self.reader = get_reader(self.plans.image_reader_writer)
        wanted = [str(f) for f in use_folds] if use_folds is not None else None
        folds = folder.choose_folds(wanted, checkpoint_name)
        self.device = get_device(str(self.device)) if self.device is not None else get_device(None)
        self.networks = folder.load_networks(folds, checkpoint_name, self.device)

    def predict_single_npy_array(
        self,
        input_image: np.ndarray,
        image_properties: dict[str, Any],
        points_zyx: np.ndarray | None = None,
        class_index: np.ndarray | None = None,
        save_or_return_probabilities: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Segment one volume.

        Args:
            input_image: (c, z, y, x), intensities as in the training files.
            image_properties: "spacing" (z, y, x) in mm; optionally "geometry", an `ImageGeometry`, for images whose
                axes are not the patient's.
            points_zyx: (N, 3) noisy points as continuous voxel indices z, y, x; None runs on the saliency prior
                alone.
            class_index: (N,) which foreground class (from 0) each point speaks for, -1 for all; default all.
            save_or_return_probabilities: also return them.

        Returns:
            Segmentation (z, y, x), and if asked the foreground probabilities float32 (k, z, y, x).

        Raises:
            PromptFileError: a point lies outside the image. DatasetError: wrong number of channels.
        """
        geometry = image_properties.get("geometry") or ImageGeometry(
            _triple(input_image.shape[1:]), _triple([float(s) for s in image_properties["spacing"]])
        )
        network_case = preprocess_image(input_image, geometry, self._settings(), "array")
        prompts = None
        if points_zyx is not None:
            points = np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3)
            outside = np.flatnonzero(~geometry.contains(points))
            if len(outside):
                raise PromptFileError(
                    f"point {outside[0]} at voxel (z, y, x) {points[outside[0]].tolist()} lies outside the image of "
                    f"shape {geometry.shape_zyx}"
                )
            classes = np.full(len(points), ALL_CLASSES) if class_index is None else np.asarray(class_index)
            if classes.shape != (len(points),) or not np.isin(classes, np.arange(-1, len(self.labels))).all():
                raise PromptFileError(
                    f"class_index must give each of the {len(points)} points a class from 0 to {len(self.labels) - 1}, "
                    f"or -1 for all; it is {classes.tolist()}"
                )
            prompts = SlicePrompts(network_case.mapping.points_to_network(points), classes.astype(np.int64))
            prompts = prompts.select(in_crop(prompts, network_case.mapping))
        prediction = self.predict_network_case(network_case, prompts)
        if save_or_return_probabilities:
            return prediction.segmentation, prediction.probabilities
        return prediction.segmentation

    def predict_network_case(self, network_case: NetworkCase, prompts: SlicePrompts | None) -> CasePrediction:
        """Segment a preprocessed case with points in its network frame, or None for the saliency prior alone."""
        settings = self._settings()
        if prompts is None and settings.stage1.epochs == 0:
            raise ModelError("this model was trained without stage 1: it has no saliency prior and needs prompts")
        assert isinstance(self.device, torch.device)
        batch_size = self.batch_size or settings.stage1.batch_size
        volumes = [
            predict_volume(n, network_case.slices, prompts, settings.distillation, batch_size, self.device)
            for n in self.networks
        ]
        mean = np.mean([v.probabilities for v in volumes], axis=0)
        probabilities = probabilities_on_raw_grid(mean, network_case.mapping)
        return CasePrediction(self.labels.merge(probabilities), probabilities, network_case, volumes)

    def predict_case(self, case: CaseFiles) -> tuple[CasePrediction, ImageGeometry]:
        """Segment one case from its files; without a prompt file, by the saliency prior alone.

        Raises:
            DatasetError, PromptFileError: a file is not what it must be.
        """
        image, geometry = self.reader.read_image(case.images, case.case)
        network_case = preprocess_image(image, geometry, self._settings(), case.case)
        prompts = self.network_prompts(case, network_case) if case.prompts is not None else None
        return self.predict_network_case(network_case, prompts), geometry

    def network_prompts(self, case: CaseFiles, network_case: NetworkCase) -> SlicePrompts:
        """The points of a case's prompt file in its network frame; raises `PromptFileError`."""
        if case.prompts is None:
            raise PromptFileError(f"case {case.case} has no prompt file")
        return load_slice_prompts(case.prompts, case.case, network_case.geometry, network_case.mapping, self.labels)

    def predict_from_files(
        self, input_folder: Path, output_folder: Path, prompts_folder: Path | None, save_probabilities: bool = False
    ) -> None:
        """Segment all cases of a folder.

        Args:
            input_folder: images named as nnU-Net names them.
            output_folder: gets `{case}{file_ending}`, dataset.json and plans.json.
            prompts_folder: a prompt file for each case; None runs on the saliency prior alone.
            save_probabilities: also write `{case}.npz` as nnU-Net does.

        Raises:
            DatasetError, PromptFileError: images or prompts are missing or wrong; missing files, and points outside
                their image, are found before any work starts.
        """
        ending = self.dataset_json["file_ending"]
        cases = find_cases(input_folder, ending, len(self._settings().normalization))
        if prompts_folder is not None:
            cases = _with_prompts(cases, prompts_folder)
            for case in cases:
                assert case.prompts is not None
                read_checked_markups(case.prompts, case.case, self.reader.read_geometry(case.images[0], case.case))
        output_folder.mkdir(parents=True, exist_ok=True)
        write_json(output_folder / "dataset.json", self.dataset_json)
        write_json(output_folder / "plans.json", self.plans.to_dict())
        for case in tqdm(cases, desc="predicting", disable=not self.allow_tqdm):
            prediction, geometry = self.predict_case(case)
            if save_probabilities:
                _save_probabilities(output_folder / f"{case.case}.npz", prediction.probabilities, self.labels)
            self.reader.write_segmentation(output_folder / f"{case.case}{ending}", prediction.segmentation, geometry)

    def _settings(self) -> SPDSettings:
        if not self.networks:
            raise ConfigurationError("no model is loaded; call initialize_from_trained_model_folder first")
        return self.plans.settings


def _with_prompts(cases: list[CaseFiles], folder: Path) -> list[CaseFiles]:
    """The cases with their prompt files; raises PromptFileError if any has none."""
    prompted = [CaseFiles(c.case, c.images, c.label, find_prompt_file(folder, c.case)) for c in cases]
    missing = [c.case for c in prompted if c.prompts is None]
    if missing:
        raise PromptFileError(
            f"{len(missing)} of {len(cases)} cases have no prompt file in {folder}: {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}. Put a Slicer markups file {missing[0]}.mrk.json there, name "
            "another folder with -prompts, or run on the image alone with --no_prompts."
        )
    return prompted


def _save_probabilities(file: Path, foreground: np.ndarray, labels: Labels) -> None:
    """nnU-Net's npz: with labels, background first and channels that sum to one; with regions, as they are."""
    probabilities = foreground
    if not labels.is_regions:
        background = np.clip(1 - foreground.max(axis=0, keepdims=True), 0, 1)
        stacked = np.concatenate([background, foreground])
        probabilities = stacked / stacked.sum(axis=0, keepdims=True)
    partial = file.with_name(f".partial_{file.name}")
    np.savez_compressed(partial, probabilities=probabilities.astype(np.float32))
    partial.replace(file)


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    first, second, third = values
    return first, second, third
