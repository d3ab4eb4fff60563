"""A second look at points once the neighbouring slices have masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spdnet.inference.class_rules import MIN_PRECISION, MeasuredShares, Rules
from spdnet.inference.prompt_report import judge_prompts
from spdnet.inference.prompting import DecoderRows, distill_volume, look_again, points_of_class
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.fates import Fate, overrule, point_fates
from spdnet.prompts.second_look import Looks, NeighbourMasks
from spdnet.tests.tiny import measured_shares

SIDE, IMAGE = 28, 56
ON = DistillationSettings(second_look="on")
NO_POINTS = np.zeros((0, 3))
TUBE = (slice(8, 16), slice(10, 18))  # where the masks are


def tube(n_slices: int, without: tuple[int, ...] = ()) -> np.ndarray:
    """bool (S, SIDE, SIDE): the same square in all slices but some."""
    masks = np.zeros((n_slices, SIDE, SIDE), dtype=bool)
    masks[:, TUBE[0], TUBE[1]] = True
    masks[list(without)] = False
    return masks


def rows_of(points: dict[int, list[tuple[float, float]]], boxed: tuple[int, ...] = ()) -> DecoderRows:
    """Rows of class 0, points y, x in pixels of the maps."""
    longest = max((len(p) for p in points.values()), default=0)
    padded = np.zeros((len(points), longest, 2), dtype=np.float32)
    is_real = np.zeros((len(points), longest), dtype=bool)
    for row, own in enumerate(points.values()):
        padded[row, : len(own)] = (np.array(own).reshape(-1, 2) + 0.5) * (IMAGE / SIDE) - 0.5
        is_real[row, : len(own)] = True
    has_box = np.isin(list(points), boxed)
    box = np.where(has_box[:, None], np.array([4.0, 4.0, 30.0, 30.0]), 0).astype(np.float32)
    slices = np.array(list(points), dtype=np.int64)
    return DecoderRows(slices, np.zeros(len(slices), dtype=np.int64), padded, is_real, box, has_box)


def look(
    rows: DecoderRows,
    masks: np.ndarray,
    saliency: np.ndarray | None = None,
    settings: DistillationSettings = ON,
    measured: MeasuredShares | None = None,
    points: np.ndarray = NO_POINTS,
) -> dict[int, list[list[float]]]:
    """What changes: the new points of each slice, in pixels of the maps."""
    saliency = np.zeros(masks.shape, dtype=np.float32) if saliency is None else saliency
    maps = masks[:, None].astype(np.float32), saliency[:, None]
    changed = look_again(rows, [points], *maps, Rules(settings, IMAGE, measured)).rows
    return {
        int(s): (((changed.points_yx[i, changed.point_is_real[i]].astype(float) + 0.5) * (SIDE / IMAGE)) - 0.5)
        .round(3)
        .tolist()
        for i, s in enumerate(changed.slice_index)
    }


def looks_of(masks: np.ndarray, *readmitted: tuple[int, int]) -> Looks:
    """After a look at the masks of class 0, with the slices and rows of points that it readmitted."""
    lines = [(0, *point) for point in readmitted]
    return Looks.of_second(masks[:, None], np.array(lines, dtype=np.int64).reshape(-1, 3))


def whole(part: np.ndarray, around: NeighbourMasks) -> np.ndarray:
    """An array of `NeighbourMasks` with all pixels of the maps."""
    maps = np.zeros((len(part), SIDE, SIDE), dtype=part.dtype)
    (top, left), (height, width) = around.corner, part.shape[1:]
    maps[:, top : top + height, left : left + width] = part
    return maps


def support_of(masks: np.ndarray) -> np.ndarray:
    around = NeighbourMasks.of(masks)
    return whole(around.support, around)


def between_of(masks: np.ndarray) -> np.ndarray:
    around = NeighbourMasks.of(masks)
    return whole(around.between, around)


def test_support_counts_the_neighbours_that_there_are_and_not_the_slice_itself() -> None:
    support = support_of(tube(6, without=(2,)))
    assert support[:, 12, 14].tolist() == pytest.approx([0.5, 2 / 3, 1, 0.75, 2 / 3, 1])
    assert support[:, 0, 0].tolist() == [0] * 6


def test_masks_are_widened_in_the_plane_and_only_there() -> None:
    masks = np.zeros((3, SIDE, SIDE), dtype=bool)
    masks[1, 12, 14] = True
    support = support_of(masks)
    around = support[0] > 0
    assert around[11:14, 13:16].all() and around.sum() == 9
    assert not support[1].any(), "a slice does not speak for itself"


def test_a_single_slice_has_no_support() -> None:
    alone = NeighbourMasks.of(tube(1))
    assert not alone.support.any() and not alone.between.any()


def test_only_what_masks_reach_is_kept() -> None:
    around = NeighbourMasks.of(tube(5))
    assert around.corner == (7, 9) and around.support.shape == around.between.shape == (5, 10, 10)
    nothing = NeighbourMasks.of(np.zeros((5, SIDE, SIDE), dtype=bool))
    assert (
        not nothing.bear_out(2, np.array([[12.0, 14.0]])).any() and nothing.bridge(2, np.ones((SIDE, SIDE))).size == 0
    )


def test_what_lies_between_masks_needs_one_on_either_side_within_reach() -> None:
    masks = tube(12, without=(0, 1, 2, 4, 5, 6, 7, 8, 9, 11))  # masks in slices 3 and 10 alone
    assert not between_of(masks).any(), "seven slices apart"
    masks[8] = masks[10]
    assert between_of(masks)[:, 12, 14].nonzero()[0].tolist() == [5, 6, 9]


@pytest.mark.parametrize(("place", "expected"), [((12.0, 14.0), True), ((1.0, 1.0), False), ((-3.0, 40.0), False)])
def test_a_point_is_borne_out_by_the_pixel_that_it_lies_in(place: tuple[float, float], expected: bool) -> None:
    around = NeighbourMasks.of(tube(5))
    assert around.bear_out(2, np.array([place])).tolist() == [expected]


def test_a_gap_gets_the_most_salient_place_between_the_masks() -> None:
    around, saliency = NeighbourMasks.of(tube(5)), np.zeros((SIDE, SIDE), dtype=np.float32)
    saliency[10, 12], saliency[2, 2] = 0.4, 0.9
    assert around.bridge(2, saliency).tolist() == [[10, 12]]
    (middle,) = around.bridge(2, np.zeros((SIDE, SIDE), dtype=np.float32))
    assert 11 <= middle[0] <= 12 and 13 <= middle[1] <= 14, "where nothing is salient"
    assert around.bridge(0, saliency).shape == (0, 2), "no slice before it"


def test_points_that_most_neighbours_leave_out_are_dropped() -> None:
    masks = tube(5)
    masks[2] = False
    masks[2, 20:26, 20:26] = True  # what the wrong point made of its slice
    rows = rows_of({s: [(12.0, 14.0)] for s in (0, 1, 3, 4)} | {2: [(22.0, 22.0), (11.0, 13.0)]})
    assert look(rows, masks) == {2: [[11, 13]]}


def test_a_slice_whose_only_point_is_dropped_gets_a_place_between_the_masks() -> None:
    masks, saliency = tube(5), np.zeros((5, SIDE, SIDE), dtype=np.float32)
    saliency[2, 9, 11] = 0.3
    rows = rows_of({s: [(12.0, 14.0)] for s in (0, 1, 3, 4)} | {2: [(22.0, 22.0)]})
    assert look(rows, masks, saliency) == {2: [[9, 11]]}


def test_a_gap_between_masks_is_bridged_even_where_no_row_was() -> None:
    saliency = np.zeros((5, SIDE, SIDE), dtype=np.float32)
    saliency[2, 9, 11] = 0.1
    rows = rows_of({s: [(12.0, 14.0)] for s in (0, 1, 3, 4)})
    assert look(rows, tube(5, without=(2,)), saliency) == {2: [[9, 11]]}


def test_nothing_is_added_beyond_the_last_mask_unless_asked_for() -> None:
    rows, saliency = rows_of({s: [(12.0, 14.0)] for s in (2, 3, 4)}), np.zeros((7, SIDE, SIDE), dtype=np.float32)
    saliency[1, 9, 11] = saliency[5, 14, 16] = saliency[:, 2, 2] = 0.4
    masks = tube(7, without=(0, 1, 5, 6))
    assert look(rows, masks, saliency) == {}
    assert look(rows, masks, saliency, replace(ON, prolong="on")) == {1: [[9, 11]], 5: [[14, 16]]}, "one slice on"


def test_a_gap_is_bridged_before_it_is_prolonged() -> None:
    masks = tube(10, without=(0, 4, 5, 6, 7, 8, 9))
    masks[5:9, 8:16, 12:20] = True  # two columns on
    rows = rows_of({s: [(12.0, 14.0)] for s in (1, 2, 3, 5, 6, 7, 8)})
    saliency = np.full((10, SIDE, SIDE), 0.1, dtype=np.float32)
    saliency[:, 12, 19] = 1.0  # in the later masks alone
    bridged = look(rows, masks, saliency)
    assert list(bridged) == [4] and bridged[4][0][1] < 19, "only pixels that both sides reach"
    prolonged = look(rows, masks, saliency, replace(ON, prolong="on"))
    assert sorted(prolonged) == [0, 4, 9] and prolonged[4] == bridged[4] and prolonged[9] == [[12, 19]]


def test_points_in_the_mask_next_door_are_readmitted() -> None:
    masks, saliency = tube(7, without=(0, 1, 5, 6)), np.zeros((7, SIDE, SIDE), dtype=np.float32)
    given = np.array(
        [
            [1.0, 12.0, 14.0],  # within the mask of slice 2
            [1.2, 7.4, 9.0],  # within the rim by which it is widened, and slice 1 is the nearest one
            [1.0, 6.0, 9.0],  # outside
            [0.0, 12.0, 14.0],  # two slices away
            [1.0, -20.0, 14.0],  # outside the map
            [3.0, 13.0, 13.0],  # a slice that has a point
        ]
    )
    rows, settings = rows_of({s: [(12.0, 14.0)] for s in (2, 3, 4)}), replace(ON, readmit="on")
    found = look_again(rows, [given], masks[:, None] * 1.0, saliency[:, None], Rules(settings, IMAGE))
    assert found.readmitted.tolist() == [[0, 1, 0], [0, 1, 1]]
    assert look(rows, masks, saliency, settings, None, given) == {1: [[12, 14], [7.4, 9]]}
    assert look(rows, masks, saliency, replace(settings, max_points=1), None, given) == {1: [[12, 14]]}
    both = look(rows, masks, saliency, replace(settings, prolong="on"), None, given)
    assert both[1] == [[12, 14], [7.4, 9]] and len(both[5]) == 1, "a place only where there is no point"
    assert look(rows, masks, saliency, ON, None, given) == {}


@pytest.mark.parametrize(("share", "readmitted"), [(MIN_PRECISION, True), (0.49, False), (None, False)])
def test_auto_readmits_by_what_was_measured(share: float | None, readmitted: bool) -> None:
    measured = None if share is None else measured_shares(look=[1], readmit=[share])
    rows, given = rows_of({s: [(12.0, 14.0)] for s in (1, 2, 3)}), np.array([[4.0, 12.0, 14.0]])
    settings = replace(ON, readmit="auto", prolong="auto")
    changed = look(rows, tube(5, without=(0, 4)), None, settings, measured, given)
    assert changed == ({4: [[12, 14]]} if readmitted else {})


@pytest.mark.parametrize(("share", "prolonged"), [(MIN_PRECISION, True), (0.49, False), (None, False)])
def test_auto_prolongs_by_what_was_measured(share: float | None, prolonged: bool) -> None:
    measured = None if share is None else measured_shares(look=[1], prolong=[share])
    rows, settings = rows_of({s: [(12.0, 14.0)] for s in (2, 3, 4)}), replace(ON, prolong="auto")
    changed = look(rows, tube(7, without=(0, 1, 5, 6)), None, settings, measured)
    assert sorted(changed) == ([1, 5] if prolonged else [])
    assert look(rows, tube(7, without=(0, 1, 5, 6)), None, replace(settings, second_look="off"), measured) == {}


def test_a_lone_mask_has_its_points_dropped_and_is_decoded_without() -> None:
    masks = tube(9, without=(0, 1, 2, 3, 5, 6, 7, 8))
    assert look(rows_of({4: [(12.0, 14.0)]}), masks) == {4: []}


def test_a_box_stays_and_nothing_stands_in_for_points_beside_it() -> None:
    masks = tube(5)
    rows = rows_of({s: [(12.0, 14.0)] for s in (0, 1, 3, 4)} | {2: [(22.0, 22.0)]}, boxed=(2,))
    changed = look_again(rows, [NO_POINTS], masks[:, None] * 1.0, np.ones((5, 1, SIDE, SIDE)), Rules(ON, IMAGE)).rows
    assert (changed.slice_index.tolist(), changed.has_box.tolist()) == ([2], [True])
    assert not changed.point_is_real.any()
    np.testing.assert_array_equal(changed.box_yxyx[0], [4, 4, 30, 30])


def test_a_volume_of_one_slice_keeps_its_points() -> None:
    assert look(rows_of({0: [(12.0, 14.0), (22.0, 22.0)]}), tube(1)) == {}


def test_classes_have_their_own_neighbours() -> None:
    probabilities = np.stack([tube(5), np.zeros((5, SIDE, SIDE), dtype=bool)], axis=1) * 1.0
    first = rows_of({s: [(12.0, 14.0)] for s in range(5)})
    second = replace(first, class_index=np.ones(5, dtype=np.int64))
    both = DecoderRows.concatenate([first, second])
    changed = look_again(both, [NO_POINTS] * 2, probabilities, np.zeros((5, 2, SIDE, SIDE)), Rules(ON, IMAGE)).rows
    assert set(changed.class_index.tolist()) == {1} and not changed.point_is_real.any()


@pytest.mark.parametrize("settings", [DistillationSettings(), DistillationSettings(mode="raw", second_look="on")])
def test_without_a_second_look_nothing_changes(settings: DistillationSettings) -> None:
    rows = rows_of({2: [(22.0, 22.0)]})
    maps = tube(5)[:, None] * 1.0, np.ones((5, 1, SIDE, SIDE))
    found = look_again(rows, [np.array([[2.0, 12.0, 14.0]])], *maps, Rules(settings, IMAGE))
    assert len(found.rows) == len(found.readmitted) == 0


def test_what_is_borne_out_is_not_decoded_again() -> None:
    assert look(rows_of({s: [(12.0, 14.0), (10.0, 12.0)] for s in range(5)}), tube(5)) == {}


def test_fates_tell_of_points_that_were_overruled() -> None:
    saliency = np.ones((5, SIDE, SIDE), dtype=np.float32)
    points = np.array([[2.0, 12.0, 14.0], [2.0, 24.0, 4.0], [9.0, 0.0, 0.0]])
    fates = point_fates(points, saliency, 0.5, 1, 10)
    after = overrule(fates, points, looks_of(tube(5)), 0)
    dropped = after.rows(Fate.REJECTED_MASKS)
    assert set(after.point_index[dropped].tolist()) == {1} and after.target_slice[dropped].tolist() == [1, 2, 3]
    kept = [row for row, fate in enumerate(after.fates) if fate.is_kept]
    assert after.point_index[kept].tolist() == [0, 0, 0]
    assert after.rows(Fate.OUTSIDE).tolist() == fates.rows(Fate.OUTSIDE).tolist() == [6]


def test_fates_tell_of_points_that_came_back() -> None:
    saliency = np.zeros((5, SIDE, SIDE), dtype=np.float32)
    saliency[2:] = 1
    points = np.array([[1.0, 12.0, 14.0], [2.0, 12.0, 14.0], [1.0, 20.0, 14.0]])
    fates = point_fates(points, saliency, 0.5, 1, 10)
    after = overrule(fates, points, looks_of(tube(5, without=(0, 1)), (1, 0)), 0)
    assert after.rows(Fate.KEPT_MASKS).tolist() == [0] and Fate.KEPT_MASKS.is_kept
    assert after.fates[1:] == fates.fates[1:]
    lone = tube(5, without=(0, 1, 3, 4))
    lone[1, TUBE[0], TUBE[1]] = True
    dropped = overrule(fates, points, looks_of(lone), 0)
    (at_home,) = np.flatnonzero((fates.point_index == 1) & (fates.target_slice == 2))
    assert (fates.fates[at_home], dropped.fates[at_home]) == (Fate.KEPT_LOCAL, Fate.REJECTED_MASKS)
    assert overrule(fates, points, looks_of(lone, (2, 1)), 0).fates[at_home] is Fate.KEPT_LOCAL


def test_the_report_and_the_prediction_drop_the_same_points() -> None:
    rng = np.random.default_rng(3)
    saliency = rng.random((7, 1, SIDE, SIDE), dtype=np.float32)
    masks = np.zeros((7, 1, SIDE, SIDE), dtype=bool)
    masks[:, 0, :14] = rng.random((7, 1, SIDE)) > 0.5  # columns of the upper half
    points = np.column_stack([rng.integers(0, 7, 50), rng.uniform(0, IMAGE - 1, (50, 2))])
    prompts = SlicePrompts(points, np.zeros(50, dtype=np.int64))
    settings = DistillationSettings(second_look="on", max_points=3)
    (consensus,) = distill_volume(prompts, saliency, Rules(settings, IMAGE))
    looks = looks_of(masks[:, 0])
    left = looks.of_class(0, consensus, points_of_class(prompts, 0, IMAGE, SIDE), saliency[:, 0])
    judged = judge_prompts(prompts, saliency, Rules(settings, IMAGE), looks=looks)
    (fates,) = judged.fates
    kept = [row for row, fate in enumerate(fates.fates) if fate.is_kept]
    told = sorted(zip(fates.target_slice[kept].tolist(), fates.point_index[kept].tolist(), strict=True))
    assert told == sorted(zip(left.slice_index.tolist(), left.point_index.tolist(), strict=True))
    assert 0 < len(told) < len(consensus.slice_index)
