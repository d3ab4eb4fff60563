"""The predictor: trained networks on images, as files or arrays, back on the images' own grid.

Its methods have the names and arguments of nnU-Net's `nnUNetPredictor`, and prompts as further keywords. What nnU-Net
has and this does not, and what has other arguments or defaults, is listed in docs/python_api.md: sliding windows, a
previous stage, the data iterators, and `predict_logits_from_preprocessed_data` (there are no logits over the classes
where nothing is decoded; `predict_network_case` is the nearest thing).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spdnet.dataset import CaseFiles, Labels, ReaderWriter, get_reader
from spdnet.errors import ConfigurationError, ModelError, SPDError
from spdnet.files import make_folder, write_json
from spdnet.geometry import ImageGeometry
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.inference.class_rules import Rules
from spdnet.inference.earlier import EARLIER_FOLDER, earlier_prediction, remove_folder_if_done, set_aside
from spdnet.inference.export import probabilities_on_raw_grid
from spdnet.inference.mirroring import predict_mirrored
from spdnet.inference.model_folder import ModelFolder
from spdnet.inference.origin import ORIGIN_FILE, check_continues, is_alike, write_origin
from spdnet.inference.pipeline import Workers, run_pipeline
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.steps import (
    ArrayCase,
    CaseResult,
    CaseTools,
    NetworkResult,
    PreparedCase,
    array_case,
    array_prompts,
    finish_case,
    network_prompts,
    prepare_case,
)
from spdnet.inference.volume import VolumePrediction
from spdnet.inference.work_list import (
    FileCase,
    Outputs,
    PathLike,
    Prompts,
    Source,
    check_descriptions,
    check_prompts,
    check_prompts_stay,
    check_some_can_be_predicted,
    check_truncated,
    folders_of,
    list_cases,
    part_of,
    unfinished,
)
from spdnet.network import SPDNetwork
from spdnet.network.precision import compute_dtype, get_device, place
from spdnet.network.prediction_form import optimize_for_prediction
from spdnet.planning import NetworkCase, SPDPlans, SPDSettings
from spdnet.prompts import PromptReading, SlicePrompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CasePrediction:
    """A predicted case.

    Attributes:
        segmentation: uint8 or uint16 (z, y, x) on the image's grid, in stored order.
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
        tile_step_size, use_gaussian, perform_everything_on_device: nnU-Net's, without effect: the network sees whole
            slices, one batch of them is on the device at a time.
        use_mirroring: average over mirrored copies, along the axes that the training allows. nnU-Net's default is True;
            here it cost accuracy where it was measured.
        device: "cuda", "cpu", a `torch.device`, ...; None for CUDA where present, else the CPU.
        verbose: log a line per case when the network is done with it.
        verbose_preprocessing: log a line per case about its network frame.
        allow_tqdm: show progress bars.
        batch_size: slices per encoder pass; None for the training's.
        prompt_reading: what to assume of prompt files that do not say it themselves.

    Attributes:
        plans, dataset_json: of the model. label_manager: its classes, as `labels`.
        networks: one per fold. network: the first of them.
        trainer_name: of the training. allowed_mirroring_axes: 0 rows, 1 columns of a slice; None for no mirroring.
    """

    def __init__(
        self,
        tile_step_size: float = 0.5,
        use_gaussian: bool = True,
        use_mirroring: bool = False,
        perform_everything_on_device: bool = True,
        device: torch.device | str | None = None,
        verbose: bool = False,
        verbose_preprocessing: bool = False,
        allow_tqdm: bool = True,
        batch_size: int | None = None,
        prompt_reading: PromptReading = PromptReading(),
    ) -> None:
        self.tile_step_size = tile_step_size
        self.use_gaussian = use_gaussian
        self.use_mirroring = use_mirroring
        self.perform_everything_on_device = perform_everything_on_device
        self.device = device
        self.verbose = verbose
        self.verbose_preprocessing = verbose_preprocessing
        self.allow_tqdm = allow_tqdm
        self.batch_size = batch_size
        self.prompt_reading = prompt_reading
        self.networks: list[SPDNetwork] = []
        self.trainer_name = ""
        self.allowed_mirroring_axes: tuple[int, ...] | None = None
        self.plans: SPDPlans
        self.labels: Labels
        self.reader: ReaderWriter
        self.dataset_json: dict[str, Any]
        self._model_origin: dict[str, Any] = {}
        self._has_saliency: bool | None = None

    @property
    def network(self) -> SPDNetwork:
        """The network of the first fold."""
        self._settings()
        return self.networks[0]

    @property
    def label_manager(self) -> Labels:
        """The classes, under nnU-Net's name."""
        return self.labels

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: PathLike,
        use_folds: Sequence[int | str] | int | str | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load the networks of a model folder.

        Args:
            model_training_output_dir: `nnUNet_results/Dataset/Trainer__Plans__2d`.
            use_folds: fold, or folds to average; None for all numbered ones, else "all".
            checkpoint_name: which checkpoint of each fold.

        Raises:
            ModelError, DatasetError: the folder is not a complete trained model.
            ConfigurationError: the device is not there.
        """
        folder = ModelFolder(Path(model_training_output_dir))
        plans, dataset_json = folder.plans(), folder.dataset_json()
        given = [use_folds] if isinstance(use_folds, int | str) else use_folds
        folds = folder.choose_folds([str(f) for f in given] if given is not None else None, checkpoint_name)
        facts = [folder.training_facts(fold, checkpoint_name) for fold in folds]
        device = self._get_device()
        networks = folder.load_networks(folds, checkpoint_name, device)
        for network in networks:
            optimize_for_prediction(network, compute_dtype(device))
        self.manual_initialization(networks, plans, dataset_json, facts[0].trainer_name, facts[0].mirroring_axes)
        self._model_origin = {"model": folder.path, "folds": folds, "checkpoint": checkpoint_name}
        self._has_saliency = all(f.has_saliency for f in facts)

    def manual_initialization(
        self,
        network: SPDNetwork | Sequence[SPDNetwork],
        plans: SPDPlans,
        dataset_json: dict[str, Any],
        trainer_name: str,
        inference_allowed_mirroring_axes: Sequence[int] | None,
    ) -> None:
        """Use networks that are in memory.

        Differs from nnU-Net's: `plans` replace its two managers, and instead of one network with a list of parameters
        it takes one network for each fold.

        Args:
            network: one, or one per fold to average; moved to the device and put in evaluation mode.
            plans: with which they were trained.
            dataset_json: content of dataset.json.
            trainer_name: of the training.
            inference_allowed_mirroring_axes: in-plane axes, 0 rows and 1 columns, or None for no mirroring.

        Raises:
            DatasetError: `dataset_json` or the plans' reader is not what it must be.
            ConfigurationError: the device is not there.
        """
        device = self._get_device()
        networks = [network] if isinstance(network, SPDNetwork) else list(network)
        self.labels = Labels.from_dataset_json(dataset_json)
        self.reader = get_reader(plans.image_reader_writer)
        for each in networks:
            place(each, device)
            each.eval()
        self.plans, self.dataset_json, self.trainer_name = plans, dataset_json, trainer_name
        self.allowed_mirroring_axes = (
            tuple(inference_allowed_mirroring_axes) if inference_allowed_mirroring_axes else None
        )
        self.device, self.networks = device, networks
        self._model_origin = {"model": "in memory"}
        self._has_saliency = None

    # ---- files --------------------------------------------------------------------------------------------

    def predict_from_files(
        self,
        list_of_lists_or_source_folder: Source,
        output_folder_or_list_of_truncated_output_files: Outputs,
        save_probabilities: bool = False,
        overwrite: bool = True,
        num_processes_preprocessing: int | None = None,
        num_processes_segmentation_export: int | None = None,
        folder_with_segs_from_prev_stage: None = None,
        num_parts: int = 1,
        part_id: int = 0,
        prompts: Prompts = None,
        save_prompts: bool = False,
        save_saliency: bool = False,
    ) -> list[CaseResult]:
        """Segment many cases; reading and writing run beside the network if there are processes for them.

        Args:
            list_of_lists_or_source_folder: folder of images named as nnU-Net names them, or one list of image files
                per case.
            output_folder_or_list_of_truncated_output_files: folder that gets `{case}{file_ending}`, dataset.json,
                plans.json and the arguments of this call; or one path without file ending per case, whose folders get
                the same; or None to return the segmentations.
            save_probabilities: also write nnU-Net's `{case}.npz` and `{case}.pkl`, or return the probabilities.
            overwrite: False skips the cases whose files are all there. Earlier predictions of the others are moved to
                `earlier_predictions/` until there are new ones (see `earlier`).
            num_processes_preprocessing, num_processes_segmentation_export: processes that read and that write; 0 is
                this process. None: nnUNet_npp and nnUNet_nps, else 3 on CUDA and a thread elsewhere (`Workers.choose`).
            folder_with_segs_from_prev_stage: nnU-Net's; must stay None.
            num_parts, part_id: predict every `num_parts`-th case only, starting with the `part_id`-th.
            prompts: folder with a prompt file for each case; or one file, or None, for each case in the order of the
                images. Without prompts a case is predicted as the plans say (`without_prompts`).
            save_prompts: also write what became of every point, `prompts/{case}.mrk.json` and `.csv` (see
                `prompt_report`); of several folds, as the first one judges it.
            save_saliency: also write the saliency of the first fold, `saliency/{case}_0000` and so on (see
                `saliency_files`).

        Returns:
            For each case None if it was written, else its segmentation (z, y, x) or, with `save_probabilities`,
            segmentation and probabilities (K, z, y, x), in the order of nnU-Net's reader. Cases that were skipped
            are not in the list.

        Raises:
            DatasetError, PromptFileError: images or prompts of some cases are missing or wrong; the others have been
                predicted. If no case can be predicted this is found before any work starts.
            ConfigurationError, ModelError: arguments that contradict each other, prompts missing that this model
                needs, an output that is an input or would replace what no prediction has written, or with `overwrite`
                False a folder of predictions that were made otherwise.
            StorageError: an output folder cannot be written to.
        """
        arguments = {k: v for k, v in locals().items() if k != "self"}
        _refuse_previous_stage(folder_with_segs_from_prev_stage)
        own = {"use_mirroring": self.use_mirroring, **asdict(self.prompt_reading)}
        origin = _plain({**arguments, **self._model_origin, **own})
        workers = Workers.choose(num_processes_preprocessing, num_processes_segmentation_export, self._on_device())
        listed, cases = self._cases_to_predict(
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            prompts,
            save_probabilities,
            overwrite,
            num_parts,
            part_id,
            origin,
        )
        self._check_can_judge(save_prompts)
        if save_prompts:
            check_prompts_stay(cases)
        self._make_room(listed, cases, origin)
        return self._run(cases, workers, save_probabilities, save_prompts, save_saliency)

    def predict_from_files_sequential(
        self,
        list_of_lists_or_source_folder: Source,
        output_folder_or_list_of_truncated_output_files: Outputs,
        save_probabilities: bool = False,
        overwrite: bool = True,
        folder_with_segs_from_prev_stage: None = None,
        prompts: Prompts = None,
    ) -> list[CaseResult]:
        """`predict_from_files` in this process only, whatever the device and the environment."""
        return self.predict_from_files(
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            save_probabilities,
            overwrite,
            num_processes_preprocessing=0,
            num_processes_segmentation_export=0,
            folder_with_segs_from_prev_stage=folder_with_segs_from_prev_stage,
            prompts=prompts,
        )

    def predict_case(self, case: CaseFiles) -> tuple[CasePrediction, ImageGeometry]:
        """Segment one case from its files; without a prompt file, as the plans say.

        Raises:
            DatasetError, PromptFileError: a file is not what it must be.
        """
        prepared = prepare_case(FileCase(case, None), self._tools())
        return self.predict_network_case(prepared.network_case, prepared.prompts), prepared.network_case.geometry

    # ---- arrays -------------------------------------------------------------------------------------------

    def predict_single_npy_array(
        self,
        input_image: np.ndarray,
        image_properties: dict[str, Any],
        segmentation_previous_stage: None = None,
        output_file_truncated: PathLike | None = None,
        save_or_return_probabilities: bool = False,
        *,
        points_zyx: np.ndarray | None = None,
        class_index: np.ndarray | None = None,
        boxes_zyx: np.ndarray | None = None,
        box_class_index: np.ndarray | None = None,
    ) -> CaseResult:
        """Segment one volume.

        Args:
            input_image: (c, z, y, x), intensities as in the training files, axes as nnU-Net's reader of the plans
                (`image_reader_writer`) gives them.
            image_properties: that reader's properties. "spacing" (z, y, x) in mm is enough for images whose axes are
                the patient's; others need its geometry too ("sitk_stuff", "nibabel_stuff"), or the model sees them
                turned.
            segmentation_previous_stage: nnU-Net's; must stay None.
            output_file_truncated: where to write the prediction, without file ending; None to return it.
            save_or_return_probabilities: also write, or return, nnU-Net's probabilities.
            points_zyx: (N, 3) noisy points as continuous voxel indices z, y, x into the image as given.
            class_index: (N,) which foreground class (from 0) each point speaks for, -1 for all; default all.
            boxes_zyx: (B, 2, 3) opposite corners of coarse boxes, likewise (voxel centres are integers). With neither
                points nor boxes the case is predicted as the plans say (`without_prompts`).
            box_class_index: (B,) which class each box speaks for; default all.

        Returns:
            Segmentation (z, y, x) in the order of the input; if asked also probabilities float32 (K, z, y, x), with
            the background first unless the classes are regions. None if it was written.

        Raises:
            PromptFileError: a point or a box lies outside the image, or a box is a line or a dot in the slices.
            DatasetError: wrong number of channels.
        """
        previous = [segmentation_previous_stage] if segmentation_previous_stage is not None else None
        (result,) = self.predict_from_list_of_npy_arrays(
            [input_image],
            previous,  # type: ignore[arg-type]
            [image_properties],
            [output_file_truncated] if output_file_truncated is not None else None,
            0,
            save_or_return_probabilities,
            0,
            points_zyx=[points_zyx],
            class_index=[class_index],
            boxes_zyx=[boxes_zyx],
            box_class_index=[box_class_index],
        )
        return result

    def predict_from_list_of_npy_arrays(
        self,
        image_or_list_of_images: np.ndarray | Sequence[np.ndarray],
        segs_from_prev_stage_or_list_of_segs_from_prev_stage: None,
        properties_or_list_of_properties: dict[str, Any] | Sequence[dict[str, Any]],
        truncated_ofname: PathLike | Sequence[PathLike] | None,
        num_processes: int | None = None,
        save_probabilities: bool = False,
        num_processes_segmentation_export: int | None = None,
        *,
        points_zyx: Sequence[np.ndarray | None] | None = None,
        class_index: Sequence[np.ndarray | None] | None = None,
        boxes_zyx: Sequence[np.ndarray | None] | None = None,
        box_class_index: Sequence[np.ndarray | None] | None = None,
    ) -> list[CaseResult]:
        """`predict_single_npy_array` for many volumes, all arguments as lists, in processes as `predict_from_files`.

        Raises:
            ConfigurationError: lists of different lengths. Otherwise as `predict_single_npy_array`.
        """
        _refuse_previous_stage(segs_from_prev_stage_or_list_of_segs_from_prev_stage)
        tools = self._tools()
        workers = Workers.choose(num_processes, num_processes_segmentation_export, self._on_device())
        images = _as_list(image_or_list_of_images, np.ndarray)
        columns = {
            "images": images,
            "properties": _as_list(properties_or_list_of_properties, dict),
            "points_zyx": points_zyx or [None] * len(images),
            "class_index": class_index or [None] * len(images),
            "boxes_zyx": boxes_zyx or [None] * len(images),
            "box_class_index": box_class_index or [None] * len(images),
            "outputs": [None] * len(images) if truncated_ofname is None else _as_list(truncated_ofname, (str, Path)),
        }
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ConfigurationError(f"one of each is needed for every image; there are {lengths}")
        cases = []
        for i, (image, properties, *prompt_columns, output) in enumerate(zip(*columns.values(), strict=True)):
            points, classes, boxes, box_classes = prompt_columns
            target = check_truncated(output, tools.file_ending) if output is not None else None
            name = target.name if target is not None else f"array {i}"
            prompts = array_prompts(points, classes, boxes, box_classes, tools.labels)
            cases.append(array_case(image, properties, prompts, target, tools, name))
        self._check_prior_suffices([c.case for c in cases if c.prompts is None])
        for case in cases:
            if case.target is not None:
                make_folder(case.target.parent)
        return self._run(cases, workers, save_probabilities)

    # ---- one case in the network frame --------------------------------------------------------------------

    def predict_network_case(self, network_case: NetworkCase, prompts: SlicePrompts | None) -> CasePrediction:
        """Segment a preprocessed case with points in its network frame, or None to do without."""
        volumes = self._predict_volumes(network_case, prompts)
        mean = _mean_probabilities(volumes)
        probabilities = probabilities_on_raw_grid(mean, network_case.mapping)
        return CasePrediction(self.labels.merge(probabilities), probabilities, network_case, volumes)

    def network_prompts(self, case: CaseFiles, network_case: NetworkCase) -> SlicePrompts:
        """The points of a case's prompt file in its network frame; raises `PromptFileError`."""
        return network_prompts(case, network_case, self.labels, self.prompt_reading)

    def _predict_volumes(self, network_case: NetworkCase, prompts: SlicePrompts | None) -> list[VolumePrediction]:
        """What each fold's network makes of a case."""
        settings, device = self._settings(), self._on_device()
        if prompts is None:
            self._check_prior_suffices(["array"])
        batch_size = self.batch_size or settings.stage1.batch_size
        axes = self.allowed_mirroring_axes if self.use_mirroring else None
        content = network_case.mapping.content_share
        return [
            predict_mirrored(n, network_case.slices, prompts, settings.distillation, batch_size, device, axes, content)
            for n in self.networks
        ]

    def _compute(self, prepared: PreparedCase, judge: bool = False, keep_saliency: bool = False) -> NetworkResult:
        """The pipeline's middle step; running out of GPU memory is an error of the case."""
        network_case, prompts = prepared.network_case, prepared.prompts
        if self.verbose_preprocessing:
            logger.info("case %s: %s", prepared.case, network_case.mapping)
        try:
            volumes = self._predict_volumes(network_case, prompts)
        except torch.cuda.OutOfMemoryError as error:
            raise SPDError(
                f"case {prepared.case}: not even a single slice fits into the GPU's memory; free the GPU, or use "
                "-device cpu"
            ) from error
        if self.verbose:
            what = f"{len(prompts)} points, {len(prompts.boxes)} boxes" if prompts is not None else "no prompts"
            logger.info("case %s: %d slices, %s", prepared.case, len(network_case.slices), what)
        if prompts is not None:
            self._warn_of_untrusted(prepared.case, prompts, volumes)
        mean = _mean_probabilities(volumes)
        judged = None
        if judge and prompts is not None:
            first, rules = volumes[0], Rules.of(self._settings().distillation, self.networks[0])
            judged = judge_prompts(prompts, first.saliency, rules, first.refused, prepared.given)
        saliency = volumes[0].saliency if keep_saliency else None
        mapping, geometry = network_case.mapping, network_case.geometry
        return NetworkResult(prepared.case, prepared.target, mean, mapping, geometry, judged, saliency)

    def _warn_of_untrusted(self, case: str, prompts: SlicePrompts, volumes: list[VolumePrediction]) -> None:
        n_folds = np.sum([v.untrusted for v in volumes if v.untrusted is not None], axis=0)  # for each class
        for k in np.flatnonzero(n_folds).tolist():
            own = prompts.for_class(k)
            if len(own) or len(own.boxes):
                folds = "" if n_folds[k] == len(volumes) else f" in {n_folds[k]} of {len(volumes)} folds"
                logger.warning(
                    "case %s: none of the prompts for %s can be trusted%s; predicted without them. Do they belong to "
                    "this image?",
                    *(case, self.labels.names[k], folds),
                )
        if self._settings().distillation.mode != "weighed":
            return
        for k, name in enumerate(self.labels.names):
            confirmed = [len(v.consensus[k].slice_index) > 0 for v in volumes if v.consensus is not None]
            if len(prompts.for_class(k)) and not n_folds[k] and not any(confirmed):
                logger.warning(
                    "case %s: saliency confirms none of the points for %s; the decoder weighs them all the same. Do "
                    "they belong to this image?",
                    *(case, name),
                )

    def _run(
        self,
        cases: Sequence[FileCase | ArrayCase],
        workers: Workers,
        save_probabilities: bool,
        save_prompts: bool = False,
        save_saliency: bool = False,
    ) -> list[CaseResult]:
        tools = self._tools()
        prepare = functools.partial(prepare_case, tools=tools)
        finish = functools.partial(finish_case, tools=tools, save_probabilities=save_probabilities)
        compute = functools.partial(self._compute, judge=save_prompts, keep_saliency=save_saliency)
        outcome = run_pipeline(cases, prepare, compute, finish, workers, self.allow_tqdm)
        failures = {i: _told_of_earlier(e, cases[i].target, tools.file_ending) for i, e in outcome.failures.items()}
        if not failures:
            for folder in {c.target.parent for c in cases if c.target is not None}:
                remove_folder_if_done(folder)
        replace(outcome, failures=failures).check()
        return outcome.results

    def _cases_to_predict(
        self,
        source: Source,
        outputs: Outputs,
        prompts: Prompts,
        save_probabilities: bool,
        overwrite: bool,
        num_parts: int,
        part_id: int,
        origin: dict[str, Any],
    ) -> tuple[list[FileCase], list[FileCase]]:
        """All cases of the source, and those of this call, checked."""
        tools = self._tools()
        listed = list_cases(source, outputs, prompts, tools.file_ending, len(tools.settings.normalization))
        cases = part_of(listed, num_parts, part_id)
        if num_parts > 1:
            logger.info("part %d of %d: %d of %d cases", part_id, num_parts, len(cases), len(listed))
        if not overwrite:
            for folder in folders_of(cases):
                check_continues(folder, origin)
            left = unfinished(cases, tools.file_ending, save_probabilities)
            logger.info("%d of %d cases are complete and skipped", len(cases) - len(left), len(cases))
            cases = left
        for folder in folders_of(cases):
            check_descriptions(folder, self._descriptions())
        self._check_prior_suffices([c.case for c in cases if c.files.prompts is None and c.fault is None])
        axis = axis_from_name(self._settings().slicing_axis)
        checked = check_prompts(cases, self.reader, self.labels, self.prompt_reading, self.allow_tqdm, axis)
        check_some_can_be_predicted(checked)
        return listed, checked

    def _check_can_judge(self, save_prompts: bool) -> None:
        if save_prompts and self._settings().distillation.mode == "raw":
            raise ConfigurationError(
                f"{self.trainer_name} gives every point to the decoder as it is; there are no fates to save"
            )

    def _check_prior_suffices(self, cases_without_prompts: Sequence[str]) -> None:
        has_saliency = self._settings().stage1.epochs > 0 if self._has_saliency is None else self._has_saliency
        if cases_without_prompts and not has_saliency:
            raise ModelError(
                "this model was trained without stage 1: it has no saliency prior and needs prompts, which "
                f"{len(cases_without_prompts)} cases lack: {', '.join(cases_without_prompts[:5])}"
            )

    def _make_room(self, listed: Sequence[FileCase], cases: Sequence[FileCase], origin: dict[str, Any]) -> None:
        """Set earlier predictions of the cases aside, then write what nnU-Net's tools need beside predictions.

        Where a folder's predictions were made otherwise, those of all listed cases go, also of the parts of other
        calls. The record of how predictions are made follows: what was not set aside is never taken for a new one.
        """
        folders = folders_of(cases)
        again = {f for f in folders if (f / ORIGIN_FILE).is_file()}
        anew = {f for f in again if not is_alike(f, origin)}
        targets = [c.target for c in cases if c.target is not None]
        own = set(targets)
        of_others = [c.target for c in listed if c.target and c.target.parent in anew and c.target not in own]
        inputs = [f for c in listed for f in self._files_read(c.files)]
        ending = self._tools().file_ending
        set_aside([t for t in targets if t.parent in again], ending, inputs)
        if n_others := set_aside(of_others, ending, inputs):
            logger.warning(
                "%d predictions that this call does not replace were moved to %s, as they were made otherwise than the "
                "new ones: run their part of the cases again, with the same options as this one",
                n_others,
                ", ".join(str(f / EARLIER_FOLDER) for f in anew),
            )
        for folder in folders:
            make_folder(folder)
            write_origin(folder, origin, [t.name for t in targets if t.parent == folder])
            for name, content in self._descriptions().items():
                write_json(folder / name, content)

    def _files_read(self, files: CaseFiles) -> list[Path]:
        """The files that a case is read from."""
        of_images = [self.reader.image_side_file(image) for image in files.images]
        return [f for f in (*files.images, *of_images, files.prompts) if f is not None]

    def _descriptions(self) -> dict[str, Any]:
        """What the model and its data set are, as files beside predictions."""
        return {"dataset.json": self.dataset_json, "plans.json": self.plans.to_dict()}

    def _settings(self) -> SPDSettings:
        if not self.networks:
            raise ConfigurationError("no model is loaded; call initialize_from_trained_model_folder first")
        return self.plans.settings

    def _tools(self) -> CaseTools:
        settings = self._settings()
        ending = str(self.dataset_json["file_ending"])
        return CaseTools(settings, self.labels, self.reader, ending, self.prompt_reading)

    def _get_device(self) -> torch.device:
        return get_device(str(self.device) if self.device is not None else None)

    def _on_device(self) -> torch.device:
        self._settings()
        assert isinstance(self.device, torch.device)
        return self.device


def _mean_probabilities(volumes: list[VolumePrediction]) -> np.ndarray:
    return np.mean([v.probabilities for v in volumes], axis=0)


def _told_of_earlier(error: SPDError, target: Path | None, file_ending: str) -> SPDError:
    """The error of a case, with word of where its earlier prediction is, if there is one."""
    earlier = earlier_prediction(target, file_ending) if target is not None else None
    if earlier is None:
        return error
    told = type(error)(f"{str(error).rstrip('.')}. The earlier prediction of this case was moved to {earlier}")
    told.__cause__ = error
    return told


def _refuse_previous_stage(given: object) -> None:
    if given is not None:
        raise ConfigurationError(
            "spdnet has no cascade: the segmentations of a previous stage must be None. Points are given by keyword, "
            "points_zyx= for arrays and prompts= for files"
        )


def _as_list(value: Any, single: type | tuple[type, ...]) -> list[Any]:
    return [value] if isinstance(value, single) else list(value)


def _plain(value: Any) -> Any:
    """Values for JSON: paths as text, absolute."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value.absolute()) if isinstance(value, Path) else value
