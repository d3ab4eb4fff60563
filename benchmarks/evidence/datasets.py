"""The data sets of the benchmark: which volumes a setting gets and which structures are its target.

A source is a raw data set in nnU-Net's format that an environment variable names, or a phantom that is made here. What
is written is again such a data set, with hard links to the source's images and prompts for none but the phantom; all
others are the business of `evidence.noise`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from evidence.jobs import Setting
from spdnet.dataset import CaseFiles, RawDataset
from spdnet.dataset.raw_dataset import PROMPT_ENDINGS
from spdnet.dataset.splits import create_splits
from spdnet.demo.phantom import write_tube_phantom
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import copy_file, make_folder, write_json
from spdnet.geometry import ImageGeometry
from spdnet.prompts.simulate_files import case_generator

# Training and test volumes by profile and family; what is not named is taken whole. Training volumes are drawn by the
# setting's seed, test volumes are evenly spaced in sorted order and the same for every seed.
_FEW = {"phantom": (24, 40), "hippocampus": (24, 20), "left_atrium": (12, 4), "kits23": (24, 20)}
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "trial": dict.fromkeys(("phantom", "hippocampus", "left_atrium", "fumpe", "kits23"), (5, 2)),
    **dict.fromkeys(("small", "small_64", "small_112", "nnunet_20", "long", "long_unchecked"), _FEW),
    "full": {"phantom": (200, 60)},
}
# Test volumes by family that were looked at while the method was made: evenly spaced ones, of the phantom the first.
LOOKED_AT = {"phantom": 20, "hippocampus": 20, "left_atrium": 4}
TEST_TARGETS_SEED = 0  # the targets of test volumes are the same for every seed
PHANTOM_SEED = 2604  # not the demo's, some of whose cases were looked at while the method was made
KEPT_KEYS = ("channel_names", "labels", "regions_class_order", "file_ending", "overwrite_image_reader_writer")


@dataclass(frozen=True)
class Target:
    """What of a source's labels is to be segmented.

    Attributes:
        classes: names and values of the classes.
        label_map: from the source's label map int (z, y, x), its grid, and 0 or 1, drawn for the case, to the new one.
    """

    classes: dict[str, int]
    label_map: Callable[[np.ndarray, ImageGeometry, int], np.ndarray]


@dataclass(frozen=True)
class DataSource:
    """A data set of the benchmark.

    Attributes:
        name: key of `DATASETS`.
        title, description: for tables.
        dataset: name of the data set that is written, DatasetNNN_Name.
        family: data sets of one family get the same volumes, and the same draws for targets, from one seed.
        needs: environment variable with the source's folder; None: it is made here.
        target: None: the source's own classes.
        prior: name of a second data set with the same training images, and its target, for stage 1 to learn.
        same_but_for_stage1: data set with the same volumes, targets and prompts, whose stage 1 learns something else.
    """

    name: str
    title: str
    description: str
    dataset: str
    family: str
    needs: str | None
    target: Target | None = None
    prior: tuple[str, Target] | None = None
    same_but_for_stage1: str | None = None
    noise: ClassVar[str] = "recipe"  # of the training prompts, unless the setting says otherwise

    def missing(self) -> str | None:
        """Why it cannot be written here, or None."""
        if self.needs is None or Path(os.environ.get(self.needs, ""), "dataset.json").is_file():
            return None
        given = f"is {os.environ[self.needs]!r}" if os.environ.get(self.needs) else "is not set"
        return (
            f"data set {self.name} needs {self.needs} to name a raw data set in nnU-Net's format, a folder with "
            f"dataset.json; it {given}"
        )

    def write(self, setting: Setting, nnunet_raw: Path) -> None:
        """Write the data set of a setting, and that of stage 1 if there is one, into a folder that has neither.

        Raises:
            ConfigurationError: the source is not there, or the setting asks for more volumes than it has.
            DatasetError: a file is missing or not what it must be.
        """
        if reason := self.missing():
            raise ConfigurationError(reason)
        make_folder(nnunet_raw)
        with tempfile.TemporaryDirectory(prefix=".source_", dir=nnunet_raw) as scratch:
            source = RawDataset(self._source(setting, Path(scratch)))
            train, test = choose_cases(source, setting, self.family, self._looked_at)
            drawn = _balanced(train, setting.seed, f"{self.family} training targets")
            drawn |= _balanced(test, TEST_TARGETS_SEED, f"{self.family} test targets")
            _write(source, nnunet_raw / self.dataset, self.target, {"Tr": train, "Ts": test}, drawn)
            if self.prior is not None:
                name, target = self.prior
                _write(source, nnunet_raw / name, target, {"Tr": train}, drawn)

    def _source(self, setting: Setting, scratch: Path) -> Path:
        """Folder of the source."""
        assert self.needs is not None
        return Path(os.environ[self.needs])

    def _looked_at(self, n_test: int) -> set[int]:
        """Which of the test volumes, in sorted order, were looked at while the method was made."""
        return set(_evenly_spaced(n_test, LOOKED_AT.get(self.family, 0)))


@dataclass(frozen=True)
class Phantom(DataSource):
    """The tube phantom; its own centrelines are prompts for training and test cases.

    Attributes:
        phantom_seed: of its volumes.
    """

    phantom_seed: int = PHANTOM_SEED
    noise: ClassVar[str] = "native"

    def _source(self, setting: Setting, scratch: Path) -> Path:
        n_train, n_test = SIZES[setting.profile][self.family]
        n_test = n_test + LOOKED_AT[self.family] if setting.part == "final" else LOOKED_AT[self.family]
        return write_tube_phantom(scratch, n_train, n_test, self.phantom_seed)

    def _looked_at(self, n_test: int) -> set[int]:
        return set(range(LOOKED_AT[self.family]))


def choose_cases(
    source: RawDataset, setting: Setting, family: str, looked_at: Callable[[int], set[int]]
) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """Training and test cases of a setting.

    The final part has test cases that nobody looked at while the method was made, unless there are none; the
    development part has the others. Of a fold of the training part, by nnU-Net's rule, the held-out cases are the test
    cases. A smaller number of training volumes is the beginning of a larger one with the same seed.

    Args:
        source: the data set. setting: the setting. family: key of `SIZES`.
        looked_at: from the number of test cases to the indices of those that were.

    Raises:
        ConfigurationError: an unknown part, or more training volumes than there are.
        DatasetError: a case without label.
    """
    cases = source.training_cases()
    if setting.part in ("final", "development"):
        all_tests = source.cases("Ts")
        seen = looked_at(len(all_tests))
        unseen = [case for i, case in enumerate(all_tests) if i not in seen]
        train, test = cases, [all_tests[i] for i in sorted(seen)]
        if setting.part == "final" and unseen:
            test = unseen
    elif setting.part in [f"fold{i}" for i in range(5)]:
        split = create_splits([c.case for c in cases])[int(setting.part[-1])]
        train, test = ([c for c in cases if c.case in split[part]] for part in ("train", "val"))
    else:
        raise ConfigurationError(f"part {setting.part!r} is neither final, development nor fold0 to fold4")
    most_train, most_test = SIZES[setting.profile].get(family, (len(train), len(test)))
    n_train = min(most_train, len(train)) if setting.n_train is None else setting.n_train
    if not 0 < n_train <= len(train):
        raise ConfigurationError(f"{n_train} training volumes asked for; {source.folder} has {len(train)}")
    n_test = min(most_test, len(test))
    order = case_generator(setting.seed, f"{family} volumes").permutation(len(train))
    chosen = [train[i] for i in order[:n_train]], [test[i] for i in _evenly_spaced(len(test), n_test)]
    for case in chosen[1]:
        if case.label is None:
            raise DatasetError(f"case {case.case}: {source.folder} has no label of this test case")
    return chosen


def _evenly_spaced(n: int, n_chosen: int) -> list[int]:
    """At most so many of n indices, ascending."""
    n_chosen = min(n, n_chosen)
    return [i * n // n_chosen for i in range(n_chosen)]


def _balanced(cases: list[CaseFiles], seed: int, what: str) -> dict[str, int]:
    """0 or 1 for each case; of each two in a row one has 0 and one 1, so that a few volumes already hold both."""
    first = case_generator(seed, what).integers(2, size=len(cases)).tolist()
    return {case.case: (first[i // 2] + i) % 2 for i, case in enumerate(cases)}


def _write(
    source: RawDataset, folder: Path, target: Target | None, cases: dict[str, list[CaseFiles]], drawn: dict[str, int]
) -> None:
    """A data set of some of a source's cases; `cases` has those of each part, `drawn` the number that is drawn."""
    ending = source.file_ending
    for part, files in cases.items():
        for kind in ("images", "labels"):
            make_folder(folder / f"{kind}{part}")
        for case in files:
            for channel, image in enumerate(case.images):
                link_or_copy(image, folder / f"images{part}" / f"{case.case}_{channel:04d}{ending}")
            assert case.label is not None
            label = folder / f"labels{part}" / f"{case.case}{ending}"
            if target is None:
                link_or_copy(case.label, label)
            else:
                label_map, geometry = source.reader.read_label(case.label, case.case)
                source.reader.write_segmentation(
                    label, target.label_map(label_map, geometry, drawn[case.case]), geometry
                )
            if case.prompts is not None:
                suffix = next(e for e in PROMPT_ENDINGS if case.prompts.name.endswith(e))
                make_folder(folder / f"prompts{part}")
                link_or_copy(case.prompts, folder / f"prompts{part}" / f"{case.case}{suffix}")
    content = {key: source.dataset_json[key] for key in KEPT_KEYS if key in source.dataset_json}
    if target is not None:
        content.pop("regions_class_order", None)
        content["labels"] = {"background": 0, **target.classes}
    write_json(folder / "dataset.json", {**content, "numTraining": len(cases["Tr"])})


