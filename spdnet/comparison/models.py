"""The trained models of a data set, nnU-Net's and spdnet's alike, and whether they can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spdnet.errors import ConfigurationError, ModelError
from spdnet.files import read_json
from spdnet.paths import preprocessed_root, results_root

_SHOWN = 5


@dataclass(frozen=True)
class TrainedModel:
    """A model folder `nnUNet_results/DatasetNNN_Name/Trainer__Plans__Configuration` of either program."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def parts(self) -> tuple[str, str, str]:
        """Trainer, plans and configuration."""
        trainer, plans, configuration = self.name.split("__")
        return trainer, plans, configuration

    def plans(self) -> dict[str, Any]:
        """Content of plans.json; raises `ModelError`."""
        return _read(self.folder / "plans.json")

    def dataset_json(self) -> dict[str, Any]:
        """Content of dataset.json; raises `ModelError`."""
        return _read(self.folder / "dataset.json")

    @property
    def is_spd(self) -> bool:
        """Whether spdnet trained it."""
        return "spd" in self.plans()

    def validation(self, fold: int) -> Path:
        """The folder of a fold's validation."""
        return self.folder / f"fold_{fold}" / "validation"

    def predictions(self, folds: Sequence[int], ending: str | None = None) -> list[str]:
        """Cases of all folds together that have a file with this ending, by default a segmentation."""
        ending = ending or str(self.dataset_json()["file_ending"])
        return [f.name.removesuffix(ending) for fold in folds for f in self.validation(fold).glob(f"[!.]*{ending}")]

    def problem(self, folds: Sequence[int]) -> str | None:
        """Why the model cannot take part in a comparison on these folds, or None."""
        missing = [fold for fold in folds if not (self.validation(fold) / "summary.json").is_file()]
        if missing:
            return f"no validation/summary.json in fold {', '.join(map(str, missing))}"
        for name in ("plans.json", "dataset.json"):
            if not (self.folder / name).is_file():
                return f"no {name}"
        _, plans_name, configuration = self.parts
        plans_file = preprocessed_root() / self.folder.parent.name / f"{plans_name}.json"
        if not plans_file.is_file():
            return f"{plans_file} is missing, which nnU-Net's comparison reads"
        if configuration not in _read(plans_file).get("configurations", {}):
            return f"{plans_file} has no configuration {configuration}"
        return None


def choose_models(
    dataset_name: str, names: Sequence[str] | None, folds: Sequence[int]
) -> tuple[list[TrainedModel], dict[str, str]]:
    """The models to compare: those named, else all that have these folds.

    Returns:
        The models, and those left out with the reason; none is left out if names are given.

    Raises:
        ConfigurationError: a named model does not exist or cannot take part, or no model is left.
    """
    folder = results_root() / dataset_name
    found = {m.name: m for m in _models_in(folder)}
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise ConfigurationError(
            f"no model {', '.join(unknown)} in {folder}; models there: {', '.join(found) or 'none'}"
        )
    chosen = [found[name] for name in dict.fromkeys(names)] if names is not None else list(found.values())
    problems = {m.name: problem for m in chosen if (problem := m.problem(folds)) is not None}
    left = [m for m in chosen if m.name not in problems]
    reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    if names is not None and problems:
        raise ConfigurationError(f"cannot be compared on folds {' '.join(map(str, folds))}: {reasons}")
    if not left:
        raise ConfigurationError(
            f"{folder} has no model with folds {' '.join(map(str, folds))}. {reasons or 'There is none at all'}. Train "
            "them (spd_train, nnUNetv2_train), or choose the folds with -f."
        )
    return left, problems


def check_comparable(models: Sequence[TrainedModel], folds: Sequence[int], for_ensembling: bool) -> None:
    """Check what the models have before nnU-Net's functions stumble over it.

    Raises:
        ConfigurationError: they differ in their labels or cases, a case is in two folds, its ground truth is
            missing, or, for ensembling, probabilities are.
    """
    _check_descriptions(models)
    _check_cases(models, folds)
    if for_ensembling and len(models) > 1:
        _check_probabilities(models, folds)


def _check_descriptions(models: Sequence[TrainedModel]) -> None:
    first = models[0]
    for model in models[1:]:
        for key in ("labels", "regions_class_order", "file_ending"):
            here, there = first.dataset_json().get(key), model.dataset_json().get(key)
            if here != there:
                raise ConfigurationError(
                    f"{first.name} and {model.name} were trained on different {key}: {here} and {there}; compare them "
                    "apart (-m), or train one of them anew"
                )


def _check_cases(models: Sequence[TrainedModel], folds: Sequence[int]) -> None:
    reference: set[str] | None = None
    for model in models:
        cases = model.predictions(folds)
        if not cases:
            raise ConfigurationError(
                f"{model.name} has no validated case on folds {' '.join(map(str, folds))}; validate it with spd_train "
                "... --val or nnUNetv2_train ... --val"
            )
        twice = [case for case, n in Counter(cases).items() if n > 1]
        if twice:
            raise ConfigurationError(
                f"{model.name}: {_listing(twice)} is in the validation of more than one fold; the folds must come from "
                "one splits_final.json"
            )
        reference = set(cases) if reference is None else reference
        if set(cases) != reference:
            raise ConfigurationError(
                f"{models[0].name} and {model.name} were validated on different cases on folds "
                f"{' '.join(map(str, folds))}: {_listing(sorted(reference ^ set(cases)))} in one of them only. Both "
                "must be trained on the same splits_final.json; validate again with spd_train ... --val or "
                "nnUNetv2_train ... --val"
            )
    _check_ground_truth(models[0], reference or set())


def _check_ground_truth(model: TrainedModel, cases: set[str]) -> None:
    folder = preprocessed_root() / model.folder.parent.name / "gt_segmentations"
    ending = model.dataset_json()["file_ending"]
    missing = sorted(case for case in cases if not (folder / f"{case}{ending}").is_file())
    if missing:
        raise ConfigurationError(
            f"{folder} lacks the ground truth of {_listing(missing)}; run spd_plan_and_preprocess or "
            "nnUNetv2_plan_and_preprocess"
        )


def _check_probabilities(models: Sequence[TrainedModel], folds: Sequence[int]) -> None:
    lacking = []
    for model in models:
        cases = set(model.predictions(folds))
        missing = sorted(
            (cases - set(model.predictions(folds, ".npz"))) | (cases - set(model.predictions(folds, ".pkl")))
        )
        if missing:
            lacking.append(f"{model.name} ({_listing(missing)}): {_validation_command(model)}")
    if lacking:
        raise ConfigurationError(
            "ensembling needs the probabilities of the validation, which were not saved. Make them on each fold, or "
            "compare single models with --disable_ensembling:\n  " + "\n  ".join(lacking)
        )


def _validation_command(model: TrainedModel) -> str:
    trainer, plans, configuration = model.parts
    program = "spd_train" if model.is_spd else "nnUNetv2_train"
    return f"{program} {model.folder.parent.name} {configuration} FOLD -tr {trainer} -p {plans} --val --npz"


def _models_in(folder: Path) -> list[TrainedModel]:
    if not folder.is_dir():
        return []
    names = (f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith((".", "ensemble")))
    return [TrainedModel(f) for f in names if len(f.name.split("__")) == 3]


def _listing(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_SHOWN]) + (f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(file, "file", "Train the model again or restore it.", ModelError)
    return content
