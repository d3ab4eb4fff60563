"""Loading prompt files of any format: where points and boxes arrive, and what is dropped, merged or refused."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels
from spdnet.dataset.raw_dataset import PROMPT_ENDINGS, find_prompt_file
from spdnet.errors import PromptFileError
from spdnet.geometry import CaseMapping, ImageGeometry, nearest_index, plan_case_mapping, raw_resolution_mapping
from spdnet.prompts import (
    Markup,
    SlicePrompts,
    load_given_prompts,
    read_checked_markups,
    read_prompt_file,
    write_markups,
)
from spdnet.prompts.boxes import corners_between, cut_into_slices
from spdnet.prompts.loading import Outside, PromptReading
from spdnet.prompts.text_files import shown_text

LABELS = Labels(("ileum", "colon"), ((1,), (2,)))


# every reader on every kind of grid

DIRECTIONS = {
    "identity": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "permuted": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "oblique": np.array([[0.48, -0.8, -0.36], [0.64, 0.6, -0.48], [0.6, 0.0, 0.8]]),
}
SPACINGS = {"isotropic": (1.5, 1.5, 1.5), "anisotropic": (0.7, 0.9, 3.0)}
VOXELS_XYZ = np.array([[2.0, 3.0, 1.0], [9.0, 1.0, 4.0], [5.0, 6.0, 5.0]])


def grid(direction: str, spacing: str) -> sitk.Image:
    """An image of 11 x 8 x 6 voxels (x, y, z)."""
    image = sitk.Image([11, 8, 6], sitk.sitkUInt8)
    image.SetDirection(DIRECTIONS[direction].ravel().tolist())
    image.SetSpacing(SPACINGS[spacing])
    image.SetOrigin((40.0, -30.0, 15.0))
    return image


def written_json(image: sitk.Image, points: np.ndarray, folder: Path) -> Path:
    write_markups(folder / "c.mrk.json", [Markup("F", "points", points, tuple("abc"))])
    return folder / "c.mrk.json"


def written_fcsv(image: sitk.Image, points: np.ndarray, folder: Path) -> Path:
    rows = [f"{n},{-x!r},{-y!r},{z!r}" for n, (x, y, z) in enumerate(points.tolist())]
    (folder / "c.fcsv").write_text("\n".join(["# CoordinateSystem = 0", *rows]), encoding="utf-8")
    return folder / "c.fcsv"


def written_slicer_table(image: sitk.Image, points: np.ndarray, folder: Path) -> Path:
    (folder / "c.csv").write_text(
        "\n".join(["l,p,s", *(f"{x!r},{y!r},{z!r}" for x, y, z in points.tolist())]), encoding="utf-8"
    )
    return folder / "c.csv"


def written_ras_table(image: sitk.Image, points: np.ndarray, folder: Path) -> Path:
    rows = [f"{-x!r}\t{-y!r}\t{z!r}" for x, y, z in points.tolist()]
    (folder / "c.tsv").write_text("\n".join(["x_ras_mm\ty_ras_mm\tz_ras_mm", *rows]), encoding="utf-8")
    return folder / "c.tsv"


def written_voxels(image: sitk.Image, points: np.ndarray, folder: Path) -> Path:
    voxels = [image.TransformPhysicalPointToContinuousIndex(p) for p in points.tolist()]
    (folder / "c.csv").write_text("\n".join(["i,j,k", *(f"{i!r},{j!r},{k!r}" for i, j, k in voxels)]), encoding="utf-8")
    return folder / "c.csv"


def written_marks(image: sitk.Image, points: np.ndarray, folder: Path) -> Path:
    marks = sitk.Image(image)
    for point in points.tolist():
        marks[image.TransformPhysicalPointToIndex(point)] = 1
    sitk.WriteImage(marks, str(folder / "c.marks.nii.gz"))
    return folder / "c.marks.nii.gz"


WRITERS: list[Callable[[sitk.Image, np.ndarray, Path], Path]] = [
    written_json, written_fcsv, written_slicer_table, written_ras_table, written_voxels, written_marks,
]  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_points_of_every_format_arrive_at_their_voxels(
    direction: str, spacing: str, writer: Callable[[sitk.Image, np.ndarray, Path], Path], tmp_path: Path
) -> None:
    image = grid(direction, spacing)
    world = np.array([image.TransformContinuousIndexToPhysicalPoint(v) for v in VOXELS_XYZ.tolist()])
    file = writer(image, world, tmp_path)
    geometry = ImageGeometry.from_sitk(image)
    (markup,) = read_prompt_file(file, geometry=geometry, labels=LABELS, case="c")
    voxels = np.array([image.TransformPhysicalPointToContinuousIndex(p) for p in markup.points_lps_mm.tolist()])
    np.testing.assert_allclose(sorted(voxels.tolist()), sorted(VOXELS_XYZ.tolist()), atol=1e-4)
    for slicing_axis in range(3):
        mapping = raw_resolution_mapping(geometry, slicing_axis)
        prompts = load_given_prompts(file, "c", geometry, mapping, LABELS).for_network()
        marks = np.zeros(geometry.shape_zyx)
        for x, y, z in VOXELS_XYZ.astype(int):
            marks[z, y, x] = 1
        oriented = mapping.orient(marks)
        s, y, x = (nearest_index(prompts.points_syx) - [0, *mapping.pad_offset]).T
        assert len(prompts) == 3 and oriented[s, y, x].all()


def written_roi(image: sitk.Image, low: np.ndarray, high: np.ndarray, folder: Path) -> Path:
    corners = np.array([image.TransformContinuousIndexToPhysicalPoint(c) for c in corners_between(low, high).tolist()])
    write_markups(folder / "c.mrk.json", [Markup("colon", "box", corners, ("R",) * 8)])
    return folder / "c.mrk.json"


def written_voxel_box(image: sitk.Image, low: np.ndarray, high: np.ndarray, folder: Path) -> Path:
    row = ",".join(map(repr, [*low.tolist(), *high.tolist()]))
    (folder / "c.csv").write_text(f"class,i0,j0,k0,i1,j1,k1\ncolon,{row}", encoding="utf-8")
    return folder / "c.csv"


@pytest.mark.parametrize("writer", [written_roi, written_voxel_box], ids=lambda w: w.__name__)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_boxes_along_the_grid_cover_their_voxels(
    direction: str, spacing: str, writer: Callable[..., Path], tmp_path: Path
) -> None:
    image = grid(direction, spacing)
    low, high = np.array([2, 1, 2]), np.array([8, 5, 4])  # voxels x, y, z, both included
    file = writer(image, low - 0.5, high + 0.5, tmp_path)
    geometry = ImageGeometry.from_sitk(image)
    covered = np.zeros(geometry.shape_zyx, dtype=bool)
    covered[tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1], strict=True))] = True
    for slicing_axis in range(3):
        mapping = raw_resolution_mapping(geometry, slicing_axis)
        boxes = load_given_prompts(file, "c", geometry, mapping, LABELS).for_network().boxes
        seen = np.zeros(mapping.orient(covered).shape, dtype=bool)
        for s, (top, left, bottom, right) in zip(boxes.slice_index, boxes.boxes_yxyx, strict=True):
            pixel_edges = np.array([top, left, bottom, right]) + 0.5
            np.testing.assert_allclose(pixel_edges, pixel_edges.round(), atol=1e-6)
            seen[s, round(top + 0.5) : round(bottom + 0.5), round(left + 0.5) : round(right + 0.5)] = True
        np.testing.assert_array_equal(seen, mapping.orient(covered))
        assert set(boxes.class_index.tolist()) == {1}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_box_along_the_world_is_covered_by_its_slices(direction: str, spacing: str, tmp_path: Path) -> None:
    image = grid(direction, spacing)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint([5.0, 3.5, 2.5]))
    low, high = centre - (2.0, 1.5, 1.2), centre + np.array((1.0, 1.5, 2.0))
    row = ",".join(map(repr, [*low.tolist(), *high.tolist()]))
    (tmp_path / "c.csv").write_text(
        f"x0_lps_mm,y0_lps_mm,z0_lps_mm,x1_lps_mm,y1_lps_mm,z1_lps_mm\n{row}", encoding="utf-8"
    )
    geometry = ImageGeometry.from_sitk(image)
    voxels = np.array(list(itertools.product(*(range(n) for n in geometry.shape_zyx))))
    world = np.array([image.TransformIndexToPhysicalPoint(v) for v in voxels[:, ::-1].tolist()])
    inside = voxels[np.all((world >= low) & (world <= high), axis=1)]
    mapping = raw_resolution_mapping(geometry, 0)
    boxes = load_given_prompts(tmp_path / "c.csv", "c", geometry, mapping, LABELS).for_network().boxes
    by_slice = dict(zip(boxes.slice_index.tolist(), boxes.boxes_yxyx.tolist(), strict=True))
    assert len(inside)
    for s, y, x in mapping.points_to_network(inside):
        top, left, bottom, right = by_slice[int(s)]
        assert top <= y <= bottom and left <= x <= right


# boxes and slices


@pytest.fixture
def geometry() -> ImageGeometry:
    """10 axial slices of 40 x 50, 3 x 1 x 1 mm, off the origin; mirrored, x and y lie outside."""
    return ImageGeometry((10, 40, 50), (3.0, 1.0, 1.0), (100.0, 60.0, -20.0))


@pytest.fixture
def mapping(geometry: ImageGeometry) -> CaseMapping:
    """Axial slices at full size in a square of 50: 5 rows of padding above and below."""
    return raw_resolution_mapping(geometry, 0)


def cut(low: list[float], high: list[float], mapping: CaseMapping) -> tuple[list[int], list[float]]:
    """Slices and edges of a box between two raw voxels."""
    corners = mapping.points_to_network(corners_between(np.array(low), np.array(high)))
    boxes = cut_into_slices(corners, mapping)
    assert all(edges == boxes.boxes_yxyx[0].tolist() for edges in boxes.boxes_yxyx.tolist())
    return boxes.slice_index.tolist(), boxes.boxes_yxyx[0].tolist() if len(boxes) else []


@pytest.mark.parametrize(
    ("z", "slices"),
    [
        ((1.5, 4.5), [2, 3, 4]),
        ((2.0, 4.0), [2, 3, 4]),
        ((2.1, 3.9), [3]),
        ((2.1, 2.3), [2]),
        ((2.6, 2.8), [3]),
        ((3.0, 3.0), [3]),
        ((-5.0, 0.5), [0]),
        ((8.7, 30.0), [9]),
        ((-0.4, -0.2), [0]),
    ],
)
def test_a_box_belongs_to_the_slices_whose_centre_plane_it_holds(
    z: tuple[float, float], slices: list[int], mapping: CaseMapping
) -> None:
    assert cut([z[0], 10.0, 10.0], [z[1], 20.0, 20.0], mapping)[0] == slices


def test_a_box_is_cut_to_the_image(geometry: ImageGeometry, mapping: CaseMapping) -> None:
    pad_y, pad_x = mapping.pad_offset
    _, edges = cut([2.0, -9.0, 10.0], [3.0, 12.0, 99.0], mapping)
    assert edges == [pad_y - 0.5, pad_x + 10.0, pad_y + 12.0, pad_x + 49.5]
    small = plan_case_mapping(geometry, 0, 64, 1.0, [(2, 8), (5, 25), (10, 30)])
    slices, edges = cut([0.0, 0.0, 0.0], [9.0, 39.0, 12.0], small)
    (top, bottom), (left, _) = small.content_box
    assert slices == list(range(6)) and edges[:3] == [top - 0.5, left - 0.5, bottom - 0.5]
    assert cut([0.0, 30.0, 0.0], [9.0, 39.0, 12.0], small) == ([], [])
    assert cut([8.7, 0.0, 10.0], [9.0, 39.0, 20.0], small) == ([], [])


def write_csv(folder: Path, *lines: str) -> Path:
    """A table of these lines."""
    (folder / "TI_012.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "TI_012.csv"


BOX_HEADER = "x0_lps_mm,y0_lps_mm,z0_lps_mm,x1_lps_mm,y1_lps_mm,z1_lps_mm"


def load(
    file: Path, geometry: ImageGeometry, mapping: CaseMapping, outside: Outside = "error", labels: Labels = LABELS
) -> SlicePrompts:
    """The file's prompts as of case TI_012."""
    return load_given_prompts(
        file, "TI_012", geometry, mapping, labels, reading=PromptReading(outside=outside)
    ).for_network()