def link_or_copy(file: Path, link: Path) -> None:
    """A hard link to a file, or a copy of it where the file system has none."""
    link.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), link)
    except OSError:
        copy_file(file, link)


def _merged(label_map: np.ndarray, geometry: ImageGeometry, drawn: int) -> np.ndarray:
    """All structures as one."""
    return label_map > 0


def _one_of_two(label_map: np.ndarray, geometry: ImageGeometry, drawn: int) -> np.ndarray:
    """The structure of value 1 or 2 alone, as 1."""
    return label_map == 1 + drawn


def _half(label_map: np.ndarray, geometry: ImageGeometry, drawn: int) -> np.ndarray:
    """The right (0) or the left (1) half of what is labelled, cut by the sagittal plane through its centre of mass."""
    voxels = np.argwhere(label_map > 0)
    left_mm = geometry.voxel_to_world(voxels)[:, 0]
    half = np.zeros(label_map.shape, dtype=bool)
    half[tuple(voxels[(left_mm > left_mm.mean()) == bool(drawn)].T)] = True
    return half


_HIPPOCAMPUS = "SPD_BENCHMARK_HIPPOCAMPUS"
_LEFT_ATRIUM = "SPD_BENCHMARK_LEFT_ATRIUM"
_DECATHLON = "Medical Segmentation Decathlon, Task04"
_AMBIGUOUS = (
    f"{_DECATHLON}. In each case either the anterior or the posterior hippocampus is the target, drawn by the seed for "
    "training and once for testing; the other one is background"
)
_MORE_LABELS = (
    "Stage 1 learns the labels of both. These reach SPD, its variants, and what takes its points or saliency; all "
    "other methods know the labels of the chosen one alone"
)

