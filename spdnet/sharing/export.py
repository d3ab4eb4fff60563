"""Packing a trained model into a zip file, in nnU-Net's layout and with spdnet's manifest."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from spdnet import __version__
from spdnet.errors import ConfigurationError, ModelError
from spdnet.files import whole_file
from spdnet.inference import ModelFolder
from spdnet.network.backbones import BaseWeights
from spdnet.sharing.archive import CHECKPOINT_PATTERN, CROSSVALIDATION_FILES, MODEL_FILES
from spdnet.sharing.checks import check_checkpoint
from spdnet.sharing.manifest import (
    MANIFEST_FILE,
    SAM_FOLDER,
    Manifest,
    SamWeights,
    base_weights,
    sha256_of_file,
    sha256_of_stream,
)

_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same model gives the same zip


@dataclass(frozen=True)
class ExportedModel:
    """What was packed.

    Attributes:
        file: the zip.
        manifest: its manifest.
        absent: files that nnU-Net packs and this model lacks, by their path within the model folder.
    """

    file: Path
    manifest: Manifest
    absent: tuple[str, ...]


def export_model(
    model: ModelFolder,
    zip_file: Path,
    folds: list[str],
    checkpoint_names: list[str],
    include_sam_weights: bool = False,
    crossvalidation_predictions: bool = False,
) -> ExportedModel:
    """Pack a model; the zip appears whole or not at all, and replaces one of the same name.

    Args:
        model: `nnUNet_results/DatasetNNN_Name/Trainer__Plans__2d`; its two folder names go into the zip.
        zip_file: to write.
        folds: to pack, as in `fold_X`.
        checkpoint_names: to pack of each fold.
        include_sam_weights: pack SAM's weights too, unless they come with a package.
        crossvalidation_predictions: pack the segmentations of the validation as well as its scores.

    Raises:
        ModelError: the folder is no model of spdnet, a checkpoint is missing or damaged, or SAM's weights are to be
            packed and are not here.
        ConfigurationError: the zip cannot be written there, there is nothing to pack, or a checkpoint's name is not
            of the form checkpoint_NAME.pth.
    """
    _check_arguments(zip_file, folds, checkpoint_names)
    settings = model.plans().settings
    ending, labels = str(model.dataset_json()["file_ending"]), model.labels()
    for name in checkpoint_names:
        model.choose_folds(folds, name)
    checkpoints = [f"fold_{fold}/{name}" for fold in folds for name in checkpoint_names]
    for name in checkpoints:
        check_checkpoint(model.path / name, settings, labels)
    expected = _expected_files(folds)
    names = [name for name in (*checkpoints, *expected) if (model.path / name).is_file()]
    if crossvalidation_predictions:
        names += [n for fold in folds for n in _predictions(model.path, f"fold_{fold}/validation", ending)]
    names += _crossvalidation_files(model.path, folds, ending, crossvalidation_predictions)
    weights = base_weights(settings.backbone)
    sam_file = _sam_file_to_include(weights, settings.backbone) if include_sam_weights else None
    manifest = _write_zip(model.path, zip_file, names, settings.backbone, weights, sam_file)
    return ExportedModel(zip_file, manifest, tuple(name for name in expected if name not in names))


def _check_arguments(zip_file: Path, folds: list[str], checkpoint_names: list[str]) -> None:
    if not folds or not checkpoint_names:
        raise ConfigurationError("no fold or no checkpoint to pack; choose with -f and -chk")
    if not zip_file.parent.is_dir() or zip_file.is_dir():
        raise ConfigurationError(f"-o {zip_file}: must be a file in a folder that exists")
    for name in checkpoint_names:
        if not re.fullmatch(CHECKPOINT_PATTERN, name):
            raise ConfigurationError(f"-chk {name}: not the name of a checkpoint, such as checkpoint_final.pth")


def _expected_files(folds: list[str]) -> list[str]:
    """What belongs to a model beside the checkpoints."""
    of_folds = [f"fold_{fold}/{name}" for fold in folds for name in ("progress.png", "debug.json")]
    scores = [f"fold_{fold}/validation/summary.json" for fold in folds if fold != "all"]
    return [*MODEL_FILES, *of_folds, *scores]


def _crossvalidation_files(folder: Path, folds: list[str], ending: str, predictions: bool) -> list[str]:
    """Scores and postprocessing that nnU-Net's tools determined on just these folds."""
    results = f"crossval_results_folds_{'_'.join(folds)}"
    names = [f"{results}/{name}" for name in CROSSVALIDATION_FILES if (folder / results / name).is_file()]
    return names + (_predictions(folder, results, ending) if predictions else [])


def _predictions(folder: Path, sub_folder: str, ending: str) -> list[str]:
    return [f"{sub_folder}/{file.name}" for file in sorted((folder / sub_folder).glob(f"[!.]*{ending}"))]


def _sam_file_to_include(weights: BaseWeights | None, backbone: str) -> Path | None:
    """The file to pack, or None if there is nothing to pack: it comes with a package that spdnet needs anyway."""
    if weights is None or weights.source.startswith("package "):
        return None
    if not weights.file.is_file():
        raise ModelError(
            f"SAM's weights of {backbone} are to be packed, but {weights.file} does not exist; get them from "
            f"{weights.source}, or leave --include_sam_weights out"
        )
    found = sha256_of_file(weights.file)
    if found != weights.sha256:
        raise ModelError(
            f"{weights.file} is damaged or not the published checkpoint: SHA-256 {found}, expected {weights.sha256}"
        )
    return weights.file


def _write_zip(
    folder: Path, zip_file: Path, names: list[str], backbone: str, weights: BaseWeights | None, sam_file: Path | None
) -> Manifest:
    root = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    n_bytes = sum(f.stat().st_size for f in (*(folder / name for name in names), *filter(None, [sam_file])))
    with (
        whole_file(zip_file) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as target,
        tqdm(total=n_bytes, unit="B", unit_scale=True, desc="packing") as bar,
    ):
        checksums = {name: _add(target, folder / name, f"{root}/{name}", bar) for name in names}
        if sam_file is not None:
            _add(target, sam_file, f"{root}/{SAM_FOLDER}/{sam_file.name}", bar, zipfile.ZIP_STORED)
        sam = None
        if weights is not None:
            sam = SamWeights(weights.file_name, weights.sha256, weights.source, sam_file is not None)
        manifest = Manifest(__version__, backbone, sam, checksums)
        target.writestr(_entry(f"{root}/{MANIFEST_FILE}", zipfile.ZIP_DEFLATED), manifest.to_json())
    return manifest


def _add(target: zipfile.ZipFile, file: Path, name: str, bar: tqdm, method: int = zipfile.ZIP_DEFLATED) -> str:
    """Pack one file and tell the bar of its bytes; returns its SHA-256."""
    with file.open("rb") as source, target.open(_entry(name, method), "w", force_zip64=True) as packed:
        return sha256_of_stream(CallbackIOWrapper(bar.update, source, "read"), packed)


def _entry(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = method
    info.external_attr = 0o644 << 16
    return info
