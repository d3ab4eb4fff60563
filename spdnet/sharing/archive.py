"""The structure of a packed model: which files it may hold and which zip files are refused.

A zip comes from someone else. Everything here reads; nothing is unpacked before all of it has been checked.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spdnet.errors import ModelError
from spdnet.paths import CONFIGURATION, is_dataset_name
from spdnet.sharing.manifest import MANIFEST_FILE, SAM_FOLDER

MODEL_FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json", "spd_fingerprint.json")
FOLD_FILES = ("progress.png", "debug.json", "network_architecture.pdf")
CROSSVALIDATION_FILES = ("summary.json", "postprocessing.pkl", "postprocessing.json")
CHECKPOINT_PATTERN = r"checkpoint_\w+\.pth"
_FOLD = r"fold_(?:\d+|all)"
_CROSSVALIDATION = r"crossval_results_folds_\w+"
# endings of nnU-Net's readers, for predictions packed along
_LARGEST_TEXT = 64 << 20
_SEGMENTATION = r"[^/]+\.(?:nii\.gz|nii|nrrd|mha|gipl|png|bmp|tif|tiff|json)"
_EXPECTED = re.compile(
    "|".join(
        (
            *(re.escape(name) for name in (*MODEL_FILES, MANIFEST_FILE)),
            *(rf"{_FOLD}/{re.escape(name)}" for name in FOLD_FILES),
            rf"{_FOLD}/{CHECKPOINT_PATTERN}",
            rf"{_FOLD}/validation/{_SEGMENTATION}",
            *(rf"{_CROSSVALIDATION}/{re.escape(name)}" for name in CROSSVALIDATION_FILES),
            rf"{_CROSSVALIDATION}/{_SEGMENTATION}",
            rf"{SAM_FOLDER}/[^/]+\.(?:pth|pt)",
        )
    )
)
# what nnU-Net packs about a data set beside the model: its comparisons with models that are not in the zip
_NOT_OF_THE_MODEL = re.compile(r"inference_in(?:formation|structions)\.(?:json|txt)|ensembles/.+")
_CHECKPOINT = re.compile(rf"{_FOLD}/{CHECKPOINT_PATTERN}")
_ENCRYPTED = 0x1
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class Limits:
    """What a zip may unpack to.

    Attributes:
        total_bytes: of all files together; five folds with SAM's largest weights are a fraction of it.
        ratio: unpacked to packed size, of any zip that unpacks to more than `free_bytes`.
        n_entries: number of entries.
    """

    total_bytes: int = 32 * 2**30
    ratio: float = 100.0
    free_bytes: int = 256 * 2**20
    n_entries: int = 100_000


@dataclass(frozen=True)
class Archive:
    """An open zip whose structure has been checked.

    Attributes:
        file: the zip.
        dataset_name, model_name: the two folders in which the model lies.
        entries: by path within the model folder.
        left_out: entries that are not of the model and are not unpacked.
    """

    file: Path
    zip: zipfile.ZipFile
    dataset_name: str
    model_name: str
    entries: dict[str, zipfile.ZipInfo]
    left_out: tuple[str, ...]

    @property
    def checkpoints(self) -> list[str]:
        """Paths of the checkpoints within the model folder."""
        return sorted(name for name in self.entries if _CHECKPOINT.fullmatch(name))

    def read(self, name: str) -> bytes:
        """The content of one entry of text; raises `ModelError` if it is damaged, or too large to be read at once."""
        if self.entries[name].file_size > _LARGEST_TEXT:
            raise ModelError(f"{self.file}: {name} has {self.entries[name].file_size} bytes; nobody wrote that by hand")
        with reading(self.file):
            return self.zip.read(self.entries[name])


@contextmanager
def open_archive(file: Path, limits: Limits) -> Iterator[Archive]:
    """Open a packed model and check every entry's name, kind and size, without reading contents.

    Raises:
        ModelError: the file is missing or no complete zip, or an entry is not what a packed model holds; says which.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file; give the zip that spd_export_model_to_zip or nnU-Net wrote")
    with reading(file), zipfile.ZipFile(file) as opened:
        infos = opened.infolist()
        _check_sizes(file, infos, limits)
        for info in infos:
            _check_entry(file, info)
        files = [info for info in infos if not info.is_dir()]
        _check_duplicates(file, files)
        yield _archive(file, opened, files)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what a damaged zip makes zipfile raise into a `ModelError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelError(
            f"{file} is damaged, incomplete or not a zip file ({str(error) or type(error).__name__}); copy it again. "
            "Nothing was installed."
        ) from error


def _check_sizes(file: Path, infos: list[zipfile.ZipInfo], limits: Limits) -> None:
    packed, unpacked = file.stat().st_size, sum(info.file_size for info in infos)
    if len(infos) > limits.n_entries:
        _refuse(file, f"it has {len(infos)} entries; at most {limits.n_entries} are accepted")
    if unpacked > limits.total_bytes:
        _refuse(file, f"it unpacks to {unpacked / 2**30:.1f} GiB; the limit is {limits.total_bytes / 2**30:.1f} GiB")
    if unpacked > max(limits.free_bytes, limits.ratio * packed):
        _refuse(file, f"it unpacks to {unpacked / packed:.0f} times its size; the limit is {limits.ratio:.0f} times")
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.header_offset < end:
            _refuse(file, f"entry {info.filename!r} overlaps another")
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
    if end > packed:
        _refuse(file, "its entries reach beyond its end; it is incomplete")


def _check_entry(file: Path, info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or ":" in name or "\\" in name:
        _refuse(file, f"entry {name!r} is an absolute path, names a drive or has a backslash")
    if any(part in ("", ".", "..") for part in parts):
        _refuse(file, f"entry {name!r} leads out of its folder")
    if name != info.filename or not name.isprintable() or any(part[-1] in " ." for part in parts):
        _refuse(file, f"entry {name!r} has a name that not every system can hold")
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        _refuse(file, f"entry {name!r} is a link or a special file")
    if info.flag_bits & _ENCRYPTED:
        _refuse(file, f"entry {name!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(file, f"entry {name!r} is packed by a method other than deflate")


def _check_duplicates(file: Path, files: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, str] = {}
    for info in files:
        key = info.filename.casefold()
        if key in seen:
            _refuse(file, f"entries {seen[key]!r} and {info.filename!r} have one name")
        seen[key] = info.filename


def _archive(file: Path, opened: zipfile.ZipFile, files: list[zipfile.ZipInfo]) -> Archive:
    datasets, models, left_out = set(), set(), []
    entries = {}
    for info in files:
        dataset_name, _, rest = info.filename.partition("/")
        if not is_dataset_name(dataset_name):
            _refuse(file, f"entry {info.filename!r} does not lie in a folder DatasetNNN_Name")
        datasets.add(dataset_name)
        if _NOT_OF_THE_MODEL.fullmatch(rest):
            left_out.append(info.filename)
            continue
        model_name, _, path = rest.partition("/")
        if not _is_model_name(model_name) or not _EXPECTED.fullmatch(path):
            _refuse(file, f"entry {info.filename!r} is not part of a packed 2d model")
        models.add(model_name)
        entries[path] = info
    if len(datasets) != 1 or len(models) != 1:
        found = ", ".join(sorted(models)) or "none"
        _refuse(file, f"it must hold one model of one data set; models: {found}; data sets: {len(datasets)}")
    archive = Archive(file, opened, datasets.pop(), models.pop(), entries, tuple(left_out))
    missing = [name for name in ("plans.json", "dataset.json") if name not in entries]
    if missing or not archive.checkpoints:
        _refuse(file, f"{', '.join(missing) or 'a checkpoint'} is missing in it")
    return archive


def _is_model_name(name: str) -> bool:
    parts = name.split("__")
    return len(parts) == 3 and all(re.fullmatch(r"[\w-][\w.-]*", p) for p in parts) and parts[2] == CONFIGURATION


def _refuse(file: Path, reason: str) -> None:
    raise ModelError(f"{file} is not installed: {reason}")
