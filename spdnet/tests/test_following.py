"""Looks after the second one go from mask to mask along the points."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from spdnet.geometry import rescale_points
from spdnet.inference.class_rules import MIN_PRECISION, MeasuredShares, Rules
from spdnet.inference.following import MAX_LOOKS, look_further
from spdnet.inference.prompting import DecoderRows, distill_whole_volume
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.fates import Fate, overrule, point_fates
from spdnet.prompts.second_look import LEAST_FOLLOWED, Looks
from spdnet.tests.tiny import measured_shares

SIDE, IMAGE, TAU = 28, 56, 0.5
ON = DistillationSettings(n_context=0, second_look="on", follow="on", empty_consensus="decode")
PLACE = (12.0, 14.0)
BESIDE = (11.0, 15.0)
FAR = (22.0, 3.0)
NONE = np.zeros((0, 3), dtype=np.int64)


@dataclass
class Tube:
    """A volume of `n` slices that has masks in some of them, and the points that its empty slices are decoded from.

    Attributes:
        n: slices.
        points: float (N, 3), slice, y, x in pixels of the maps.
        first: slices whose masks the second look saw.
        left: slices with masks after it; None: the same.
        salient: slices in which every pixel is salient.
        blind: slices in which the decoder finds nothing.
        asked: slices of each look.
    """

    n: int
    points: list[tuple[float, float, float]]
    first: tuple[int, ...]
    left: tuple[int, ...] | None = None
    salient: tuple[int, ...] = ()
    blind: tuple[int, ...] = ()
    asked: list[list[int]] = field(default_factory=list)

    def decode(self, rows: DecoderRows) -> np.ndarray:
        """A square round each point of a row."""
        assert not rows.has_box.any() and set(rows.class_index.tolist()) <= {0}
        self.asked.append(rows.slice_index.tolist())
        masks = np.zeros((len(rows), SIDE, SIDE), dtype=np.float32)
        for mask, s, own, real in zip(
            masks, rows.slice_index.tolist(), rows.points_yx, rows.point_is_real, strict=True
        ):
            for y, x in rescale_points(own[real].astype(np.float64), IMAGE, SIDE).round().astype(int).tolist():
                mask[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 0 if s in self.blind else 0.9
        return masks

    def look(
        self, settings: DistillationSettings = ON, measured: MeasuredShares | None = None
    ) -> tuple[list[int], Looks]:
        """Slices with masks in the end, and what the looks changed."""
        points = np.array(self.points, dtype=np.float64).reshape(-1, 3)
        in_network = np.column_stack([points[:, 0], rescale_points(points[:, 1:], SIDE, IMAGE)])
        prompts = SlicePrompts(in_network, np.zeros(len(points), dtype=np.int64))
        saliency = np.zeros((self.n, 1, SIDE, SIDE), dtype=np.float32)
        saliency[list(self.salient)] = 1
        given = distill_whole_volume(prompts, saliency, Rules(settings, IMAGE, measured))
        given.untrusted[:] = False
        square = np.zeros((SIDE, SIDE), dtype=bool)
        square[9:16, 11:18] = True
        first = np.zeros((self.n, 1, SIDE, SIDE), dtype=bool)
        first[list(self.first)] = square
        probabilities = np.zeros(first.shape, dtype=np.float32)
        probabilities[list(self.first if self.left is None else self.left)] = square
        looks = Looks.of_second(first, NONE)
        looks = look_further(self.decode, probabilities, looks, given, [points], Rules(settings, IMAGE, measured))
        return np.flatnonzero((probabilities[:, 0] > 0.5).any(axis=(1, 2))).tolist(), looks


def pair(s: int) -> list[tuple[float, float, float]]:
    """Two points of a slice where the masks are."""
    return [(s, *PLACE), (s, *BESIDE)]


def test_points_lead_from_mask_to_mask_until_they_end() -> None:
    tube = Tube(9, [*pair(2), *pair(3), *pair(4), *pair(6)], first=(0, 1))
    masks, looks = tube.look()
    assert masks == [0, 1, 2, 3, 4] and tube.asked == [[2], [3], [4]], "slice 5 has no points"
    assert looks.readmitted.tolist() == [[0, 2, 0], [0, 2, 1], [0, 3, 2], [0, 3, 3], [0, 4, 4], [0, 4, 5]]
    assert not len(looks.returned)


def test_both_ways_at_once_and_to_the_ends_of_the_volume() -> None:
    tube = Tube(6, [p for s in range(6) for p in pair(s)], first=(2,))
    assert tube.look()[0] == list(range(6)) and tube.asked == [[1, 3], [0, 4], [5]]


@pytest.mark.parametrize(
    ("points", "followed"),
    [
        ([(2.0, *PLACE)], False),
        ([(2.0, *PLACE), (2.0, *FAR)], False),
        (pair(2), True),
        ([*pair(2), (2.0, *FAR), (2.0, *FAR)], True),
        ([*pair(2), *[(2.0, *FAR)] * 3], False),
    ],
    ids=["one", "one of two", "two", "two of four", "two of five"],
)
def test_a_slice_is_followed_if_most_of_its_points_and_two_at_least_lie_there(
    points: list[tuple[float, float, float]], followed: bool
) -> None:
    masks, looks = Tube(4, points, first=(0, 1)).look()
    assert (2 in masks) == followed
    inside = [row for row, (_, *place) in enumerate(points) if tuple(place) != FAR]
    assert looks.readmitted[:, 2].tolist() == (inside if followed else [])
    assert LEAST_FOLLOWED == 2


def test_a_dropped_point_comes_back_once_its_neighbours_have_masks() -> None:
    """The second look saw a mask in slice 2 alone, dropped its point, and put a mask on either side of it."""
    tube = Tube(5, [(2.0, *PLACE)], first=(2,), left=(1, 3), salient=(2,))
    masks, looks = tube.look()
    assert masks == [1, 2, 3] and looks.returned.tolist() == [[0, 2, 0]] and not len(looks.readmitted)
    lone = Tube(5, [(2.0, *PLACE)], first=(2,), left=(), salient=(2,))
    assert lone.look()[0] == [] and lone.asked == []


def test_a_lent_point_comes_back_to_the_slice_that_it_was_lent_to() -> None:
    tube = Tube(6, [(1.0, *PLACE)], first=(0, 1, 3), left=(0, 1, 2, 4), salient=(1, 2, 3))
    masks, looks = tube.look(replace(ON, n_context=2))
    assert masks == [0, 1, 2, 3, 4] and looks.returned.tolist() == [[0, 3, 0]]


def test_points_are_followed_where_those_that_came_back_show_nothing() -> None:
    tube = Tube(5, [(2.0, *PLACE), *pair(2)], first=(2,), left=(1, 3), salient=(2,), blind=(2,))
    masks, looks = tube.look()
    assert masks == [1, 3] and tube.asked == [[2], [2]], "once each way, not forever"
    assert looks.readmitted.tolist() == [[0, 2, 0], [0, 2, 1], [0, 2, 2]] and not len(looks.returned)


def test_slices_that_kept_a_trusted_point_are_left_as_they_are() -> None:
    tube = Tube(5, pair(2), first=(1, 2, 3), left=(1, 3), salient=(2,))
    assert tube.look()[0] == [1, 3] and tube.asked == []


def test_it_ends_after_so_many_looks() -> None:
    n = MAX_LOOKS + 5
    tube = Tube(n, [p for s in range(n) for p in pair(s)], first=(0,))
    assert tube.look()[0] == list(range(MAX_LOOKS + 1))


def test_no_more_points_than_the_decoder_takes() -> None:
    _, looks = Tube(3, [*pair(2), *pair(2)], first=(0, 1)).look(replace(ON, max_points=3))
    assert looks.readmitted[:, 2].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "share", "followed"),
    [
        (ON, None, True),
        (replace(ON, follow="off"), None, False),
        (replace(ON, second_look="off"), None, False),
        (replace(ON, follow="auto"), None, False),
        (replace(ON, follow="auto"), MIN_PRECISION, True),
        (replace(ON, follow="auto"), 0.49, False),
    ],
)
def test_who_asks_for_it(settings: DistillationSettings, share: float | None, followed: bool) -> None:
    measured = None if share is None else measured_shares(look=[1], follow=[share])
    assert Tube(4, pair(2), first=(0, 1)).look(settings, measured)[0] == ([0, 1, 2] if followed else [0, 1])


def test_a_model_that_has_not_counted_does_not_follow() -> None:
    assert measured_shares().follow.tolist() == [0.0]


def test_fates_tell_of_points_that_came_back_or_were_followed() -> None:
    points = np.array([(2.0, *PLACE), *pair(4)])
    saliency = np.zeros((6, SIDE, SIDE), dtype=np.float32)
    saliency[2] = 1
    first = np.zeros((6, 1, SIDE, SIDE), dtype=bool)
    first[2, 0, 9:16, 11:18] = True
    fates = point_fates(points, saliency, TAU, 0, 10)
    second = Looks.of_second(first, NONE)
    assert overrule(fates, points, second, 0).fates == (Fate.REJECTED_MASKS, Fate.REJECTED_OWN, Fate.REJECTED_OWN)
    further = replace(second, returned=np.array([[0, 2, 0]]), readmitted=np.array([[0, 4, 1], [0, 4, 2]]))
    assert overrule(fates, points, further, 0).fates == (Fate.KEPT_LOCAL, Fate.KEPT_MASKS, Fate.KEPT_MASKS)
