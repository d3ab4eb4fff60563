"""From a raw case to network slices, for training and inference alike.

Order of work: orient, crop, normalise to [0, 1], scale, pad. The geometric steps are the case's
`CaseMapping`, which is stored with the case and undoes them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import spdnet
from spdnet.dataset import CaseFiles, Labels, RawDataset, ReaderWriter
from spdnet.errors import DatasetError, shown
from spdnet.files import make_folder
from spdnet.geometry import CaseMapping, ImageGeometry, plan_case_mapping
from spdnet.geometry.image_geometry import axis_from_name
from spdnet.parallel import map_cases
from spdnet.planning.case_checks import check_cases, no_prompts
from spdnet.planning.fingerprint import nonzero_box, read_checked_label
from spdnet.planning.plans import NormalizationSettings, SPDPlans, SPDSettings
from spdnet.planning.raw_files import files_of, stamp
from spdnet.planning.shared_files import write_shared_files
from spdnet.planning.storage import CaseWriter, RunRecord, StoredCase, stored_cases
from spdnet.prompts import PromptReading, SlicePrompts, load_given_prompts

logger = logging.getLogger(__name__)

_CASE_SETTINGS = ("slicing_axis", "image_size", "pixel_spacing_mm", "crop_to_nonzero")
_SOURCE = "spd.prompts.source"


@dataclass(frozen=True)
class NetworkCase:
    """One case in the network frame: slices float32 (S, c, size, size) in [0, 1], and how they were made."""

    slices: np.ndarray
    mapping: CaseMapping
    geometry: ImageGeometry


def preprocess_image(image: np.ndarray, geometry: ImageGeometry, settings: SPDSettings, case: str) -> NetworkCase:
    """Bring one image (c, z, y, x) into the network frame.

    Raises:
        DatasetError: the number of channels is not the plans', or the image is constant.
    """
    if len(image) != len(settings.normalization):
        raise DatasetError(f"case {case}: {len(image)} channels; the plans are for {len(settings.normalization)}")
    axis = axis_from_name(settings.slicing_axis) if geometry.has_patient_axes else 0
    crop_box = None
    if settings.crop_to_nonzero:
        crop_box = nonzero_box(image, geometry)
        crop_box[axis] = (0, geometry.canonical_shape()[axis])  # in plane only: all slices are kept
    mapping = plan_case_mapping(geometry, axis, settings.image_size, settings.pixel_spacing_mm, crop_box)
    normalized = np.stack([_normalize(c, s, case) for c, s in zip(image, settings.normalization, strict=True)])
    return NetworkCase(mapping.image_to_network(normalized), mapping, geometry)


def _normalize(channel: np.ndarray, settings: NormalizationSettings, case: str) -> np.ndarray:
    low, high = settings.low, settings.high
    if settings.scheme == "percentile":
        low, high = (float(v) for v in np.percentile(channel, (low, high)))
        if high <= low:  # nearly everything has one value: use the whole range
            low, high = float(channel.min()), float(channel.max())
    if high <= low:
        raise DatasetError(f"case {case}: the image is constant ({low:g} everywhere); there is nothing to segment")
    return np.clip((channel - low) / (high - low), 0.0, 1.0).astype(np.float32)


def preprocessing_settings(settings: SPDSettings, labels: Labels) -> dict[str, Any]:
    """What preprocessed cases depend on, of the plans and of dataset.json, by its place there, as JSON holds it."""
    content: dict[str, Any] = {f"spd.{name}": getattr(settings, name) for name in _CASE_SETTINGS}
    content["spd.normalization"] = [dataclasses.asdict(n) for n in settings.normalization]
    content[_SOURCE] = settings.prompts.source
    values = {name: list(own) for name, own in zip(labels.names, labels.values, strict=True)}
    content["labels of dataset.json"] = {**values, "ignore": labels.ignore_value}
    return content


def check_made_with(folder: Path, settings: SPDSettings, labels: Labels) -> None:
    """Check that the preprocessed cases of a folder are those of the settings, as far as there is a record.

    Prompts are stored with the cases if they come from files; where they are not needed, they may be there.

    Raises:
        DatasetError: they were made with something else; it names the first difference.
    """
    before = RunRecord(folder).made_with()
    for name, now in preprocessing_settings(settings, labels).items():
        if not isinstance(before, dict) or name not in before or before[name] == now:
            continue
        if name == _SOURCE and now != "files":
            continue
        raise DatasetError(
            f"the cases in {folder} were preprocessed with {name} {shown(before[name])}; now it is {shown(now)}. Run "
            "spd_preprocess, with the same -d and -plans_name"
        )


class SPDPreprocessor:
    """Writes the preprocessed cases of a data set."""

    def __init__(self, dataset: RawDataset, plans: SPDPlans, preprocessed_folder: Path) -> None:
        self.dataset = dataset
        self.plans = plans
        self.folder = preprocessed_folder

    def run(self, n_processes: int, reading: PromptReading = PromptReading(), checked: bool = False) -> None:
        """Preprocess all training cases into `{plans}_2d/`, and copy the ground truth as nnU-Net does.

        A run that was interrupted is continued by the next one with the same plans; a finished one is done again.

        Args:
            n_processes: worker processes.
            reading: what the user says of prompt files.
            checked: whether `check_cases` was run on the cases just before; else it is, before anything changes.

        Raises:
            DatasetError, PromptFileError: a case is not what it must be. StorageError: no room, or no permission.
        """
        cases = self.dataset.training_cases()
        if not checked:
            from_files = self.plans.settings.prompts.source == "files"
            check_cases(self.dataset, cases, reading, with_prompts=from_files, prompts_needed=from_files)
        target = self.folder / self.plans.data_identifier
        make_folder(target)
        record = RunRecord(target)
        record.begin(self._made_with(reading))
        self._remove_foreign_cases(target, {c.case for c in cases})
        left = [c for c in cases if not record.is_written(c.case, _stamps(c))]
        if len(left) < len(cases):
            logger.info("going on with an unfinished run: %d of %d cases are there", len(cases) - len(left), len(cases))
        write = functools.partial(
            _preprocess_and_note,
            reader=self.dataset.reader,
            plans=self.plans,
            labels=self.dataset.labels,
            folder=target,
            reading=reading,
        )
        map_cases(write, left, n_processes, "preprocessing")
        write_shared_files(self.dataset, cases, self.folder)
        record.end()

    def _made_with(self, reading: PromptReading) -> dict[str, Any]:
        """All that decides the content of the preprocessed cases but the files of the cases."""
        return {
            "spdnet_version": spdnet.__version__,
            "reader": self.dataset.reader.name,
            "reading": dataclasses.asdict(reading),
            **preprocessing_settings(self.plans.settings, self.dataset.labels),
        }

    def _remove_foreign_cases(self, folder: Path, cases: set[str]) -> None:
        """Remove what an earlier preprocessing left of cases that are no longer in the data set."""
        gone = [c for c in stored_cases(folder) if c not in cases]
        for case in gone:
            StoredCase(folder, case).remove()
        if gone:
            logger.info(
                "removed %d preprocessed cases that are no longer in the data set: %s", len(gone), ", ".join(gone)
            )


def _preprocess_and_note(case: CaseFiles, folder: Path, **arguments: Any) -> None:
    """`preprocess_training_case`, and a note that the case is done; the files are looked at before they are read."""
    stamps = _stamps(case)
    preprocess_training_case(case, folder=folder, **arguments)
    RunRecord(folder).note_written(case.case, stamps)


def _stamps(case: CaseFiles) -> list[list[Any]]:
    """Path, size and time of change of each of a case's files."""
    return [[str(file), *(stamp(file) or (None, None))] for file in files_of(case)]


def preprocess_training_case(
    case: CaseFiles,
    reader: ReaderWriter,
    plans: SPDPlans,
    labels: Labels,
    folder: Path,
    reading: PromptReading = PromptReading(),
) -> None:
    """Preprocess one training case and write it; raises as `SPDPreprocessor.run`."""
    image, geometry = reader.read_image(case.images, case.case)
    label_map = read_checked_label(case, reader, labels, geometry)
    network_case = preprocess_image(image, geometry, plans.settings, case.case)
    masks = network_case.mapping.masks_to_network(labels.masks(label_map))
    ignored = None
    if labels.ignore_value is not None:
        ignored = network_case.mapping.masks_to_network(label_map[None] == labels.ignore_value)[:, 0]
    prompts = None
    if plans.settings.prompts.source == "files":
        if case.prompts is None:
            raise no_prompts(case)
        how = geometry, network_case.mapping, labels
        given = load_given_prompts(case.prompts, case.case, *how, reading=reading, log_dropped=False)  # checked before
        prompts = given.for_network()
    writer = CaseWriter(folder, case.case)
    prompts = SlicePrompts.empty() if prompts is None else prompts
    writer.write(network_case.slices, masks, ignored, network_case.mapping, geometry, prompts)
