"""Pieces of masks without any prompt: which they are, and when they are dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spdnet.inference import volume
from spdnet.inference.class_rules import Rules
from spdnet.inference.pieces import drop_lone_pieces, lone_pieces
from spdnet.inference.prompting import DistilledVolume, distill_whole_volume
from spdnet.inference.volume import encode_volume, predict_encoded, predict_volume
from spdnet.network import build_network
from spdnet.planning.plans import BoxSettings, DistillationSettings
from spdnet.prompts import SliceBoxes, SlicePrompts
from spdnet.prompts.box_distillation import raw_boxes

SIZE = 40
NO_POINTS = np.zeros((0, 3))


def three_pieces() -> np.ndarray:
    """One of two slices that touch at a corner, one in the slices beyond, and one beside."""
    mask = np.zeros((6, SIZE, SIZE), dtype=bool)
    mask[0, 5:10, 5:10] = mask[1, 10:14, 10:14] = True
    mask[3:5, 5:10, 5:10] = True
    mask[0:5, 30:35, 30:35] = True
    return mask


def lone(points: list[list[float]], boxes: SliceBoxes | None = None) -> list[bool]:
    mask = three_pieces()
    given = None if boxes is None else raw_boxes(boxes, len(mask))
    found = lone_pieces(mask, np.array(points).reshape(-1, 3), given)
    assert not (found & ~mask).any()
    inside = [found[place] for place in ((0, 5, 5), (1, 13, 13), (3, 5, 5), (4, 30, 30))]
    return [bool(i) for i in inside]


def test_pieces_without_points_are_lone() -> None:
    assert lone([]) == [True] * 4
    assert lone([[1, 12, 12]]) == [False, False, True, True]
    assert lone([[3.4, 9.4, 4.6], [2, 31, 30.2]]) == [True, True, False, False], "the pixel that holds a point counts"
    assert lone([[5, 7, 7], [3, 20, 20], [-1, 6, 6], [9, 6, 6], [0, -3, 50]]) == [True] * 4


def test_a_box_confirms_what_it_meets() -> None:
    box = SliceBoxes(np.array([4]), np.array([[0.0, 0.0, 5.2, 5.2]]), np.array([0]))
    assert lone([], box) == [True, True, False, True]
    assert lone([], replace(box, boxes_yxyx=np.array([[0.0, 0.0, 4.2, 4.2]]))) == [True] * 4


def given(boxes: SliceBoxes | None = None, random: bool = False, untrusted: bool = False) -> DistilledVolume:
    consensus = distill_whole_volume(
        SlicePrompts.empty(), np.zeros((6, 1, SIZE, SIZE), dtype=np.float32), Rules(DistillationSettings(), SIZE)
    ).consensus
    flags = (np.array([flag]) for flag in (random, random, untrusted))
    return DistilledVolume(consensus, [raw_boxes(boxes or SliceBoxes.empty(), 6)], *flags)


@pytest.mark.parametrize(
    ("rule", "points", "flags", "dropped"),
    [
        ("drop", [[1.0, 12, 12]], {}, True),
        ("keep", [[1.0, 12, 12]], {}, False),
        ("drop", [], {}, False),
        ("drop", [[1.0, 20, 20]], {}, False),
        ("drop", [[1.0, 12, 12]], {"random": True}, False),
        ("drop", [[1.0, 12, 12]], {"untrusted": True}, False),
    ],
)
def test_they_are_dropped_where_others_are_confirmed(
    rule: str, points: list[list[float]], flags: dict[str, bool], dropped: bool
) -> None:
    probabilities = np.where(three_pieces(), 0.9, 0.3).astype(np.float32)[:, None]
    before = probabilities.copy()
    rules = Rules(DistillationSettings(lone_pieces=rule), SIZE)  # type: ignore[arg-type]
    drop_lone_pieces(probabilities, [np.array(points).reshape(-1, 3)], given(**flags), rules)
    changed = (probabilities != before)[:, 0]
    expected = three_pieces() & ~(np.arange(6) < 2)[:, None, None] | three_pieces() & (np.arange(SIZE) >= 30)
    np.testing.assert_array_equal(changed, expected if dropped else np.zeros_like(changed))
    assert not probabilities[:, 0][changed].any()


def test_prediction_and_validation_drop_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("tiny", 1, 1, 56, 0, 1, 0.0)
    slices = np.random.default_rng(0).random((6, 1, 56, 56)).astype(np.float16)
    masks = three_pieces()[:, :28, :28]
    masks[0:5, 20:25, 20:25] = True
    monkeypatch.setattr(
        volume,
        "_decode",
        lambda network, own, rows, *more: torch.from_numpy(masks[rows.slice_index] * np.float32(0.9)),
    )
    points = SlicePrompts(np.array([[1.0, 24.5, 24.5], [3.0, 50.0, 2.0]]), np.zeros(2, dtype=np.int64))
    plain = DistillationSettings(mode="raw", boxes=BoxSettings("off"))
    for rule, n_pixels in (("keep", masks.sum()), ("drop", masks[:2, :15, :15].sum())):
        settings = replace(plain, lone_pieces=rule)
        streamed = predict_volume(network, slices, points, settings, 4, torch.device("cpu")).probabilities
        rules = Rules.of(settings, network)
        encoded = encode_volume(network, slices, 4, torch.device("cpu"))
        distilled = distill_whole_volume(points, encoded.saliency, rules)
        whole = predict_encoded(network, encoded, distilled, points, rules, torch.device("cpu"))
        assert (streamed > 0.5).sum() == (whole > 0.5).sum() == n_pixels
