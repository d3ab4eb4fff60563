"""The demo's synthetic data: its files, and that neither cue alone decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.demo.phantom import PhantomCase, PhantomSettings, make_case, write_tube_phantom
from spdnet.errors import DatasetError
from spdnet.geometry import nearest_index
from spdnet.prompts import read_markups
from spdnet.prompts.distillation import distill_prompts

N_CASES = 8


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [make_case(0, number) for number in range(1, N_CASES + 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tube_phantom(tmp_path_factory.mktemp("raw") / "new", 2, 1, seed=0)


def at_points(mask: np.ndarray, case: PhantomCase) -> np.ndarray:
    return mask[tuple(nearest_index(case.points_zyx).T)] > 0


def test_same_seed_and_number_give_the_same_case(cases: list[PhantomCase]) -> None:
    again = make_case(0, 1)
    for name in ("image", "label", "points_zyx", "gap_slices"):
        assert np.array_equal(getattr(again, name), getattr(cases[0], name)), name
    assert again.geometry == cases[0].geometry


def test_seed_and_number_both_change_the_case(cases: list[PhantomCase]) -> None:
    assert not np.array_equal(cases[0].label, cases[1].label)
    assert not np.array_equal(cases[0].label, make_case(1, 1).label)


def test_written_data_set_is_read_back(folder: Path, cases: list[PhantomCase]) -> None:
    dataset = RawDataset(folder)
    training, test = dataset.training_cases(), dataset.cases("Ts")
    assert folder.name == "Dataset501_TubePhantom"
    assert [c.case for c in training + test] == ["tube_001", "tube_002", "tube_003"]
    assert dataset.labels.names == ("terminal_ileum",) and dataset.channel_names == ["T2"]
    assert dataset.dataset_json["numTraining"] == 2
    for files, case in zip(training + test, cases, strict=False):
        image, geometry = SimpleITKIO().read_image(files.images)
        assert files.label is not None and files.prompts is not None
        label, label_geometry = SimpleITKIO().read_label(files.label)
        assert geometry.difference(case.geometry) is None and geometry.difference(label_geometry) is None
        assert np.array_equal(image[0], case.image) and np.array_equal(label, case.label)


def test_written_points_are_the_case_s_points_in_world_coordinates(folder: Path, cases: list[PhantomCase]) -> None:
    files = RawDataset(folder).training_cases()[0]
    assert files.prompts is not None
    (markup,) = read_markups(files.prompts)
    assert (markup.kind, markup.name) == ("points", "bowel centreline")
    _, geometry = SimpleITKIO().read_image(files.images)
    assert np.allclose(geometry.world_to_voxel(markup.points_lps_mm), cases[0].points_zyx, atol=1e-3)


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    existing = tmp_path / "Dataset501_TubePhantom"
    existing.mkdir()
    (existing / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(DatasetError, match="exists already"):
        write_tube_phantom(tmp_path, 1, 1, seed=0)
    assert [p.name for p in tmp_path.rglob("*")] == [existing.name, "mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    no_room = PhantomSettings(clearance_radii=50.0)
    with pytest.raises(ValueError, match="no room"):
        write_tube_phantom(tmp_path, 1, 1, seed=0, settings=no_room)
    assert not list(tmp_path.iterdir())


def test_grids_are_tilted_and_sliced_along_superior_inferior(cases: list[PhantomCase]) -> None:
    flips = set()
    for case in cases:
        direction = np.array(case.geometry.direction).reshape(3, 3)
        permutation, flip = case.geometry.canonical_axes()
        flips.add(flip)
        assert np.allclose(direction @ direction.T, np.eye(3)) and np.abs(direction).max() < 1 - 1e-5
        assert permutation == (0, 1, 2) and np.argmax(case.geometry.spacing_zyx_mm) == 0
    assert len(flips) > 2


def test_points_lie_in_the_image_in_the_planes_of_slices(cases: list[PhantomCase]) -> None:
    for case in cases:
        assert case.geometry.contains(case.points_zyx).all()
        assert np.array_equal(case.points_zyx[:, 0], np.rint(case.points_zyx[:, 0]))


def test_target_is_one_part_of_the_tube_with_tube_on_both_sides(cases: list[PhantomCase]) -> None:
    for case in cases:
        share = case.label.sum() / (case.label.sum() + case.plain.sum())
        assert 0.25 < share < 0.5
        order = np.flatnonzero(at_points(case.label, case))
        assert order.min() > 0 and order.max() < len(case.points_zyx) - 1


def test_lookalikes_look_as_the_target_and_plain_tube_does_not() -> None:
    # Without bias field, which makes the same look brighter here and darker there.
    cases = [make_case(0, number, PhantomSettings(bias=(0.0, 0.0))) for number in range(1, N_CASES + 1)]
    means, spreads = (
        np.log([[f(c.image[m]) for m in (c.label > 0, c.lookalike, c.plain)] for c in cases]) for f in (np.mean, np.std)
    )
    assert abs((means[:, 0] - means[:, 1]).mean()) < 0.1
    assert abs((spreads[:, 0] - spreads[:, 1]).mean()) < 0.15
    assert (means[:, :2] - means[:, 2:]).min() > 0.2


def test_lookalikes_are_as_large_as_the_target_and_share_its_slices(cases: list[PhantomCase]) -> None:
    volumes, sections, shared = [], [], []
    for case in cases:
        target_slices, lookalike_slices = case.label.any(axis=(1, 2)), case.lookalike.any(axis=(1, 2))
        volumes.append(case.lookalike.sum() / case.label.sum())
        sections.append(volumes[-1] * target_slices.sum() / lookalike_slices.sum())
        shared.append((target_slices & lookalike_slices).sum() / target_slices.sum())
    assert min(volumes) > 0.7
    assert 0.75 < np.mean(sections) < 1.33
    assert np.mean(shared) > 0.6


def test_centreline_does_not_touch_lookalikes(cases: list[PhantomCase]) -> None:
    assert not any(at_points(case.lookalike, case).any() for case in cases)


def test_most_points_are_not_on_the_target(cases: list[PhantomCase]) -> None:
    shares = [at_points(case.label, case).mean() for case in cases]
    assert max(shares) < 0.4 and min(shares) > 0.05


def test_some_points_drift_out_of_the_tube_but_not_far(cases: list[PhantomCase]) -> None:
    outside = []
    for case in cases:
        tube = np.argwhere((case.label > 0) | case.plain)
        distance = [np.abs(tube[tube[:, 0] == p[0], 1:] - p[1:]).max(axis=1).min() for p in case.points_zyx]
        outside.append(np.mean(~at_points((case.label > 0) | case.plain, case)))
        assert max(distance) < 4
    assert 0.01 < np.mean(outside) < 0.2


def test_about_half_of_the_target_slices_have_no_point_on_it(cases: list[PhantomCase]) -> None:
    for case in cases:
        target_slices = np.asarray(case.label.any(axis=(1, 2)))
        on_target = at_points(case.label, case)
        with_point = np.isin(np.arange(len(target_slices)), case.points_zyx[on_target, 0])
        assert 0.35 < case.gap_slices.sum() / target_slices.sum() < 0.65
        assert not (case.gap_slices & with_point).any() and not (case.gap_slices & ~target_slices).any()


def test_gaps_are_short_and_the_plain_tube_has_none(cases: list[PhantomCase]) -> None:
    covered = []
    for case in cases:
        runs = "".join("g" if gap else " " for gap in case.gap_slices).split()
        assert 1 <= max(map(len, runs)) <= 4
        plain_slices = np.flatnonzero(case.plain.sum(axis=(1, 2)) > 60)
        plain_points = case.points_zyx[~at_points(case.label, case), 0]
        covered.append(np.isin(plain_slices, plain_points).mean())
    assert np.mean(covered) > 0.9


def test_neighbours_can_lend_points_to_most_gap_slices(cases: list[PhantomCase]) -> None:
    local: list[float] = []
    context: list[float] = []
    for case in cases:
        salient = ((case.label > 0) | case.lookalike).astype(np.float32)
        target_slices = case.label.any(axis=(1, 2))
        for covered, n_context in ((local, 0), (context, 2)):
            consensus = distill_prompts(case.points_zyx, salient, tau=0.5, n_context=n_context)
            covered.append(consensus.slices_with_points(len(salient))[target_slices].mean())
    assert np.mean(local) < 0.55
    assert 0.75 < np.mean(context) < 1


def test_cases_differ_in_contrast_and_noise(cases: list[PhantomCase]) -> None:
    tissue = np.array([np.median(c.image) for c in cases])
    assert tissue.std() / tissue.mean() > 0.1


def test_settings_set_the_grid() -> None:
    settings = replace(PhantomSettings(), shape_zyx=(20, 72, 80), spacing_zyx_mm=(5.0, 1.4, 1.3))
    case = make_case(0, 1, settings)
    assert case.image.shape == case.label.shape == (20, 72, 80)
    assert case.geometry.spacing_zyx_mm == (5.0, 1.4, 1.3)
