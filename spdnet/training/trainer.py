"""The trainer: runs the two stages on one fold, keeps checkpoints, and validates the held-out cases.

It owns the order of things and what is on disk; what happens within an epoch is the stages' business.
A variant is a subclass that changes one thing, most often a setting (`adapt_settings`).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from spdnet.dataset import Labels, get_reader, load_or_create_splits
from spdnet.errors import DatasetError, ModelError
from spdnet.evaluation import nnunet_summary, write_summary_json
from spdnet.files import write_json
from spdnet.inference.export import export_prediction
from spdnet.inference.volume import predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.network.checkpoint import read_checkpoint, write_checkpoint
from spdnet.network.precision import place
from spdnet.paths import FINGERPRINT_FILE, model_folder, preprocessed_root
from spdnet.planning import SPDPlans, SPDSettings, StoredCase
from spdnet.planning.plans import input_difference
from spdnet.training.log import EpochRecord, TrainingLog
from spdnet.training.prompt_source import validation_prompts
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.saliency_stage import SaliencyStage
from spdnet.training.stages import Stage

FINAL, BEST, LATEST = "checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth"
SMOOTHING = 0.9  # of the validation Dice, nnU-Net's


class SPDTrainer:
    """Trains SPD on one fold of a data set.

    Args:
        plans: content of a plans file.
        configuration: "2d", the only one there is.
        fold: 0 and up, or "all".
        dataset_json: content of dataset.json.
        device: where to train.
        seed: of everything random.
        keep_embeddings: keep what stage 2 encodes in the data set's preprocessed folder, for other trainings on the
            same stage 1, and use what is there.

    Attributes:
        plans: the plans, with what this trainer changes in them.
        output_folder: `nnUNet_results/Dataset/Trainer__Plans__2d/fold_X`.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device,
        seed: int = 0,
        keep_embeddings: bool = False,
    ) -> None:
        loaded = SPDPlans.from_dict(plans)
        settings = self.adapt_settings(loaded.settings)
        self.plans = dataclasses.replace(loaded, settings=settings)
        self.configuration = configuration
        self.fold = fold
        self.dataset_json = dataset_json
        self.labels = Labels.from_dataset_json(dataset_json)
        self.device = device
        self.seed = seed
        self.keep_embeddings = keep_embeddings
        self.stage_number = 1
        self.current_epoch = 0
        self.best_smoothed_dice: float | None = None
        self.smoothed_dice: float | None = None
        self._resume_state: dict[str, Any] | None = None
        self.network: SPDNetwork

    @staticmethod
    def adapt_settings(settings: SPDSettings) -> SPDSettings:
        """What this trainer changes in the plans; a variant's place to differ. The result is stored with the model."""
        return settings

    @property
    def settings(self) -> SPDSettings:
        """spdnet's part of the plans."""
        return self.plans.settings

    @property
    def preprocessed_folder(self) -> Path:
        """Folder of the data set in nnUNet_preprocessed."""
        return preprocessed_root() / self.plans.dataset_name

    @property
    def model_folder(self) -> Path:
        """Folder of this trainer and plans in nnUNet_results."""
        return model_folder(self.plans.dataset_name, type(self).__name__, self.plans.plans_name)

    @property
    def output_folder(self) -> Path:
        """Folder of the fold."""
        return self.model_folder / f"fold_{self.fold}"

    def initialize(self) -> None:
        """Split the cases and build the network; nothing is written into nnUNet_results yet.

        Raises:
            DatasetError: cases are not preprocessed, or for another input size. ModelError: SAM's weights cannot
                be had.
        """
        data_folder = self.preprocessed_folder / self.plans.data_identifier
        case_ids = StoredCase.list(data_folder)
        if not case_ids:
            raise DatasetError(f"{data_folder} holds no preprocessed cases; run spd_plan_and_preprocess first")
        self.train_cases, self.val_cases = self.do_split(data_folder, case_ids)
        self._check_input_size()
        self.network = self.build_network()
        place(self.network, self.device)
        self.log = TrainingLog(self.output_folder)

    def do_split(self, data_folder: Path, case_ids: list[str]) -> tuple[list[StoredCase], list[StoredCase]]:
        """Training and validation cases of the fold."""
        split = load_or_create_splits(self.preprocessed_folder / "splits_final.json", case_ids, self.fold)
        train, val = ([StoredCase(data_folder, c) for c in cases] for cases in (split.train, split.val))
        return train, val

    def build_network(self) -> SPDNetwork:
        """The network of the plans, with SAM's published weights; new layers drawn from the seed."""
        s = self.settings
        torch.manual_seed(self.seed)
        n_channels = len(s.normalization)
        return build_network(
            s.backbone, n_channels, len(self.labels), s.image_size, s.lora.rank, s.lora.alpha, s.lora.dropout
        )

    def build_stage(self, number: int) -> Stage:
        """Stage 1 or 2 on the current network."""
        arguments = (self.network, self.settings, self.train_cases, self.val_cases, self.device, self.seed)
        if number == 1:
            return SaliencyStage(*arguments)
        cache = self.preprocessed_folder if self.keep_embeddings else self.output_folder
        return PromptStage(*arguments, cache, self.keep_embeddings)

    def run_training(self) -> None:
        """Write plans and dataset.json beside the fold, run what is left of both stages, write the final checkpoint."""
        self._write_model_files()
        self.print_to_log_file(
            f"{type(self).__name__} on {self.plans.dataset_name}, fold {self.fold}: {len(self.train_cases)} training "
            f"and {len(self.val_cases)} validation cases, {self.settings.backbone} at {self.settings.image_size} px on "
            f"{self.device}, seed {self.seed}"
        )
        resumed = self._resume_state
        for number in range(self.stage_number, 3):
            stage = self.build_stage(number)
            if self.current_epoch < stage.stage_settings.epochs:
                self._run_stage(stage, resumed)
            resumed = None
            self.stage_number, self.current_epoch = number + 1, 0
            self.smoothed_dice = None
        self.save_checkpoint(FINAL)
        (self.output_folder / LATEST).unlink(missing_ok=True)
        self.print_to_log_file(f"training done: {self.output_folder / FINAL}")

    def _run_stage(self, stage: Stage, resumed: dict[str, Any] | None) -> None:
        epochs = stage.stage_settings.epochs
        self.print_to_log_file(f"{stage.name}: epochs {self.current_epoch} to {epochs - 1}")
        try:
            stage.prepare()
            if resumed is not None:
                stage.load_state(resumed)
            while self.current_epoch < epochs:
                self._run_epoch(stage)
        finally:
            stage.finish()

    def _run_epoch(self, stage: Stage) -> None:
        start, epoch = time.perf_counter(), self.current_epoch
        learning_rate = stage.set_learning_rate(epoch)
        train_loss = stage.train_epoch(epoch)
        result = stage.validate() if self.val_cases else None
        stage.after_epoch(result.loss if result is not None else train_loss)
        if result is not None:
            previous = self.smoothed_dice
            self.smoothed_dice = (
                result.mean_dice if previous is None else SMOOTHING * previous + (1 - SMOOTHING) * result.mean_dice
            )
        record = EpochRecord(
            stage.number,
            epoch,
            train_loss,
            result.loss if result is not None else None,
            result.dice if result is not None else [],
            self.smoothed_dice,
            learning_rate,
            time.perf_counter() - start,
        )
        self.log.add(record, self.labels.names)
        self.current_epoch = epoch + 1
        if stage.number == 2 and self.smoothed_dice is not None:
            self._keep_best(self.smoothed_dice)
        self.save_checkpoint(LATEST, stage)

    def _keep_best(self, smoothed_dice: float) -> None:
        if self.best_smoothed_dice is None or smoothed_dice > self.best_smoothed_dice:
            self.best_smoothed_dice = smoothed_dice
            self.save_checkpoint(BEST)
            self.print_to_log_file(f"best smoothed Dice so far: {smoothed_dice:.4f}")

    def save_checkpoint(self, filename: str, stage: Stage | None = None) -> None:
        """Write a checkpoint into the fold's folder; with `stage`, one that training can go on from."""
        write_checkpoint(
            self.output_folder / filename,
            {
                "network_weights": self.network.own_state(),
                "stage_state": stage.state() if stage is not None else None,
                "stage_number": self.stage_number,
                "current_epoch": self.current_epoch,
                "smoothed_dice": self.smoothed_dice,
                "_best_ema": self.best_smoothed_dice,
                "logging": self.log.state(),
                "init_args": {"configuration": self.configuration, "fold": self.fold, "seed": self.seed},
                "trainer_name": type(self).__name__,
                "backbone": self.settings.backbone,
                "settings": dataclasses.asdict(self.settings),
                "inference_allowed_mirroring_axes": None,
            },
        )

    def load_checkpoint(self, file: Path) -> None:
        """Continue from a checkpoint of this training, after `initialize`.

        Raises:
            ModelError: the checkpoint is missing, damaged, or belongs to other plans or another trainer.
        """
        content = read_checkpoint(file)
        self._check_belongs(content, file)
        self.load_weights(content["network_weights"], file)
        self.stage_number = content["stage_number"]
        self.current_epoch = content["current_epoch"]
        self.smoothed_dice = content["smoothed_dice"]
        self.best_smoothed_dice = content["_best_ema"]
        self.log.load_state(content["logging"])
        self._resume_state = content["stage_state"]

    def load_weights(self, weights: dict[str, torch.Tensor], source: Path) -> None:
        """Load weights into the network.

        Raises:
            ModelError: they are of another network.
        """
        try:
            self.network.load_own_state(weights)
        except (KeyError, ValueError) as error:
            raise ModelError(f"{source} does not fit the plans of this training: {error}") from error

    def start_from_stage1(self, file: Path) -> None:
        """Take LoRA and saliency head from another training's checkpoint and go straight to stage 2.

        Raises:
            ModelError: the checkpoint is missing, or of another network or input.
        """
        own = self.network.own_state()
        content = read_checkpoint(file)
        given = content["network_weights"]
        stage1 = self.network.stage1_parameters()
        missing = [name for name in stage1 if name not in given]
        if missing:
            raise ModelError(f"{file} lacks {missing[0]} and {len(missing) - 1} more weights of stage 1")
        self.load_weights({**own, **{name: given[name] for name in stage1}}, file)
        self._check_plans(content, file)
        self.stage_number, self.current_epoch = 2, 0
        self.print_to_log_file(f"stage 1 taken from {file}")

    def perform_actual_validation(self) -> dict[str, Any] | None:
        """Predict the held-out cases like nnU-Net: `validation/` with predictions and summary.json.

        Returns:
            The summary, or None if the fold holds no case out.
        """
        if not self.val_cases:
            self.print_to_log_file(f"fold {self.fold} holds no case out: nothing to validate")
            return None
        folder = self.output_folder / "validation"
        folder.mkdir(exist_ok=True)
        ending = self.dataset_json["file_ending"]
        reader = get_reader(self.plans.image_reader_writer)
        self.network.eval()
        pairs = []
        for case in self.val_cases:
            prompts = validation_prompts(case, self.settings.prompts)
            s = self.settings
            prediction = predict_volume(
                self.network, case.slices, prompts, s.distillation, s.stage1.batch_size, self.device
            )
            file = folder / f"{case.case}{ending}"
            export_prediction(prediction.probabilities, case.mapping, case.geometry, self.labels, reader, file)
            pairs.append((self.preprocessed_folder / "gt_segmentations" / file.name, file))
        summary = nnunet_summary(pairs, reader, self.labels)
        write_summary_json(folder / "summary.json", summary)
        self.print_to_log_file(f"validation: mean Dice {summary['foreground_mean']['Dice']:.4f}; {folder}")
        return summary

    def print_to_log_file(self, text: str) -> None:
        """One line to the screen and the log file."""
        self.log.write(text)

    def _check_belongs(self, content: dict[str, Any], file: Path) -> None:
        if content["trainer_name"] != type(self).__name__:
            raise ModelError(
                f"{file} was written by {content['trainer_name']}, not {type(self).__name__}; choose it with -tr"
            )
        self._check_plans(content, file)

    def _check_plans(self, content: dict[str, Any], file: Path) -> None:
        if content["backbone"] != self.settings.backbone:
            raise ModelError(
                f"{file} is a model on {content['backbone']}, the plans are for {self.settings.backbone}: plans "
                "and checkpoint do not belong together. Train anew, or restore the plans it was trained with."
            )
        if difference := input_difference(content.get("settings"), self.settings):
            raise ModelError(
                f"{file} was trained with other plans: {difference}. Train anew, or restore the plans it was trained "
                "with."
            )

    def _check_input_size(self) -> None:
        for case in (*self.train_cases, *self.val_cases):
            size = case.mapping.image_size
            if size != self.settings.image_size:
                raise DatasetError(
                    f"case {case.case} is preprocessed for {size} px, {self.plans.plans_name} says "
                    f"{self.settings.image_size}; run spd_preprocess"
                )

    def _write_model_files(self) -> None:
        self.output_folder.mkdir(parents=True, exist_ok=True)
        write_json(self.model_folder / "plans.json", self.plans.to_dict())
        write_json(self.model_folder / "dataset.json", self.dataset_json)
        fingerprint = self.preprocessed_folder / FINGERPRINT_FILE
        if fingerprint.exists():
            (self.model_folder / FINGERPRINT_FILE).write_bytes(fingerprint.read_bytes())


def resume_checkpoint(output_folder: Path) -> Path | None:
    """The checkpoint that `--c` continues: final, else latest, else best, as nnU-Net; None if there is none."""
    for name in (FINAL, LATEST, BEST):
        if (output_folder / name).exists():
            return output_folder / name
    return None
