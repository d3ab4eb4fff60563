"""The demo's picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from spdnet.demo.figure import choose_slices, draw_demo_figure

SHAPE = (5, 24, 24)


def draw(path: Path, kept_syx: np.ndarray, slices: list[int], saliency: np.ndarray | None = None) -> np.ndarray:
    reference = np.zeros(SHAPE, dtype=bool)
    reference[1:4, 8:14, 0:6] = True
    none = np.zeros((0, 3))
    raw = np.array([[1.0, 10.2, 3.5], [4.0, 2.0, 2.0]])
    image = np.random.default_rng(0).normal(size=SHAPE)
    predictions = {"SPD": reference, "raw points": ~reference & False}
    draw_demo_figure(path, image, reference, predictions, raw, kept_syx, none, slices, saliency)
    return imread(path)


def has_color(picture: np.ndarray, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return bool((np.abs(picture[..., :3] - wanted).max(axis=2) < 0.02).any())


def test_slices_spread_over_the_target() -> None:
    reference = np.zeros((20, 4, 4), dtype=bool)
    reference[4:16, 1, 1] = True
    assert choose_slices(reference, 3) == [6, 10, 14]
    assert choose_slices(reference, 12) == list(range(4, 16))


def test_no_more_slices_than_have_target() -> None:
    reference = np.zeros((20, 4, 4), dtype=bool)
    reference[[3, 9], 1, 1] = True
    assert choose_slices(reference, 5) == [3, 9]


def test_slices_without_any_target_spread_over_the_volume() -> None:
    assert choose_slices(np.zeros((9, 4, 4), dtype=bool), 3) == [1, 4, 7]


def test_picture_has_a_row_per_slice(tmp_path: Path) -> None:
    kept = np.array([[1.0, 10.2, 3.5]])
    one = draw(tmp_path / "one.png", kept, [1])
    three = draw(tmp_path / "three.png", kept, [1, 2, 3], saliency=np.full(SHAPE, 0.3))
    assert one.shape[1] == three.shape[1]
    assert 2 * 250 < three.shape[0] - one.shape[0] < 2 * 350


def test_points_are_drawn_in_their_own_slice_only(tmp_path: Path) -> None:
    here = draw(tmp_path / "here.png", np.array([[2.4, 18.0, 18.0]]), [2])
    elsewhere = draw(tmp_path / "elsewhere.png", np.array([[2.6, 18.0, 18.0]]), [2])
    panels = slice(0, int(0.85 * here.shape[0]))  # without the legend
    assert has_color(here[panels], "#009E73")
    assert not has_color(elsewhere[panels], "#009E73")


def test_no_slice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no slice"):
        draw(tmp_path / "none.png", np.zeros((0, 3)), [])
