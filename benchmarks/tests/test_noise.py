"""Noisy prompts of the benchmark: that they are as bad as their names say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evidence.datasets import DATASETS
from evidence.jobs import Setting
from evidence.noise import (
    NOISES,
    POINTS_PER_SLICE,
    BadShare,
    Noise,
    Shift,
    slicing_axis,
    write_test_prompts,
    write_training_prompts,
)
from evidence.right_points import keep_right_points
from spdnet.dataset import RawDataset
from spdnet.demo.phantom import make_case
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.geometry import raw_resolution_mapping
from spdnet.planning.fingerprint import extract_fingerprint
from spdnet.prompts import NoiseRecipe, PromptStatistics, SlicePrompts, count_prompts, load_given_prompts, true_points
from spdnet.tests.tiny import write_blob_dataset, write_volume

BAD = [0, 25, 50, 75, 90, 100]
N_CASES = 6
MM_PER_PIXEL = (1.5, 1.5, 4.0)  # of the phantom: rows, columns, slices


@cache
def phantom_masks() -> list[np.ndarray]:
    """Masks (slices, 1, rows, columns) of a few phantoms."""
    return [make_case(1, number).label.astype(bool)[:, None] for number in range(1, N_CASES + 1)]


def draw(name: str, masks: np.ndarray, seed: int = 0) -> SlicePrompts:
    recipe = NOISES[name].recipe
    assert recipe is not None
    box = [(0, n) for n in masks.shape[2:]]
    return recipe.draw(masks, box, MM_PER_PIXEL, np.random.default_rng(seed))


def per_slice(prompts: SlicePrompts, masks: np.ndarray, k: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a class's points in slices with target, and in those without."""
    counts = np.bincount(prompts.for_class(k).slice_index, minlength=len(masks))
    has_target = masks[:, k].any(axis=(1, 2))
    return counts[has_target], counts[~has_target]


def check_bad_share(bad: int, drawn: list[tuple[SlicePrompts, np.ndarray]], fewest: int = POINTS_PER_SLICE) -> None:
    """The share over all cases, the constant number of points on target slices, and one density of bad points.

    Points are `fewest` to `POINTS_PER_SLICE`, nearly all slices with the latter: of points nearer than 0.1 mm to each
    other a file's reader keeps one.
    """
    total, on_target, on_empty = PromptStatistics(), [], []
    for prompts, masks in drawn:
        total = total + count_prompts(prompts, masks)
        for k in range(masks.shape[1]):
            target, empty = per_slice(prompts, masks, k)
            on_target += target.tolist()
            on_empty += empty.tolist()
    assert 1 - total.precision == pytest.approx(bad / 100, abs=0.02)
    assert set(on_target) <= set(range(fewest, POINTS_PER_SLICE + 1))
    assert np.mean(on_target) == pytest.approx(POINTS_PER_SLICE, abs=0.02)
    if on_empty:
        bad_on_target = np.mean(on_target) - total.points_inside / total.target_slices
        assert np.mean(on_empty) == pytest.approx(bad_on_target, abs=0.25)
    if bad == 0:
        assert not any(on_empty) and total.coverage == 1
    if bad == 100:
        assert min(on_empty) >= fewest and total.points_inside == 0


@pytest.mark.parametrize("bad", BAD)
def test_bad_shares_on_phantoms(bad: int) -> None:
    check_bad_share(bad, [(draw(f"bad{bad}", masks, seed), masks) for seed, masks in enumerate(phantom_masks())])


def test_bad_points_are_uniform_outside_the_target() -> None:
    masks = np.zeros((1, 1, 10, 20), dtype=bool)
    masks[0, 0, :, 12:] = True
    rng = np.random.default_rng(0)
    prompts = BadShare(1.0, points_per_slice=4000).draw(masks, [(2, 10), (0, 20)], (1, 1, 1), rng)
    y, x = prompts.points_syx[:, 1:].T
    counts, _, _ = np.histogram2d(y, x, bins=(np.arange(10) + 0.5, np.arange(13) - 0.5))
    assert counts[0].sum() == 0  # row 1 lies outside the image's content
    assert counts[1:].sum() == 4000 and counts[1:].min() > 20 and counts[1:].max() < 75


