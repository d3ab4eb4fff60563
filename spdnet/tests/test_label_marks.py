"""Label maps of marks: one group of voxels is one point."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels
from spdnet.errors import PromptFileError
from spdnet.prompts import label_marks, read_prompt_file
from spdnet.prompts.label_marks import read_label_marks

LABELS = Labels(("ileum", "colon"), ((1,), (2,)))
DIRECTION = (0.0, -1.0, 0.0, 0.6, 0.0, -0.8, 0.8, 0.0, 0.6)


def marked(*groups: tuple[int, list[tuple[int, int, int]]]) -> sitk.Image:
    """A label map uint8 (6, 12, 14) on a turned grid with the given values at the given voxels z, y, x."""
    array = np.zeros((6, 12, 14), dtype=np.uint8)
    for value, voxels in groups:
        for voxel in voxels:
            array[voxel] = value
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.9, 3.0))
    image.SetOrigin((-20.0, 11.0, 5.0))
    image.SetDirection(DIRECTION)
    return image


def write(image: sitk.Image, folder: Path) -> Path:
    """The image as a file of marks."""
    sitk.WriteImage(image, str(folder / "c.marks.nii.gz"))
    return folder / "c.marks.nii.gz"


def error_of(file: Path, labels: Labels | None = LABELS) -> str:
    """Message of a failed read, which names the file."""
    with pytest.raises(PromptFileError) as caught:
        read_label_marks(file, labels)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_a_group_is_a_point_at_its_centre_of_mass_in_the_world(tmp_path: Path) -> None:
    ball = [(3, 5, 5), (3, 5, 6), (3, 5, 7), (3, 4, 6), (3, 6, 6), (2, 5, 6), (4, 5, 6)]
    image = marked((1, [(0, 0, 0)]), (1, ball), (1, [(1, 9, 12), (2, 10, 13)]))
    (markup,) = read_prompt_file(write(image, tmp_path), labels=LABELS)
    assert (markup.name, markup.kind) == ("ileum", "points")
    expected = [
        image.TransformContinuousIndexToPhysicalPoint(p) for p in ([0.0, 0, 0], [12.5, 9.5, 1.5], [6.0, 5.0, 3.0])
    ]
    np.testing.assert_allclose(markup.points_lps_mm, expected, atol=1e-5)


def test_values_are_classes_and_touching_values_stay_apart(tmp_path: Path) -> None:
    markups = read_label_marks(write(marked((1, [(2, 2, 2)]), (2, [(2, 2, 3), (5, 5, 5)])), tmp_path), LABELS)
    assert [(m.name, len(m.points_lps_mm)) for m in markups] == [("ileum", 1), ("colon", 2)]
    assert markups[1].point_labels == ("2-1", "2-2")


def test_a_value_of_several_regions_speaks_for_each(tmp_path: Path) -> None:
    regions = Labels(("whole", "core"), ((1, 2), (2,)), True, (1, 2))
    markups = read_label_marks(write(marked((1, [(1, 1, 1)]), (2, [(3, 3, 3)])), tmp_path), regions)
    assert [(m.name, m.point_labels) for m in markups] == [("whole", ("1-1", "2-1")), ("core", ("2-1",))]


def test_undeclared_values_are_refused_with_the_declared_ones(tmp_path: Path) -> None:
    text = error_of(write(marked((1, [(1, 1, 1)]), (7, [(2, 2, 2)])), tmp_path))
    assert "value 7" in text and "1 ileum, 2 colon" in text


def test_without_classes_the_value_is_the_name(tmp_path: Path) -> None:
    (markup,) = read_label_marks(write(marked((7, [(2, 2, 2)])), tmp_path))
    assert markup.name == "label 7"


def test_an_empty_map_holds_no_points(tmp_path: Path) -> None:
    assert read_label_marks(write(marked(), tmp_path), LABELS) == []


def test_drawings_are_told_from_marks(tmp_path: Path) -> None:
    corner = [(2, y, 2) for y in range(2, 9)] + [(2, 8, x) for x in range(3, 9)]
    text = error_of(write(marked((1, corner)), tmp_path))
    assert "group of 13 voxels of value 1" in text and "no mark" in text


def test_compact_segmentations_are_refused_and_balls_pass(tmp_path: Path) -> None:
    def map_of(shape: tuple[int, ...], box: tuple[slice, ...], spacing_xyz: tuple[float, ...]) -> Path:
        array = np.zeros(shape, dtype=np.uint8)
        array[box] = 1
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_xyz)
        return write(image, tmp_path)

    block = np.s_[2:6, 5:15, 6:16]
    text = error_of(map_of((8, 20, 24), block, (1.0, 1.2, 4.0)))
    assert "a group of 400 voxels of value 1 around voxel (z 3.5, y 9.5, x 10.5) is 10 x 10 x 4 voxels large" in text
    assert "a quarter of the map" in text and "mark single voxels or small balls" in text
    line = map_of((8, 200, 240), np.s_[3, 20:22, 30:71], (0.7, 0.7, 4.0))
    assert "is 28 mm long, more than the 20 mm that a mark may have" in error_of(line)
    large_ball = np.linalg.norm(np.indices((9, 9, 9)) - 4, axis=0) < 4.5
    ball = map_of((90, 90, 90), np.s_[20:29, 30:39, 40:49], (1.0, 1.0, 1.0))
    image = sitk.ReadImage(str(ball))
    array = sitk.GetArrayFromImage(image)
    array[20:29, 30:39, 40:49] *= large_ball
    moved = sitk.GetImageFromArray(array)
    moved.CopyInformation(image)
    for passes in (ball, write(moved, tmp_path), map_of((3, 5, 5), np.s_[0:3, 0:5, 0:5], (0.5, 0.5, 10.0))):
        (markup,) = read_label_marks(passes, LABELS)
        assert len(markup.points_lps_mm) == 1


def test_segmentations_are_refused_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(marked((1, [(2, 2, x) for x in range(5)])), tmp_path)
    monkeypatch.setattr(label_marks, "MAX_MARKED_VOXELS", 4)
    assert "is this a segmentation?" in error_of(file)
    monkeypatch.setattr(label_marks, "MAX_VOXELS", 100)
    assert "more than maps of marks may have" in error_of(file)


def test_disagreeing_forms_of_the_header_are_an_error(tmp_path: Path) -> None:
    file = write(marked((1, [(2, 2, 2)])), tmp_path)
    nifti = nibabel.load(file)
    moved = nifti.affine.copy()
    moved[0, 3] += 45
    nifti.set_sform(moved, code=2)
    nifti.set_qform(nifti.get_qform(), code=1)
    nibabel.save(nifti, file)
    text = error_of(file)
    assert "two frames" in text and "45 mm" in text


def test_what_is_no_label_map_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.marks.nii.gz"
    assert "no such file" in error_of(file)
    file.write_bytes(b"\x1f\x8b garbage")
    assert "label map of marks" in error_of(file)
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 4, 4), 0.5, dtype=np.float32)), str(file))
    assert "not an integer" in error_of(file)
