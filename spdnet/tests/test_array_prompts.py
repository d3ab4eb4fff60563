"""Points and boxes of arrays on their way into the network frame: merged, dropped and refused as those of files are."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from spdnet.dataset import Labels
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import PromptFileError
from spdnet.inference.steps import CaseTools, array_case, array_prompts, prepare_case
from spdnet.prompts import SlicePrompts
from spdnet.tests.tiny import tiny_settings

LABELS = Labels(("bright", "half"), ((1,), (2,)))


def prepared(slicing_axis: str = "S", **given: np.ndarray) -> SlicePrompts:
    """The prompts of an array of 12 x 24 x 24 voxels of 4 x 1 x 1 mm in the network frame."""
    columns = ("points_zyx", "class_index", "boxes_zyx", "box_class_index")
    prompts = array_prompts(*(given.get(name) for name in columns), LABELS)
    tools = CaseTools(tiny_settings(slicing_axis=slicing_axis), LABELS, SimpleITKIO(), ".nii.gz")
    image = np.random.default_rng(0).random((1, 12, 24, 24), dtype=np.float32)
    found = prepare_case(array_case(image, {"spacing": (4.0, 1.0, 1.0)}, prompts, None, tools, "TI_012"), tools).prompts
    assert found is not None
    return found


def test_a_box_without_thickness_needs_the_slices_it_was_drawn_in() -> None:
    drawn = np.array([[[5, 10, 10], [7, 20, 20]], [[5, 10, 10], [5, 20, 20]]])
    assert prepared(boxes_zyx=drawn).boxes.slice_index.tolist() == [5, 6, 7, 5]
    with pytest.raises(PromptFileError, match="case TI_012: box 1 has no extent within the slices"):
        prepared("P", boxes_zyx=drawn)
    with pytest.raises(PromptFileError, match="box 0 has no extent within the slices"):
        prepared(boxes_zyx=np.array([[[5, 10, 10], [7, 10, 20]]]))


def test_points_on_nearly_one_spot_are_merged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    points = np.array([*[[5, 10, 10.0]] * 10, [5, 10, 10.05], [5, 10, 10.2], [5, 20, 20], [6, 10, 10], [5, 10, 10]])
    classes = np.array([0] * 14 + [1])
    with caplog.at_level(logging.INFO):
        found = prepared(points_zyx=points, class_index=classes)
    assert found.slice_index.tolist() == [5, 5, 5, 6, 5]
    assert found.class_index.tolist() == [0, 0, 0, 0, 1]
    assert "case TI_012: 10 of 15 points lie within 0.1 mm of another one; merged" in caplog.text
