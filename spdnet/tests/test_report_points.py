"""Prompts in the display frame, and their fates read back from the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spdnet.dataset import get_reader
from spdnet.errors import PromptFileError
from spdnet.geometry import ImageGeometry, nearest_index
from spdnet.geometry.case_mapping import plan_case_mapping
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompt_report import judge_prompts, write_prompt_report
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.fates import Fate
from spdnet.report.frame import display_frame
from spdnet.report.points import points_as_given, prompt_quality, read_judged_points
from spdnet.tests.report_data import LABELS, ReportFolders, case_arrays, given_points, write_report_data


def read(folders: ReportFolders, case: str = "case_a") -> tuple[list, ImageGeometry]:
    geometry = get_reader("SimpleITKIO").read_geometry(folders.images / f"{case}_0000.nii.gz")
    frame = display_frame(geometry, 0)
    file = folders.predictions() / "prompts" / f"{case}.csv"
    return read_judged_points(file, geometry, frame.mapping, LABELS), geometry


def test_points_come_back_to_where_they_were_given(tmp_path: Path) -> None:
    points, geometry = read(write_report_data(tmp_path))
    given = display_frame(geometry, 0).mapping.points_to_network(given_points(case_arrays(0)[1]))
    found = points_as_given(points)
    assert found[:, 1:] == pytest.approx(given[:, 1:], abs=2e-3)
    assert (found[:, 0] == nearest_index(given[:, 0])).all()


def test_fates_saliency_and_lenders_are_those_of_distillation(tmp_path: Path) -> None:
    points, _ = read(write_report_data(tmp_path))
    first = [p for p in points if p.class_index == 0]
    assert {p.fate for p in first} >= {Fate.KEPT_LOCAL, Fate.KEPT_CONTEXT, Fate.REJECTED_OWN}
    for p in first:
        assert (p.saliency > p.threshold) == p.fate.is_kept
        assert p.is_at_home == (p.fate in (Fate.KEPT_LOCAL, Fate.REJECTED_OWN))
        if p.fate is Fate.KEPT_CONTEXT:
            assert 0 < abs(p.source_slice - p.target_slice) <= 2
            assert p.own_saliency > p.threshold


def test_slices_are_counted_in_the_image_also_where_the_network_cropped_some(tmp_path: Path) -> None:
    geometry = ImageGeometry((9, 12, 10), (3.0, 1.0, 1.0))
    mapping = plan_case_mapping(geometry, 0, 56, 0.5, crop_box_canonical=[(3, 9), (1, 12), (0, 10)])
    saliency = np.ones((6, 2, 56, 56), dtype=np.float32)
    prompts = SlicePrompts(mapping.points_to_network(np.array([[5.4, 6.0, 4.0]])), np.array([-1]))
    judged = judge_prompts(prompts, saliency, Rules(DistillationSettings(), 56))
    write_prompt_report(tmp_path, "c", judged, mapping, geometry, LABELS)
    points = read_judged_points(tmp_path / "prompts" / "c.csv", geometry, display_frame(geometry, 0).mapping, LABELS)
    assert {(p.source_slice, p.target_slice) for p in points} == {(5, target) for target in (3, 4, 5, 6, 7)}
    assert all((p.y, p.x) == pytest.approx((6.0, 4.0), abs=1e-3) for p in points)


def test_quality_is_counted_before_and_after(tmp_path: Path) -> None:
    points, geometry = read(write_report_data(tmp_path))
    reference = display_frame(geometry, 0).mapping.orient(case_arrays(0)[1])
    counts = prompt_quality(points, LABELS.masks(reference).swapaxes(0, 1))
    n_given = len(given_points(case_arrays(0)[1]))
    assert counts["raw"]["points"] == 2 * n_given, "each point speaks for both classes"
    assert counts["raw"]["points_inside"] == n_given // 2
    kept = [p for p in points if p.fate.is_kept]
    assert counts["distilled"]["points"] == len(kept) == counts["distilled"]["points_inside"]
    assert counts["distilled"]["target_slices_hit"] > counts["raw"]["target_slices_hit"]


@pytest.mark.parametrize(("old", "new"), [("label,", "name,"), ("left,1", "spleen,1"), ("kept: local", "kept")])
def test_another_table_is_refused(tmp_path: Path, old: str, new: str) -> None:
    folders = write_report_data(tmp_path)
    file = folders.predictions() / "prompts" / "case_a.csv"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PromptFileError, match=r"case_a\.csv is not a table.*--save_prompts"):
        read(folders)


def test_a_table_without_rows_has_no_points(tmp_path: Path) -> None:
    folders = write_report_data(tmp_path)
    file = folders.predictions() / "prompts" / "case_a.csv"
    file.write_text(file.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    points, _ = read(folders)
    assert points == [] and points_as_given(points).shape == (0, 3)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folders = write_report_data(tmp_path)
    file = folders.predictions() / "prompts" / "case_a.csv"
    file.write_bytes(file.read_bytes().replace(b"kept", "L\u00e4sion".encode("cp1252")))
    with pytest.raises(PromptFileError, match=r"case_a\.csv is not a table of what became of prompts"):
        read(folders)
