"""Slices as small images: exact where they can be, within a budget where they cannot."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from spdnet.planning.plans import NormalizationSettings
from spdnet.report.planes import choose_grey_scale, encode_exact, encode_grey, grey_values


def decoded(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def test_small_volumes_lose_nothing() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 20, 17), dtype=np.uint8)
    planes = encode_grey(grey)
    assert (planes.mime, planes.quality) == ("image/png", None)
    assert all((decoded(text) == plane).all() for text, plane in zip(planes.data, grey, strict=True))


def test_large_volumes_become_jpeg_of_the_quality_that_fits() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(90, 160, (6, 64, 64), dtype=np.uint8)
    roomy, tight = (encode_grey(grey, budget) for budget in (20_000, 9_000))
    assert roomy.mime == tight.mime == "image/jpeg"
    assert roomy.quality is not None and tight.quality is not None and roomy.quality > tight.quality
    for planes, budget in ((roomy, 20_000), (tight, 9_000)):
        assert sum(len(base64.b64decode(text)) for text in planes.data) <= budget
    assert np.abs(decoded(roomy.data[0]).astype(int) - grey[0]).mean() < 15


def test_slices_of_zeros_take_no_room() -> None:
    values = np.zeros((2, 5, 6), dtype=np.uint8)
    values[1, 2, 3] = 7
    first, second = encode_exact(values)
    assert first == ""
    assert (decoded(second) == values[1]).all()


def test_percentiles_are_shown_and_more_is_stored() -> None:
    image = np.linspace(-50, 950, 4000).reshape(4, 40, 25)
    scale = choose_grey_scale(image, NormalizationSettings("percentile", 0.5, 99.5))
    assert scale.stored == pytest.approx((-49, 949), abs=0.5)
    assert scale.shown == pytest.approx((-40, 940), abs=0.5)
    grey = grey_values(image, scale)
    assert (grey[0, 0, 0], grey[-1, -1, -1]) == (0, 255)
    assert grey[2, 0, 0] == pytest.approx(127.5, abs=1)


def test_a_window_of_the_plans_is_shown_with_half_of_it_around() -> None:
    image = np.array([[[-1000.0, 3000.0]]])
    scale = choose_grey_scale(image, NormalizationSettings("window", -100, 300))
    assert scale.shown == (-100, 300)
    assert scale.stored == (-300, 500)


def test_an_image_of_one_value_has_a_scale() -> None:
    image = np.full((2, 3, 3), 5.0)
    scale = choose_grey_scale(image, None)
    assert scale.stored[1] > scale.stored[0] and scale.shown[1] > scale.shown[0]
    assert np.isfinite(grey_values(image, scale)).all()
