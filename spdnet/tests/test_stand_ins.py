"""Points that stand in where none is trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import decoder_rows, distill_volume, rows_of_slices
from spdnet.planning.plans import AgreementSettings, DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.stand_ins import FOLLOWED_SLICES, continued_peaks, saliency_peak
from spdnet.tests.tiny import measured_shares

SIDE = 24


def blobs(*slices: list[tuple[int, int]]) -> np.ndarray:
    """Saliency with 5 x 5 pieces round the given pixels of each slice, each most salient in the pixel itself."""
    maps = np.zeros((len(slices), SIDE, SIDE), dtype=np.float32)
    for s, centres in enumerate(slices):
        for y, x in centres:
            maps[s, y - 2 : y + 3, x - 2 : x + 3] = 0.7
            maps[s, y, x] = 0.9
    return maps


def peaks(saliency: np.ndarray, points: list[tuple[int, float, float]], tau: float = 0.5) -> dict[int, list[float]]:
    """Of a volume in which the slices of the points are the prompted ones."""
    given = np.array(points, dtype=np.float64).reshape(-1, 3)
    slices = given[:, 0].astype(np.int64)
    prompted = np.isin(np.arange(len(saliency)), slices)
    found = continued_peaks(saliency, slices, given[:, 1:], prompted, tau)
    assert all(p.shape == (1, 2) and p.dtype == np.float64 for p in found.values())
    return {s: p[0].tolist() for s, p in sorted(found.items())}


def test_a_peak_must_be_of_one_piece() -> None:
    saliency = np.zeros((14, 14), dtype=np.float32)
    assert saliency_peak(saliency, 0.5).shape == (0, 2)
    saliency[3, 4], saliency[4, 5] = 0.8, 0.7
    assert saliency_peak(saliency, 0.5).tolist() == [[3, 4]]
    saliency[9, 9] = 0.6
    assert len(saliency_peak(saliency, 0.5)) == 0
    assert saliency_peak(saliency, 0.65).tolist() == [[3, 4]]


def test_a_piece_is_followed_though_it_moves_off_the_point() -> None:
    tube = blobs([(4, 4)], [(4, 7)], [(4, 10)], [(4, 13)])
    assert peaks(tube, [(0, 4.0, 4.0)]) == {1: [4, 7], 2: [4, 10], 3: [4, 13]}
    assert peaks(tube, [(3, 4.0, 13.0)]) == {0: [4, 4], 1: [4, 7], 2: [4, 10]}


def test_other_pieces_are_left_alone() -> None:
    two = blobs([(4, 4), (18, 18)], [(4, 5), (18, 18)], [(18, 18)])
    assert peaks(two, [(0, 4.0, 4.0)]) == {1: [4, 5]}
    assert peaks(two, [(0, 17.0, 17.0)]) == {1: [18, 18], 2: [18, 18]}
    assert peaks(two, [(0, 11.0, 11.0)]) == {}, "a point that lies on no piece"
    assert peaks(two, []) == {}


def test_where_several_touch_the_one_that_shares_most_is_followed() -> None:
    fork = blobs([(10, 10)], [(7, 7), (13, 11)], [])
    assert peaks(fork, [(0, 10.0, 10.0)]) == {1: [13, 11]}
    meeting = blobs([(10, 6)], [(10, 9)], [(10, 10)])
    assert peaks(meeting, [(0, 10.0, 6.0), (2, 10.0, 10.0)]) == {1: [10, 9]}


def test_a_gap_and_the_reach_end_it() -> None:
    long = blobs(*([[(10, 10)]] * (FOLLOWED_SLICES + 3)))
    assert list(peaks(long, [(0, 10.0, 10.0)])) == list(range(1, FOLLOWED_SLICES + 1))
    assert list(peaks(blobs([(9, 9)], [], [(9, 9)]), [(0, 9.0, 9.0)])) == []


def test_prompted_slices_are_neither_changed_nor_passed() -> None:
    tube = blobs(*([[(10, 10)]] * 4))
    prompted = np.array([True, True, False, False])  # slice 1 by a box
    points = np.array([[10.0, 10.0]])
    assert continued_peaks(tube, np.array([0]), points, prompted, 0.5) == {}


def test_points_at_the_edge_and_outside_do_no_harm() -> None:
    edge = blobs([(2, 2)], [(2, 2)])
    assert peaks(edge, [(0, -0.5, -0.4), (0, 30.0, 2.0)]) == {1: [2, 2]}


@pytest.mark.parametrize("agreement", ["off", "neighbours", "auto"])
@pytest.mark.parametrize("seed", range(4))
def test_slices_get_the_same_points_whatever_part_of_the_volume_is_at_hand(seed: int, agreement: str) -> None:
    """With "auto" the two classes go by different rules."""
    rng = np.random.default_rng(seed)
    n_slices, saliency = 40, np.zeros((40, 2, 56, 56), dtype=np.float32)
    for k in range(2):
        y, x = rng.uniform(10, 40, 2)
        for s in range(n_slices):
            y, x = np.clip([y + rng.normal(0, 2), x + rng.normal(0, 2)], 6, 48)
            if rng.random() < 0.9:
                saliency[s, k, int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5] = rng.uniform(0.4, 1, (9, 9))
    points = np.column_stack([rng.integers(0, n_slices, 60), rng.uniform(0, 55, (60, 2))])
    prompts = SlicePrompts(points, np.full(60, -1, dtype=np.int64))
    settings = DistillationSettings(
        n_context=1, empty_consensus="continued", agreement=AgreementSettings(agreement, min_probability=0.2)
    )
    measured = None
    if agreement == "auto":
        settings = replace(settings, empty_consensus="auto")
        measured = measured_shares(2, points=(0.5, 1), peaks=(0.4, 0.4), continued=(0.9, 0.9))
    consensus = distill_volume(prompts, saliency, Rules(settings, 56, measured))
    whole = decoder_rows(consensus, saliency, Rules(settings, 56, measured))
    n_stand_ins = 0
    for first in range(0, n_slices, 3):
        stop = min(first + 3, n_slices)
        part = rows_of_slices(prompts, saliency, first, stop, Rules(settings, 56, measured))
        expected = whole.select((whole.slice_index >= first) & (whole.slice_index < stop))
        assert np.array_equal(part.slice_index, expected.slice_index)
        for row in range(len(part)):
            own = part.points_yx[row][part.point_is_real[row]]
            assert np.array_equal(own, expected.points_yx[row][expected.point_is_real[row]])
            n_stand_ins += len(own)
    without = replace(settings, empty_consensus="decode")
    plain = decoder_rows(consensus, saliency, Rules(without, 56))
    assert n_stand_ins > plain.point_is_real.sum(), "some slices were reached"
