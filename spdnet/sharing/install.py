"""Unpacking a model into nnUNet_results: everything is checked first, and nothing that is there is lost.

The model is unpacked into a temporary folder beside its place and renamed when it is complete.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from spdnet.dataset import Labels
from spdnet.errors import ConfigurationError, ModelError, SPDError
from spdnet.files import make_folder, parse_json, storage_errors, whole_file
from spdnet.inference import ModelFolder
from spdnet.network.backbones import BaseWeights
from spdnet.paths import results_root
from spdnet.planning import SPDPlans, SPDSettings
from spdnet.sharing.archive import Archive, Limits, open_archive, reading
from spdnet.sharing.checks import check_checkpoint
from spdnet.sharing.manifest import (
    MANIFEST_FILE,
    SAM_FOLDER,
    Manifest,
    base_weights,
    sha256_of_file,
    sha256_of_stream,
)


@dataclass(frozen=True)
class InstalledModel:
    """What was installed.

    Attributes:
        folder: the model, in nnUNet_results.
        folds: those it has.
        backbone: SAM backbone that it is built on.
        has_manifest: spdnet packed it; otherwise nnU-Net did, and only the zip's own checksums were checked.
        left_out: entries of the zip that are not of the model and were not unpacked.
        sam_file: where SAM's weights are or have to be, or None if the backbone has none.
        sam_state: "present", "missing" or "different" (not the published file), or "none".
        sam_source: where SAM's weights come from.
    """

    folder: ModelFolder
    folds: list[str]
    backbone: str
    has_manifest: bool
    left_out: tuple[str, ...]
    sam_file: Path | None
    sam_state: str
    sam_source: str


def install_model(zip_file: Path, overwrite: bool = False, limits: Limits | None = None) -> InstalledModel:
    """Check a packed model and install it under the name that it was packed with.

    Args:
        zip_file: written by `export_model` or by nnUNetv2_export_model_to_zip.
        overwrite: replace a model of that name; it stays until the new one is complete.
        limits: on what the zip may unpack to.

    Raises:
        ModelError: the zip is damaged, not a packed model of spdnet, or not safe to unpack; or SAM's weights in it
            are not the published ones, or others lie where they belong. Nothing has been installed then.
        ConfigurationError: nnUNet_results is not set, or the model exists and is not to be replaced.
    """
    root = results_root()
    with open_archive(zip_file, limits or Limits()) as archive:
        target = root / archive.dataset_name / archive.model_name
        if target.exists() and not overwrite:
            raise ConfigurationError(
                f"{target} exists already; give --overwrite to replace it, or rename it to keep both"
            )
        settings = _settings(archive)
        backbone = settings.backbone
        weights = base_weights(backbone)
        manifest = _read_manifest(archive)
        _check_contents(archive, manifest, backbone, weights)
        if weights is not None and _packed_sam_weights(archive):
            _check_sam_place(weights)
        _unpack(archive, target, settings, weights)
    model = ModelFolder(target)
    return InstalledModel(
        model,
        model.folds(),
        backbone,
        manifest is not None,
        archive.left_out,
        weights.file if weights is not None else None,
        _sam_state(weights),
        weights.source if weights is not None else "",
    )


# ---- checks before anything is written --------------------------------------------------------------------


def _settings(archive: Archive) -> SPDSettings:
    """spdnet's part of the packed plans; raises ModelError if they are not spdnet's."""
    where = f"{archive.file}: plans.json"
    try:
        content = parse_json(archive.read("plans.json"))
    except ValueError as error:
        raise ModelError(f"{where} is not valid JSON: {error}. Nothing was installed.") from error
    if not isinstance(content, dict) or "spd" not in content:
        raise ModelError(
            f"{where} holds no settings of spdnet. If this is a model of nnU-Net, install it with "
            "nnUNetv2_install_pretrained_model_from_zip. Nothing was installed."
        )
    try:
        return SPDPlans.from_dict(content, where).settings
    except SPDError as error:
        raise ModelError(f"{error}. Was it packed by a newer spdnet? Nothing was installed.") from error


def _read_manifest(archive: Archive) -> Manifest | None:
    if MANIFEST_FILE not in archive.entries:
        return None
    return Manifest.from_json(archive.read(MANIFEST_FILE), f"{archive.file}: {MANIFEST_FILE}")


def _check_contents(archive: Archive, manifest: Manifest | None, backbone: str, weights: BaseWeights | None) -> None:
    """Read every entry once: the zip's own checksums, and the manifest's if there is one."""
    expected = _expected_checksums(archive, manifest, backbone, weights)
    with _bar(archive, "checking") as bar:
        for name, info in archive.entries.items():
            with reading(archive.file), archive.zip.open(info) as stream:
                found = sha256_of_stream(CallbackIOWrapper(bar.update, stream, "read"))
            if name in expected and expected[name] != found:
                raise ModelError(
                    f"{archive.file}: {name} is not what was packed: SHA-256 {found}, expected {expected[name]}. Ask "
                    "for the zip again. Nothing was installed."
                )


def _bar(archive: Archive, what: str) -> tqdm:
    """A progress bar of the bytes that the zip unpacks to."""
    n_bytes = sum(info.file_size for info in archive.entries.values())
    return tqdm(total=n_bytes, unit="B", unit_scale=True, desc=what)


def _expected_checksums(
    archive: Archive, manifest: Manifest | None, backbone: str, weights: BaseWeights | None
) -> dict[str, str]:
    where = f"{archive.file}: {MANIFEST_FILE}"
    if manifest is None:
        if packed := _packed_sam_weights(archive):
            raise ModelError(f"{archive.file} holds {packed[0]} but no {MANIFEST_FILE}. Nothing was installed.")
        return {}
    if manifest.backbone != backbone:
        raise ModelError(
            f"{where} says {manifest.backbone}, plans.json says {backbone}: they do not belong together. Nothing was "
            "installed."
        )
    _check_sam_reference(where, manifest, weights)
    sam = manifest.sam_weights
    included = {f"{SAM_FOLDER}/{sam.file_name}": sam.sha256} if sam is not None and sam.included else {}
    expected = {**manifest.files, **included}
    present = set(archive.entries) - {MANIFEST_FILE}
    if present != set(expected):
        name = sorted(present ^ set(expected))[0]
        raise ModelError(f"{where} and the zip differ: {name} is in one of them only. Nothing was installed.")
    return expected


def _check_sam_reference(where: str, manifest: Manifest, weights: BaseWeights | None) -> None:
    """Raise ModelError unless the manifest names the weights that this spdnet would load."""
    sam = manifest.sam_weights
    there = (sam.file_name, sam.sha256) if sam is not None else None
    here = (weights.file_name, weights.sha256) if weights is not None else None
    if there != here:
        raise ModelError(
            f"{where} is for other weights of {manifest.backbone} ({there}) than this spdnet uses ({here}). Nothing "
            "was installed."
        )


def _packed_sam_weights(archive: Archive) -> list[str]:
    return [name for name in archive.entries if name.startswith(f"{SAM_FOLDER}/")]


def _check_sam_place(weights: BaseWeights) -> None:
    if weights.file.exists() and _sam_state(weights) != "present":
        raise ModelError(
            f"{weights.file} exists and is not the published {weights.file_name}, which the zip holds; it is never "
            "replaced: move it away and install again. Nothing was installed."
        )


def _sam_state(weights: BaseWeights | None) -> str:
    if weights is None:
        return "none"
    if not weights.file.is_file():
        return "missing"
    return "present" if sha256_of_file(weights.file) == weights.sha256 else "different"


# ---- unpacking --------------------------------------------------------------------------------------------


def _unpack(archive: Archive, target: Path, settings: SPDSettings, weights: BaseWeights | None) -> None:
    """Unpack beside the target, check the checkpoints, put SAM's weights into their place, then rename."""
    is_new = not target.parent.exists()
    make_folder(target.parent)
    with storage_errors(target):
        temporary = Path(tempfile.mkdtemp(prefix=".spd_install_", dir=target.parent))
    model, replaced = temporary / "new", temporary / "old"
    try:
        with _bar(archive, "unpacking") as bar:
            for name, info in archive.entries.items():
                if not name.startswith(f"{SAM_FOLDER}/"):
                    _extract(archive, info.filename, model / name, bar)
            _check_checkpoints(model, archive, settings, _labels(model, archive))
            if weights is not None:
                _install_sam_weights(archive, weights, bar)
        _rename(model, target, replaced)
    finally:
        if target.exists() or not replaced.exists():  # else the old model could not be put back and is in there
            shutil.rmtree(temporary, ignore_errors=True)
        if is_new and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _labels(model: Path, archive: Archive) -> Labels:
    """The classes by the unpacked dataset.json; raises `ModelError`."""
    try:
        return ModelFolder(model).labels()
    except SPDError as error:
        raise ModelError(f"{archive.file}: its dataset.json cannot be used: {error}. Nothing was installed.") from error


