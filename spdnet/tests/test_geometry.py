"""Geometry: every map against an independent one, and every inverse against its map."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.geometry import (
    CaseMapping,
    ImageGeometry,
    SliceTransform,
    default_slicing_axis,
    nearest_index,
    plan_case_mapping,
    rescale_points,
)
from spdnet.geometry.image_geometry import axis_from_name, axis_name
from spdnet.geometry.slice_transform import transform_slices

IDENTITY = np.eye(3)
FLIPPED = np.diag([-1.0, -1.0, 1.0])
PERMUTED = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def rotation(angles_degrees: tuple[float, float, float]) -> np.ndarray:
    """Proper rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_degrees)):
        turn = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


DIRECTIONS = {
    "identity": IDENTITY,
    "flipped": FLIPPED,
    "permuted": PERMUTED,
    "oblique": rotation((11.0, -7.0, 19.0)),
    "oblique permuted": rotation((5.0, 13.0, -9.0)) @ PERMUTED,
}
SPACINGS_XYZ = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (0.7, 0.9, 3.0)}
GRIDS = list(itertools.product(DIRECTIONS, SPACINGS_XYZ))


def make_image(direction: str, spacing: str, size_xyz: tuple[int, int, int] = (7, 6, 5)) -> sitk.Image:
    """Float image with distinct voxels on one of the grids."""
    shape = size_xyz[::-1]
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    image.SetSpacing(SPACINGS_XYZ[spacing])
    image.SetOrigin((-31.0, 17.0, 203.0))
    image.SetDirection(DIRECTIONS[direction].ravel().tolist())
    return image


