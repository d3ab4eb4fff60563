"""The display frame: the patient upright, whatever the stored orientation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spdnet.geometry import ImageGeometry
from spdnet.report.frame import display_frame

SHAPE = (3, 4, 5)
SPACING = (3.0, 2.0, 1.0)


def stored_geometries() -> list[ImageGeometry]:
    """All 48 ways to store axes along the patient's."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            direction = np.zeros((3, 3))
            direction[list(order), range(3)] = signs
            found.append(ImageGeometry(SHAPE, SPACING, (7.0, -3.0, 2.0), tuple(direction.ravel())))
    return found


# what the letters at the right and at the bottom of the screen mean in LPS
TOWARDS = {"L": (0, 1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1), "R": (0, -1)}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_letters_tell_where_the_screen_runs(axis: int) -> None:
    for geometry in stored_geometries():
        frame = display_frame(geometry, axis)
        assert frame.letters is not None
        left, right, top, bottom = frame.letters
        start = geometry.voxel_to_world(frame.mapping.points_to_raw(np.array([[0.0, 0, 0]])))[0]
        steps = geometry.voxel_to_world(frame.mapping.points_to_raw(np.eye(3))) - start
        for step, letter, opposite, mm in (
            (steps[1], bottom, top, frame.spacing_mm[1]),
            (steps[2], right, left, frame.spacing_mm[2]),
        ):
            along, sign = TOWARDS[letter]
            assert step[along] == pytest.approx(sign * mm)
            assert TOWARDS[opposite] == (along, -sign)
        assert np.linalg.norm(steps[0]) == pytest.approx(frame.spacing_mm[0])


@pytest.mark.parametrize(
    ("axis", "plane", "letters"),
    [(0, "axial", ("R", "L", "A", "P")), (1, "coronal", ("R", "L", "S", "I")), (2, "sagittal", ("A", "P", "S", "I"))],
)
def test_slices_hang_as_radiologists_hang_them(axis: int, plane: str, letters: tuple[str, ...]) -> None:
    frame = display_frame(stored_geometries()[5], axis)
    assert (frame.plane, frame.letters) == (plane, letters)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_and_voxels_go_to_the_same_place(axis: int) -> None:
    for geometry in stored_geometries()[::5]:
        frame = display_frame(geometry, axis)
        volume = np.zeros(SHAPE)
        volume[2, 1, 3] = 1
        placed = frame.mapping.points_to_network(np.array([[2.0, 1, 3]]))[0]
        assert np.argwhere(frame.mapping.orient(volume)).tolist() == [placed.tolist()]


def test_two_dimensional_images_stay_as_they_are() -> None:
    frame = display_frame(ImageGeometry((1, 4, 5), (1.0, 1.0, 1.0), has_patient_axes=False), 0)
    picture = np.arange(20).reshape(1, 4, 5)
    assert (frame.mapping.orient(picture) == picture).all()
    assert frame.letters is None and frame.plane == ""
