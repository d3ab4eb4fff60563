"""A trained model folder: finding it, checking it, and rebuilding its networks.

Only the copies of plans and dataset.json beside the weights are read.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spdnet.dataset import Labels
from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.errors import ConfigurationError, ModelError, PlansError
from spdnet.inference.mirroring import IN_PLANE_AXES
from spdnet.network import SPDNetwork
from spdnet.network.checkpoint import read_checkpoint
from spdnet.network.precision import place
from spdnet.paths import CONFIGURATION, is_dataset_name, results_root
from spdnet.planning import SPDPlans, SPDSettings, build_planned_network
from spdnet.planning.plans import input_difference
from spdnet.planning.trained import has_saliency, trained_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingFacts:
    """What prediction needs to know of a training beside the weights.

    Attributes:
        trainer_name: of the trainer class. mirroring_axes: in-plane axes that predictions may be mirrored along, 0
            rows and 1 columns, or None.
        has_saliency: whether its saliency head was ever trained, there or before.
    """

    trainer_name: str
    mirroring_axes: tuple[int, ...] | None
    has_saliency: bool


@dataclass(frozen=True)
class ModelFolder:
    """`nnUNet_results/DatasetNNN_Name/Trainer__Plans__2d`, or a copy of it anywhere."""

    path: Path

    def plans(self) -> SPDPlans:
        """The plans the model was trained with.

        Raises:
            ModelError: the folder is no trained model of spdnet.
        """
        self._check_is_there("plans.json")
        try:
            return SPDPlans.load(self.path / "plans.json")
        except PlansError as error:
            raise ModelError(f"{self.path} is not a trained model of spdnet: {error}") from error

    def dataset_json(self) -> dict[str, Any]:
        """The data set's description at training time; raises `DatasetError`, `ModelError`."""
        self._check_is_there("dataset.json")
        return read_dataset_json(self.path / "dataset.json")

    def _check_is_there(self, name: str) -> None:
        if not self.path.is_dir():
            raise ModelError(f"model folder {self.path} does not exist")
        if not (self.path / name).is_file():
            raise ModelError(
                f"{self.path} is not a trained model of spdnet: {name} is missing; copy the folder again with all "
                "that is in it, or train: spd_train"
            )

    def labels(self) -> Labels:
        """The classes; raises `DatasetError`."""
        return Labels.from_dataset_json(self.dataset_json(), str(self.path / "dataset.json"))

    def folds(self) -> list[str]:
        """Names of the folds that have a folder: numbers first, then "all"."""
        names = [f.name.removeprefix("fold_") for f in self.path.glob("fold_*") if f.is_dir()]
        return sorted(names, key=lambda n: (n == "all", n))

    def choose_folds(self, wanted: list[str] | None, checkpoint_name: str) -> list[str]:
        """The folds to average: those asked for, else all numbered ones, else "all".

        Raises:
            ModelError: one of them is missing, there is none, or both numbered folds and "all" are there and none
                was asked for.
        """
        trained = [f for f in self.folds() if (self.path / f"fold_{f}" / checkpoint_name).exists()]
        if wanted is not None:
            missing = [f for f in wanted if f not in trained]
            if missing:
                raise ModelError(
                    f"{self.path}: fold {', '.join(missing)} has no {checkpoint_name}; folds that have: "
                    f"{', '.join(trained) or 'none'}. Choose with -f and -chk, or train: spd_train."
                )
            return wanted
        if not trained:
            others = sorted({f.name for f in self.path.glob("fold_*/checkpoint_*.pth")})
            hint = f"other checkpoints there: {', '.join(others)} (-chk)" if others else "train first: spd_train"
            raise ModelError(f"{self.path}: no fold has {checkpoint_name}; {hint}")
        if "all" in trained and len(trained) > 1:
            raise ModelError(f"{self.path}: folds {', '.join(trained)} are trained; choose with -f which to use")
        return trained

    def load_networks(self, folds: list[str], checkpoint_name: str, device: torch.device) -> list[SPDNetwork]:
        """The network of each fold, in evaluation mode, on the device.

        Raises:
            ModelError: a checkpoint is missing, damaged, or does not belong to the plans beside it.
        """
        plans, labels = self.plans(), self.labels()
        return [self._load(plans, labels, self.path / f"fold_{f}" / checkpoint_name, device) for f in folds]

    def training_facts(self, fold: str, checkpoint_name: str) -> TrainingFacts:
        """What the checkpoint of a fold says about its training.

        Raises:
            ModelError: the checkpoint is missing, damaged or not of spdnet, or its mirroring axes do not exist.
        """
        file = self.path / f"fold_{fold}" / checkpoint_name
        content = read_checkpoint(file)
        axes = content["inference_allowed_mirroring_axes"]
        if axes is not None and not (isinstance(axes, list | tuple) and all(a in IN_PLANE_AXES for a in axes)):
            raise ModelError(
                f"{file}: mirroring axes {axes} do not exist; in a slice there are 0 (rows) and 1 (columns)"
            )
        return TrainingFacts(str(content["spd"]["trainer_name"]), tuple(axes) if axes else None, has_saliency(content))

    def _load(self, plans: SPDPlans, labels: Labels, file: Path, device: torch.device) -> SPDNetwork:
        content = read_checkpoint(file)
        if difference := input_difference(content["spd"]["settings"], plans.settings):
            raise ModelError(f"{file} and {self.path / 'plans.json'} do not belong together: {difference}")
        if trained_labels(content, str(file)) != labels:
            raise ModelError(
                f"{file} was trained on other labels than {self.path / 'dataset.json'} has: another fold may have been "
                "trained after the labels were changed. Train this fold anew, or restore dataset.json"
            )
        self._tell_other_distillation(content["spd"]["settings"], plans.settings, file)
        network = build_planned_network(plans.settings, len(labels))
        try:
            network.load_own_state(content["network_weights"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"{file} and {self.path / 'plans.json'} do not belong together: {error}") from error
        place(network, device)
        return network.eval()

    def _tell_other_distillation(self, trained: dict[str, Any], settings: SPDSettings, file: Path) -> None:
        """Warn where prompts are treated otherwise than in training, which may be meant or not."""
        now = dataclasses.asdict(settings.distillation)
        then = {**now, **trained.get("distillation", {})}
        changed = {name: value for name, value in then.items() if name in now and value != now[name]}
        for name, value in changed.items():
            logger.warning(
                "%s was trained with distillation %s %r; %s says %r, which is used",
                file, name, value, self.path / "plans.json", now[name],
            )  # fmt: skip


def find_model(
    input_folder: Path, dataset_name: str | None, trainer_name: str | None, plans_name: str | None
) -> ModelFolder:
    """The one trained model that an input folder and the options given leave.

    The data set is the one given, else the one that the input folder lies in, else any; within it the trainer
    and plans given.

    Raises:
        ConfigurationError: none or several are left; lists the candidates and the options that settle it.
    """
    dataset_name = dataset_name or dataset_of_folder(input_folder)
    root = results_root()
    found = [m for d in _dataset_folders(root) for m in _model_folders(d)]
    left = [
        m
        for m in found
        if dataset_name in (None, m.parent.name)
        and trainer_name in (None, m.name.split("__")[0])
        and plans_name in (None, m.name.split("__")[1])
    ]
    if len(left) == 1:
        return ModelFolder(left[0])
    wanted = f"data set {dataset_name or 'not given'}, trainer {trainer_name or 'any'}, plans {plans_name or 'any'}"
    listing = "\n  ".join(str(m.relative_to(root)) for m in (left or found)) or "none"
    problem = "Several trained models fit" if left else "No trained model fits"
    raise ConfigurationError(
        f"{problem} ({wanted}). Trained models in {root}:\n  {listing}\n"
        "Choose with -d (data set), -tr (trainer), -p (plans); train one with spd_train."
    )


def dataset_of_folder(folder: Path) -> str | None:
    """The data set that a folder lies in (`.../Dataset501_X/imagesTs`), or None."""
    for candidate in (folder.absolute(), folder.resolve()):
        for parent in candidate.parents:
            if is_dataset_name(parent.name):
                return parent.name
    return None


def _dataset_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(d for d in root.iterdir() if d.is_dir() and is_dataset_name(d.name))


def _model_folders(dataset_folder: Path) -> list[Path]:
    """Model folders that spdnet wrote: the name has three parts and the plans hold spdnet's settings."""
    models = []
    for folder in sorted(dataset_folder.iterdir()):
        parts = folder.name.split("__")
        plans = folder / "plans.json"
        is_2d = len(parts) == 3 and parts[2] == CONFIGURATION
        if is_2d and plans.exists() and '"spd"' in plans.read_text(errors="replace", encoding="utf-8"):
            models.append(folder)
    return models