def blob(shape: tuple[int, ...], centre: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Gaussian spot, float32."""
    grid = np.indices(shape).reshape(len(shape), -1).T
    return np.exp(-((grid - centre) ** 2).sum(axis=1) / (2 * sigma**2)).reshape(shape).astype(np.float32)


def centroid(array: np.ndarray) -> np.ndarray:
    """Centre of mass, in indices."""
    grid = np.indices(array.shape).reshape(array.ndim, -1)
    return (grid * array.ravel()).sum(axis=1) / array.sum()


# world and voxel


@pytest.mark.parametrize(("direction", "spacing"), GRIDS)
def test_world_to_voxel_agrees_with_simpleitk(direction: str, spacing: str) -> None:
    image = make_image(direction, spacing)
    geometry = ImageGeometry.from_sitk(image)
    world = np.random.default_rng(0).uniform(-300, 300, size=(20, 3))
    expected = [image.TransformPhysicalPointToContinuousIndex(p)[::-1] for p in world.tolist()]
    np.testing.assert_allclose(geometry.world_to_voxel(world), expected, atol=1e-9)
    np.testing.assert_allclose(geometry.voxel_to_world(geometry.world_to_voxel(world)), world, atol=1e-9)


@pytest.mark.parametrize(("direction", "spacing"), GRIDS)
def test_voxel_to_world_agrees_with_nibabel(direction: str, spacing: str, tmp_path: Path) -> None:
    image = make_image(direction, spacing)
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    nifti = nibabel.nifti1.Nifti1Image.from_filename(tmp_path / "image.nii.gz")
    geometry = ImageGeometry.from_sitk(image)
    voxels_zyx = np.random.default_rng(1).uniform(-1, 7, size=(20, 3))
    ras = nibabel.affines.apply_affine(nifti.affine, voxels_zyx[:, ::-1])
    np.testing.assert_allclose(geometry.voxel_to_world(voxels_zyx) * [-1, -1, 1], ras, atol=1e-4)  # float32 header


@pytest.mark.parametrize(("direction", "spacing"), GRIDS)
def test_geometry_survives_sitk_and_json(direction: str, spacing: str) -> None:
    image = make_image(direction, spacing)
    geometry = ImageGeometry.from_sitk(image)
    copy = sitk.GetImageFromArray(sitk.GetArrayFromImage(image))
    geometry.apply_to_sitk(copy)
    assert copy.GetDirection() == image.GetDirection()
    assert copy.GetOrigin() == image.GetOrigin()
    assert copy.GetSpacing() == image.GetSpacing()
    assert ImageGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_2d_image_is_one_slice_and_survives_sitk() -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 6), dtype=np.uint8))
    image.SetSpacing((0.5, 0.25))
    image.SetOrigin((3.0, 4.0))
    geometry = ImageGeometry.from_sitk(image)
    assert geometry.shape_zyx == (1, 4, 6)
    assert geometry.canonical_axes() == ((0, 1, 2), (False, False, False))
    np.testing.assert_allclose(geometry.voxel_to_world(np.array([[0, 2, 1]])), [[3.5, 4.5, 0]])
    copy = sitk.GetImageFromArray(np.zeros((4, 6), dtype=np.uint8))
    geometry.apply_to_sitk(copy)
    assert (copy.GetSpacing(), copy.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())


def test_4d_image_is_refused() -> None:
    with pytest.raises(ValueError, match="4 dimensions"):
        ImageGeometry.from_sitk(sitk.Image([2, 2, 2, 2], sitk.sitkUInt8))


def test_image_ends_half_a_voxel_beyond_the_outer_centres() -> None:
    geometry = ImageGeometry((5, 6, 7), (1.0, 1.0, 1.0))
    points = np.array([[-0.5, 0, 0], [-0.51, 0, 0], [4.49, 5.49, 6.49], [4.5, 0, 0], [0, 5.5, 0], [0, 0, 6.5]])
    assert geometry.contains(points).tolist() == [True, False, True, False, False, False]


def test_nearest_index_rounds_halves_up() -> None:
    assert nearest_index(np.array([-0.5, 0.49, 0.5, 2.5, 3.5])).tolist() == [0, 0, 1, 3, 4]


def test_difference_names_what_differs_and_forgives_float_noise() -> None:
    geometry = ImageGeometry((5, 6, 7), (3.0, 1.0, 1.0))
    assert geometry.difference(ImageGeometry((5, 6, 7), (3.000001, 1.0, 1.0))) is None
    assert "shape" in str(geometry.difference(ImageGeometry((5, 6, 8), (3.0, 1.0, 1.0))))
    flipped = ImageGeometry((5, 6, 7), (3.0, 1.0, 1.0), direction=tuple(FLIPPED.ravel()))
    assert "direction" in str(geometry.difference(flipped))


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((3, 1, 1), 0),
        ((1, 3, 1), 1),
        ((1, 1, 3), 2),
        ((1, 1, 1), 0),
        ((1.0, 1.005, 1.0), 0),
        ((1.0, 1.02, 1.0), 1),
        ((1, 2, 2), 1),
    ],
)
def test_slices_lie_across_the_largest_spacing_and_axial_in_a_tie(spacing: tuple[float, ...], axis: int) -> None:
    assert default_slicing_axis(spacing) == axis


def test_axis_names_are_the_directions_of_increase() -> None:
    assert [axis_name(a) for a in range(3)] == ["S", "P", "L"]
    assert [axis_from_name(n) for n in "SPL"] == [0, 1, 2]


# raw voxel and network


CODES = ["".join(c) for p in itertools.permutations(["LR", "PA", "SI"]) for c in itertools.product(*p)]


@pytest.mark.parametrize("slicing_axis", [0, 1, 2])
def test_all_48_stored_orientations_give_the_same_slices_and_points(slicing_axis: int) -> None:
    assert len(set(CODES)) == 48
    image = make_image("identity", "anisotropic")
    world = np.array([[-29.0, 19.5, 205.0], [-28.2, 20.0, 210.3]])
    reference = None
    for code in CODES:
        stored = sitk.DICOMOrient(image, code)
        geometry = ImageGeometry.from_sitk(stored)
        mapping = plan_case_mapping(geometry, slicing_axis, 24, 0.5)
        slices = mapping.image_to_network(sitk.GetArrayFromImage(stored)[None])
        points = mapping.points_to_network(geometry.world_to_voxel(world))
        if reference is None:
            reference = slices, points
        np.testing.assert_array_equal(slices, reference[0], err_msg=code)
        np.testing.assert_allclose(points, reference[1], atol=1e-9, err_msg=code)


def test_canonical_slices_are_the_lps_array() -> None:
    image = make_image("identity", "isotropic", (6, 6, 5))
    for code in ("LPS", "RAS", "PIR"):
        stored = sitk.DICOMOrient(image, code)
        mapping = plan_case_mapping(ImageGeometry.from_sitk(stored), 0, 6, 1.0)
        slices = mapping.image_to_network(sitk.GetArrayFromImage(stored)[None])
        np.testing.assert_array_equal(slices[:, 0], sitk.GetArrayFromImage(image))


def mappings() -> list[CaseMapping]:
    """Permutations, flips, crops, scales and paddings, mixed."""
    shape = (20, 24, 28)
    found = []
    for number, permutation in enumerate(itertools.permutations(range(3))):
        sizes = [shape[a] for a in permutation]
        crop = tuple((number % 3, size - number % 2) for size in sizes)
        rows, columns = (hi - lo for lo, hi in crop[1:])
        scaled = [(rows, columns), (2 * rows, 2 * columns), (round(1.5 * rows), round(0.75 * columns))][number % 3]
        flips = tuple(bool((number + 1) >> i & 1) for i in range(3))
        found.append(CaseMapping(shape, permutation, flips, crop, scaled, (3, number), 64))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("mapping", mappings(), ids=lambda m: f"{m.permutation}{m.flips}{m.scaled_size}")
class TestCaseMapping:
    def test_points_return(self, mapping: CaseMapping) -> None:
        points = np.random.default_rng(2).uniform(-5, 30, size=(30, 3))
        kept = points.copy()
        np.testing.assert_allclose(mapping.points_to_raw(mapping.points_to_network(points)), points, atol=1e-9)
        np.testing.assert_allclose(mapping.points_to_network(mapping.points_to_raw(points)), points, atol=1e-9)
        np.testing.assert_array_equal(points, kept)  # inputs are not changed

    def test_a_spot_lands_where_its_point_does(self, mapping: CaseMapping) -> None:
        centre = np.array([9.0, 12.0, 15.0])
        network = mapping.image_to_network(blob(mapping.raw_shape_zyx, centre)[None])[:, 0]
        np.testing.assert_allclose(centroid(network), mapping.points_to_network(centre)[0], atol=0.06)

    def test_a_mask_lands_where_its_point_does(self, mapping: CaseMapping) -> None:
        centre = np.array([9.0, 12.0, 15.0])
        mask = blob(mapping.raw_shape_zyx, centre, sigma=3) > 0.5
        network = mapping.masks_to_network(mask[None])
        assert network.dtype == np.uint8 and set(np.unique(network)) == {0, 1}
        np.testing.assert_allclose(
            centroid(network[:, 0].astype(float)), mapping.points_to_network(centre)[0], atol=0.25
        )

    def test_a_network_spot_returns_to_its_raw_point(self, mapping: CaseMapping) -> None:
        centre = mapping.points_to_network(np.array([9.0, 12.0, 15.0]))[0]
        network = blob((mapping.n_slices, 64, 64), centre, sigma=2)[:, None]
        raw = mapping.probabilities_to_raw(network)
        assert raw.shape == (1, *mapping.raw_shape_zyx)
        np.testing.assert_allclose(centroid(raw[0]), [9.0, 12.0, 15.0], atol=0.06)

    def test_orient_and_json_return(self, mapping: CaseMapping) -> None:
        array = np.random.default_rng(3).random((2, *mapping.raw_shape_zyx))
        np.testing.assert_array_equal(mapping.unorient(mapping.orient(array)), array)
        assert CaseMapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


def test_without_scaling_the_way_there_and_back_is_the_identity_inside_the_crop() -> None:
    mapping = CaseMapping((6, 9, 8), (2, 0, 1), (True, False, True), ((1, 7), (0, 5), (2, 9)), (5, 7), (4, 1), 10)
    image = np.random.default_rng(4).random((2, 6, 9, 8)).astype(np.float32)
    returned = mapping.probabilities_to_raw(mapping.image_to_network(image))
    inside = np.zeros((6, 9, 8), dtype=bool)
    mapping.orient(inside)[1:7, 0:5, 2:9] = True
    np.testing.assert_array_equal(returned[:, inside], image[:, inside])
    assert not returned[:, ~inside].any()


def test_plan_makes_pixels_square_and_shrinks_what_does_not_fit() -> None:
    geometry = ImageGeometry((10, 40, 60), (3.0, 1.0, 0.5))
    mapping = plan_case_mapping(geometry, 0, 64, 1.0)
    assert mapping.scaled_size == (40, 30)
    assert mapping.content_box == ((12, 52), (17, 47))
    small = plan_case_mapping(geometry, 0, 20, 1.0)
    assert small.scaled_size == (20, 15)
    assert small.scale == pytest.approx((0.5, 0.25))


def test_plan_crops_along_canonical_axes() -> None:
    geometry = ImageGeometry((10, 40, 60), (1.0, 1.0, 1.0), direction=tuple(FLIPPED.ravel()))
    mapping = plan_case_mapping(geometry, 1, 64, 1.0, [(2, 8), (10, 30), (0, 60)])
    assert mapping.crop_box == ((10, 30), (2, 8), (0, 60))
    assert mapping.n_slices == 20
    # canonical posterior index 10 is raw row 29, for the stored rows run to anterior
    np.testing.assert_allclose(mapping.points_to_network(np.array([[2, 29, 59]]))[0, 0], 0)


def test_rescaled_points_keep_their_place_in_the_picture() -> None:
    corners = np.array([[-0.5, -0.5], [255.5, 255.5], [127.5, 0.0]])
    np.testing.assert_allclose(rescale_points(corners, 256, 1024), [[-0.5, -0.5], [1023.5, 1023.5], [511.5, 1.5]])


# augmentation


@pytest.mark.parametrize(
    "transform",
    [
        SliceTransform(),
        SliceTransform(flip_columns=True),
        SliceTransform(flip_rows=True),
        SliceTransform(angle_degrees=25.0),
        SliceTransform(flip_columns=True, angle_degrees=-40.0, scale=0.8),
        SliceTransform(flip_rows=True, angle_degrees=90.0, scale=1.2),
    ],
)
def test_a_dot_moves_as_its_point(transform: SliceTransform) -> None:
    centre = np.array([20.0, 33.0])
    moved = transform.slices(torch.from_numpy(blob((48, 48), centre)[None, None]))[0, 0].numpy()
    np.testing.assert_allclose(centroid(moved), transform.points(centre[None], 48)[0], atol=0.05)


def test_positive_angles_turn_the_row_axis_to_the_column_axis() -> None:
    moved = SliceTransform(angle_degrees=90.0, scale=2.0).points(np.array([[25.5, 15.5]]), 32)
    np.testing.assert_allclose(moved, [[15.5, 35.5]])


def test_slices_of_a_batch_each_get_their_own_transform() -> None:
    picture = torch.from_numpy(blob((32, 32), np.array([10.0, 12.0]))[None, None])
    both = transform_slices([SliceTransform(), SliceTransform(flip_columns=True)], picture.expand(2, -1, -1, -1))
    torch.testing.assert_close(both[0], picture[0])
    torch.testing.assert_close(both[1], picture[0].flip(-1), atol=1e-5, rtol=0)


def test_draws_repeat_and_stay_in_range() -> None:
    draws = [
        SliceTransform.draw(np.random.default_rng(seed), 15.0, (0.9, 1.1), flip_columns=True, flip_rows=False)
        for seed in range(50)
    ]
    again = SliceTransform.draw(np.random.default_rng(7), 15.0, (0.9, 1.1), flip_columns=True, flip_rows=False)
    assert again == draws[7]
    assert all(abs(d.angle_degrees) <= 15 and 0.9 <= d.scale <= 1.1 and not d.flip_rows for d in draws)
    assert {d.flip_columns for d in draws} == {True, False}