def error_text(
    file: Path, geometry: ImageGeometry, mapping: CaseMapping, outside: Outside = "error", labels: Labels = LABELS
) -> str:
    """Message of a failed load."""
    with pytest.raises(PromptFileError) as caught:
        load(file, geometry, mapping, outside, labels)
    return str(caught.value)


def test_a_box_outside_the_image_is_an_error_like_a_point(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_csv(tmp_path, "point_id," + BOX_HEADER, "A,110,70,-8,120,80,-5", "B,110,70,50,120,80,60")
    text = error_text(file, geometry, mapping)
    assert "the centre of box 'B' lies at voxel (z 25.0, y 15.0, x 15.0), outside the image" in text
    assert "1 of 2 points" in text
    with caplog.at_level(logging.WARNING):
        boxes = load(file, geometry, mapping, "drop").boxes
    assert boxes.slice_index.tolist() == [4, 5] and "1 of 2 points" in caplog.text and "Dropped" in caplog.text


def test_a_box_that_reaches_out_of_the_image_is_none(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    file = write_csv(tmp_path, BOX_HEADER, "110,70,-8,520,580,500")
    assert load(file, geometry, mapping).boxes.slice_index.tolist() == [4, 5, 6, 7, 8, 9]


def test_a_mirrored_box_is_named_as_such(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    text = error_text(write_csv(tmp_path, BOX_HEADER, "-110,-70,-8,-120,-80,-5"), geometry, mapping)
    assert "Flipping x and y would put all inside" in text


def test_boxes_outside_the_crop_are_counted(
    geometry: ImageGeometry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapping = plan_case_mapping(geometry, 0, 64, 1.0, [(2, 8), (5, 25), (10, 30)])
    file = write_csv(tmp_path, BOX_HEADER, "110,70,-8,120,80,-5", "101,61,-8,105,64,-5")
    with caplog.at_level(logging.INFO):
        assert len(load(file, geometry, mapping).boxes) == 2
    assert "case TI_012: 1 of 2 boxes lie outside the cropped region" in caplog.text


def test_a_box_without_thickness_needs_the_slices_it_was_drawn_in(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    file = write_csv(tmp_path, BOX_HEADER, "110,70,-8,120,80,-8")
    assert load(file, geometry, mapping).boxes.slice_index.tolist() == [4]
    text = error_text(file, geometry, raw_resolution_mapping(geometry, 2))
    assert "case TI_012: box 'line 2'" in text and "no extent within the slices" in text


# points outside


def test_points_outside_are_dropped_if_asked(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_csv(tmp_path, "l,p,s", "110,70,-8", "110,70,300", "120,80,-5")
    assert '"--outside drop"' in error_text(file, geometry, mapping)
    with caplog.at_level(logging.WARNING):
        assert len(load(file, geometry, mapping, "drop")) == 2
    assert "case TI_012: point 'line 3' lies at voxel (z 106.7" in caplog.text and "1 of 3 points" in caplog.text


def test_a_mirrored_file_is_an_error_even_if_points_may_be_dropped(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    file = write_csv(tmp_path, "l,p,s", "-110,-70,-8", "-111,-71,-8", "-120,-80,-5")
    assert "Flipping x and y" in error_text(file, geometry, mapping, "drop")
    far = write_csv(tmp_path, "l,p,s", "110,70,800", "111,71,800")
    assert len(load(far, geometry, mapping, "drop")) == 0


def test_voxel_indices_outside_get_no_hint_about_frames(mapping: CaseMapping, tmp_path: Path) -> None:
    geometry = ImageGeometry((10, 40, 32), (3.0, 1.0, 1.0), (-16.0, -20.0, -20.0))  # flipped, all would be inside
    file = write_csv(tmp_path, "i,j,k", "31,20,4", "32,20,4")
    text = error_text(file, geometry, mapping)
    assert "run from 0 to 31 along i, to 39 along j and to 9 along k: are they counted from 1" in text
    assert "lipping" not in text and "coordinateSystem" not in text and '"--outside drop"' in text
    assert len(load(file, geometry, raw_resolution_mapping(geometry, 0), "drop")) == 1
    box = write_csv(tmp_path, "i0,j0,k0,i1,j1,k1", "40,3,1,45,8,4")
    assert "run from 0 to 31 along i" in error_text(box, geometry, mapping)


@pytest.mark.parametrize(
    ("kind", "inside", "stretches"),
    [
        ("curve", [1, 1, 0, 1, 1], ["ab", "de"]),
        ("curve", [0, 1, 1, 1, 0], ["bcd"]),
        ("closed_curve", [1, 1, 0, 1, 1], ["deab"]),
        ("closed_curve", [1, 0, 1, 0, 1], ["c", "ea"]),
        ("closed_curve", [1, 1, 1, 1, 1], ["abcde"]),
        ("points", [1, 0, 1, 0, 1], ["ace"]),
        ("curve", [0, 0, 0, 0, 0], []),
    ],
)
def test_a_curve_is_interrupted_where_it_loses_a_point(
    kind: str, inside: list[int], stretches: list[str], geometry: ImageGeometry, tmp_path: Path
) -> None:
    points = np.array([[110.0 + n, 70, -8 if ok else 500] for n, ok in enumerate(inside)])
    write_markups(tmp_path / "c.mrk.json", [Markup("F", kind, points, tuple("abcde"))])
    read = read_checked_markups(tmp_path / "c.mrk.json", "c", geometry, LABELS, outside="drop")
    assert ["".join(m.point_labels) for m in read] == stretches
    expected = kind if all(inside) or kind == "points" else "curve"
    assert all(m.kind == expected for m in read)
    for markup in read:
        assert markup.points_lps_mm[:, 0].tolist() == [110.0 + "abcde".index(label) for label in markup.point_labels]


def test_other_words_for_outside_are_refused(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside is 'ignore'"):
        load(write_csv(tmp_path, "l,p,s", "1,2,3"), geometry, mapping, "ignore")  # type: ignore[arg-type]


# duplicates


def test_points_on_nearly_one_spot_are_merged_and_counted(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_csv(
        tmp_path, "label,x_lps_mm,y_lps_mm,z_lps_mm",
        "ileum,110,70,-8", "ileum,110.09,70,-8", "ileum,110.2,70,-8", "colon,110,70,-8", "ileum,110,70,-8",
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        prompts = load(file, geometry, mapping)
    pad = mapping.pad_offset[1]
    np.testing.assert_allclose(prompts.points_syx[:, 2] - pad, [10, 10.2, 10])
    assert prompts.class_index.tolist() == [0, 0, 1]
    assert "case TI_012: 2 of 5 points lie within 0.1 mm of another one; merged" in caplog.text


@pytest.mark.parametrize("spacing", [1.0, 0.1, 0.01, 0.001])
def test_points_of_finely_resolved_images_are_told_apart(
    spacing: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fine = ImageGeometry((20, 200, 200), (0.001, spacing, spacing))
    voxels = [[10, 20, 10 + 3 * n] for n in range(30)] + [[10, 20, 10.04]]
    points = fine.voxel_to_world(np.array(voxels, dtype=np.float64))
    write_markups(tmp_path / "c.mrk.json", [Markup("F", "points", points, ("F",) * 31)])
    with caplog.at_level(logging.INFO):
        assert len(load(tmp_path / "c.mrk.json", fine, raw_resolution_mapping(fine, 0))) == 30
    assert f"1 of 31 points lie within {min(0.1, spacing / 2):g} mm" in caplog.text


def test_the_trunk_that_two_branches_share_counts_once(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    trunk = ["110,70,-20", "110,70,-8"]
    rows = [f"{b},{n},{p}" for b, end in (("a", "120,70,7"), ("b", "110,80,7")) for n, p in enumerate([*trunk, end])]
    prompts = load(write_csv(tmp_path, "branch_id,order,l,p,s", *rows), geometry, mapping)
    assert prompts.slice_index.tolist() == [*range(10), *range(5, 10)], "they part at the centre plane of slice 4"


def test_merging_leaves_every_slice_its_point(tmp_path: Path) -> None:
    thin = ImageGeometry((10, 40, 50), (0.05, 1.0, 1.0))
    file = write_csv(tmp_path, "order,l,p,s", "1,10,10,0", "2,10,10,0.45")
    assert load(file, thin, raw_resolution_mapping(thin, 0)).slice_index.tolist() == list(range(10))


def test_curves_that_go_to_and_fro_without_end_are_refused(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    rows = [f"{n},110,70,{-20 + 27 * (n % 2)}" for n in range(11_200)]
    assert "cross slices 100791 times" in error_text(write_csv(tmp_path, "order,l,p,s", *rows), geometry, mapping)
    line = write_csv(tmp_path, "order,l,p,s", "1,105,70,-8", "2,145,70,-8")
    with pytest.raises(PromptFileError, match="cross slices 4000000 times"):
        load_given_prompts(line, "c", geometry, mapping, LABELS, curve_step_mm=1e-5).for_network()


# classes


def test_names_of_regions_are_classes(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    regions = Labels(("whole", "core"), ((1, 2), (2,)), True, (1, 2))
    points = np.array([[110.0, 70, -8]])
    markups = [Markup(name, "points", points + i, ("F",)) for i, name in enumerate(("core", "whole", "other"))]
    write_markups(tmp_path / "c.mrk.json", markups)
    assert load(tmp_path / "c.mrk.json", geometry, mapping, labels=regions).class_index.tolist() == [1, 0, -1]


def test_one_click_may_speak_for_several_regions(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    regions = Labels(("whole", "core", "enhancing"), ((1, 2, 3), (2, 3), (3,)), True, (1, 2, 3))
    click = np.array([[110.0, 70, -8]])
    write_markups(tmp_path / "c.mrk.json", [Markup(name, "points", click, ("F",)) for name in regions.names])
    assert load(tmp_path / "c.mrk.json", geometry, mapping, labels=regions).class_index.tolist() == [0, 1, 2]
    marks = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    marks[4, 10, 10] = 3
    image = sitk.GetImageFromArray(marks)
    geometry.apply_to_sitk(image)
    sitk.WriteImage(image, str(tmp_path / "c.marks.nii.gz"))
    assert load(tmp_path / "c.marks.nii.gz", geometry, mapping, labels=regions).class_index.tolist() == [0, 1, 2]


def test_points_of_one_class_on_one_spot_are_a_pile_whatever_markups_they_are_in(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    click = np.array([[110.0, 70, -8]])
    for names in (("ileum", "ileum", "colon"), ("F", "G"), ("", "ileum", "H")):
        write_markups(tmp_path / "c.mrk.json", [Markup(name, "points", click, ("F",)) for name in names])
        assert f"all {len(names)} points" in error_text(tmp_path / "c.mrk.json", geometry, mapping)


def test_classes_and_curves_of_a_table_arrive(geometry: ImageGeometry, mapping: CaseMapping) -> None:
    prompts = load(Path(__file__).parent / "golden_prompts" / "branches.csv", geometry, mapping)
    assert prompts.class_index.tolist() == [1, 0, 0, 0, -1]
    assert prompts.slice_index.tolist() == [4, 4, 5, 6, 4]


def test_a_name_that_is_a_class_but_for_capitals_is_refused(
    geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path
) -> None:
    write_markups(tmp_path / "c.mrk.json", [Markup("Ileum", "points", np.array([[110.0, 70, -8]]), ("F",))])
    text = error_text(tmp_path / "c.mrk.json", geometry, mapping)
    assert '"Ileum", which is the class "ileum" but for capital letters' in text
    one = Labels(("ileum",), ((1,),))
    assert load(tmp_path / "c.mrk.json", geometry, mapping, labels=one).class_index.tolist() == [-1]


def test_a_table_of_another_case_is_refused(geometry: ImageGeometry, mapping: CaseMapping, tmp_path: Path) -> None:
    file = write_csv(tmp_path, "case,l,p,s", "TI_013,110,70,-8")
    assert 'of case "TI_013", not "TI_012"' in error_text(file, geometry, mapping)


# which file


@pytest.mark.parametrize("ending", PROMPT_ENDINGS)
def test_every_ending_is_found_and_read(ending: str, tmp_path: Path) -> None:
    assert find_prompt_file(tmp_path, "TI_012") is None
    (tmp_path / f"TI_012{ending}").write_bytes(b"")
    found = find_prompt_file(tmp_path, "TI_012")
    assert found == tmp_path / f"TI_012{ending}"
    with pytest.raises(PromptFileError, match=f"TI_012{ending}"):
        read_prompt_file(found)


def test_several_files_of_a_case_are_an_error_that_names_them(tmp_path: Path) -> None:
    for name in ("TI_012.mrk.json", "TI_012.csv", "TI_01.csv"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(PromptFileError, match="case TI_012.*2 prompt files of it, TI_012.mrk.json, TI_012.csv"):
        find_prompt_file(tmp_path, "TI_012")
    assert find_prompt_file(tmp_path, "TI_01") == tmp_path / "TI_01.csv"


def test_unknown_endings_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"no ending that spdnet knows.*\.mrk\.json, \.fcsv"):
        read_prompt_file(tmp_path / "c.vtp")


@pytest.mark.parametrize("name", ["negative", "Negative points", "bg_2", "background points", "BACKGROUND"])
def test_lists_of_negative_points_are_refused_unless_a_class_is_called_so(name: str, tmp_path: Path) -> None:
    geometry = ImageGeometry((4, 20, 20), (3.0, 1.0, 1.0))
    write_markups(tmp_path / "c.mrk.json", [Markup(name, "points", np.array([[5.0, 5.0, 3.0]]), ("",))])
    with pytest.raises(PromptFileError, match="spdnet takes points on the target only"):
        read_checked_markups(tmp_path / "c.mrk.json", "c", geometry, Labels(("ileum",), ((1,),)))
    assert read_checked_markups(tmp_path / "c.mrk.json", "c", geometry, Labels((name, "other"), ((1,), (2,))))


@pytest.mark.parametrize("name", ["ileum (negative contrast)", "HER2-negative", "not background", "ileum_1"])
def test_names_that_only_speak_of_something_negative_are_names(name: str, tmp_path: Path) -> None:
    geometry = ImageGeometry((4, 20, 20), (3.0, 1.0, 1.0))
    write_markups(tmp_path / "c.mrk.json", [Markup(name, "points", np.array([[5.0, 5.0, 3.0]]), ("",))])
    assert read_checked_markups(tmp_path / "c.mrk.json", "c", geometry, Labels(("ileum",), ((1,),)))


@pytest.mark.parametrize("name", ["ileum negative", "Background-ileum"])
def test_what_is_negative_for_a_class_is_refused(name: str, tmp_path: Path) -> None:
    geometry = ImageGeometry((4, 20, 20), (3.0, 1.0, 1.0))
    write_markups(tmp_path / "c.mrk.json", [Markup(name, "points", np.array([[5.0, 5.0, 3.0]]), ("",))])
    with pytest.raises(PromptFileError, match="spdnet takes points on the target only"):
        read_checked_markups(tmp_path / "c.mrk.json", "c", geometry, Labels(("ileum",), ((1,),)))


def test_what_is_printed_of_a_file_gives_no_commands_to_the_terminal() -> None:
    assert shown_text("\x1b[2J\x07 x\ty") == "?[2J? x y"
