"""Coarse boxes: that they hold the target, are as much too large and shifted as asked, and stay in the image."""

from __future__ import annotations

import numpy as np
import pytest

from spdnet.errors import ConfigurationError
from spdnet.prompts import SliceBoxes
from spdnet.prompts.coarse_boxes import CoarseBoxes, bounding_edges

BOX = ((0, 200), (10, 190))
TIGHT = np.array([79.5, 89.5, 99.5, 129.5])  # rows 80 to 99, columns 90 to 129


def block_masks() -> np.ndarray:
    """uint8 (40, 2, 200, 200): class 0 a block of slices 15 to 24; class 1 grows over slices 5 to 8."""
    masks = np.zeros((40, 2, 200, 200), dtype=np.uint8)
    masks[15:25, 0, 80:100, 90:130] = 1
    for s in range(5, 9):
        masks[s, 1, 50 : 50 + s, 60 : 60 + 2 * s] = 1
    return masks


def draw(recipe: CoarseBoxes, seed: int = 0, masks: np.ndarray | None = None) -> SliceBoxes:
    """Boxes of the blocks."""
    prompts = recipe.draw(block_masks() if masks is None else masks, BOX, (1, 1, 1), np.random.default_rng(seed))
    assert len(prompts) == 0
    return prompts.boxes


def test_edges_are_those_of_the_pixels() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:6, 7] = mask[4, 7:9] = True
    assert bounding_edges(mask).reshape(4).tolist() == [1.5, 6.5, 5.5, 8.5]


@pytest.mark.parametrize("per_slice", [False, True])
def test_without_noise_boxes_are_the_targets_own(per_slice: bool) -> None:
    boxes = draw(CoarseBoxes(0.0, 0.0, per_slice))
    own = boxes.for_class(0)
    assert own.slice_index.tolist() == list(range(15, 25))
    np.testing.assert_array_equal(own.boxes_yxyx, np.tile(TIGHT, (10, 1)))
    other = boxes.for_class(1)
    assert other.slice_index.tolist() == [5, 6, 7, 8]
    heights = (other.boxes_yxyx[:, 2] - other.boxes_yxyx[:, 0]).tolist()
    assert heights == ([5, 6, 7, 8] if per_slice else [8, 8, 8, 8])


def test_a_box_of_the_volume_is_the_same_in_every_slice_and_one_per_slice_is_not() -> None:
    whole, each = (draw(CoarseBoxes(per_slice=p)).for_class(0).boxes_yxyx for p in (False, True))
    assert (whole == whole[0]).all()
    assert len(np.unique(each, axis=0)) == 10


@pytest.mark.parametrize("per_slice", [False, True])
def test_enlarged_boxes_hold_the_target_and_each_edge_moves_by_up_to_the_share(per_slice: bool) -> None:
    outward, before, after = [], [], []
    for seed in range(300):
        boxes = draw(CoarseBoxes(0.4, 0.0, per_slice), seed).for_class(0)
        outward.append(((boxes.boxes_yxyx[0] - TIGHT) * [-1, -1, 1, 1]) / [20, 40, 20, 40])
        before.append(15 - boxes.slice_index[0])
        after.append(boxes.slice_index[-1] - 24)
    moved = np.array(outward)
    assert moved.min() >= 0 and moved.max() <= 0.4
    # uniform from 0 to 0.4: mean 0.2, standard deviation 0.4 / sqrt(12)
    assert np.abs(moved.mean(axis=0) - 0.2).max() < 4 * 0.4 / np.sqrt(12 * 300)
    assert moved.max(axis=0).min() > 0.38 and moved.min(axis=0).max() < 0.02
    assert np.abs(np.corrcoef(moved.T) - np.eye(4)).max() < 0.25, "edges move independently"
    expected = {0} if per_slice else {0, 1, 2, 3, 4}  # up to 0.4 of 10 slices
    assert set(before) == expected and set(after) == expected


@pytest.mark.parametrize("per_slice", [False, True])
def test_shifted_boxes_keep_their_size_and_move_either_way(per_slice: bool) -> None:
    shifts = []
    for seed in range(300):
        box = draw(CoarseBoxes(0.0, 0.3, per_slice), seed).for_class(0).boxes_yxyx[0]
        assert box[2:] - box[:2] == pytest.approx([20, 40])
        shifts.append((box[:2] - TIGHT[:2]) / [20, 40])
    shift = np.array(shifts)
    assert np.abs(shift).max() <= 0.3 and np.abs(shift).max(axis=0).min() > 0.28
    assert np.abs(shift.mean(axis=0)).max() < 4 * 0.3 / np.sqrt(3 * 300)


def test_the_box_of_a_volume_shifts_along_the_slices_too() -> None:
    first = {int(draw(CoarseBoxes(0.0, 0.3), seed).for_class(0).slice_index[0]) for seed in range(100)}
    assert first == set(range(12, 19))
    assert len(draw(CoarseBoxes(0.0, 0.3), 1).for_class(0)) == 10


@pytest.mark.parametrize("per_slice", [False, True])
def test_boxes_stay_in_the_image_and_never_vanish(per_slice: bool) -> None:
    masks = np.zeros((3, 1, 200, 200), dtype=bool)
    masks[0, 0, 0:2, 10:12] = True
    masks[2, 0, 198:, 188:190] = True
    for seed in range(100):
        boxes = draw(CoarseBoxes(3.0, 1.0, per_slice), seed, masks)
        assert len(boxes) and set(boxes.slice_index.tolist()) <= {0, 1, 2}
        edges = boxes.boxes_yxyx
        assert (edges[:, :2] >= [-0.5, 9.5]).all() and (edges[:, 2:] <= [199.5, 189.5]).all()
        assert (edges[:, 2:] - edges[:, :2] >= 1 - 1e-9).all()


def test_anonymous_boxes_are_around_all_classes_together() -> None:
    boxes = draw(CoarseBoxes(0.0, 0.0, named=False))
    assert set(boxes.class_index.tolist()) == {-1} and boxes.slice_index.tolist() == list(range(5, 25))
    assert boxes.boxes_yxyx[0].tolist() == [49.5, 59.5, 99.5, 129.5]


@pytest.mark.parametrize(("enlarge", "shift"), [(-0.1, 0.0), (float("inf"), 0.0), (0.0, 1.1), (0.0, -0.1)])
def test_impossible_boxes_are_refused(enlarge: float, shift: float) -> None:
    with pytest.raises(ConfigurationError, match=r"enlarge is|shift is"):
        CoarseBoxes(enlarge, shift)