def test_bad_share_counts_each_class_by_itself() -> None:
    masks = np.zeros((20, 2, 8, 8), dtype=bool)
    masks[:4, 0, 2:5, 2:5] = True
    masks[:, 1, 5:7, 5:7] = True
    rng = np.random.default_rng(0)
    drawn = [(BadShare(0.75).draw(masks, [(0, 8), (0, 8)], (1, 1, 1), rng), masks) for _ in range(20)]
    for k in (0, 1):
        own = [
            (prompts.select(prompts.class_index == k).for_all_classes(), masks[:, k : k + 1]) for prompts, _ in drawn
        ]
        check_bad_share(75, own)
    assert len(BadShare(0.5).draw(np.zeros((3, 1, 8, 8), bool), [(0, 8), (0, 8)], (1, 1, 1), rng)) == 0


def displacements(recipe: Shift, masks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors in mm (N, 2) from true to drawn places, slices (N,), and whether the place is not at the border (N,)."""
    box = [(0, n) for n in masks.shape[2:]]
    moved = recipe.draw(masks, box, MM_PER_PIXEL, np.random.default_rng(seed)).points_syx
    true = true_points(masks, np.random.default_rng(seed), POINTS_PER_SLICE).points_syx
    np.testing.assert_array_equal(moved[:, 0], true[:, 0])
    high = np.array(masks.shape[2:]) - 0.5
    assert (moved[:, 1:] > -0.5).all() and (moved[:, 1:] < high).all()
    is_free = np.all((moved[:, 1:] > -0.49) & (moved[:, 1:] < high - 0.01), axis=1)
    return (moved - true)[:, 1:] * MM_PER_PIXEL[:2], true[:, 0].astype(int), is_free


@pytest.mark.parametrize("name", ["shift2", "shift5", "shift10", "shift20", "drift5", "drift10", "drift20"])
def test_displacements_have_their_length(name: str) -> None:
    recipe = NOISES[name].recipe
    assert isinstance(recipe, Shift) and recipe.coherent == name.startswith("drift")
    assert recipe.distance_mm == NOISES[name].value
    for seed, masks in enumerate(phantom_masks()):
        vectors, slices, is_free = displacements(recipe, masks, seed)
        assert is_free.mean() > 0.9
        np.testing.assert_allclose(np.linalg.norm(vectors[is_free], axis=1), recipe.distance_mm)
        for s in np.unique(slices):
            of_slice = vectors[(slices == s) & is_free]
            np.testing.assert_allclose(of_slice, np.broadcast_to(of_slice[:1], of_slice.shape), atol=1e-9)


def turning(name: str) -> tuple[float, float]:
    """Mean cosine between the directions of neighbouring slices, and of slices ten apart."""
    recipe = NOISES[name].recipe
    assert isinstance(recipe, Shift)
    masks = np.zeros((40, 1, 96, 96), dtype=bool)
    masks[:, 0, 44:52, 44:52] = True
    near, far = [], []
    for seed in range(40):
        vectors, _, is_free = displacements(recipe, masks, seed)
        assert is_free.all()
        unit = vectors[::POINTS_PER_SLICE] / recipe.distance_mm
        near.append(np.mean(np.sum(unit[1:] * unit[:-1], axis=1)))
        far.append(np.mean(np.sum(unit[10:] * unit[:-10], axis=1)))
    return float(np.mean(near)), float(np.mean(far))


def test_shifts_are_independent_from_slice_to_slice_and_drifts_turn_slowly() -> None:
    near, far = turning("shift10")
    assert abs(near) < 0.1 and abs(far) < 0.1
    near, far = turning("drift10")
    assert near > 0.95 and 0.1 < far < 0.7  # angles of independent places, of 1 radian each, have a mean cosine of 0.37


def test_shifts_stay_in_a_small_image_and_keep_their_length_where_there_is_room() -> None:
    masks = np.zeros((12, 1, 30, 8), dtype=bool)
    masks[:, 0, 3:5, 3:5] = True  # 10 pixels are there downwards only
    for coherent in (False, True):
        prompts = Shift(10.0, coherent).draw(masks, [(0, 30), (0, 8)], (1, 1, 100), np.random.default_rng(3))
        y, x = prompts.points_syx[:, 1:].T
        assert y.min() > -0.5 and x.min() > -0.5 and x.max() < 7.5
    prompts = Shift(10.0, False).draw(masks, [(0, 30), (0, 8)], (1, 1, 100), np.random.default_rng(3))
    assert prompts.points_syx[:, 1].min() > 11


@pytest.mark.parametrize(
    ("name", "inside", "on_target", "on_empty"),
    [
        ("recipe", 1, 4.5, 3.5),
        ("recipe_literal", 1, 4.5, 0),
        ("true", 4, 4, 0),
    ],
)
def test_recipes_on_phantoms(name: str, inside: int, on_target: float, on_empty: float) -> None:
    totals = np.zeros((2, 2))
    for seed, masks in enumerate(phantom_masks()):
        prompts = draw(name, masks, seed)
        statistics = count_prompts(prompts, masks)
        assert statistics.coverage == 1 and statistics.points_inside >= inside * statistics.target_slices
        for i, counts in enumerate(per_slice(prompts, masks)):
            totals[i] += len(counts), counts.sum()
    assert totals[0, 1] / totals[0, 0] == pytest.approx(on_target, abs=0.3)
    assert totals[1, 1] / totals[1, 0] == pytest.approx(on_empty, abs=0.4)


def test_centrelines_leave_their_share_uncovered_and_run_on() -> None:
    total, overrun = PromptStatistics(), []
    for seed, masks in enumerate(phantom_masks()):
        prompts = draw("centreline", masks, seed)
        total = total + count_prompts(prompts, masks)
        slices, target = prompts.slice_index, np.flatnonzero(masks.any(axis=(1, 2, 3)))
        assert len(np.unique(slices)) == len(slices)
        if target[0] >= 4:
            overrun.append(target[0] - slices.min())
    assert 1 - total.coverage == pytest.approx(0.4, abs=0.04)
    assert set(overrun) == {4}  # 15 mm are 3.75 slices


def test_names_ladders_and_values_agree() -> None:
    for name, noise in NOISES.items():
        assert name == noise.name
        if noise.ladder is None:
            assert noise.value is None
        else:
            assert name == f"{noise.ladder}{noise.value}"
    assert [n.value for n in NOISES.values() if n.ladder == "bad"] == BAD
    assert len({n.title for n in NOISES.values()}) == len(NOISES)


def read(dataset: RawDataset, folder: Path, subset: str) -> list[tuple[SlicePrompts, np.ndarray]]:
    """Prompts of the files of a folder, and masks, on the grid of the image."""
    found = []
    for case in dataset.cases(subset):
        assert case.label is not None
        label_map, geometry = dataset.reader.read_label(case.label)
        mapping = raw_resolution_mapping(geometry, slicing_axis(dataset))
        masks = mapping.orient(dataset.labels.masks(label_map)).swapaxes(0, 1)
        file = folder / f"{case.case}.mrk.json"
        found.append((load_given_prompts(file, case.case, geometry, mapping, dataset.labels).for_network(), masks))
    return found


def test_files_hold_the_points_of_every_class_in_any_orientation(tmp_path: Path) -> None:
    dataset = RawDataset(write_blob_dataset(tmp_path, 4, 3))
    write_training_prompts(NOISES["true"], dataset.folder, 0)
    write_test_prompts(NOISES["true"], dataset.folder, tmp_path / "prompts", 0)
    assert len(list((dataset.folder / "promptsTr").iterdir())) == 4
    assert len(list((tmp_path / "prompts").iterdir())) == 3
    for subset, folder in (("Tr", dataset.folder / "promptsTr"), ("Ts", tmp_path / "prompts")):
        for prompts, masks in read(dataset, folder, subset):
            assert masks.shape[1] == 2
            statistics = count_prompts(prompts, masks)
            assert statistics.precision == 1 and statistics.coverage == 1


@pytest.mark.parametrize("name", [n for n in NOISES if n != "native"])
def test_every_noise_can_be_written_read_and_repeated(name: str, tmp_path: Path) -> None:
    dataset = RawDataset(write_blob_dataset(tmp_path, 1, 1))
    for folder, seed in (("a", 0), ("again", 0), ("other", 1)):
        write_test_prompts(NOISES[name], dataset.folder, tmp_path / folder, seed)
    ((prompts, _),) = read(dataset, tmp_path / "a", "Ts")
    assert len(prompts)
    content = {f: next((tmp_path / f).iterdir()).read_bytes() for f in ("a", "again", "other")}
    assert content["a"] == content["again"] != content["other"]


@pytest.mark.parametrize("noise", [NOISES["bad75"], Noise("anonymous", "", NoiseRecipe(named=False))])
def test_without_its_wrong_points_a_file_keeps_all_right_ones(noise: Noise, tmp_path: Path) -> None:
    dataset = RawDataset(write_blob_dataset(tmp_path, 1, 2))
    write_test_prompts(noise, dataset.folder, tmp_path / "all", 0)
    keep_right_points(dataset.folder, tmp_path / "all", tmp_path / "right")
    given, left = (read(dataset, tmp_path / name, "Ts") for name in ("all", "right"))
    for (before, masks), (after, _) in zip(given, left, strict=True):
        counted, right = count_prompts(before, masks), count_prompts(after, masks)
        assert 0 < counted.points_inside < counted.points
        n_classes = masks.shape[1] if (before.class_index < 0).all() else 1  # that a point is counted for
        assert right.points / n_classes == right.points_inside == counted.points_inside
        assert n_classes == (2 if noise.name == "anonymous" else 1)


def test_wrong_parts_of_a_curve_cannot_be_left_out(tmp_path: Path) -> None:
    folder = write_blob_dataset(tmp_path, 1, 1)
    write_test_prompts(NOISES["centreline"], folder, tmp_path / "all", 0)
    with pytest.raises(ConfigurationError, match="case blob_001: .* holds a curve"):
        keep_right_points(folder, tmp_path / "all", tmp_path / "right")


def test_native_prompts_are_kept_and_others_replace_them(tmp_path: Path) -> None:
    DATASETS["phantom"].write(Setting("phantom", "native", n_train=2, profile="trial"), tmp_path)
    (raw,) = tmp_path.iterdir()
    own = {f.name: f.read_bytes() for f in (raw / "promptsTr").iterdir()}
    write_training_prompts(NOISES["native"], raw, 0)
    assert {f.name: f.read_bytes() for f in (raw / "promptsTr").iterdir()} == own and len(own) == 2
    write_test_prompts(NOISES["native"], raw, tmp_path / "native", 0)
    assert {f.name: f.read_bytes() for f in (tmp_path / "native").iterdir()} == {
        f.name: f.read_bytes() for f in (raw / "promptsTs").iterdir()
    }
    write_training_prompts(NOISES["bad50"], raw, 0)
    replaced = {f.name: f.read_bytes() for f in (raw / "promptsTr").iterdir()}
    assert replaced.keys() == own.keys() and all(replaced[name] != own[name] for name in own)


def test_native_prompts_of_a_data_set_without_are_an_error(tmp_path: Path) -> None:
    folder = write_blob_dataset(tmp_path, 2, 1)
    with pytest.raises(ConfigurationError, match="2 of 2 cases .*choose another noise than native"):
        write_training_prompts(NOISES["native"], folder, 0)
    with pytest.raises(ConfigurationError, match="1 of 1 cases"):
        write_test_prompts(NOISES["native"], folder, tmp_path / "prompts", 0)


def test_a_case_without_label_is_named(tmp_path: Path) -> None:
    folder = write_blob_dataset(tmp_path, 1, 1)
    (folder / "labelsTs" / "blob_001.nii.gz").unlink()
    with pytest.raises(DatasetError, match="case blob_001: .*no label"):
        write_test_prompts(NOISES["recipe"], folder, tmp_path / "prompts", 0)


def test_slices_are_those_of_the_planner(tmp_path: Path) -> None:
    folder = write_blob_dataset(tmp_path, 3, 1)
    odd = np.zeros((24, 28, 6), dtype=np.uint8)  # one case with thick sagittal slices does not outvote the others
    odd[8:14, 8:14, 1:5] = 1
    for kind, ending in (("images", "_0000"), ("labels", "")):
        write_volume(folder / f"{kind}Tr" / f"blob_009{ending}.nii.gz", odd, np.eye(3), (1.0, 1.2, 6.0))
    dataset = RawDataset(folder)
    assert slicing_axis(dataset) == 0
    assert extract_fingerprint(dataset, n_processes=1).slicing_axis == "S"
    write_training_prompts(NOISES["true"], folder, 0)
    for prompts, masks in read(dataset, folder / "promptsTr", "Tr"):
        assert count_prompts(prompts, masks).precision == 1
        np.testing.assert_allclose(prompts.points_syx[:, 0], np.rint(prompts.points_syx[:, 0]), atol=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize("bad", BAD)
def test_bad_shares_on_real_hippocampus(bad: int, tmp_path: Path) -> None:
    if DATASETS["hippocampus"].missing():
        pytest.skip(str(DATASETS["hippocampus"].missing()))
    DATASETS["hippocampus"].write(Setting("hippocampus", "recipe", n_train=1), tmp_path)
    (raw,) = tmp_path.iterdir()
    write_test_prompts(NOISES[f"bad{bad}"], raw, tmp_path / "prompts", 0)
    check_bad_share(bad, read(RawDataset(raw), tmp_path / "prompts", "Ts"), fewest=2)
