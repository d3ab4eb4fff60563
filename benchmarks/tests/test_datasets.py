"""Data sets of the benchmark: which volumes, which targets, and that nothing else decides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evidence import datasets
from evidence.datasets import DATASETS, SIZES
from evidence.jobs import Setting
from spdnet.dataset import RawDataset
from spdnet.dataset.splits import create_splits
from spdnet.demo.phantom import write_tube_phantom
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.tests.tiny import write_blob_dataset

N_TRAIN, N_TEST = 10, 5
GOLDEN_CASES = ["blob_001", "blob_003", "blob_007"]  # of seed 0, with the values of their targets
GOLDEN_TARGETS = [1, 2, 1]


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two structures in each case, every second case stored flipped and oblique."""
    return write_blob_dataset(tmp_path_factory.mktemp("sources"), N_TRAIN, N_TEST)


@pytest.fixture
def source(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The blobs in the place of the real data sets, and enough room for all of them."""
    for variable in ("SPD_BENCHMARK_HIPPOCAMPUS", "SPD_BENCHMARK_LEFT_ATRIUM"):
        monkeypatch.setenv(variable, str(blobs))
    for family in ("hippocampus", "left_atrium"):
        monkeypatch.setitem(SIZES["small"], family, (N_TRAIN, N_TEST))
    return blobs


def write(setting: Setting, raw: Path) -> tuple[RawDataset, RawDataset | None]:
    """The data set of a setting, and its prior."""
    DATASETS[setting.data].write(setting, raw)
    found = [RawDataset(f) for f in sorted(raw.glob("Dataset*"))]
    priors = [d for d in found if d.folder.name.endswith("_Prior")]
    (own,) = [d for d in found if d not in priors]
    assert sorted(p.name for p in raw.iterdir()) == [d.folder.name for d in found]
    return own, priors[0] if priors else None


def names(dataset: RawDataset, subset: str) -> list[str]:
    return [c.case for c in dataset.cases(subset)]


def labels(dataset: RawDataset, subset: str) -> dict[str, np.ndarray]:
    return {c.case: dataset.reader.read_label(c.label)[0] for c in dataset.cases(subset) if c.label is not None}


def test_final_part_has_the_source_s_cases_as_links(source: Path, tmp_path: Path) -> None:
    dataset, prior = write(Setting("hippocampus", "recipe"), tmp_path)
    assert prior is None
    original = RawDataset(source)
    for subset, n in (("Tr", N_TRAIN), ("Ts", N_TEST)):
        assert names(dataset, subset) == names(original, subset) and len(names(dataset, subset)) == n
        for case, own in zip(original.cases(subset), dataset.cases(subset), strict=True):
            assert own.label is not None and case.label is not None
            assert own.images[0].samefile(case.images[0]) and own.label.samefile(case.label)
    assert dataset.dataset_json["numTraining"] == N_TRAIN
    assert dataset.labels == original.labels


def test_the_final_part_has_test_volumes_that_were_not_looked_at(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets.LOOKED_AT, "hippocampus", 2)
    cases, parts = names(RawDataset(source), "Ts"), ("development", "final")
    development, final = (
        names(write(Setting("hippocampus", "recipe", part=part), tmp_path / part)[0], "Ts") for part in parts
    )
    assert development == [cases[0], cases[2]]  # evenly spaced, as they were chosen
    assert final == [cases[1], cases[3], cases[4]]
    monkeypatch.setitem(datasets.LOOKED_AT, "hippocampus", N_TEST)
    final = names(write(Setting("hippocampus", "recipe"), tmp_path / "none_left")[0], "Ts")
    assert final == cases


def test_the_phantom_s_looked_at_volumes_are_its_first(tmp_path: Path) -> None:
    found = {
        part: names(write(Setting("phantom", "native", profile="trial", part=part), tmp_path / part)[0], "Ts")
        for part in ("development", "final")
    }
    first = SIZES["trial"]["phantom"][0] + 1
    last = first + datasets.LOOKED_AT["phantom"] - 1
    assert f"tube_{first:03d}" == found["development"][0] and found["development"][-1] <= f"tube_{last:03d}"
    assert found["final"][0] == f"tube_{last + 1:03d}"


def test_test_targets_are_the_same_for_every_seed(source: Path, tmp_path: Path) -> None:
    first, second = (
        labels(write(Setting("ambiguous_chosen", "recipe", seed), tmp_path / str(seed))[0], "Ts") for seed in (0, 1)
    )
    assert all(np.array_equal(first[case], second[case]) for case in first)


def test_folds_are_those_of_nnunet_and_hold_every_case_out_once(source: Path, tmp_path: Path) -> None:
    splits = create_splits(names(RawDataset(source), "Tr"))
    held_out: list[str] = []
    for fold, split in enumerate(splits):
        dataset, _ = write(Setting("hippocampus", "recipe", part=f"fold{fold}"), tmp_path / str(fold))
        assert names(dataset, "Tr") == split["train"] and names(dataset, "Ts") == split["val"]
        assert set(labels(dataset, "Ts")) == set(split["val"])
        held_out += names(dataset, "Ts")
    assert sorted(held_out) == names(RawDataset(source), "Tr")


def test_fewer_volumes_are_the_beginning_of_more(source: Path, tmp_path: Path) -> None:
    drawn = {}
    for n_train in (2, 5):
        for seed in (0, 1):
            dataset, _ = write(Setting("hippocampus", "recipe", seed, n_train), tmp_path / f"{n_train}_{seed}")
            drawn[n_train, seed] = set(names(dataset, "Tr"))
            assert len(drawn[n_train, seed]) == n_train and len(names(dataset, "Ts")) == N_TEST
    assert drawn[2, 0] < drawn[5, 0] and drawn[2, 1] < drawn[5, 1]
    assert drawn[5, 0] != drawn[5, 1]


def test_draws_are_the_same_on_every_machine(source: Path, tmp_path: Path) -> None:
    dataset, _ = write(Setting("ambiguous_chosen", "recipe", n_train=3), tmp_path)
    assert names(dataset, "Tr") == GOLDEN_CASES
    original = labels(RawDataset(source), "Tr")
    assert [int(original[c][label == 1][0]) for c, label in labels(dataset, "Tr").items()] == GOLDEN_TARGETS


def test_data_sets_of_a_family_get_the_same_volumes(source: Path, tmp_path: Path) -> None:
    settings = [Setting(d, "recipe", n_train=4) for d in ("hippocampus", "hippocampus_whole", "ambiguous_union")]
    chosen = [names(write(setting, tmp_path / setting.data)[0], "Tr") for setting in settings]
    assert chosen[0] == chosen[1] == chosen[2]


def test_a_profile_takes_some_volumes_and_evenly_spaced_test_cases(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES["small"], "hippocampus", (4, 2))
    test_cases = names(RawDataset(source), "Ts")
    for seed in (0, 1):
        dataset, _ = write(Setting("hippocampus", "recipe", seed), tmp_path / str(seed))
        assert len(names(dataset, "Tr")) == 4
        assert names(dataset, "Ts") == [test_cases[0], test_cases[2]]


def test_whole_merges_the_classes(source: Path, tmp_path: Path) -> None:
    dataset, _ = write(Setting("hippocampus_whole", "recipe"), tmp_path)
    assert dataset.labels.names == ("hippocampus",)
    original = labels(RawDataset(source), "Ts")
    for case, label in labels(dataset, "Ts").items():
        np.testing.assert_array_equal(label, original[case] > 0)


@pytest.mark.parametrize("subset", ["Tr", "Ts"])
def test_ambiguous_target_is_one_of_the_two_structures(source: Path, tmp_path: Path, subset: str) -> None:
    dataset, _ = write(Setting("ambiguous_union", "recipe"), tmp_path)
    original, chosen = labels(RawDataset(source), subset), []
    for case, label in labels(dataset, subset).items():
        (value,) = np.unique(original[case][label == 1])
        np.testing.assert_array_equal(label, original[case] == value)
        chosen.append(int(value))
    counts = np.bincount(chosen, minlength=3)[1:]
    assert abs(counts[0] - counts[1]) <= 1


def test_two_training_volumes_have_a_target_of_each_kind(source: Path, tmp_path: Path) -> None:
    original = labels(RawDataset(source), "Tr")
    for seed in range(6):
        dataset, _ = write(Setting("ambiguous_chosen", "recipe", seed, n_train=2), tmp_path / str(seed))
        assert {int(original[c][m == 1][0]) for c, m in labels(dataset, "Tr").items()} == {1, 2}


def test_targets_are_drawn_by_the_seed_alone(source: Path, tmp_path: Path) -> None:
    def targets(data: str, seed: int, folder: str) -> list[bytes]:
        dataset, _ = write(Setting(data, "recipe", seed), tmp_path / folder)
        return [label.tobytes() for subset in ("Tr", "Ts") for label in labels(dataset, subset).values()]

    union = targets("ambiguous_union", 0, "a")
    assert union == targets("ambiguous_chosen", 0, "b")
    assert union != targets("ambiguous_union", 1, "c")


@pytest.mark.parametrize("data", ["ambiguous_union", "ambiguous_atrium"])
def test_the_prior_has_the_training_images_and_all_structures(source: Path, tmp_path: Path, data: str) -> None:
    dataset, prior = write(Setting(data, "recipe", n_train=4), tmp_path)
    assert prior is not None
    assert names(prior, "Tr") == names(dataset, "Tr") and len(names(prior, "Tr")) == 4
    assert not (prior.folder / "imagesTs").exists()
    assert prior.folder.name.split("_")[0] != dataset.folder.name.split("_")[0]
    original = labels(RawDataset(source), "Tr")
    for case, other in zip(prior.cases("Tr"), dataset.cases("Tr"), strict=True):
        assert case.images[0].samefile(other.images[0])
    for case_name, label in labels(prior, "Tr").items():
        np.testing.assert_array_equal(label, original[case_name] > 0)


def test_atrium_halves_are_left_and_right_in_the_patient(source: Path, tmp_path: Path) -> None:
    dataset, _ = write(Setting("ambiguous_atrium", "recipe"), tmp_path)
    original, sides = labels(RawDataset(source), "Tr"), []
    for case in dataset.cases("Tr"):
        assert case.label is not None
        label, geometry = dataset.reader.read_label(case.label)
        whole = original[case.case] > 0
        assert not (label.astype(bool) & ~whole).any() and 0.3 < label.sum() / whole.sum() < 0.7
        x_target, x_rest = (geometry.voxel_to_world(np.argwhere(m))[:, 0] for m in (label == 1, whole & (label == 0)))
        sides.append("left" if x_target.min() > x_rest.max() else "right")
        assert sides[-1] == "left" or x_target.max() <= x_rest.min()
        half = datasets._half(original[case.case], geometry, 1) == (label == 1)  # what 1 draws is the left half
        assert half[whole].all() if sides[-1] == "left" else not half[whole].any()
    assert set(sides) == {"left", "right"}


def test_phantom_comes_with_its_own_prompts(tmp_path: Path) -> None:
    dataset, _ = write(Setting("phantom", "native", profile="trial"), tmp_path / "written")
    n_train, n_test = SIZES["trial"]["phantom"]
    assert (len(names(dataset, "Tr")), len(names(dataset, "Ts"))) == (n_train, n_test)
    n_looked_at = datasets.LOOKED_AT["phantom"]
    again = RawDataset(write_tube_phantom(tmp_path / "again", n_train, n_looked_at + n_test, datasets.PHANTOM_SEED))
    for subset, first in (("Tr", 0), ("Ts", n_looked_at)):
        for own, expected in zip(dataset.cases(subset), again.cases(subset)[first:], strict=True):
            assert own.prompts is not None and expected.prompts is not None and own.case == expected.case
            assert own.prompts.read_bytes() == expected.prompts.read_bytes()


def test_phantom_folds_keep_the_prompts_of_held_out_cases(tmp_path: Path) -> None:
    dataset, _ = write(Setting("phantom", "native", part="fold1", profile="trial"), tmp_path)
    assert names(dataset, "Tr") and len(names(dataset, "Ts")) == 1
    assert all(c.prompts is not None and c.label is not None for s in ("Tr", "Ts") for c in dataset.cases(s))


def test_a_missing_source_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPD_BENCHMARK_KITS23", raising=False)
    assert DATASETS["phantom"].missing() is None
    with pytest.raises(ConfigurationError, match="kits23 needs SPD_BENCHMARK_KITS23 .*it is not set"):
        DATASETS["kits23"].write(Setting("kits23", "recipe"), tmp_path)
    monkeypatch.setenv("SPD_BENCHMARK_KITS23", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"it is '.*nowhere'"):
        DATASETS["kits23"].write(Setting("kits23", "recipe"), tmp_path)


def test_settings_that_cannot_be_written_are_refused(source: Path, tmp_path: Path) -> None:
    for setting, message in (
        (Setting("hippocampus", "recipe", n_train=N_TRAIN + 1), "11 training volumes asked for"),
        (Setting("hippocampus", "recipe", n_train=0), "0 training volumes asked for"),
        (Setting("hippocampus", "recipe", part="fold5"), "'fold5' is neither final, development nor fold0 to fold4"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            DATASETS["hippocampus"].write(setting, tmp_path)


def test_a_test_case_without_label_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_blob_dataset(tmp_path / "source", 5, 2)
    case = names(RawDataset(folder), "Ts")[1]
    (folder / "labelsTs" / f"{case}.nii.gz").unlink()
    monkeypatch.setenv("SPD_BENCHMARK_LEFT_ATRIUM", str(folder))
    with pytest.raises(DatasetError, match=f"case {case}: .*no label"):
        DATASETS["left_atrium"].write(Setting("left_atrium", "recipe", n_train=5), tmp_path / "raw")