def _extract(archive: Archive, entry: str, file: Path, bar: tqdm) -> None:
    """Write one entry to a file, and tell the bar of its bytes."""
    make_folder(file.parent)
    with reading(archive.file), storage_errors(file), archive.zip.open(entry) as source, file.open("wb") as target:
        shutil.copyfileobj(CallbackIOWrapper(bar.update, source, "read"), target, 1 << 22)


def _check_checkpoints(model: Path, archive: Archive, settings: SPDSettings, labels: Labels) -> None:
    for name in archive.checkpoints:
        try:
            check_checkpoint(model / name, settings, labels)
        except ModelError as error:
            raise ModelError(f"{archive.file}: {name} cannot be used: {error}. Nothing was installed.") from error


def _rename(model: Path, target: Path, kept: Path) -> None:
    """Put the model into its place; what was there comes back if that fails."""
    if target.exists():
        target.rename(kept)
    try:
        model.rename(target)
    except OSError:
        if kept.exists():
            kept.rename(target)
        raise


def _install_sam_weights(archive: Archive, weights: BaseWeights, bar: tqdm) -> None:
    packed = _packed_sam_weights(archive)
    if not packed or weights.file.exists():
        return
    make_folder(weights.file.parent)
    with whole_file(weights.file) as partial:
        _extract(archive, archive.entries[packed[0]].filename, partial, bar)
