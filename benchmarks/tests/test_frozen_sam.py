"""The published SAM with points of several sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from stage1_file import write_plans, write_stage1

from evidence.jobs import Setting
from evidence.methods.frozen_sam import FEW, METHODS, PublishedSAM, main, with_neighbours
from evidence.noise import NOISES, write_test_prompts, write_training_prompts
from evidence.workspace import Workspace
from spdnet.planning.plans import DensePromptSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.tests.tiny import IMAGE_SIZE, build_tiny_sam, tiny_settings, write_blob_dataset

CPU = torch.device("cpu")
SETTINGS = tiny_settings(distillation=replace(tiny_settings().distillation, n_context=1, max_points=99))


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rounding to bfloat16."""
    monkeypatch.setenv("SPD_precision", "float32")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Blobs with points on their test cases, of which one is stored oblique and flipped."""
    folder = write_blob_dataset(tmp_path, n_train=1)
    write_test_prompts(NOISES["true"], folder, tmp_path / "true", 0)
    write_test_prompts(NOISES["recipe"], folder, tmp_path / "recipe", 0)
    return folder


def predict(raw: Path, source: str, noise: str, *options: str | Path) -> dict[str, np.ndarray]:
    """The label maps that the command writes, by case; they lie on the images' grids."""
    output = raw.parent / f"predicted_{source}_{noise}_{len(list(raw.parent.iterdir()))}"
    plans = write_plans(raw.parent / "SPDPlans.json", SETTINGS)
    words = [raw, "-source", source, "-plans", plans, "-prompts", raw.parent / noise, "-o", output, "-device", "cpu"]
    main([str(w) for w in [*words, *options]])
    found = {}
    for file in sorted(output.glob("*.nii.gz")):
        image = sitk.ReadImage(str(raw / "imagesTs" / file.name.replace(".nii.gz", "_0000.nii.gz")))
        predicted = sitk.ReadImage(str(file))
        assert predicted.GetSize() == image.GetSize()
        np.testing.assert_allclose(predicted.GetDirection(), image.GetDirection(), atol=1e-6)
        found[file.name] = sitk.GetArrayFromImage(predicted)
    assert len(found) == 2
    return found


def test_takes_plans_of_spd_s_own_decoder() -> None:
    maps, rule = DensePromptSettings("maps"), DistillationSettings("weighed", without_prompts="decode")
    PublishedSAM(replace(SETTINGS, distillation=rule, dense_prompt=maps, decoder_encoder="own"), 1, CPU)


def test_is_segment_anything_itself_on_a_slice() -> None:
    rng = np.random.default_rng(0)
    slices = rng.random((3, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    points = SlicePrompts(np.array([[1, 20.0, 31.5], [1, 40.25, 8.0], [2, 5.0, 5.0]]), np.array([0, 0, 1]))
    sam = PublishedSAM(SETTINGS, 2, CPU)
    probabilities = sam.segment(sam.encode(slices), points)
    published = build_tiny_sam()
    with torch.no_grad():
        colours = torch.from_numpy(slices[1:2]).expand(-1, 3, -1, -1) * 255
        embedding = published.image_encoder((colours - published.pixel_mean) / published.pixel_std)
        coordinates_xy = torch.tensor([[[31.5, 20.0], [8.0, 40.25]]])
        sparse, dense = published.prompt_encoder((coordinates_xy, torch.ones(1, 2, dtype=torch.int64)), None, None)
        positions = published.prompt_encoder.get_dense_pe()
        logits, _ = published.mask_decoder(embedding, positions, sparse, dense, multimask_output=False)
    np.testing.assert_allclose(probabilities[1, 0], torch.sigmoid(logits)[0, 0].numpy(), atol=5e-3)
    assert probabilities[1, 0].std() > 0.01


def test_slices_and_classes_without_points_are_empty() -> None:
    slices = np.random.default_rng(1).random((4, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    points = SlicePrompts(np.array([[1, 20.0, 30.0], [3, 10.0, 10.0]]), np.array([0, -1]))
    sam = PublishedSAM(SETTINGS, 2, CPU)
    decoded = sam.segment(sam.encode(slices), points).any(axis=(2, 3))
    assert decoded.tolist() == [[False, False], [True, False], [False, False], [True, True]]


def test_neighbours_give_their_points_too() -> None:
    points = SlicePrompts(np.array([[2.2, 20.0, 30.0]]), np.array([1]))
    spread = with_neighbours(points, 2)
    assert spread.slice_index.tolist() == [0, 1, 2, 3, 4] and set(spread.class_index) == {1}
    np.testing.assert_array_equal(spread.points_syx[:, 1:], np.tile([20.0, 30.0], (5, 1)))


def test_few_points_are_drawn_by_the_seed(raw: Path) -> None:
    all_points = predict(raw, "all", "recipe")
    drawn = [predict(raw, "few", "recipe", "-seed", seed) for seed in ("0", "0", "1")]
    for case, label_map in all_points.items():
        np.testing.assert_array_equal(drawn[0][case], drawn[1][case])
        assert (drawn[0][case] != label_map).any() and (drawn[0][case] != drawn[2][case]).any()


def test_no_more_than_few_points_are_drawn() -> None:
    slices = np.random.default_rng(2).random((1, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    points = SlicePrompts(np.array([[0, 5.0, 9.0 * i] for i in range(5)]), np.full(5, -1))
    sam = PublishedSAM(SETTINGS, 1, CPU)
    volume = sam.encode(slices)
    limited, first = sam.segment(volume, points, FEW), sam.segment(volume, points.select(np.arange(FEW)))
    np.testing.assert_array_equal(limited, first)
    assert not np.allclose(limited, sam.segment(volume, points))


def test_a_consensus_of_no_salient_points_is_empty(raw: Path) -> None:
    nothing = write_stage1(raw.parent / "fold_all" / "nothing.pth", SETTINGS, 2, salient=False)
    assert not any(label_map.any() for label_map in predict(raw, "consensus", "true", "-stage1", nothing).values())


def test_a_consensus_where_all_is_salient_has_the_neighbours_points(raw: Path) -> None:
    everything = write_stage1(raw.parent / "fold_all" / "everything.pth", SETTINGS, 2, salient=True)
    consensus = predict(raw, "consensus", "true", "-stage1", everything)
    neighbours = predict(raw, "neighbours", "true")
    own = predict(raw, "all", "true")
    for case, label_map in consensus.items():
        assert (label_map != own[case]).any()
        assert (label_map == neighbours[case]).mean() > 0.999, "the order of the points rounds differently"


def test_stage1_is_asked_for_where_it_is_needed(raw: Path) -> None:
    with pytest.raises(SystemExit):
        predict(raw, "consensus", "true")
    with pytest.raises(SystemExit):
        predict(raw, "all", "true", "-stage1", raw)


@pytest.mark.slow
def test_rows_run_in_a_workspace(tmp_path: Path) -> None:
    workspace = Workspace(Setting("blobs", "recipe", profile="trial"), tmp_path, "cpu")
    raw = write_blob_dataset(workspace.root / "nnUNet_raw")
    write_training_prompts(NOISES["recipe"], raw, 0)
    for noise in ("recipe", "true"):
        write_test_prompts(NOISES[noise], raw, workspace.prompts(noise), 0)
    for name in ("frozen_true", "frozen_consensus"):
        METHODS[name].train(workspace)
        METHODS[name].predict(workspace, workspace.prompts("recipe"), tmp_path / name)
        assert len(list((tmp_path / name).glob("*.nii.gz"))) == 2
        assert set(METHODS[name].training_steps()) <= set(workspace.measurements())
