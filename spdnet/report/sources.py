"""What a report is about: the files of its cases, found in a trained fold or in folders of images and predictions.

Finding and checking only; files are read in `cases`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spdnet.dataset import Labels, RawDataset, ReaderWriter, choose_reader, get_reader
from spdnet.dataset.raw_dataset import find_cases, find_prompt_file, read_dataset_json
from spdnet.errors import ConfigurationError, DatasetError, ModelError, PlansError
from spdnet.files import read_json
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.inference import ModelFolder
from spdnet.inference.prompt_report import REPORT_FOLDER
from spdnet.inference.saliency_files import saliency_file
from spdnet.planning.plans import NormalizationSettings
from spdnet.prompts import PromptReading
from spdnet.report.training_facts import read_curves, read_prompt_quality

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 8


@dataclass(frozen=True)
class PredictionFiles:
    """What one program said of a case.

    Attributes:
        segmentation: its label map.
        judged: table of what became of every point, or None.
        saliency: one file per class, or none.
    """

    segmentation: Path
    judged: Path | None = None
    saliency: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ReportCase:
    """The files of one case.

    Attributes:
        case: identifier. images: its image files. reference: ground truth, or None. prompts: prompt file, or None.
        predictions: one for each name of `ReportSource.predictions`.
    """

    case: str
    images: tuple[Path, ...]
    reference: Path | None
    prompts: Path | None
    predictions: tuple[PredictionFiles, ...]


@dataclass(frozen=True)
class ReportSource:
    """What a report is about.

    Attributes:
        title: heading of the report.
        predictions: name of each folder of predictions.
        cases: in the order of their names.
        labels: the classes. reader: of all files.
        slicing_axis: canonical axis of the plans, or None: each image's axis of largest spacing.
        normalization: of each channel in the plans; empty without plans of spdnet.
        reading: what the user says of prompt files.
        facts: plain data for the page: "plans" (of spdnet, or None), "training", "curves", "prompts".
    """

    title: str
    predictions: tuple[str, ...]
    cases: tuple[ReportCase, ...]
    labels: Labels
    reader: ReaderWriter
    slicing_axis: int | None
    normalization: tuple[NormalizationSettings, ...]
    reading: PromptReading
    facts: dict[str, Any]

    def only(self, names: Sequence[str]) -> ReportSource:
        """The same source with some of its cases.

        Raises:
            ConfigurationError: a name is not among the cases.
        """
        known = {case.case: case for case in self.cases}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigurationError(f"-cases: {', '.join(unknown)} not among the cases {_some(list(known))}")
        facts = {**self.facts, "prompts": None}  # the validation's counts are of all cases
        return replace(self, cases=tuple(known[name] for name in dict.fromkeys(names)), facts=facts)


def training_source(
    model: ModelFolder,
    fold: str,
    raw: RawDataset,
    compare: Sequence[Path] = (),
    compare_names: Sequence[str] = (),
    reading: PromptReading = PromptReading(),
) -> ReportSource:
    """The validation of a trained fold.

    Args:
        model: the trained model.
        fold: "0", ..., or "all".
        raw: the data set, for images, labels and prompts.
        compare: further folders with predictions of the same cases.
        compare_names: what to call them; default the folders' names.
        reading: what the user says of prompt files.

    Raises:
        ModelError: the fold is not there or was not validated.
        DatasetError: images or labels are missing, or a folder to compare with has none of the cases.
    """
    folder = model.path / f"fold_{fold}"
    validation = folder / "validation"
    validated = _validated_cases(model, fold, raw.file_ending)
    known = {case.case: case for case in raw.cases("Tr")}
    missing = [case for case in validated if case not in known]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(validated)} validated cases have no images in {raw.folder}: {_some(missing)}"
        )
    plans = model.plans()
    folders, names = [validation, *compare], _names([validation, *compare], [model.path.name, *compare_names])
    cases = _with_predictions([known[case] for case in validated], folders, raw.file_ending, model.labels())
    if plans.settings.prompts.source != "files":
        cases = [replace(case, prompts=None) for case in cases]
    return ReportSource(
        f"{plans.dataset_name}, fold {fold}",
        names,
        tuple(cases),
        model.labels(),
        get_reader(plans.image_reader_writer),
        axis_from_name(plans.settings.slicing_axis),
        tuple(plans.settings.normalization),
        reading,
        {
            "plans": plans.to_dict()["spd"],
            "training": _training(model, fold, folder),
            "curves": read_curves(folder),
            "prompts": read_prompt_quality(validation),
        },
    )


def prediction_source(
    images: Path,
    predictions: Sequence[Path],
    names: Sequence[str] = (),
    references: Path | None = None,
    prompts: Path | None = None,
    dataset_file: Path | None = None,
    reading: PromptReading = PromptReading(),
) -> ReportSource:
    """Folders of predictions of the images of one folder.

    Args:
        images: folder of images named as nnU-Net names them.
        predictions: folders with CASE and the data set's file ending.
        names: what to call them; default the folders' names.
        references: folder of label maps, or None.
        prompts: folder of prompt files, or None.
        dataset_file: dataset.json; None: the one in a folder of predictions, else beside the images.
        reading: what the user says of prompt files.

    Raises:
        DatasetError, PlansError, ConfigurationError: a folder or file is missing or damaged, or no case is common.
    """
    for role, folder in (
        ("-i", images),
        *(("-p", p) for p in predictions),
        ("-ref", references),
        ("-prompts", prompts),
    ):
        if folder is not None and not folder.is_dir():
            raise DatasetError(f"{role} {folder}: no such folder")
    dataset_file = dataset_file or _find_dataset_json(images, predictions)
    dataset_json = read_dataset_json(dataset_file)
    labels = Labels.from_dataset_json(dataset_json, str(dataset_file))
    ending = str(dataset_json["file_ending"])
    found = find_cases(images, ending, len(dataset_json["channel_names"]))
    completed = []
    for case in found:
        reference = references / f"{case.case}{ending}" if references is not None else None
        file = find_prompt_file(prompts, case.case) if prompts is not None else None
        completed.append(replace(case, label=reference if reference and reference.exists() else None, prompts=file))
    if references is not None and not any(case.label for case in completed):
        raise DatasetError(f"-ref {references} holds no label file CASE{ending} of the cases of {images}")
    cases = _with_predictions(completed, predictions, ending, labels)
    plans = next((p for p in map(_own_plans, predictions) if p is not None), None)
    return ReportSource(
        f"Predictions for {images.absolute().parent.name}/{images.name}",
        _names(predictions, names),
        tuple(cases),
        labels,
        choose_reader(dataset_json, found[0].images[0]),
        _slicing_axis(plans),
        _normalization(plans),
        reading,
        {"plans": plans, "training": None, "curves": [], "prompts": None},
    )


def _validated_cases(model: ModelFolder, fold: str, file_ending: str) -> list[str]:
    folder = model.path / f"fold_{fold}"
    if not folder.is_dir():
        there = ", ".join(model.folds()) or "none"
        raise ModelError(f"{model.path} has no fold {fold}; folds there: {there}. Choose with -f")
    remedy = "Validate the training first: spd_train DATASET FOLD --val"
    summary = read_json(folder / "validation" / "summary.json", "summary of the validation", remedy, ModelError)
    try:
        files = [Path(str(entry["prediction_file"])) for entry in summary["metric_per_case"]]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'validation' / 'summary.json'} is not nnU-Net's summary; {remedy}") from error
    return sorted(file.name.removesuffix(file_ending) for file in files)


def _training(model: ModelFolder, fold: str, folder: Path) -> dict[str, Any]:
    """Who was trained on what, as far as `debug.json` tells."""
    debug = folder / "debug.json"
    content = read_json(debug, "debug file", "It is written by spd_train.", ModelError) if debug.exists() else {}
    content = content if isinstance(content, dict) else {}
    trainer = str(content.get("trainer") or model.path.name.split("__")[0])
    counts = {key: len(content[key]) if key in content else None for key in ("train_cases", "val_cases")}
    told = {key: content.get(key) for key in ("spdnet", "device", "gpu", "seed")}
    return {"trainer": trainer, "fold": fold, "folder": str(folder), **counts, **told}


def _with_predictions(cases: Sequence[Any], folders: Sequence[Path], ending: str, labels: Labels) -> list[ReportCase]:
    """The cases that all folders have a prediction of; others are logged."""
    names = {folder: {f.name for f in folder.iterdir()} if folder.is_dir() else set() for folder in folders}
    common = [case for case in cases if all(f"{case.case}{ending}" in names[folder] for folder in folders)]
    if not common:
        raise DatasetError(
            f"no case has a prediction CASE{ending} in {' and in '.join(str(f) for f in folders)}; the cases of the "
            f"images are {_some([case.case for case in cases])}"
        )
    if len(common) < len(cases):
        left = [case.case for case in cases if case not in common]
        logger.warning("%d cases are left out, as a prediction is missing: %s", len(left), _some(left))
    return [
        ReportCase(
            case.case,
            case.images,
            case.label,
            case.prompts,
            tuple(_prediction_files(folder, case.case, ending, len(labels)) for folder in folders),
        )
        for case in common
    ]


def _prediction_files(folder: Path, case: str, ending: str, n_classes: int) -> PredictionFiles:
    judged = folder / REPORT_FOLDER / f"{case}.csv"
    saliency = tuple(saliency_file(folder, case, k, ending) for k in range(n_classes))
    return PredictionFiles(
        folder / f"{case}{ending}",
        judged if judged.exists() else None,
        saliency if all(file.exists() for file in saliency) else (),
    )


def _names(folders: Sequence[Path], given: Sequence[str]) -> tuple[str, ...]:
    """A distinct name for each folder: those given, else the folders' own, with their parents' where they agree."""
    names = [*given, *(folder.absolute().name for folder in folders[len(given) :])]
    if len(names) != len(folders):
        raise ConfigurationError(f"{len(given)} names for {len(folders)} folders of predictions; give one for each")
    if len(set(names)) < len(names):
        names = [*given, *("/".join(folder.absolute().parts[-2:]) for folder in folders[len(given) :])]
    if len(set(names)) < len(names):
        raise ConfigurationError(
            f"the folders of predictions cannot be told apart: {', '.join(names)}; name them (-names)"
        )
    return tuple(names)


def _find_dataset_json(images: Path, predictions: Sequence[Path]) -> Path:
    candidates = [*(folder / "dataset.json" for folder in predictions), images.absolute().parent / "dataset.json"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DatasetError(f"found no dataset.json: {' nor '.join(map(str, candidates))}; give the data set's with -djfile")


def _own_plans(folder: Path) -> dict[str, Any] | None:
    """The part "spd" of the plans beside predictions; None for predictions of other programs."""
    file = folder / "plans.json"
    if not file.is_file():
        return None
    content = read_json(file, "plans file", "Mend or remove it.", PlansError)
    own = content.get("spd") if isinstance(content, dict) else None
    return own if isinstance(own, dict) else None


def _slicing_axis(plans: dict[str, Any] | None) -> int | None:
    if plans is None:
        return None
    try:
        return axis_from_name(str(plans.get("slicing_axis")))
    except ValueError as error:
        raise PlansError(
            f'"slicing_axis" of the plans is {plans.get("slicing_axis")!r}; it must be "S", "P" or "L"'
        ) from error


def _normalization(plans: dict[str, Any] | None) -> tuple[NormalizationSettings, ...]:
    try:
        return tuple(NormalizationSettings(**entry) for entry in (plans or {}).get("normalization", ()))
    except TypeError as error:
        raise PlansError(f'"normalization" of the plans is not as spdnet writes it: {error}') from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" * (len(names) > _NAMES_SHOWN))
