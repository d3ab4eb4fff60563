"""The trainer: runs the two stages on one fold, keeps checkpoints, and validates the held-out cases.

It owns the order of things, the optimiser and what is on disk; what a batch is and what it costs is the stages'
business. Names and order of the steps are nnUNetTrainer's where it has them, so that a variant overrides the same step
here as there; most variants only change a setting (`adapt_settings`).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR, ReduceLROnPlateau
from tqdm import tqdm

from spdnet.dataset import Labels, load_or_create_splits
from spdnet.errors import DatasetError, ModelError
from spdnet.network import SPDNetwork
from spdnet.network.checkpoint import BEST, FINAL, LATEST, read_checkpoint, write_checkpoint
from spdnet.network.precision import place
from spdnet.paths import model_folder, preprocessed_root
from spdnet.planning import SPDPlans, SPDSettings, StoredCase, build_planned_network
from spdnet.planning.plans import input_difference
from spdnet.training.log import EpochRecord, TrainingLog
from spdnet.training.model_files import write_debug_file, write_model_files
from spdnet.training.pretrained import load_pretrained_weights, load_stage1_weights
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.saliency_stage import SaliencyStage
from spdnet.training.scores import pseudo_dice
from spdnet.training.stages import Batches, Stage
from spdnet.training.validation import validate_cases

SMOOTHING = 0.9  # of the validation Dice, nnU-Net's
MAX_GRADIENT_NORM = 12.0  # nnU-Net's
N_STAGES = 2
# nnUNetv2_predict builds the network by the class of this name; the plans then say which network (see `architecture`)
NNUNET_TRAINER_NAME = "nnUNetTrainer"


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
        disable_checkpointing: write no checkpoints, for trials.
        stage_number, current_epoch: where the training is; epochs count from 0 in each stage.
        stage, optimizer, lr_scheduler, dataloader_train, dataloader_val: of the stage that runs.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
        seed: int = 0,
        keep_embeddings: bool = False,
    ) -> None:
        loaded = SPDPlans.from_dict(plans)
        self.plans = dataclasses.replace(loaded, settings=self.adapt_settings(loaded.settings))
        self.configuration = configuration
        self.fold = fold
        self.dataset_json = dataset_json
        self.labels = Labels.from_dataset_json(dataset_json)
        self.device = device
        self.seed = seed
        self.keep_embeddings = keep_embeddings
        self.disable_checkpointing = False
        self.stage_number = 1
        self.current_epoch = 0
        self.best_smoothed_dice: float | None = None
        self.smoothed_dice: float | None = None
        self._resume_state: dict[str, Any] | None = None
        self.network: SPDNetwork
        self.stage: Stage
        self.optimizer: torch.optim.Optimizer
        self.lr_scheduler: PolynomialLR | ReduceLROnPlateau
        self.dataloader_train: Batches
        self.dataloader_val: Batches

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

    # ---- set-up -------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Split the cases and build the network; nothing is written into nnUNet_results yet.

        Raises:
            DatasetError: cases are not preprocessed, or for another input size. ModelError: SAM's weights cannot
                be had.
        """
        self.train_cases, self.val_cases = self.get_tr_and_val_datasets()
        self._check_input_size()
        torch.manual_seed(self.seed)
        self.network = self.build_network_architecture(self.settings, len(self.labels))
        place(self.network, self.device)
        self.log = TrainingLog(self.output_folder)

    @staticmethod
    def build_network_architecture(settings: SPDSettings, n_classes: int) -> SPDNetwork:
        """The network of the plans, with SAM's published weights; new layers are drawn from torch's generator."""
        return build_planned_network(settings, n_classes)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of the fold, by identifier; fold "all" holds none out while it trains.

        Raises:
            DatasetError: no case is preprocessed, or the splits file does not fit.
        """
        folder = self.preprocessed_folder / self.plans.data_identifier
        case_ids = StoredCase.list(folder)
        if not case_ids:
            raise DatasetError(f"{folder} holds no preprocessed cases; run spd_plan_and_preprocess first")
        split = load_or_create_splits(self.preprocessed_folder / "splits_final.json", case_ids, self.fold)
        return list(split.train), list(split.val)

    def get_tr_and_val_datasets(self) -> tuple[list[StoredCase], list[StoredCase]]:
        """The preprocessed cases of `do_split`."""
        folder = self.preprocessed_folder / self.plans.data_identifier
        train, val = ([StoredCase(folder, case) for case in cases] for cases in self.do_split())
        return train, val

    def build_stage(self, number: int) -> Stage:
        """Stage 1 or 2 on the current network."""
        arguments = (self.network, self.settings, self.train_cases, self.val_cases, self.device, self.seed)
        if number == 1:
            return SaliencyStage(*arguments)
        cache = self.preprocessed_folder if self.keep_embeddings else self.output_folder
        return PromptStage(*arguments, cache, self.keep_embeddings)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolynomialLR | ReduceLROnPlateau]:
        """Optimiser and learning-rate schedule of the current stage, as the plans say."""
        s = self.stage.stage_settings
        optimizer = torch.optim.Adam(self.stage.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
        if s.scheduler == "plateau":
            return optimizer, ReduceLROnPlateau(optimizer, factor=0.5, patience=4)
        return optimizer, PolynomialLR(optimizer, total_iters=s.epochs, power=0.9)

    def get_dataloaders(self) -> tuple[Batches, Batches]:
        """Training batches of the current epoch of the current stage, and validation batches."""
        return self.stage.training_batches(self.current_epoch), self.stage.validation_batches()

    # ---- the loop -----------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Run what is left of both stages, and write the final checkpoint."""
        self.on_train_start()
        while self.stage_number <= N_STAGES:
            self.stage = self.build_stage(self.stage_number)
            if self.current_epoch < self.stage.stage_settings.epochs:
                self._run_stage()
            self.stage_number, self.current_epoch = self.stage_number + 1, 0
            self.smoothed_dice, self._resume_state = None, None
        self.on_train_end()

    def _run_stage(self) -> None:
        epochs = self.stage.stage_settings.epochs
        self.print_to_log_file(f"{self.stage.name}: epochs {self.current_epoch} to {epochs - 1}")
        try:
            self.on_stage_start()
            while self.current_epoch < epochs:
                self._run_epoch()
        finally:
            self.on_stage_end()

    def _run_epoch(self) -> None:
        self.on_epoch_start()
        self.on_train_epoch_start()
        batches = tqdm(self.dataloader_train, desc=f"epoch {self.current_epoch}", leave=False)
        self.on_train_epoch_end([self.train_step(batch) for batch in batches])
        with torch.no_grad():
            self.on_validation_epoch_start()
            self.on_validation_epoch_end([self.validation_step(batch) for batch in self.dataloader_val])
        self.on_epoch_end()

    def on_train_start(self) -> None:
        """Write plans, dataset.json and debug.json beside the fold."""
        self.output_folder.mkdir(parents=True, exist_ok=True)
        write_model_files(self.model_folder, self.plans, self.dataset_json, self.preprocessed_folder)
        training = {
            "trainer": type(self).__name__,
            "fold": self.fold,
            "seed": self.seed,
            "train_cases": [c.case for c in self.train_cases],
            "val_cases": [c.case for c in self.val_cases],
            "plans": self.plans.to_dict(),
        }
        write_debug_file(self.output_folder, self.device, training)
        self.print_to_log_file(
            f"{type(self).__name__} on {self.plans.dataset_name}, fold {self.fold}: {len(self.train_cases)} training "
            f"and {len(self.val_cases)} validation cases, {self.settings.backbone} at {self.settings.image_size} px on "
            f"{self.device}, seed {self.seed}"
        )

    def on_train_end(self) -> None:
        """Write the final checkpoint and remove the latest."""
        self.save_checkpoint(FINAL)
        (self.output_folder / LATEST).unlink(missing_ok=True)
        self.print_to_log_file(f"training done: {self.output_folder}")

    def on_stage_start(self) -> None:
        """Make the stage ready, and take up its optimiser where a resumed training left it."""
        self.stage.prepare()
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        if self._resume_state is not None:
            self.optimizer.load_state_dict(self._resume_state["optimizer"])
            self.lr_scheduler.load_state_dict(self._resume_state["lr_scheduler"])

    def on_stage_end(self) -> None:
        """Release what the stage holds, also after an error."""
        self.stage.finish()

    def on_epoch_start(self) -> None:
        """Draw the epoch's batches."""
        self._epoch_started = time.time()
        self._losses: dict[str, float | None] = {"train": None, "val": None}
        self._dice: list[float] = []
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def on_train_epoch_start(self) -> None:
        """Put the network into training mode."""
        self.network.train()

    def train_step(self, batch: Any) -> dict[str, Any]:
        """One step of the optimiser, gradients clipped; the loss stays on the device, so that nobody waits for it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.stage.training_loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.stage.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return {"loss": loss.detach()}

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Keep the mean training loss; NaN if the epoch had nothing to train on."""
        losses = [output["loss"] for output in train_outputs]
        self._losses["train"] = float(torch.stack(losses).mean()) if losses else float("nan")

    def on_validation_epoch_start(self) -> None:
        """Put the network into evaluation mode."""
        self.network.eval()

    def validation_step(self, batch: Any) -> dict[str, Any]:
        """Loss and pixel counts of one validation batch."""
        return self.stage.validation_scores(batch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Keep mean loss and pseudo Dice, and smooth the Dice as nnU-Net does; nothing without validation cases."""
        if not val_outputs:
            return
        self._losses["val"] = float(np.mean([output["loss"] for output in val_outputs]))
        self._dice = pseudo_dice(val_outputs)
        mean = float(np.nanmean(self._dice)) if not np.isnan(self._dice).all() else 0.0
        previous = self.smoothed_dice
        self.smoothed_dice = mean if previous is None else SMOOTHING * previous + (1 - SMOOTHING) * mean

    def on_epoch_end(self) -> None:
        """Log the epoch, step the schedule, and write checkpoints: the latest, and the best of stage 2."""
        train_loss, val_loss = self._losses["train"], self._losses["val"]
        assert train_loss is not None
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(train_loss if val_loss is None else val_loss)
        else:
            self.lr_scheduler.step()
        record = EpochRecord(
            self.stage_number,
            self.current_epoch,
            train_loss,
            val_loss,
            self._dice,
            self.smoothed_dice,
            learning_rate,
            self._epoch_started,
            time.time(),
        )
        self.log.add(record, self.labels.names)
        self.current_epoch += 1
        if self.stage_number == N_STAGES and self.smoothed_dice is not None:
            self._keep_best(self.smoothed_dice)
        self.save_checkpoint(LATEST)

    def _keep_best(self, smoothed_dice: float) -> None:
        if self.best_smoothed_dice is None or smoothed_dice > self.best_smoothed_dice:
            self.best_smoothed_dice = smoothed_dice
            self.save_checkpoint(BEST)
            self.print_to_log_file(f"best smoothed Dice so far: {smoothed_dice:.4f}")

    # ---- checkpoints --------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint into the fold's folder: nnU-Net's keys, and under "spd" what only spdnet needs."""
        if self.disable_checkpointing:
            return
        running = self.stage_number <= N_STAGES
        write_checkpoint(
            self.output_folder / filename,
            {
                "network_weights": self.network.own_state(),
                "optimizer_state": self.optimizer.state_dict() if running else None,
                "grad_scaler_state": None,  # bfloat16 needs none
                "logging": self.log.nnunet_logging(),
                "_best_ema": self.best_smoothed_dice,
                "current_epoch": len(self.log.records),
                "init_args": {
                    "plans": self.plans.to_dict(),
                    "configuration": self.configuration,
                    "fold": self.fold,
                    "dataset_json": self.dataset_json,
                    "device": str(self.device),
                },
                "trainer_name": NNUNET_TRAINER_NAME,
                "inference_allowed_mirroring_axes": self.settings.augmentation.mirroring_axes or None,
                "spd": {
                    "trainer_name": type(self).__name__,
                    "settings": dataclasses.asdict(self.settings),
                    "seed": self.seed,
                    "stage_number": self.stage_number,
                    "stage_epoch": self.current_epoch,
                    "lr_scheduler_state": self.lr_scheduler.state_dict() if running else None,
                    "smoothed_dice": self.smoothed_dice,
                    "records": self.log.state(),
                },
            },
        )

    def load_checkpoint(self, filename_or_checkpoint: str | Path | dict[str, Any]) -> None:
        """Continue from a checkpoint of this training, after `initialize`.

        Raises:
            ModelError: the checkpoint is missing, damaged, or belongs to other plans or another trainer.
        """
        given = filename_or_checkpoint
        content = given if isinstance(given, dict) else read_checkpoint(Path(given))
        source = "the checkpoint" if isinstance(given, dict) else str(given)
        own = content["spd"]
        if own["trainer_name"] != type(self).__name__:
            raise ModelError(
                f"{source} was written by {own['trainer_name']}, not {type(self).__name__}; choose it with -tr"
            )
        self._check_plans(content, source)
        try:
            self.network.load_own_state(content["network_weights"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"{source} does not fit the plans of this training: {error}") from error
        self.stage_number, self.current_epoch = own["stage_number"], own["stage_epoch"]
        self.smoothed_dice, self.best_smoothed_dice = own["smoothed_dice"], content["_best_ema"]
        self.log.load_state(own["records"])
        if own["stage_number"] <= N_STAGES:
            self._resume_state = {"optimizer": content["optimizer_state"], "lr_scheduler": own["lr_scheduler_state"]}

    def start_from_stage1(self, file: Path) -> None:
        """Take LoRA and saliency head from another training's checkpoint and go straight to stage 2.

        Raises:
            ModelError: the checkpoint is missing, or of another network or input.
        """
        content = read_checkpoint(file)
        self._check_plans(content, str(file))
        load_stage1_weights(self.network, content["network_weights"], file)
        self.stage_number, self.current_epoch = 2, 0
        self.print_to_log_file(f"stage 1 taken from {file}")

    def load_pretrained_weights(self, file: Path) -> None:
        """Start from another training's weights; layers that depend on the classes stay as drawn where they differ.

        Raises:
            ModelError: the checkpoint is missing, or of another network.
        """
        kept = load_pretrained_weights(self.network, read_checkpoint(file), self.settings.backbone, file)
        self.print_to_log_file(f"pre-trained weights from {file}; not taken: {', '.join(kept) or 'none'}")

    def _check_plans(self, content: dict[str, Any], source: str) -> None:
        if difference := input_difference(content["spd"]["settings"], self.settings):
            raise ModelError(
                f"{source} was trained with other plans: {difference}. Plans and checkpoint do not belong together; "
                "train anew, or restore the plans it was trained with."
            )

    # ---- the rest -----------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """Predict the held-out cases like nnU-Net: `validation/` with predictions and summary.json.

        Fold "all" holds no case out; as in nnU-Net its training cases are predicted, and the log says so.

        Args:
            save_probabilities: also write nnU-Net's `CASE.npz` and `CASE.pkl`, for its ensembles.

        Returns:
            The content of summary.json.
        """
        if not self.val_cases:
            self.print_to_log_file("no case is held out: validating on the training cases, which says little")
        folder = self.output_folder / "validation"
        self.network.eval()
        summary = validate_cases(
            self.network,
            self.val_cases or self.train_cases,
            self.plans,
            self.dataset_json,
            self.preprocessed_folder / "gt_segmentations",
            folder,
            self.device,
            save_probabilities,
        )
        self.print_to_log_file(f"validation: mean Dice {summary['foreground_mean']['Dice']:.4f}; {folder}")
        return summary

    def print_to_log_file(self, *args: Any) -> None:
        """One line to the screen and the log file."""
        self.log.write(" ".join(str(a) for a in args))

    def _check_input_size(self) -> None:
        for case in (*self.train_cases, *self.val_cases):
            size = case.mapping.image_size
            if size != self.settings.image_size:
                raise DatasetError(
                    f"case {case.case} is preprocessed for {size} px, {self.plans.plans_name} says "
                    f"{self.settings.image_size}; run spd_preprocess"
                )


def resume_checkpoint(output_folder: Path) -> Path | None:
    """The checkpoint that `--c` continues: final, else latest, else best, as nnU-Net; None if there is none."""
    for name in (FINAL, LATEST, BEST):
        if (output_folder / name).exists():
            return output_folder / name
    return None
