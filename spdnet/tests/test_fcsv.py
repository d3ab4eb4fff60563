"""Slicer's .fcsv files: one golden file per header and quirk, and slicerio as oracle."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from spdnet.errors import PromptFileError
from spdnet.prompts import read_prompt_file
from spdnet.prompts.fcsv import read_fcsv

GOLDEN = Path(__file__).parent / "golden_prompts"
POINTS = [[110.5, 70.0, -8.0], [120.0, 80.25, -5.0]]
SAME_POINTS = [
    "system_0",
    "system_1",
    "system_lps",
    "system_ras",
    "system_crlf",
    "quoted_label",
    "status_column",
    "other_columns",
    "slicer_3",
    "slicer_3_header",
]


@pytest.mark.parametrize("name", SAME_POINTS)
def test_every_header_gives_the_same_points(name: str) -> None:
    (markup,) = read_fcsv(GOLDEN / f"{name}.fcsv")
    assert (markup.kind, markup.name) == ("points", "")
    assert markup.points_lps_mm.tolist() == POINTS
    assert markup.point_labels[1] == "F-2"


def test_quoted_labels_keep_their_commas_and_quotes() -> None:
    (markup,) = read_fcsv(GOLDEN / "quoted_label.fcsv")
    assert markup.point_labels[0] == 'ileum, "loop" 1'


def test_points_whose_status_says_unplaced_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_fcsv(GOLDEN / "status_column.fcsv")
    assert "2 of 4 points were never placed" in caplog.text


def test_a_version_without_frame_is_ambiguous_until_the_user_settles_it() -> None:
    file = GOLDEN / "system_missing.fcsv"
    with pytest.raises(PromptFileError, match="CoordinateSystem = LPS.*-frame lps") as caught:
        read_fcsv(file)
    assert str(file) in str(caught.value)
    assert read_fcsv(file, frame="lps")[0].points_lps_mm.tolist() == POINTS
    assert read_fcsv(file, frame="ras")[0].points_lps_mm[0].tolist() == [-110.5, -70, -8]


def test_ijk_is_refused() -> None:
    with pytest.raises(PromptFileError, match='"CoordinateSystem" is "2"'):
        read_fcsv(GOLDEN / "system_2.fcsv")


def test_a_user_who_contradicts_the_file_is_told() -> None:
    with pytest.raises(PromptFileError, match="says that its frame is LPS, the option -frame says ras"):
        read_fcsv(GOLDEN / "system_lps.fcsv", frame="ras")
    assert len(read_fcsv(GOLDEN / "system_lps.fcsv", frame="lps")) == 1
    with pytest.raises(ValueError, match="frame is 'LPS'"):
        read_fcsv(GOLDEN / "system_lps.fcsv", frame="LPS")  # type: ignore[arg-type]


def test_rows_of_slicer_4_without_any_header_are_ambiguous(tmp_path: Path) -> None:
    rows = [
        line for line in (GOLDEN / "system_0.fcsv").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    (tmp_path / "c.fcsv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(PromptFileError, match="-frame"):
        read_fcsv(tmp_path / "c.fcsv")
    assert read_fcsv(tmp_path / "c.fcsv", "ras")[0].points_lps_mm.tolist() == POINTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("# Markups fiducial file version = 4.11\nF,1,2,3,1,1", "does not say whether its coordinates are LPS or RAS"),
        ("# Markups fiducial file version = 4.11\n# columns = label,x,y,z,sel,vis\nF,1,2,3,1,1", "-frame"),
        ("# CoordinateSystem = LPS\n# CoordinateSystem = RAS\nF,1,2,3", "two frames"),
        ("# CoordinateSystem = LPS\nF,1,2", 'line 2: point .F. has the position \\["1", "2"\\]'),
        ("# CoordinateSystem = LPS\n\nF,1,nan,3", "line 3.*finite numbers"),
        ("# CoordinateSystem = LPS\nF,1,1e999,3", "finite numbers"),
        ("# CoordinateSystem = LPS\nF,1,1_000,3", "finite numbers"),
        ("# CoordinateSystem = LPS\nF,1,-3e6,3", "point 'F' lies at .1, -3e\\+06, 3. mm.*in mm"),
        ("# CoordinateSystem = LPS\nF;1;2;3", "finite numbers"),
    ],
)
def test_what_cannot_be_read_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.fcsv").write_text(content, encoding="utf-8")
    with pytest.raises(PromptFileError, match=message) as caught:
        read_fcsv(tmp_path / "c.fcsv")
    assert str(tmp_path / "c.fcsv") in str(caught.value)


def test_an_fcsv_file_named_csv_is_known_by_its_first_line() -> None:
    (markup,) = read_prompt_file(GOLDEN / "fiducials_named.csv")
    assert markup.points_lps_mm.tolist() == POINTS


@pytest.mark.parametrize("name", ["system_0", "system_1", "system_lps", "system_ras", "system_crlf"])
def test_slicerio_reads_the_same(name: str) -> None:
    slicerio = pytest.importorskip("slicerio")
    content = slicerio.read_markups_fcsv(str(GOLDEN / f"{name}.fcsv"))["markups"][0]
    signs = {"LPS": [1, 1, 1], "RAS": [-1, -1, 1]}[content["coordinateSystem"]]
    expected = np.array([p["position"] for p in content["controlPoints"]]) * signs
    (markup,) = read_fcsv(GOLDEN / f"{name}.fcsv")
    np.testing.assert_array_equal(markup.points_lps_mm, expected)
    assert list(markup.point_labels) == [p["label"] for p in content["controlPoints"]]
