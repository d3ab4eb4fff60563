"""Slicer markups files: one golden file per quirk, and the published structure for what is written."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from spdnet.errors import PromptFileError
from spdnet.prompts import Markup, read_markups, text_files, write_markups
from spdnet.prompts import markups as markups_module

SCHEMA_URL = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)

# What Slicer asks of a file, reduced to the fields that spdnet writes.
SLICER_STRUCTURE: dict[str, Any] = {
    "type": "object",
    "required": ["@schema", "markups"],
    "properties": {
        "@schema": {
            "type": "string",
            "pattern": r"^https://raw\.githubusercontent\.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
            r"Schema/markups-schema-v1\.[0-9]+\.[0-9]+\.json#$",
        },
        "markups": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {"enum": ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"]},
                    "name": {"type": "string"},
                    "coordinateSystem": {"enum": ["LPS", "RAS"]},
                    "coordinateUnits": {"enum": ["mm", "um"]},
                    "locked": {"type": "boolean"},
                    "labelFormat": {"type": "string"},
                    "controlPoints": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["position"],
                            "properties": {
                                "id": {"type": "string"},
                                "label": {"type": "string"},
                                "description": {"type": "string"},
                                "associatedNodeID": {"type": "string"},
                                "position": {
                                    "type": "array",
                                    "items": {"type": "number"},
                                    "minItems": 3,
                                    "maxItems": 3,
                                },
                                "selected": {"type": "boolean"},
                                "locked": {"type": "boolean"},
                                "visibility": {"type": "boolean"},
                                "positionStatus": {"enum": ["undefined", "preview", "defined"]},
                            },
                        },
                    },
                    "measurements": {"type": "array"},
                },
            },
        },
    },
}


def write_file(folder: Path, markups: Any, schema: Any = SCHEMA_URL) -> Path:
    """A markups file with the given `markups` list."""
    file = folder / "case.mrk.json"
    file.write_text(json.dumps({"@schema": schema, "markups": markups}), encoding="utf-8")
    return file


def fiducial(*points: Any, **fields: Any) -> dict[str, Any]:
    """A point list; points are positions or whole control points."""
    control_points = [p if isinstance(p, dict) else {"position": p} for p in points]
    return {"type": "Fiducial", "name": "F", "controlPoints": control_points, **fields}


def read_points(folder: Path, markup: dict[str, Any]) -> list[list[float]]:
    """Points of a file of one markup, rounded to a nanometre."""
    (read,) = read_markups(write_file(folder, [markup]))
    points: list[list[float]] = read.points_lps_mm.round(6).tolist()
    return points


def error_of(folder: Path, markup: Any) -> str:
    """Message for a file of one markup."""
    file = write_file(folder, [markup])
    with pytest.raises(PromptFileError) as caught:
        read_markups(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


# frames and units


@pytest.mark.parametrize("system", ["LPS", "lps", "1", 1])
def test_lps_is_taken_as_it_is(system: Any, tmp_path: Path) -> None:
    assert read_points(tmp_path, fiducial([1.5, 2.0, 3], coordinateSystem=system)) == [[1.5, 2.0, 3.0]]


@pytest.mark.parametrize("system", ["RAS", "ras", "0", 0])
def test_ras_is_turned(system: Any, tmp_path: Path) -> None:
    assert read_points(tmp_path, fiducial([1.5, 2.0, 3], coordinateSystem=system)) == [[-1.5, -2.0, 3.0]]


def test_a_missing_frame_is_lps(tmp_path: Path) -> None:
    assert read_points(tmp_path, fiducial([1.5, 2.0, 3])) == [[1.5, 2.0, 3.0]]


@pytest.mark.parametrize("system", ["IJK", "2", "", None, True])
def test_other_frames_are_refused(system: Any, tmp_path: Path) -> None:
    message = error_of(tmp_path, fiducial([1, 2, 3], coordinateSystem=system))
    assert 'markup 1 "F"' in message and json.dumps(system) in message and "LPS" in message


@pytest.mark.parametrize("unit", ["mm", ["mm", "UCUM", "millimeter"]])
def test_millimetres_are_taken_as_they_are(unit: Any, tmp_path: Path) -> None:
    assert read_points(tmp_path, fiducial([1500, 2, 3], coordinateUnits=unit)) == [[1500.0, 2.0, 3.0]]


@pytest.mark.parametrize("unit", ["um", "\u00b5m", ["um", "UCUM", "micrometer"]])
def test_micrometres_are_converted(unit: Any, tmp_path: Path) -> None:
    markup = fiducial([1500, 2000, 3], coordinateUnits=unit, coordinateSystem="RAS")
    assert read_points(tmp_path, markup) == [[-1.5, -2.0, 0.003]]


@pytest.mark.parametrize("unit", ["cm", "", ["m", "UCUM", "meter"], ["mm"], 1, None])
def test_other_units_are_refused(unit: Any, tmp_path: Path) -> None:
    message = error_of(tmp_path, fiducial([1, 2, 3], coordinateUnits=unit))
    assert "coordinateUnits" in message and json.dumps(unit) in message


# kinds


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("Fiducial", "points"),
        ("PointList", "points"),
        ("Curve", "curve"),
        ("Line", "curve"),
        ("ClosedCurve", "closed_curve"),
    ],
)
def test_types_with_points_are_read(type_name: str, kind: str, tmp_path: Path) -> None:
    (markup,) = read_markups(write_file(tmp_path, [fiducial([1, 2, 3], [4, 5, 6], type=type_name)]))
    assert markup.kind == kind
    assert markup.points_lps_mm.dtype == np.float64 and markup.points_lps_mm.shape == (2, 3)


@pytest.mark.parametrize("type_name", ["Plane", "Angle", "Banana", "fiducial", None, 3, ["Curve"]])
def test_types_without_usable_points_are_refused_by_name(type_name: Any, tmp_path: Path) -> None:
    message = error_of(tmp_path, fiducial([1, 2, 3], type=type_name))
    assert f"type {json.dumps(type_name)}" in message and "Fiducial" in message


def test_several_markups_keep_their_names_and_labels(tmp_path: Path) -> None:
    first = fiducial({"position": [1, 2, 3], "label": "F-7"}, {"position": [1, 2, 4], "id": "9"}, [1, 2, 5])
    read = read_markups(
        write_file(tmp_path, [first, fiducial([7, 8, 9], name=" ileum "), {"type": "Curve", "controlPoints": []}])
    )
    assert [m.name for m in read] == ["F", "ileum", ""]
    assert read[0].point_labels == ("F-7", "9", "point 3")
    assert read[2].points_lps_mm.shape == (0, 3)


def test_a_curve_with_radii_is_read_without_them(tmp_path: Path) -> None:
    radius = {"name": "Radius", "units": "mm", "controlPointValues": [2.0, 3.0]}
    assert len(read_points(tmp_path, fiducial([1, 2, 3], [4, 5, 6], type="Curve", measurements=[radius]))) == 2


# unplaced points


@pytest.mark.parametrize(
    "unplaced",
    [
        {"position": "", "positionStatus": "undefined"},
        {"position": [9, 9, 9], "positionStatus": "undefined"},
        {"position": [9, 9, 9], "positionStatus": "preview"},
        {"position": ""},
        {"position": None},
        {"label": "later"},
    ],
)
def test_unplaced_points_are_skipped_and_counted(
    unplaced: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert read_points(tmp_path, fiducial([1, 2, 3], unplaced)) == [[1.0, 2.0, 3.0]]
    assert "1 of 2 points were never placed" in caplog.text


def test_nothing_is_logged_when_all_points_are_placed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_points(tmp_path, fiducial({"position": [1, 2, 3], "positionStatus": "defined"}))
    assert not caplog.text


@pytest.mark.parametrize("fields", [{"position": ""}, {"position": None}, {}])
def test_a_defined_point_needs_a_position(fields: dict[str, Any], tmp_path: Path) -> None:
    message = error_of(tmp_path, fiducial([1, 2, 3], {"label": "F-2", "positionStatus": "defined", **fields}))
    assert "point 2 'F-2' is defined but has no position" in message


@pytest.mark.parametrize(
    "position",
    [[1, 2], [1, 2, 3, 4], [1, 2, "3"], [1, 2, None], [1, True, 3], "1 2 3", 5, {}, [1, 2, 10**400]],
)
def test_positions_that_are_not_three_numbers_are_refused(position: Any, tmp_path: Path) -> None:
    assert "three finite numbers" in error_of(tmp_path, fiducial({"position": position, "label": "F-1"}))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_positions_that_are_not_finite_are_refused(value: str, tmp_path: Path) -> None:
    file = write_file(tmp_path, [fiducial([1, 2, 12345])])
    file.write_text(file.read_text(encoding="utf-8").replace("12345", value), encoding="utf-8")
    with pytest.raises(PromptFileError, match="point 1.*three finite numbers"):
        read_markups(file)


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, fiducial({"position": [1, 2, 3], "positionStatus": "maybe"}))
    assert 'positionStatus" is "maybe"' in message


# files


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = write_file(tmp_path, [fiducial([1, 2, 3])])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_markups(file)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not valid JSON: .*\. Copy it again if it is cut off, else save it again in 3D Slicer"),
        (b"# Markups fiducial file version = 4.11", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"markups": "\xff"}', "not UTF-8"),
        (b"[]", 'needs an object with a list "markups"'),
        (b"{}", 'needs an object with a list "markups"'),
        (b'{"markups": {}}', 'needs an object with a list "markups"'),
        (b'{"markups": [3]}', "markup 1 is 3; it must be an object"),
        (b'{"markups": [{"type": "Fiducial", "controlPoints": {}}]}', "controlPoints"),
        (b'{"markups": [{"type": "Fiducial", "controlPoints": [[1, 2, 3]]}]}', "point 1 is"),
        (b'{"@schema": "other", "markups": []}', "@schema"),
        (b'{"@schema": "x/markups-schema-v2.0.0.json#", "markups": []}', "version 1"),
        (b'{"@schema": 1, "markups": []}', "@schema"),
    ],
)
def test_what_is_no_markups_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "case.mrk.json"
    file.write_bytes(content)
    with pytest.raises(PromptFileError, match=message) as caught:
        read_markups(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("version", ["v1.0.0", "V1.0.4"])
def test_other_versions_of_the_schema_are_read(version: str, tmp_path: Path) -> None:
    file = write_file(tmp_path, [fiducial([1, 2, 3])], SCHEMA_URL.replace("v1.0.3", version))
    assert len(read_markups(file)) == 1


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "none.mrk.json", tmp_path):
        with pytest.raises(PromptFileError, match="cannot be read"):
            read_markups(file)


def test_huge_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_file(tmp_path, [])
    monkeypatch.setattr(text_files, "MAX_FILE_BYTES", 10)
    with pytest.raises(PromptFileError, match="MB are refused"):
        read_markups(file)


@pytest.mark.parametrize("digits", [500, 20_000])
def test_numbers_of_many_digits_cost_no_time(digits: int, tmp_path: Path) -> None:
    file = write_file(tmp_path, [fiducial([1, 2, 12345])])
    file.write_text(file.read_text(encoding="utf-8").replace("12345", "9" * digits), encoding="utf-8")
    with pytest.raises(PromptFileError, match="point 1.*three finite numbers"):
        read_markups(file)


def test_coordinates_beyond_a_kilometre_are_refused(tmp_path: Path) -> None:
    assert "'F-1' lies at (1, 2, 1e+10) mm" in error_of(tmp_path, fiducial({"label": "F-1", "position": [1, 2, 1e10]}))
    assert read_points(tmp_path, fiducial([1, 2, 1e8], coordinateUnits="um")) == [[1e-3, 2e-3, 1e5]]


@pytest.mark.parametrize("field", ["name", "label"])
def test_names_that_are_no_text_are_refused(field: str, tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    point = {"position": [1, 2, 3], "label": nested if field == "label" else "F-1"}
    assert f'"{field}" is' in error_of(tmp_path, fiducial(point, name=nested if field == "name" else "F"))


def test_files_of_too_many_points_or_markups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markups_module, "MAX_POINTS", 3)
    monkeypatch.setattr(markups_module, "MAX_MARKUPS", 2)
    two = fiducial([1, 2, 3], [4, 5, 6])
    assert "more than 1 points" in error_of_all(tmp_path, [two, two])
    assert "more than 2 markups" in error_of_all(tmp_path, [fiducial()] * 3)


def error_of_all(folder: Path, markups: list[dict[str, Any]]) -> str:
    """Message for a file of several markups."""
    with pytest.raises(PromptFileError) as caught:
        read_markups(write_file(folder, markups))
    return str(caught.value)


# a frame from outside


def test_a_given_frame_settles_what_the_file_leaves_open(tmp_path: Path) -> None:
    open_file = write_file(tmp_path, [fiducial([1, 2, 3])])
    assert read_markups(open_file, frame="ras")[0].points_lps_mm.tolist() == [[-1, -2, 3]]
    assert read_markups(open_file, frame="lps")[0].points_lps_mm.tolist() == [[1, 2, 3]]


def test_a_given_frame_that_contradicts_the_file_is_an_error(tmp_path: Path) -> None:
    file = write_file(tmp_path, [fiducial([1, 2, 3], coordinateSystem="RAS")])
    with pytest.raises(PromptFileError, match='markup 1 "F" says that its frame is RAS, the option -frame says lps'):
        read_markups(file, frame="lps")


# golden files

GOLDEN = Path(__file__).parent / "golden_prompts"
SAME_POINTS = [
    "lps", "ras", "ras_as_number", "no_system", "empty_position", "no_status", "preview", "um", "coded_unit",
    "point_list",
]  # fmt: skip
BOX = {(x, y, z) for x in (110.0, 120.0) for y in (65.0, 85.0) for z in (-11.0, -5.0)}


@pytest.mark.parametrize("name", SAME_POINTS)
def test_golden_files_of_one_point_list_give_the_same_points(name: str) -> None:
    (markup,) = read_markups(GOLDEN / f"{name}.mrk.json")
    assert (markup.name, markup.kind, markup.point_labels) == ("F", "points", ("F-1", "F-2"))
    np.testing.assert_allclose(markup.points_lps_mm, [[110.5, 70.0, -8.0], [120.0, 80.25, -5.0]], rtol=1e-15)


def test_golden_files_of_several_kinds() -> None:
    names = ("two_markups", "curve_with_radius", "closed_curve")
    read = [markup for name in names for markup in read_markups(GOLDEN / f"{name}.mrk.json")]
    assert [(m.name, m.kind) for m in read] == [
        ("ileum", "points"), ("L", "curve"), ("centreline", "curve"), ("ring", "closed_curve"),
    ]  # fmt: skip
    for markup in read[1:]:
        assert markup.points_lps_mm.tolist() == [[110.5, 70.0, -8.0], [120.0, 80.25, -5.0]]
    with pytest.raises(PromptFileError, match='type "Plane"'):
        read_markups(GOLDEN / "plane.mrk.json")


# boxes


@pytest.mark.parametrize("name", ["roi", "roi_ras", "roi_by_hand"])
def test_rois_are_boxes_of_eight_corners(name: str) -> None:
    (markup,) = read_markups(GOLDEN / f"{name}.mrk.json")
    assert (markup.name, markup.kind, len(markup.point_labels)) == ("ileum", "box", 8)
    assert {tuple(p) for p in markup.points_lps_mm.tolist()} == BOX


def test_a_turned_roi_has_its_axes_in_the_columns_of_its_orientation() -> None:
    (markup,) = read_markups(GOLDEN / "roi_turned.mrk.json")
    # RAS: 5 mm along (0.6, 0.8, 0), 10 mm along (-0.8, 0.6, 0), 3 mm along z, around (-115, -75, -8)
    corner_ras = np.array([-115, -75, -8]) + 5 * np.array([0.6, 0.8, 0]) + 10 * np.array([-0.8, 0.6, 0]) + [0, 0, 3]
    expected = corner_ras * [-1, -1, 1]
    assert np.linalg.norm(markup.points_lps_mm - expected, axis=1).min() < 1e-9
    np.testing.assert_allclose(markup.points_lps_mm.mean(axis=0), [115, 75, -8])


def roi(**fields: Any) -> dict[str, Any]:
    """An ROI with some fields changed."""
    return {"type": "ROI", "name": "R", "center": [1, 2, 3], "size": [4, 5, 6], **fields}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"roiType": "BoundingBox"}, 'roiType" is "BoundingBox"'),
        ({"insideOut": True}, "insideOut"),
        ({"size": [1, 2]}, "3 finite numbers"),
        ({"size": [1, 2, -3]}, "positive sizes"),
        ({"size": [1, 0, 0]}, "positive sizes"),
        ({"center": None}, '"center" is null'),
        ({"center": [1, 2, "3"]}, "3 finite numbers"),
        ({"orientation": [1, 0, 0, 0, 1, 0]}, "9 finite numbers"),
        ({"orientation": [1, 0, 0, 0, 2, 0, 0, 0, 1]}, "right angles"),
        ({"orientation": [1, 0, 0, 1, 0, 0, 0, 0, 1]}, "right angles"),
        ({"size": [1, 1e300, 1]}, "mm"),
    ],
)
def test_faulty_boxes_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in error_of(tmp_path, roi(**fields))


def test_a_box_that_was_never_placed_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        (markup,) = read_markups(write_file(tmp_path, [roi(size=[0, 0, 0], center=[0, 0, 0])]))
    assert markup.points_lps_mm.shape == (0, 3) and "never placed" in caplog.text


@pytest.mark.parametrize("size", [[4.0, 5.0, 6.0], [4.0, 0.0, 6.0], [0.0, 5.0, 6.0]])
def test_boxes_are_written_and_read_again(size: list[float], tmp_path: Path) -> None:
    turn = [0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1]
    (box,) = read_markups(write_file(tmp_path, [roi(size=size, orientation=turn)]))
    never = Markup("never", "box", np.zeros((0, 3)), ())
    write_markups(tmp_path / "again.mrk.json", [box, never])
    again, nothing = read_markups(tmp_path / "again.mrk.json")
    np.testing.assert_allclose(again.points_lps_mm, box.points_lps_mm, atol=1e-9)
    assert (again.name, again.kind) == (box.name, "box") and len(nothing.points_lps_mm) == 0
    content = json.loads((tmp_path / "again.mrk.json").read_text(encoding="utf-8"))["markups"][0]
    assert content["type"] == "ROI" and content["roiType"] == "Box"
    np.testing.assert_allclose(content["size"], size)
    np.testing.assert_allclose(content["controlPoints"][0]["position"], [1, 2, 3])


def test_a_sheared_box_cannot_be_written(tmp_path: Path) -> None:
    corners = np.array([[x + 0.5 * y, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    with pytest.raises(ValueError, match="right angles"):
        write_markups(tmp_path / "c.mrk.json", [Markup("R", "box", corners, ("R",) * 8)])


# writing


def some_markups() -> list[Markup]:
    """All kinds, with numbers that decimal text must not shorten."""
    points = np.random.default_rng(0).normal(scale=300, size=(5, 3))
    return [
        Markup("ileum", "points", points, tuple(f"F-{i}" for i in range(5))),
        Markup("centreline", "curve", points / 3, tuple("abcde")),
        Markup("ring", "closed_curve", points * 1e-7, tuple("abcde")),
        Markup("none", "points", np.zeros((0, 3)), ()),
    ]


def test_what_is_written_has_the_published_structure(tmp_path: Path) -> None:
    file = tmp_path / "case.mrk.json"
    write_markups(file, some_markups())
    content = json.loads(file.read_text(encoding="utf-8"))
    jsonschema.validate(content, SLICER_STRUCTURE)
    assert content["@schema"] == SCHEMA_URL
    assert [m["type"] for m in content["markups"]] == ["Fiducial", "Curve", "ClosedCurve", "Fiducial"]
    assert {m["coordinateSystem"] for m in content["markups"]} == {"LPS"}
    ids = [p["id"] for p in content["markups"][0]["controlPoints"]]
    assert len(set(ids)) == 5


def test_what_is_written_is_read_again_to_the_last_bit(tmp_path: Path) -> None:
    write_markups(tmp_path / "case.mrk.json", some_markups())
    for written, read in zip(some_markups(), read_markups(tmp_path / "case.mrk.json"), strict=True):
        assert (read.name, read.kind, read.point_labels) == (written.name, written.kind, written.point_labels)
        np.testing.assert_array_equal(read.points_lps_mm, written.points_lps_mm)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "case.mrk.json"
    write_markups(file, some_markups())
    before = file.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_markups(file, [Markup("bad", "points", np.full((1, 3), np.nan), ("F-1",))])
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["case.mrk.json"]


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = (
        '{"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "coordinateSystem": "LPS", "controlPoints": []}]}'
    )
    (tmp_path / "c.mrk.json").write_text(text, encoding="utf-8")
    with pytest.raises(PromptFileError, match=r"c\.mrk\.json is not valid JSON: the key \"coordinateSystem\" is there"):
        read_markups(tmp_path / "c.mrk.json")


@pytest.mark.parametrize("kind", ["Fiducial", "Curve", "Line", "ClosedCurve"])
def test_a_list_without_its_points_is_refused(kind: str, tmp_path: Path) -> None:
    assert 'has no "controlPoints"' in error_of(tmp_path, {"type": kind, "controlpoints": [{"position": [1, 2, 3]}]})
