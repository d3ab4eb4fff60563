"""The trainer: runs the two stages on one fold, keeps checkpoints, and validates the held-out cases.

It owns the order of things, the optimiser and what is on disk; what a batch is and what it costs is the stages'
business. Names and order of the steps are nnUNetTrainer's where it has them, so that a variant overrides the same step
here as there; most variants only change a setting (`adapt_settings`).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR, ReduceLROnPlateau
from tqdm import tqdm

from spdnet.dataset import Labels, load_or_create_splits
from spdnet.errors import ConfigurationError, DatasetError, ModelError
from spdnet.network import SPDNetwork
from spdnet.network.checkpoint import BEST, FINAL, LATEST, read_checkpoint, write_checkpoint
from spdnet.network.precision import place
from spdnet.paths import model_folder, preprocessed_root
from spdnet.planning import SPDPlans, SPDSettings, StoredCase, build_planned_network
from spdnet.planning.plans import input_difference, settings_from_dict
from spdnet.planning.preprocessor import check_made_with
from spdnet.planning.trained import has_saliency, trained_labels
from spdnet.training.distributed import current_team, parallel_loss
from spdnet.training.embedding_store import STORE_PREFIX
from spdnet.training.guards import NONFINITE, HostCopy, NonFiniteLossError, memory_errors, nonfinite_message
from spdnet.training.lock import FolderLock
from spdnet.training.log import EpochRecord, TrainingLog
from spdnet.training.model_files import write_debug_file, write_model_files
from spdnet.training.pretrained import load_pretrained_weights, load_stage1_weights
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.resume import StageState, take_up
from spdnet.training.saliency_stage import SaliencyStage
from spdnet.training.scores import pseudo_dice
from spdnet.training.selection import Checked, WeightSelection, hold_out
from spdnet.training.stages import Batches, Stage
from spdnet.training.stopping import StopRequest, TrainingStoppedError
from spdnet.training.trackers import Tracker
from spdnet.training.validation import validate_cases
from spdnet.training.waiting import WaitClock
from spdnet.training.warm_up import scaled_rate, warm_up_share

TRIAL_FOLDER = "trial"
SMOOTHING = 0.9  # of the validation Dice, nnU-Net's
MAX_GRADIENT_NORM = 12.0  # nnU-Net's
POLY_POWER = 0.9  # nnU-Net's
NO_MASK_MEETS_ITS_TARGET = (
    ": no mask meets its target. If the loss of stage 2 has hardly fallen, its decoder has ended in empty masks: train "
    "again with another --seed, or let its learning rate rise more slowly (spd.stage2.warmup_iterations)"
)
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
        fold_folder: `nnUNet_results/Dataset/Trainer__Plans__2d/fold_X`.
        output_folder: the same, or its folder `trial`.
        disable_checkpointing: a trial: writes no checkpoints, and leaves what is in the fold's folder alone.
        trackers: services that are told of every epoch.
        team: the processes that train together; only the main one writes files.
        stop: set when SIGTERM comes.
        has_saliency: whether the saliency head was ever trained, here or before.
        stage_number, current_epoch: where the training is; epochs count from 0 in each stage.
        stage, optimizer, lr_scheduler, dataloader_train, dataloader_val: of the stage that runs.
        loss_of_batch: the stage's training loss, with gradients that are those of the whole team.
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
        self.trackers: list[Tracker] = []
        self.team = current_team()
        self.stop = StopRequest()
        self.stage_number = 1
        self.current_epoch = 0
        self.best_smoothed_dice: float | None = None
        self.smoothed_dice: float | None = None
        self.has_saliency = False
        self._resumed = False
        self._resume_state: StageState | None = None
        self._stage_runs = False
        self._iteration = 0  # of the epoch
        self._n_steps = 0  # of the stage
        self._selection: WeightSelection | None = None
        self._checked: Checked
        self.network: SPDNetwork
        self.stage: Stage
        self.optimizer: torch.optim.Optimizer
        self.loss_of_batch: Callable[[Any], torch.Tensor]
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
    def fold_folder(self) -> Path:
        """Folder of the fold, where its checkpoints are."""
        return self.model_folder / f"fold_{self.fold}"

    @property
    def output_folder(self) -> Path:
        """Folder of all that this training writes: that of the fold, or one in it for trials."""
        return self.fold_folder / TRIAL_FOLDER if self.disable_checkpointing else self.fold_folder

    # ---- set-up -------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Split the cases and build the network; nothing is written into nnUNet_results yet.

        Raises:
            DatasetError: cases are not preprocessed, or by other settings. ModelError: SAM's weights cannot
                be had. ConfigurationError: more processes than slices in a batch.
        """
        with self.team.main_first():
            self.train_cases, self.val_cases = self.get_tr_and_val_datasets()
            has_target = [bool(case.target_slices.any()) for case in self.train_cases]
            share = self.settings.selection.held_out_share
            self.stage1_cases, self.held_out_cases = hold_out(self.train_cases, has_target, share, self.seed)
            self._check_input_size()
            check_made_with(self.preprocessed_folder / self.plans.data_identifier, self.settings, self.labels)
            self._check_batch_size()
            torch.manual_seed(self.seed)
            self.network = self.build_network_architecture(self.settings, len(self.labels))
        place(self.network, self.device)
        self.log = TrainingLog(self.output_folder, self.team.is_main)

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
        how = self.device, self.seed
        if number == 1:
            cases = self.stage1_cases, self.val_cases
            return SaliencyStage(self.network, self.settings, *cases, *how, self.held_out_cases)
        cases = self.train_cases, self.val_cases
        cache = self.preprocessed_folder if self.keep_embeddings else self.output_folder
        kept = self.keep_embeddings, self.held_out_cases
        return PromptStage(self.network, self.settings, *cases, *how, cache, *kept)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolynomialLR | ReduceLROnPlateau]:
        """Optimiser and learning-rate schedule of the current stage, as the plans say."""
        s = self.stage.stage_settings
        one_pass = self.device.type in ("cpu", "cuda")  # a quarter of the time of one parameter after the other
        optimizer = torch.optim.Adam(
            self.stage.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay, fused=one_pass
        )
        if s.scheduler == "plateau":
            return optimizer, ReduceLROnPlateau(optimizer, factor=0.5, patience=4)
        return optimizer, PolynomialLR(optimizer, total_iters=s.epochs, power=POLY_POWER)

    def get_dataloaders(self) -> tuple[Batches, Batches]:
        """Training batches of the current epoch of the current stage, and validation batches."""
        return self.stage.training_batches(self.current_epoch), self.stage.validation_batches()

    # ---- the loop -----------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Run what is left of both stages, and write the final checkpoint.

        Raises:
            ConfigurationError: another training runs in the output folder, or the GPU's memory does not do.
            NonFiniteLossError: a loss is not a number. TrainingStoppedError: SIGTERM came; `--c` continues.
        """
        if not self.team.is_main:
            self._run_stages()
            return
        with FolderLock(self.output_folder):
            self._run_stages()

    def _run_stages(self) -> None:
        with self.stop:
            try:
                self.on_train_start()
                while self.stage_number <= N_STAGES:
                    self.stage = self.build_stage(self.stage_number)
                    self.stage.stop = self.stop
                    if self.current_epoch == 0:
                        self.stage.begin()
                    if self.current_epoch < self.stage.stage_settings.epochs:
                        self._run_stage()
                    self.stage_number, self.current_epoch = self.stage_number + 1, 0
                    self.smoothed_dice, self._resume_state = None, None
                self.on_train_end()
            except (TrainingStoppedError, RuntimeError) as error:
                if not self.stop.requested or (self.team.size == 1 and isinstance(error, RuntimeError)):
                    raise
                self.on_stopped()  # in a team: the others have stopped first, which ends what waits for them
                raise TrainingStoppedError from error
            finally:
                for tracker in self.trackers:
                    tracker.close()

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
        silent = not self.team.is_main
        left = self.stage.stage_settings.epochs - self.current_epoch - 1
        name = f"stage {self.stage_number}, epoch {self.current_epoch}, {left} left"
        batches = tqdm(self.dataloader_train, desc=name, leave=False, disable=silent)
        guarded = self.stop.guard(self._clock.watch(batches))
        self.on_train_epoch_end([self.train_step(batch) for batch in guarded])
        with torch.no_grad(), self._selection.averaged() if self._selection is not None else nullcontext():
            self.on_validation_epoch_start()
            guarded = self.stop.guard(self._clock.watch(self.dataloader_val))
            self.on_validation_epoch_end([self.validation_step(batch) for batch in guarded])
            self._check_held_out()
        self.on_epoch_end()

    def _check_held_out(self) -> None:
        """Loss on the cases that stage 1 holds out, of the averaged weights."""
        if self._selection is None:
            return
        guarded = self.stop.guard(self._clock.watch(self.stage.held_out_batches()))
        self._checked = Checked(
            *np.mean(self.team.collect([self.stage.check_held_out(b) for b in guarded]), axis=0).tolist()
        )
        self._selection.offer(self._checked, self.current_epoch)

    def on_train_start(self) -> None:
        """Write plans, dataset.json and debug.json beside the fold, and the state that the training starts from."""
        if self.team.is_main:
            self._write_descriptions()
            if not self._resumed:
                self._begin_anew()
        self.team.wait()

    def _begin_anew(self) -> None:
        """Make the start something that `--c` can continue from, then remove what an earlier training left."""
        self.save_checkpoint(LATEST)
        for name in (FINAL, BEST, NONFINITE):
            (self.output_folder / name).unlink(missing_ok=True)
        self._remove_stored_embeddings()

    def _remove_stored_embeddings(self) -> None:
        for folder in self.output_folder.glob(f"{STORE_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _write_descriptions(self) -> None:
        if not self.disable_checkpointing:  # a trial changes nothing for the folds that are trained
            write_model_files(self.model_folder, self.plans, self.dataset_json, self.preprocessed_folder)
        training = {
            "trainer": type(self).__name__,
            "fold": self.fold,
            "seed": self.seed,
            "train_cases": [c.case for c in self.train_cases],
            "val_cases": [c.case for c in self.val_cases],
            "held_out_in_stage_1": [c.case for c in self.held_out_cases],
            "plans": self.plans.to_dict(),
        }
        write_debug_file(self.output_folder, self.device, training)
        self.print_to_log_file(
            f"{type(self).__name__} on {self.plans.dataset_name}, fold {self.fold}: {len(self.train_cases)} training "
            f"cases ({len(self.held_out_cases)} held out in stage 1) and {len(self.val_cases)} validation cases, "
            f"{self.settings.backbone} at {self.settings.image_size} px on {self.device}, seed {self.seed}"
        )

    def on_train_end(self) -> None:
        """Write the final checkpoint and remove the latest."""
        self.save_checkpoint(FINAL)
        self.log.draw()
        if self.team.is_main:
            (self.output_folder / LATEST).unlink(missing_ok=True)
            self._remove_stored_embeddings()
        self.print_to_log_file(f"training done: {self.output_folder}")

    def on_stopped(self) -> None:
        """Say what is on disk and how to go on."""
        where = f"stopped by SIGTERM in stage {self.stage_number}, epoch {self.current_epoch}"
        if self.disable_checkpointing:
            self.print_to_log_file(f"{where}: a trial, of which no checkpoint is kept")
            return
        self.print_to_log_file(
            f"{where}: {LATEST} holds the state at the start of epoch {self.current_epoch}. Continue with the same "
            "command and --c; the epoch is repeated, and the result is the same as without the stop"
        )

    def on_stage_start(self) -> None:
        """Make the stage ready, and take up its optimiser where a resumed training left it."""
        self.stage.prepare()
        if self.current_epoch == 0:
            self._n_steps = 0
            for line in self.stage.decide(self.labels.names):
                self.print_to_log_file(line)
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self._selection = None
        if self.stage.chooses_weights and self.stage.held_out_cases:
            self._selection = WeightSelection(self.network.stage1_parameters(), self.settings.selection.decay)
            self.optimizer.register_step_post_hook(self._selection.update)
        self.loss_of_batch = parallel_loss(self.network, self.stage.training_loss, self.stage.some_unused)
        self._stage_runs = True
        if self._resume_state is not None:
            state = self._resume_state
            said = take_up(self.optimizer, self.lr_scheduler, state, self.stage.stage_settings, self.current_epoch)
            if said is not None:
                self.print_to_log_file(said)
            if self._selection is not None and state.selection is not None:
                self._selection.load_state(state.selection)

    def on_stage_end(self) -> None:
        """Release what the stage holds, also after an error."""
        self._stage_runs = False
        self.stage.finish()

    def on_epoch_start(self) -> None:
        """Draw the epoch's batches."""
        self._epoch_started = time.time()
        self._clock = WaitClock()
        self._iteration = 0
        self._losses: dict[str, float | None] = {"train": None, "val": None}
        self._dice: list[float] = []
        with self._clock.running():
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def on_train_epoch_start(self) -> None:
        """Put the network into training mode."""
        self.network.train()

    def train_step(self, batch: Any) -> dict[str, Any]:
        """One step of the optimiser, gradients clipped, at the share of its rate that the warm-up has reached.

        Raises:
            NonFiniteLossError: the loss is not a number, or the gradient (with a fused optimiser on a GPU the end of
                the epoch tells that). A step is not made then.
            ConfigurationError: the GPU's memory does not hold the step.
        """
        s = self.stage.stage_settings
        with memory_errors(self.stage_number, s.batch_size, self.settings.image_size, self.team.size):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss_of_batch(batch)
            copy = HostCopy(loss)
            loss.backward()
            self._check_finite("loss", copy.value() / self.team.size, batch)
            norm = nn.utils.clip_grad_norm_(self.stage.parameters(), MAX_GRADIENT_NORM)
            if norm.is_cuda and all(group.get("fused") for group in self.optimizer.param_groups):
                # nothing waits for the norm: the optimiser makes no step then, and the epoch's end tells
                self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            else:
                self._check_finite("gradient", float(norm), batch)
            with scaled_rate(self.optimizer, warm_up_share(self._n_steps, s.warmup_iterations)):
                self.optimizer.step()
        self._iteration += 1
        self._n_steps += 1
        return {"loss": loss.detach() / self.team.size, "norm": norm.detach()}

    def _check_finite(self, what: str, value: float, batch: Any | None) -> None:
        """Stop if a loss or gradient is no number; of a batch that is not there any more the file tells nothing."""
        if math.isfinite(value):
            return
        described = [self.stage.describe(batch)] if batch is not None else []
        whole_batch = [name for part in self.team.collect(described) for name in part]
        where = f"stage {self.stage_number}, epoch {self.current_epoch}, iteration {self._iteration}"
        self.save_checkpoint(NONFINITE, {"what": what, "iteration": self._iteration, "batch": whole_batch})
        file = None if self.disable_checkpointing else self.output_folder / NONFINITE
        message = nonfinite_message(what, value, where, whole_batch, file)
        self.log.note(f"error: {message}")
        raise NonFiniteLossError(message)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Keep the mean training loss; NaN if the epoch had nothing to train on.

        Raises:
            NonFiniteLossError: a gradient was no number; its step was not made (on a GPU, where this is the first time
                that they are looked at).
        """
        norms = [output["norm"] for output in train_outputs if "norm" in output]
        for number, norm in enumerate(torch.stack(norms).tolist() if norms else []):
            if not math.isfinite(norm):
                self._iteration = number
                self._check_finite("gradient", norm, None)
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
        val_outputs = self.team.collect(val_outputs)
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
            self._clock.seconds,
        )
        self.log.add(record, self.labels.names)
        for tracker in self.trackers:
            tracker.add(record, len(self.log.records) - 1, self.labels.names)
        self.current_epoch += 1
        self.has_saliency = self.has_saliency or self.stage_number == 1
        if self._selection is not None:
            self._take_best_weights(self._selection)
        if self.stage_number == N_STAGES and self.smoothed_dice is not None:
            self._keep_best(self.smoothed_dice)
        self.save_checkpoint(LATEST)

    def _take_best_weights(self, selection: WeightSelection) -> None:
        """Say how the held-out cases fare; after the stage's last epoch end with what suits them best."""
        self.print_to_log_file(
            f"{len(self.held_out_cases)} held-out cases: cross-entropy {self._checked.cross_entropy:.4f}, loss "
            f"{self._checked.loss:.4f}"
        )
        if self.current_epoch == self.stage.stage_settings.epochs:
            selection.restore()
            self.print_to_log_file(
                f"stage 1 ends with its weights of epoch {selection.best_epoch}: among those with about the lowest "
                "cross-entropy they have the lowest loss"
            )

    def _keep_best(self, smoothed_dice: float) -> None:
        if self.best_smoothed_dice is None or smoothed_dice > self.best_smoothed_dice:
            self.best_smoothed_dice = smoothed_dice
            self.save_checkpoint(BEST)
            self.print_to_log_file(f"best smoothed Dice so far: {smoothed_dice:.4f}")

    # ---- checkpoints --------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str, problem: dict[str, Any] | None = None) -> None:
        """Write a checkpoint into the fold's folder: nnU-Net's keys, and under "spd" what only spdnet needs.

        Random states need not be in it: all draws of an epoch depend on the seed, the stage and the epoch alone.

        Args:
            filename: of the checkpoint.
            problem: for a report of a problem, what it is.
        """
        if self.disable_checkpointing or not self.team.is_main:
            return
        running = self._stage_runs
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
                    "held_out_cases": [c.case for c in self.held_out_cases],
                    "has_saliency": self.has_saliency,
                    "stage_number": self.stage_number,
                    "stage_epoch": self.current_epoch,
                    "stage_steps": self._n_steps,
                    "lr_scheduler_state": self.lr_scheduler.state_dict() if running else None,
                    "selection_state": self._selection.state() if running and self._selection is not None else None,
                    "smoothed_dice": self.smoothed_dice,
                    "records": self.log.state(),
                    **({} if problem is None else {"problem": problem}),
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
        self._check_labels(content, source)
        try:
            self.network.load_own_state(content["network_weights"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"{source} does not fit the plans of this training: {error}") from error
        self._resumed = True
        self.seed = own["seed"]
        self.has_saliency = has_saliency(content)
        self._hold_out_as(own)
        self._tell_changed_settings(own["settings"])
        self.stage_number, self.current_epoch = own["stage_number"], own["stage_epoch"]
        self._n_steps = own.get("stage_steps", 0)  # older checkpoints have none
        if self.stage_number == 1 and self.current_epoch >= self.settings.stage1.epochs:  # fewer epochs than before
            self._load_best(own.get("selection_state"))
        self.smoothed_dice, self.best_smoothed_dice = own["smoothed_dice"], content["_best_ema"]
        self.log.load_state(own["records"])
        if content["optimizer_state"] is not None:
            self._resume_state = StageState(
                content["optimizer_state"],
                own["lr_scheduler_state"],
                own.get("selection_state"),  # older checkpoints have none
                own["settings"][f"stage{self.stage_number}"],
            )

    def start_from_stage1(self, file: Path) -> None:
        """Take LoRA and saliency head from another training's checkpoint and go straight to stage 2.

        Raises:
            ModelError: the checkpoint is missing, of another network or input, or of a training without stage 1.
        """
        content = read_checkpoint(file)
        if not has_saliency(content):
            raise ModelError(f"{file} holds no trained stage 1; give a checkpoint of a training that has one")
        self._check_plans(content, str(file), of_stage1=True)
        load_stage1_weights(self.network, content["network_weights"], file)
        self._load_best(content["spd"].get("selection_state"))  # of a training that is still in stage 1
        self.stage_number, self.current_epoch = 2, 0
        self.has_saliency = True
        self._hold_out_as(content["spd"])
        self.print_to_log_file(
            f"stage 1 taken from {file}; it held out {len(self.held_out_cases)} of the training cases"
        )

    def _hold_out_as(self, own: dict[str, Any]) -> None:
        """Hold out the cases that another training's stage 1 did; older checkpoints name none."""
        names = own.get("held_out_cases", [])
        self.stage1_cases = [c for c in self.train_cases if c.case not in names]
        self.held_out_cases = [c for c in self.train_cases if c.case in names]

    def _load_best(self, selection_state: dict[str, Any] | None) -> None:
        self.network.load_own_state({**self.network.own_state(), **WeightSelection.best_of(selection_state)})

    def load_pretrained_weights(self, file: Path) -> None:
        """Start from another training's weights; layers that depend on the classes stay as drawn where they differ.

        Raises:
            ModelError: the checkpoint is missing, or of another network.
        """
        content = read_checkpoint(file)
        skipped = load_pretrained_weights(self.network, content, self.settings.backbone, file)
        parts = dict.fromkeys(name.split(".")[0] for name in skipped)
        self.has_saliency = has_saliency(content) and "saliency_head" not in parts
        self.print_to_log_file(f"pre-trained weights from {file}; not taken: {', '.join(parts) or 'none'}")

    def _check_plans(self, content: dict[str, Any], source: str, of_stage1: bool = False) -> None:
        if difference := input_difference(content["spd"]["settings"], self.settings, of_stage1):
            raise ModelError(
                f"{source} was trained with other plans: {difference}. Plans and checkpoint do not belong together; "
                "train anew, or restore the plans it was trained with."
            )

    def _check_labels(self, content: dict[str, Any], source: str) -> None:
        if trained_labels(content, source) != self.labels:
            raise ModelError(
                f"{source} was trained on other labels than dataset.json has now; train anew, or restore the labels"
            )

    def _tell_changed_settings(self, stored: dict[str, Any]) -> None:
        """Say which settings are not those that the training was begun with: the result is that of neither."""
        before = dataclasses.asdict(settings_from_dict(SPDSettings, stored, "checkpoint: settings"))
        now = dataclasses.asdict(self.settings)
        for name in now:
            if before[name] != now[name]:
                self.print_to_log_file(f"continuing with another {name}: {before[name]} before, now {now[name]}")

    # ---- the rest -----------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """Predict the held-out cases like nnU-Net: `validation/` with predictions and summary.json.

        Fold "all" holds no case out; as in nnU-Net its training cases are predicted, and the log says so.

        Args:
            save_probabilities: also write nnU-Net's `CASE.npz` and `CASE.pkl`, for its ensembles.

        Returns:
            The content of summary.json; in a team in the main process only.
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
        if self.team.is_main:
            self.print_to_log_file(f"validation: mean Dice {summary['foreground_mean']['Dice']:.4f}; {folder}")
            for key, name in zip(self.labels.summary_keys, self.labels.names, strict=True):
                if summary["mean"][key]["Dice"] == 0:
                    self.print_to_log_file(f"warning: {name}{NO_MASK_MEETS_ITS_TARGET}")
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

    def _check_batch_size(self) -> None:
        sizes = self.settings.stage1.batch_size, self.settings.stage2.batch_size
        if min(sizes) < self.team.size:
            raise ConfigurationError(
                f"a batch of {min(sizes)} slices cannot be shared by {self.team.size} processes; use fewer, or give a "
                "larger -batch_size"
            )
