"""Distilling coarse boxes: validation, shrinking and context, by hand and against a slow and plain version."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from spdnet.prompts import SliceBoxes
from spdnet.prompts.box_distillation import BoxConsensus, distill_boxes, raw_boxes


def boxes_of(*boxes: tuple[int, float, float, float, float]) -> SliceBoxes:
    """Boxes from (slice, top, left, bottom, right)."""
    rows = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    return SliceBoxes(rows[:, 0].astype(np.int64), rows[:, 1:], np.zeros(len(rows), dtype=np.int64))


def blob(n_slices: int, *where: tuple[int, int, int, int, int]) -> np.ndarray:
    """Saliency maps of 20 px, 0.1 but for 0.9 in rectangles (slice, first row, first column, last row, last column)."""
    saliency = np.full((n_slices, 20, 20), 0.1, dtype=np.float32)
    for s, top, left, bottom, right in where:
        saliency[s, top : bottom + 1, left : right + 1] = 0.9
    return saliency


def distill(boxes: SliceBoxes, saliency: np.ndarray, **changes: Any) -> BoxConsensus:
    """With tau 0.5, two slices of context, no margin and no least share, unless changed."""
    settings = {"tau": 0.5, "n_context": 2, "margin": 0.0, "min_salient_share": 0.0}
    return distill_boxes(boxes, saliency, **{**settings, **changes})


def entries(consensus: BoxConsensus) -> list[tuple[int, int, int, list[float]]]:
    """(slice, given box, source slice, edges) of every entry."""
    columns = consensus.slice_index, consensus.box_index, consensus.source_slice, consensus.boxes_yxyx
    return list(zip(*(c.tolist() for c in columns), strict=True))


COARSE = (1.5, 1.5, 15.5, 15.5)  # pixels 2 to 15 both ways: 14 x 14


def test_a_box_shrinks_to_the_salient_pixels_inside_it() -> None:
    saliency = blob(1, (0, 4, 6, 7, 8), (0, 18, 18, 19, 19))
    found = distill(boxes_of((0, *COARSE)), saliency)
    assert entries(found) == [(0, 0, 0, [3.5, 5.5, 7.5, 8.5])]
    assert found.salient_share[0] == pytest.approx(12 / 196)
    assert found.own_share[0] == pytest.approx(12 / 196)
    assert found.is_local.tolist() == [True]
    assert found.is_rejected.tolist() == [False]


def test_the_margin_is_a_share_of_the_region_and_stays_within_the_given_box() -> None:
    saliency = blob(1, (0, 4, 6, 7, 8))  # 4 rows, 3 columns
    given = boxes_of((0, *COARSE), (0, 3.25, 5.75, 7.75, 10.5))
    found = distill(given, saliency, margin=0.5)
    np.testing.assert_allclose(found.boxes_yxyx, [[1.5, 4.0, 9.5, 10.0], [3.25, 5.75, 7.75, 10.0]])


def test_a_box_without_salient_pixels_is_rejected() -> None:
    found = distill(boxes_of((0, *COARSE), (1, *COARSE)), blob(2, (0, 16, 2, 19, 19)))
    assert entries(found) == []
    assert found.own_share.tolist() == [0, 0]
    assert found.is_rejected.tolist() == [True, True]
    saliency = np.full((1, 20, 20), 0.5, dtype=np.float32)
    assert len(distill(boxes_of((0, *COARSE)), saliency).slice_index) == 0, "salient is above tau, not at it"


def test_the_least_share_is_asked_for_in_the_own_slice_and_in_the_target_slice() -> None:
    saliency = blob(3, (0, 2, 2, 4, 4), (1, 2, 2, 3, 5))  # 9 and 8 of 196 pixels
    given = boxes_of((0, *COARSE))
    assert distill(given, saliency, min_salient_share=7 / 196).slice_index.tolist() == [0, 1]
    assert distill(given, saliency, min_salient_share=8.5 / 196).slice_index.tolist() == [0]
    rejected = distill(given, saliency, min_salient_share=9.5 / 196)
    assert len(rejected.slice_index) == 0
    assert rejected.is_rejected.tolist() == [True]
    swapped = distill(given, saliency[[1, 0, 2]], min_salient_share=8.5 / 196)
    assert len(swapped.slice_index) == 0, "not trusted in its own slice, though it would be in the other"


def test_boxes_are_lent_to_slices_without_any_and_shrunk_to_what_is_salient_there() -> None:
    everywhere = [(s, 4 + s, 6, 6 + s, 8) for s in range(7)]
    found = distill(boxes_of((3, *COARSE)), blob(7, *everywhere))
    assert entries(found) == [(s, 0, 3, [3.5 + s, 5.5, 6.5 + s, 8.5]) for s in (1, 2, 3, 4, 5)]
    assert found.is_local.tolist() == [False, False, True, False, False]
    assert distill(boxes_of((3, *COARSE)), blob(7, *everywhere), n_context=0).slice_index.tolist() == [3]


def test_a_lent_box_must_be_salient_in_both_slices() -> None:
    given = boxes_of((2, *COARSE))
    only_there = blob(4, (1, 4, 4, 6, 6), (3, 4, 4, 6, 6))
    assert entries(distill(given, only_there)) == []
    outside_there = blob(4, (2, 4, 4, 6, 6), (1, 17, 17, 19, 19))
    assert distill(given, outside_there).slice_index.tolist() == [2]


def test_a_slice_with_a_trusted_box_borrows_none_and_one_whose_box_is_rejected_does() -> None:
    saliency = blob(3, (0, 4, 4, 6, 6), (1, 5, 5, 7, 7), (2, 6, 6, 8, 8))
    elsewhere = (15.5, 15.5, 19.5, 19.5)
    found = distill(boxes_of((0, *COARSE), (1, 4.5, 4.5, 6.5, 6.5), (2, *elsewhere)), saliency)
    assert entries(found)[:2] == [(0, 0, 0, [3.5, 3.5, 6.5, 6.5]), (1, 1, 1, [4.5, 4.5, 6.5, 6.5])]
    assert entries(found)[2:] == [(2, 1, 1, [5.5, 5.5, 6.5, 6.5])], "from slice 1, which is nearer than slice 0"
    assert found.is_rejected.tolist() == [False, False, True]


def test_equally_near_slices_lend_together() -> None:
    saliency = blob(3, (0, 4, 4, 4, 4), (1, 3, 4, 10, 4), (2, 9, 4, 9, 4))
    found = distill(boxes_of((0, 1.5, 1.5, 6.5, 6.5), (2, 7.5, 1.5, 12.5, 6.5)), saliency)
    assert entries(found)[1:3] == [(1, 0, 0, [2.5, 3.5, 6.5, 4.5]), (1, 1, 2, [7.5, 3.5, 10.5, 4.5])]
    np.testing.assert_allclose(found.box_of_slices(3)[1], [2.5, 3.5, 10.5, 4.5])


def test_a_slice_gets_one_box_around_all_that_prompt_it() -> None:
    saliency = blob(2, (0, 2, 3, 4, 5), (0, 10, 12, 11, 14))
    found = distill(boxes_of((0, 0.5, 0.5, 6.5, 6.5), (0, 8.5, 8.5, 15.5, 18.5)), saliency)
    boxes = found.box_of_slices(2)
    np.testing.assert_allclose(boxes[0], [1.5, 2.5, 11.5, 14.5])
    assert np.isnan(boxes[1]).all()
    assert found.slices_with_box(2).tolist() == [True, False]
    without = found.only_slices(np.array([False, True]))
    assert len(without.slice_index) == len(without.boxes_yxyx) == 0
    assert without.own_share.tolist() == found.own_share.tolist()


def test_pixels_that_a_box_touches_count_and_those_off_the_map_do_not() -> None:
    saliency = blob(1, (0, 0, 0, 19, 19))
    saliency[0, 5, 5] = saliency[0, 19, 19] = 0.1
    thin = distill(boxes_of((0, 2.9, 3.1, 2.95, 3.2)), saliency)  # within pixel (3, 3)
    np.testing.assert_allclose(thin.boxes_yxyx, [[2.9, 3.1, 2.95, 3.2]])
    assert thin.own_share.tolist() == [1.0]
    exact = distill(boxes_of((0, 3.5, 3.5, 5.5, 5.5)), saliency)
    assert exact.own_share.tolist() == [0.75], "pixels 4 and 5, not 3 and 6"
    corner = distill(boxes_of((0, 17.5, 17.5, 40.0, 30.0)), saliency)
    assert corner.own_share.tolist() == [0.75]
    np.testing.assert_allclose(corner.boxes_yxyx, [[17.5, 17.5, 19.5, 19.5]])
    off = distill(boxes_of((0, -9.0, 2.0, -3.0, 8.0), (0, 25.0, 2.0, 30.0, 8.0), (7, *COARSE), (-1, *COARSE)), saliency)
    assert off.is_rejected.all()
    assert off.own_share.tolist() == [0, 0, 0, 0]


def test_raw_boxes_are_left_as_they_are_in_their_own_slice() -> None:
    given = boxes_of((2, *COARSE), (0, 3.0, 4.0, 5.0, 6.0), (9, *COARSE), (0, 1.0, 8.0, 2.0, 9.0))
    found = raw_boxes(given, 4)
    assert entries(found) == [(0, 1, 0, [3, 4, 5, 6]), (0, 3, 0, [1, 8, 2, 9]), (2, 0, 2, list(COARSE))]
    assert found.is_rejected.tolist() == [False, False, True, False]
    assert np.isnan(found.own_share).all()
    np.testing.assert_allclose(found.box_of_slices(4)[0], [1, 4, 5, 9])


@pytest.mark.parametrize("n_slices", [0, 3])
def test_no_boxes_give_none(n_slices: int) -> None:
    for found in (distill(SliceBoxes.empty(), blob(n_slices)), raw_boxes(SliceBoxes.empty(), n_slices)):
        assert len(found.slice_index) == len(found.own_share) == len(found.is_rejected) == 0
        assert np.isnan(found.box_of_slices(n_slices)).all()
        assert not found.slices_with_box(n_slices).any()


def salient_pixels(box: np.ndarray, saliency: np.ndarray, tau: float) -> tuple[list[tuple[int, int]], float]:
    """Salient pixels that a box overlaps, pixel by pixel, and their share."""
    touched = [
        (y, x)
        for y, x in itertools.product(range(saliency.shape[0]), range(saliency.shape[1]))
        if min(y + 0.5, box[2]) > max(y - 0.5, box[0]) and min(x + 0.5, box[3]) > max(x - 0.5, box[1])
    ]
    found = [p for p in touched if saliency[p] > tau]
    return found, len(found) / len(touched) if touched else 0.0


def plain_distillation(boxes: SliceBoxes, saliency: np.ndarray, n_context: int, margin: float, least: float) -> Any:
    """The rules of the module, word for word and slowly: {slice: {(box, source): edges}}."""
    result: dict[int, dict[tuple[int, int], list[float]]] = {s: {} for s in range(len(saliency))}

    def judged(b: int, s: int) -> list[float] | None:
        box = boxes.boxes_yxyx[b]
        pixels, share = salient_pixels(box, saliency[s], 0.5)
        if not pixels or np.float32(share) < least:
            return None
        (top, bottom), (left, right) = ((min(v) - 0.5, max(v) + 0.5) for v in zip(*pixels, strict=True))
        my, mx = margin * (bottom - top), margin * (right - left)
        return [max(top - my, box[0]), max(left - mx, box[1]), min(bottom + my, box[2]), min(right + mx, box[3])]

    own = {b: judged(b, int(s)) for b, s in enumerate(boxes.slice_index) if 0 <= s < len(saliency)}
    trusted = {b: edges for b, edges in own.items() if edges is not None}
    for b, edges in trusted.items():
        result[int(boxes.slice_index[b])][(b, int(boxes.slice_index[b]))] = edges
    for s in [s for s in result if not result[s]]:
        for distance in range(1, n_context + 1):
            lenders = [b for b in trusted if abs(int(boxes.slice_index[b]) - s) == distance]
            lent = {(b, int(boxes.slice_index[b])): judged(b, s) for b in lenders}
            result[s] = {key: edges for key, edges in lent.items() if edges is not None}
            if result[s]:
                break
    return result


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_the_rules_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_slices, n_boxes = int(rng.integers(1, 9)), int(rng.integers(0, 8))
    saliency = rng.random((n_slices, 9, 11)).astype(np.float32) ** rng.uniform(1, 8)
    corners = np.sort(rng.uniform(-3, 12, (n_boxes, 2, 2)), axis=1).reshape(n_boxes, 4)
    given = SliceBoxes(rng.integers(-1, n_slices + 1, n_boxes), corners, np.zeros(n_boxes, dtype=np.int64))
    n_context, margin, least = int(rng.integers(0, 4)), float(rng.uniform(0, 0.5)), float(rng.choice([0.0, 0.1]))
    found = distill(given, saliency, n_context=n_context, margin=margin, min_salient_share=least)
    expected = plain_distillation(given, saliency, n_context, margin, least)
    flat = [(s, *key, edges) for s in expected for key, edges in sorted(expected[s].items())]
    assert [e[:3] for e in entries(found)] == [e[:3] for e in flat]
    np.testing.assert_allclose(found.boxes_yxyx, np.array([e[3] for e in flat]).reshape(-1, 4), atol=1e-12)
    local = set(found.box_index[found.is_local].tolist())
    assert found.is_rejected.tolist() == [b not in local for b in range(n_boxes)]
