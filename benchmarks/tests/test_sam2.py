"""SAM 2 on volumes: with the package, and a small model of its own configuration with random weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from stage1_file import write_plans

from evidence.jobs import Setting
from evidence.methods import sam2
from evidence.methods.sam2 import METHODS, load_predictor, main, points_by_slice, segment_volume, write_frames
from evidence.noise import NOISES, write_test_prompts
from evidence.workspace import Workspace
from spdnet.prompts import SlicePrompts
from spdnet.tests.tiny import IMAGE_SIZE, tiny_settings, write_blob_dataset

CPU = torch.device("cpu")
MODEL_SIZE = 128  # pixels, for speed; 1024 in the package's configurations


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The smallest published configuration for small frames, and a checkpoint of random weights."""
    pytest.importorskip("sam2")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("sam2")
    content = OmegaConf.load(str(files("sam2") / "configs" / "sam2.1" / "sam2.1_hiera_t.yaml"))
    content.model.image_size = MODEL_SIZE
    (folder / "tiny.yaml").write_text("# @package _global_\n" + OmegaConf.to_yaml(content), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = instantiate(content.model, _recursive_=True)
    torch.save({"model": model.state_dict()}, folder / "random.pt")
    return folder / "tiny.yaml", folder / "random.pt"


@pytest.fixture(scope="module")
def predictor(weights: tuple[Path, Path]) -> Any:
    """SAM 2's video predictor with them."""
    return load_predictor(str(weights[0]), weights[1], CPU)


def volume(n_slices: int, seed: int = 0) -> np.ndarray:
    """Slices that are smooth, so that JPEG hardly changes them."""
    coarse = torch.rand(n_slices, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear").numpy()


def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, row = Workspace(Setting("phantom", "native"), tmp_path), METHODS["sam2"]
    monkeypatch.setattr(sam2, "find_spec", lambda name: None)
    assert row.missing(workspace) == "needs the package sam2"
    monkeypatch.setattr(sam2, "find_spec", lambda name: name)
    for variable in ("SPD_SAM2_CHECKPOINT", "SPD_SAM2_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    assert row.missing(workspace) == "no checkpoint here"
    monkeypatch.setenv("SPD_SAM2_CONFIG", "configs/sam2.1/sam2.1_hiera_t.yaml")
    monkeypatch.setenv("SPD_SAM2_CHECKPOINT", str(tmp_path / "absent.pt"))
    assert row.missing(workspace) == "no checkpoint here"
    (tmp_path / "absent.pt").touch()
    assert row.missing(workspace) is None


def test_prompted_is_the_slice_with_most_points_or_every_one_that_has_any() -> None:
    slices = np.array([1.0, 3.2, 2.8, 5.0, 5.1, 9.0])
    points = SlicePrompts(np.column_stack([slices, np.arange(6), np.arange(6) + 10]), np.full(6, -1))
    most = points_by_slice(points, 8, "most")
    assert list(most) == [3] and most[3].tolist() == [[1, 11], [2, 12]]
    assert {number: len(own) for number, own in points_by_slice(points, 8, "all").items()} == {1: 1, 3: 2, 5: 2}
    assert points_by_slice(SlicePrompts.empty(), 8, "all") == points_by_slice(SlicePrompts.empty(), 8, "most") == {}


def test_frames_are_the_slices_in_their_order(tmp_path: Path) -> None:
    slices = volume(12)
    write_frames(slices, tmp_path)
    written = [np.asarray(Image.open(f)) for f in sorted(tmp_path.iterdir())]
    assert len(written) == 12 and written[0].shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    np.testing.assert_allclose(np.stack(written)[..., 0] / 255, slices[:, 0], atol=0.02)


def test_prompted_slice_is_what_sam2_makes_of_that_image_and_point(predictor: Any) -> None:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    slices, prompted, (y, x) = volume(5), 3, (20.0, 41.0)
    points = SlicePrompts(np.array([[prompted, y, x]]), np.array([0]))
    found = segment_volume(predictor, slices, points, 1, "most")[:, 0]
    alone = SAM2ImagePredictor(predictor)
    alone._bb_feat_sizes = [(MODEL_SIZE // stride,) * 2 for stride in (4, 8, 16)]  # the package has 1024 px built in
    scores = {}
    for number in range(len(slices)):
        alone.set_image(np.rint(255 * slices[number].repeat(3, axis=0).transpose(1, 2, 0)).astype(np.uint8))
        centre = np.array([[x + 0.5, y + 0.5]]) - 0.5 * IMAGE_SIZE / MODEL_SIZE
        logits, overlaps, _ = alone.predict(centre, np.array([1]), multimask_output=True, return_logits=True)
        expected = 1 / (1 + np.exp(-logits[overlaps.argmax()]))
        scores[number] = np.abs(expected - found[prompted]).mean()
    assert scores.pop(prompted) < 3e-4, "JPEG is what is left; a point one pixel off makes 1e-3"
    assert min(scores.values()) > 5e-3, "another slice is something else"


def test_masks_reach_all_slices_of_classes_with_points(predictor: Any) -> None:
    points = SlicePrompts(np.array([[2.0, 20.0, 30.0]]), np.array([1]))
    found = segment_volume(predictor, volume(5), points, 3, "most")
    assert found.shape == (5, 3, IMAGE_SIZE, IMAGE_SIZE) and found.dtype == np.float32
    assert found[:, 1].any(axis=(1, 2)).all() and not found[:, [0, 2]].any()
    assert np.ptp(found, axis=0)[1].max() > 0, "not one mask for all"


def test_a_class_does_not_see_the_points_of_another(predictor: Any) -> None:
    points = SlicePrompts(np.array([[1.0, 40.0, 8.0], [2.0, 20.0, 30.0]]), np.array([0, 1]))
    both = segment_volume(predictor, volume(4), points, 2, "most")
    alone = segment_volume(predictor, volume(4), points.select(np.array([1])), 2, "most")
    np.testing.assert_allclose(both[:, 1], alone[:, 1], atol=1e-5)
    assert not np.allclose(both[:, 0], both[:, 1])


def test_more_prompted_slices_change_the_masks(predictor: Any) -> None:
    points = SlicePrompts(np.array([[1.0, 20.0, 30.0], [3.0, 40.0, 8.0], [3.0, 41.0, 9.0]]), np.full(3, -1))
    most, every = (segment_volume(predictor, volume(5), points, 1, prompted) for prompted in ("most", "all"))
    np.testing.assert_allclose(most[3], every[3], atol=1e-5)
    assert not np.allclose(most[1], every[1])


def test_command_writes_on_the_images_grids(
    tmp_path: Path, weights: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_blob_dataset(tmp_path, n_train=1)
    write_test_prompts(NOISES["recipe"], raw, tmp_path / "recipe", 0)
    plans = write_plans(tmp_path / "SPDPlans.json", tiny_settings())
    monkeypatch.setenv("SPD_SAM2_CONFIG", str(weights[0]))
    monkeypatch.setenv("SPD_SAM2_CHECKPOINT", str(weights[1]))
    words = [raw, "-prompted", "most", "-plans", plans, "-prompts", tmp_path / "recipe", "-o", tmp_path / "out"]
    main([*(str(w) for w in words), "-device", "cpu"])
    for image in sorted((raw / "imagesTs").iterdir()):
        stored = sitk.ReadImage(str(image))
        predicted = sitk.ReadImage(str(tmp_path / "out" / image.name.replace("_0000", "")))
        assert predicted.GetSize() == stored.GetSize()
        np.testing.assert_allclose(predicted.GetDirection(), stored.GetDirection(), atol=1e-6)
        assert sitk.GetArrayFromImage(predicted).max() <= 2
