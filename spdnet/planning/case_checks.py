"""Whether training cases can be worked on, as far as headers and prompt files tell: all faults at once.

What needs voxels is checked when the cases are measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from spdnet.dataset import CaseFiles, RawDataset
from spdnet.dataset.raw_dataset import check_prompt_endings
from spdnet.errors import DatasetError, SPDError
from spdnet.geometry import ImageGeometry
from spdnet.parallel import progress_bar
from spdnet.prompts import PromptReading, read_checked_markups

_FAULTS_SHOWN = 10


def check_cases(
    dataset: RawDataset,
    cases: Sequence[CaseFiles],
    reading: PromptReading,
    with_prompts: bool = True,
    prompts_needed: bool = False,
) -> None:
    """Read the headers of images and labels, and the prompt files, of all training cases.

    Points outside that are dropped are logged here, and only here.

    Args:
        dataset, cases: the data set and its training cases.
        reading: what the user says of prompt files.
        with_prompts: whether prompt files are looked at.
        prompts_needed: whether every case must have one, as the plans say.

    Raises:
        DatasetError, PromptFileError: a case is faulty, or several, which are all named (of the first one's class).
    """
    if with_prompts:
        check_prompt_endings(dataset.folder / "promptsTr")
    faults = []
    with progress_bar(cases, "checking cases", leave=False) as bar:
        for case in bar:
            try:
                _check_case(dataset, case, reading, with_prompts, prompts_needed)
            except SPDError as error:
                faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        more = f"\n  and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        listing = "".join(f"\n  {fault}" for fault in faults[:_FAULTS_SHOWN])
        raise type(faults[0])(f"{len(faults)} of {len(cases)} training cases are faulty:{listing}{more}")


def check_grid(case: CaseFiles, geometry: ImageGeometry, label_geometry: ImageGeometry) -> None:
    """Check that a label lies on the grid of its image; raises DatasetError."""
    if difference := geometry.difference(label_geometry):
        raise DatasetError(
            f"case {case.case}: image {case.images[0]} and label {case.label} are not on the same grid: {difference}. "
            "Resample one onto the other."
        )


def _check_case(
    dataset: RawDataset, case: CaseFiles, reading: PromptReading, with_prompts: bool, prompts_needed: bool
) -> None:
    reader = dataset.reader
    geometry = reader.read_geometry(case.images[0], case.case)
    for image in case.images[1:]:
        reader.read_geometry(image, case.case)
    if case.label is not None:
        check_grid(case, geometry, reader.read_geometry(case.label, case.case))
    if with_prompts and case.prompts is not None:
        read_checked_markups(case.prompts, case.case, geometry, dataset.labels, reading.frame, reading.outside)
    if prompts_needed and case.prompts is None:
        raise no_prompts(case)


def no_prompts(case: CaseFiles) -> DatasetError:
    """The error of a case without prompt file where the plans ask for it."""
    return DatasetError(
        f"case {case.case}: the plans say prompts come from files, but it has none in promptsTr. Put one there, or "
        "plan again with spd_plan_and_preprocess"
    )
