"""Tables of points and boxes: one golden file per quirk, and what a table must not leave open."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from spdnet.dataset import Labels
from spdnet.errors import PromptFileError
from spdnet.geometry import ImageGeometry
from spdnet.prompts import Markup
from spdnet.prompts.tables import read_table

GOLDEN = Path(__file__).parent / "golden_prompts"
POINTS = [[110.5, 70.0, -8.0], [120.0, 80.25, -5.0]]
LABELS = Labels(("ileum", "colon"), ((1,), (2,)))
GEOMETRY = ImageGeometry((10, 40, 50), (3.0, 1.0, 1.0), (100.0, 60.0, -20.0))
SAME_POINTS = [
    "slicer_lps.csv",
    "slicer_ras.csv",
    "slicer_lps.tsv",
    "slicer_undefined.csv",
    "named_lps.csv",
    "named_ras.csv",
    "voxels.csv",
    "semicolons.csv",
    "tabs_and_commas.tsv",
    "excel.csv",
    "old_mac.csv",
    "unicode_text.tsv",
]


def write_table(folder: Path, *lines: str) -> Path:
    """A table of these lines."""
    (folder / "TI_012.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "TI_012.csv"


def error_of(file: Path, **options: object) -> str:
    """Message of a failed read, which names the file."""
    with pytest.raises(PromptFileError) as caught:
        read_table(file, **options)  # type: ignore[arg-type]
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SAME_POINTS)
def test_every_way_to_write_a_table_gives_the_same_points(name: str) -> None:
    (markup,) = read_table(GOLDEN / name, geometry=GEOMETRY, labels=LABELS)
    assert (markup.kind, markup.name, markup.point_labels) == ("points", "", ("F-1", "F-2"))
    np.testing.assert_allclose(markup.points_lps_mm, POINTS, atol=1e-12)


def test_undefined_points_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_table(GOLDEN / "slicer_undefined.csv")
    assert "1 of 3 points were never placed" in caplog.text


# frames


def test_bare_coordinates_need_a_frame() -> None:
    file = GOLDEN / "bare_xyz.csv"
    text = error_of(file)
    assert "-frame lps or -frame ras" in text and "x_lps_mm or x_ras_mm" in text
    assert read_table(file, frame="lps")[0].points_lps_mm.tolist() == POINTS
    assert read_table(file, frame="ras")[0].points_lps_mm[1].tolist() == [-120, -80.25, -5]


def test_a_frame_that_contradicts_the_columns_is_an_error() -> None:
    assert "says that its frame is LPS, the option -frame says ras" in error_of(GOLDEN / "named_lps.csv", frame="ras")
    assert len(read_table(GOLDEN / "named_lps.csv", frame="lps")) == 1


def test_voxel_indices_need_their_image() -> None:
    assert "voxel indices (i,j,k)" in error_of(GOLDEN / "voxels.csv")
    assert len(read_table(GOLDEN / "voxels.csv", geometry=GEOMETRY, frame="ras")) == 1  # says nothing of a world frame


def test_two_sets_of_coordinates_are_an_error(tmp_path: Path) -> None:
    file = write_table(tmp_path, "l,p,s,x_ras_mm,y_ras_mm,z_ras_mm", "1,2,3,-1,-2,3")
    assert "coordinates twice" in error_of(file)


@pytest.mark.parametrize("header", ["x_lps_mm,y_lps_mm", "x_lps_mm,y_ras_mm,z_lps_mm", "label,radius_mm", "l,p,z"])
def test_incomplete_coordinates_are_an_error(header: str, tmp_path: Path) -> None:
    text = error_of(write_table(tmp_path, header, "1,2"))
    assert "no complete coordinates" in text and "x_lps_mm,y_lps_mm,z_lps_mm" in text


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing but a comment", "sep=;"])
def test_an_empty_table_is_an_error(content: str, tmp_path: Path) -> None:
    assert "empty table" in error_of(write_table(tmp_path, content))


def test_a_table_without_header_is_an_error(tmp_path: Path) -> None:
    assert "names no column" in error_of(write_table(tmp_path, "110.5,70,-8", "120,80,-5"))


def test_a_table_of_a_header_alone_holds_no_points(tmp_path: Path) -> None:
    assert read_table(write_table(tmp_path, "l,p,s")) == []


def test_columns_named_twice_are_an_error(tmp_path: Path) -> None:
    assert 'two columns "l"' in error_of(write_table(tmp_path, "l,p,s,L", "1,2,3,4"))


def test_columns_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_table(write_table(tmp_path, "l,p,s,weather,annotator", "1,2,3,fair,A"))
    assert "weather" in caplog.text and "annotator" not in caplog.text


# numbers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decimal_commas.csv", "line 2 has 7 values for 4 columns. Are there decimal commas"),
        ("quoted_commas.csv", 'line 2: column "x_lps_mm" is "110,5"'),
        ("mixed_numbers.csv", "decimal commas .line 2.*decimal points"),
        ("thousands.csv", 'column "x_lps_mm" is "1,110,5"'),
    ],
)
def test_ambiguous_numbers_are_refused(name: str, message: str) -> None:
    with pytest.raises(PromptFileError, match=message):
        read_table(GOLDEN / name)


@pytest.mark.parametrize("number", ["nan", "inf", "1e999", "", "1_000", "0x10", "1 000", "--1", "١"])
def test_what_is_no_number_is_named_with_line_and_column(number: str, tmp_path: Path) -> None:
    text = error_of(write_table(tmp_path, "l,p,s", "", "1,2,3", f"1,{number},3"))
    assert 'line 4: column "p"' in text and "finite number" in text


def test_coordinates_beyond_a_kilometre_are_refused(tmp_path: Path) -> None:
    assert "Are the coordinates in mm?" in error_of(write_table(tmp_path, "l,p,s", "1,2,3", "1,2,1e300"))
    file = write_table(tmp_path, "i,j,k", "1,2,1e300")
    assert "Are the coordinates in mm?" in error_of(file, geometry=GEOMETRY)


def test_a_row_without_coordinates_is_an_error(tmp_path: Path) -> None:
    assert "line 2 holds no coordinates" in error_of(write_table(tmp_path, "label,l,p,s", "F-1,,,"))


# classes


def names_and_counts(markups: list[Markup]) -> list[tuple[str, str, int]]:
    """Kind, name and number of points of each markup."""
    return [(m.kind, m.name, len(m.points_lps_mm)) for m in markups]


def test_points_come_together_by_class() -> None:
    markups = read_table(GOLDEN / "classes.csv", labels=LABELS)
    assert names_and_counts(markups) == [("points", "ileum", 2), ("points", "", 1), ("points", "colon", 1)]
    assert markups[0].points_lps_mm.tolist() == [[110.5, 70, -8], [112, 70, -8]]
    assert markups[0].point_labels == ("line 2", "line 5")


def test_an_unknown_class_is_an_error_that_lists_the_declared_ones() -> None:
    text = error_of(GOLDEN / "unknown_class.csv", labels=LABELS)
    assert 'line 3: column "label" names the class "Ileum"' in text and "ileum, colon" in text


def test_slicers_label_is_no_class(tmp_path: Path) -> None:
    file = write_table(tmp_path, "label,l,p,s", "colon,1,2,3", "whatever,1,2,4")
    assert names_and_counts(read_table(file, labels=LABELS)) == [("points", "", 2)]
    file = write_table(tmp_path, "label,class,l,p,s", "F-1,colon,1,2,3")
    assert names_and_counts(read_table(file, labels=LABELS)) == [("points", "colon", 1)]


def test_one_class_and_a_label_of_ones_are_positive_points() -> None:
    one = Labels(("ileum",), ((1,),))
    for labels in (one, None):
        assert names_and_counts(read_table(GOLDEN / "positive.csv", labels=labels)) == [("points", "", 2)]
    text = error_of(GOLDEN / "positive.csv", labels=LABELS)
    assert 'number "1", which may be a class or mean positive' in text and "ileum, colon" in text


def test_a_class_named_by_a_number_is_that_class(tmp_path: Path) -> None:
    file = write_table(tmp_path, "label,i,j,k", "0,1,2,3", "1,1,2,4")
    labels = Labels(("0", "1"), ((1,), (2,)))
    assert [m.name for m in read_table(file, geometry=GEOMETRY, labels=labels)] == ["0", "1"]


@pytest.mark.parametrize("text", ["0", "-1", "0.0", "background", "Background", "negative"])
def test_negative_points_are_refused(text: str, tmp_path: Path) -> None:
    file = write_table(tmp_path, "label,x_lps_mm,y_lps_mm,z_lps_mm", ",1,2,3", f"{text},1,2,3")
    for labels in (LABELS, None):
        assert 'line 3: column "label"' in error_of(file, labels=labels)
        assert "points on the target only" in error_of(file, labels=labels)


def test_a_column_of_polarity_is_checked(tmp_path: Path) -> None:
    assert "points on the target only" in error_of(write_table(tmp_path, "positive,l,p,s", "1,1,2,3", "0,1,2,3"))
    assert "line 3" in error_of(GOLDEN / "negative.csv")


def test_label_and_class_together_are_an_error(tmp_path: Path) -> None:
    file = write_table(tmp_path, "label,class,i,j,k", "ileum,colon,1,2,3")
    assert 'column "label" and a column "class"' in error_of(file, geometry=GEOMETRY)


# cases


def test_a_file_holds_one_case() -> None:
    text = error_of(GOLDEN / "cases.csv", case="TI_012")
    assert 'line 3 is of case "TI_013", not "TI_012"' in text and "split the table" in text
    assert "line 2" in error_of(GOLDEN / "cases.csv", case="TI_013")
    assert "line 3" in error_of(GOLDEN / "cases.csv")


# curves


def test_order_and_branch_make_curves() -> None:
    markups = read_table(GOLDEN / "branches.csv", labels=LABELS)
    assert names_and_counts(markups) == [("points", "colon", 1), ("curve", "ileum", 3), ("curve", "", 2)]
    assert markups[1].points_lps_mm.tolist() == [[110.5, 70, -8], [120, 80.25, -5], [121, 80, -2]]
    assert markups[1].point_labels == ("line 5", "line 2", "line 3")


def test_order_alone_makes_one_curve(tmp_path: Path) -> None:
    (markup,) = read_table(write_table(tmp_path, "order,l,p,s", "2,1,2,4", "1.5,1,2,3", "10,1,2,5"))
    assert markup.kind == "curve" and markup.points_lps_mm[:, 2].tolist() == [3, 4, 5]


def test_a_branch_needs_an_order() -> None:
    text = error_of(GOLDEN / "sorted_anew.csv")
    assert 'line 2 belongs to branch "b"' in text and '"order"' in text


def test_a_curve_whose_rows_contradict_each_other_is_an_error(tmp_path: Path) -> None:
    assert "order 1 twice, in lines 2 and 3" in error_of(write_table(tmp_path, "order,l,p,s", "1,1,2,3", "1.0,1,2,4"))
    file = write_table(tmp_path, "order,class,l,p,s", "1,ileum,1,2,3", "2,colon,1,2,4")
    assert 'from "ileum" to "colon"' in error_of(file, labels=LABELS)


# boxes


@pytest.mark.parametrize("name", ["boxes.csv", "boxes_ras.csv", "boxes_voxels.csv"])
def test_boxes_have_eight_corners_in_the_world(name: str) -> None:
    (markup,) = read_table(GOLDEN / name, geometry=GEOMETRY, labels=LABELS)
    assert (markup.kind, markup.name, len(markup.point_labels)) == ("box", "ileum", 8)
    assert {tuple(p) for p in markup.points_lps_mm.round(9).tolist()} == {
        (x, y, z) for x in (110.0, 120.0) for y in (65.0, 85.0) for z in (-11.0, -5.0)
    }


def test_a_table_holds_points_and_boxes() -> None:
    markups = read_table(GOLDEN / "points_and_boxes.csv", labels=LABELS)
    assert names_and_counts(markups) == [("points", "", 1), ("box", "ileum", 8)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,1,2,3,1,2,3,4,5,6", "a point and a box"),
        (",,,,1,2,3,4,5,", 'column "z1" is ""'),
        (",,,,1,2,3,1,2,6", "without extent"),
        (",,,,1,2,3,1,2,3", "without extent"),
        ("1,,,,1,2,3,4,5,6", "a box with an order"),
    ],
)
def test_faulty_boxes_are_refused(row: str, message: str, tmp_path: Path) -> None:
    file = write_table(tmp_path, "order,x,y,z,x0,y0,z0,x1,y1,z1", row)
    assert message in error_of(file, frame="lps") and "line 2" in error_of(file, frame="lps")


@pytest.mark.parametrize("no", ["0", "0.0", "False", "no", "FALSE"])
def test_points_that_are_not_defined_are_none_however_that_is_written(no: str, tmp_path: Path) -> None:
    (markup,) = read_table(write_table(tmp_path, "l,p,s,defined", f"0,0,0,{no}", "1,2,3,1"))
    assert markup.points_lps_mm.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("yes", ["1", "1.0", "True", "TRUE", "yes", ""])
def test_points_are_positive_however_that_is_written(yes: str, tmp_path: Path) -> None:
    (markup,) = read_table(write_table(tmp_path, "l,p,s,positive", f"1,2,3,{yes}"))
    assert len(markup.points_lps_mm) == 1


def test_words_that_are_neither_yes_nor_no_are_refused(tmp_path: Path) -> None:
    for column in ("positive", "defined"):
        message = error_of(write_table(tmp_path, f"l,p,s,{column}", "1,2,3,perhaps"))
        assert f'column "{column}" is "perhaps"; it must be 1 or 0' in message
    assert "background" in error_of(write_table(tmp_path, "l,p,s,positive", "1,2,3,False"))