DATASETS: dict[str, DataSource] = {
    source.name: source
    for source in (
        Phantom(
            "phantom",
            "tube phantom",
            "Synthetic: a bowel-like tube of which one segment is the target, and loops that look like it",
            "Dataset501_TubePhantom",
            "phantom",
            None,
        ),
        Phantom(
            "phantom_choices",
            "tube phantom, other volumes",
            "The phantom with other training and test volumes, for choices of the method; no method is judged by it",
            "Dataset502_TubePhantom",
            "phantom",
            None,
            phantom_seed=2701,
        ),
        DataSource(
            "hippocampus",
            "hippocampus MRI, anterior and posterior",
            _DECATHLON,
            "Dataset504_Hippocampus",
            "hippocampus",
            _HIPPOCAMPUS,
        ),
        DataSource(
            "hippocampus_whole",
            "hippocampus MRI, one class",
            f"{_DECATHLON}, both labels as one",
            "Dataset505_HippocampusWhole",
            "hippocampus",
            _HIPPOCAMPUS,
            Target({"hippocampus": 1}, _merged),
        ),
        DataSource(
            "ambiguous_union",
            "ambiguous hippocampus, stage 1 learns both structures",
            f"{_AMBIGUOUS}. {_MORE_LABELS}",
            "Dataset506_AmbiguousHippocampus",
            "hippocampus",
            _HIPPOCAMPUS,
            Target({"chosen": 1}, _one_of_two),
            ("Dataset507_AmbiguousHippocampus_Prior", Target({"either": 1}, _merged)),
        ),
        DataSource(
            "ambiguous_chosen",
            "ambiguous hippocampus, stage 1 learns the chosen structure",
            f"{_AMBIGUOUS}. Stage 1 learns the chosen one: every method has the same labels",
            "Dataset506_AmbiguousHippocampus",
            "hippocampus",
            _HIPPOCAMPUS,
            Target({"chosen": 1}, _one_of_two),
            same_but_for_stage1="ambiguous_union",
        ),
        DataSource(
            "left_atrium",
            "left atrium LGE MRI",
            "2018 Left Atrium Segmentation Challenge, late gadolinium enhancement",
            "Dataset518_LeftAtrium",
            "left_atrium",
            _LEFT_ATRIUM,
        ),
        DataSource(
            "ambiguous_atrium",
            "ambiguous left atrium, stage 1 learns both halves",
            "2018 Left Atrium Segmentation Challenge. In each case either the left or the right half of the atrium is "
            "the target, drawn by the seed for training and once for testing; the other half is background. The plane "
            "between them shows in no image. "
            f"{_MORE_LABELS}",
            "Dataset519_AmbiguousAtrium",
            "left_atrium",
            _LEFT_ATRIUM,
            Target({"chosen": 1}, _half),
            ("Dataset520_AmbiguousAtrium_Prior", Target({"either": 1}, _merged)),
        ),
        DataSource(
            "fumpe",
            "FUMPE, pulmonary embolism CTA",
            "FUMPE, converted by evidence.converters.fumpe",
            "Dataset530_FUMPE",
            "fumpe",
            "SPD_BENCHMARK_FUMPE",
        ),
        DataSource(
            "kits23",
            "KiTS23, kidney CT",
            "KiTS23, converted by evidence.converters.kits23",
            "Dataset531_KiTS23",
            "kits23",
            "SPD_BENCHMARK_KITS23",
        ),
    )
}
