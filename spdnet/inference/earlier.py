"""What becomes of earlier predictions of the cases that are predicted anew.

Before the work starts, the files of each such case are moved to `earlier_predictions/` in the folder of predictions,
where no tool looks for any: a prediction that stayed in its place while its case fails, or while the run is killed,
would be taken for a new one. When the new prediction is complete the earlier one is removed. The scores of
`spd_evaluate` go the same way, as they are of the earlier predictions.

Only the files of the cases, under the names that spdnet gives them, are touched, in folders that a prediction has
written to before; a file that may be the user's own, or is an input of the run, stays.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from spdnet.dataset.image_io.tiff import Tiff3DIO
from spdnet.files import make_folder, storage_errors
from spdnet.inference.prompt_report import is_prompt_report, report_files
from spdnet.inference.saliency_files import SALIENCY_FOLDER

logger = logging.getLogger(__name__)

EARLIER_FOLDER = "earlier_predictions"
SCORES_FILE = "spd_evaluation.json"
_ATTEMPTS = 3


def set_aside(targets: Sequence[Path], file_ending: str, inputs: Iterable[Path] = ()) -> int:
    """Move what there is of earlier predictions out of the way of new ones; returns how many there were.

    A case without its segmentation was not completed, so its other files are removed.

    Args:
        targets: paths of the new predictions without file ending, in folders that a prediction has written to.
        file_ending: of segmentations, with the dot.
        inputs: files that the run reads, which stay where they are.

    Raises:
        StorageError: a file cannot be moved.
    """
    kept = {file.resolve() for file in inputs}
    moved: dict[Path, int] = {}
    for target in targets:
        folder = target.parent
        segmentation = folder / f"{target.name}{file_ending}"
        others = [f for f in _side_files(folder, target.name, file_ending) if f.resolve() not in kept]
        if not segmentation.is_file():
            for file in others:
                if file != _spacing_file(folder, target.name):  # it may be the user's, and nothing takes it for a mask
                    with storage_errors(file, "remove"):
                        file.unlink(missing_ok=True)
            continue
        for file in (*others, segmentation):
            _move(file, folder)
        moved[folder] = moved.get(folder, 0) + 1
    for folder in dict.fromkeys(t.parent for t in targets):
        if (folder / SCORES_FILE).is_file():
            _move(folder / SCORES_FILE, folder)
    for folder, count in moved.items():
        logger.info("%d earlier predictions are in %s until the new ones are there", count, folder / EARLIER_FOLDER)
    return sum(moved.values())


def remove_earlier(target: Path, file_ending: str) -> None:
    """Remove the earlier prediction of a case, as there is a new one; raises `StorageError`."""
    earlier = target.parent / EARLIER_FOLDER
    if not earlier.is_dir():
        return
    files = [earlier / f"{target.name}{ending}" for ending in (file_ending, ".npz", ".pkl", ".json")]
    for file in (*files, *report_files(earlier, target.name), *_saliency_files(earlier, target.name, file_ending)):
        with storage_errors(file, "remove"):
            file.unlink(missing_ok=True)


def remove_folder_if_done(folder: Path) -> None:
    """After a run without failures: remove what is left of the earlier predictions of a folder, but for other cases."""
    earlier = folder / EARLIER_FOLDER
    with suppress(OSError):  # another process may be at work there
        (earlier / SCORES_FILE).unlink(missing_ok=True)
    for empty in (*(f.parent for f in report_files(earlier, "")[:1]), earlier / SALIENCY_FOLDER, earlier):
        with suppress(OSError):  # not there, or not empty
            empty.rmdir()


def earlier_prediction(target: Path, file_ending: str) -> Path | None:
    """Where the earlier prediction of a case is that has no new one; None if there is none."""
    file = target.parent / EARLIER_FOLDER / f"{target.name}{file_ending}"
    return file if file.is_file() and not (target.parent / file.name).is_file() else None


def _side_files(folder: Path, case: str, file_ending: str) -> list[Path]:
    """What is there of a case besides its segmentation."""
    files = _saliency_files(folder, case, file_ending)
    if _holds_probabilities(folder / f"{case}.npz"):
        files += [folder / f"{case}.npz", folder / f"{case}.pkl"]
    if is_prompt_report(folder, case):
        files += report_files(folder, case)
    if file_ending.lower() in Tiff3DIO.supported_file_endings:
        files.append(_spacing_file(folder, case))
    return [f for f in files if f.is_file()]


def _spacing_file(folder: Path, case: str) -> Path:
    return folder / f"{case}.json"


def _saliency_files(folder: Path, case: str, file_ending: str) -> list[Path]:
    name = re.compile(rf"{re.escape(case)}_\d{{4}}{re.escape(file_ending)}")
    with suppress(OSError):
        return [folder / SALIENCY_FOLDER / n for n in os.listdir(folder / SALIENCY_FOLDER) if name.fullmatch(n)]
    return []


def _holds_probabilities(file: Path) -> bool:
    """Whether a file is nnU-Net's npz, and not an array of the user's."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist() == ["probabilities.npy"]
    except (OSError, zipfile.BadZipFile):
        return False


def _move(file: Path, folder: Path) -> None:
    """Move a file of a folder to the same place below `EARLIER_FOLDER`; another process may have done it already."""
    target = folder / EARLIER_FOLDER / file.relative_to(folder)
    for attempt in range(_ATTEMPTS):
        make_folder(target.parent)
        with storage_errors(file, "move"):
            try:
                file.replace(target)
                return
            except FileNotFoundError:  # another process may just have removed the empty folder
                if not file.exists():
                    return
                if attempt == _ATTEMPTS - 1:
                    raise
