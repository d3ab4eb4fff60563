"""Every reader: voxels, grids, what it writes and refuses; and that nnU-Net's reader of its name agrees."""

from __future__ import annotations

import itertools
import json
import logging
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from spdnet.dataset.image_io import (
    NaturalImage2DIO,
    NibabelIO,
    NibabelIOWithReorient,
    ReaderWriter,
    SimpleITKIO,
    SimpleITKIOWithReorient,
    Tiff3DIO,
    choose_reader,
    get_reader,
)
from spdnet.dataset.image_io.base import whole_file
from spdnet.dataset.image_io.reorient import AxisTurn
from spdnet.errors import DatasetError, SPDError
from spdnet.geometry import ImageGeometry

ANGLE = np.deg2rad(20.0)
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])
TILT = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])
PERMUTE = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
DIRECTIONS = {
    "identity": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": PERMUTE,
    "oblique": TURN @ TILT,
    "oblique_permuted": TURN @ TILT @ PERMUTE,
}
VOLUME_READERS: list[tuple[type[ReaderWriter], str]] = [
    (SimpleITKIO, ".nii.gz"),
    (SimpleITKIO, ".nrrd"),
    (SimpleITKIO, ".mha"),
    (SimpleITKIOWithReorient, ".nii.gz"),
    (SimpleITKIOWithReorient, ".mha"),
    (NibabelIO, ".nii.gz"),
    (NibabelIO, ".nii"),
    (NibabelIOWithReorient, ".nii.gz"),
]
SHAPE = (3, 5, 4)


def random_array(shape: tuple[int, ...], high: int = 200, dtype: Any = np.uint8) -> np.ndarray:
    """Integers below `high`, the same at every call."""
    return np.random.default_rng(5).integers(0, high, size=shape).astype(dtype)


def write_volume(file: Path, array: np.ndarray, direction: str = "oblique_permuted") -> Path:
    """Write an array with SimpleITK on an anisotropic grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((12.0, -34.0, 56.5))
    image.SetDirection(DIRECTIONS[direction].ravel().tolist())
    sitk.WriteImage(image, str(file))
    return file


def write_tiff3(folder: Path, name: str, array: np.ndarray, spacing: list[float] | None = None) -> Path:
    """Write a 3D TIFF, and its spacing file."""
    tifffile.imwrite(folder / name, array, photometric="minisblack")
    if spacing is not None:
        case = name.removesuffix(".tif").removesuffix("_0000")
        (folder / f"{case}.json").write_text(json.dumps({"spacing": spacing}), encoding="utf-8")
    return folder / name


# volumes


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("reader", "ending"), VOLUME_READERS)
def test_readers_agree_on_voxels_and_grid(
    reader: type[ReaderWriter], ending: str, direction: str, tmp_path: Path
) -> None:
    array = random_array(SHAPE, 3000, np.int16) - 1000
    file = write_volume(tmp_path / f"a_0000{ending}", array, direction)
    image, geometry = reader().read_image([file])
    np.testing.assert_array_equal(image[0], array)
    assert geometry.difference(ImageGeometry.from_sitk(sitk.ReadImage(str(file))), 1e-4) is None
    assert reader().read_geometry(file) == geometry


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("reader", "ending"), VOLUME_READERS)
def test_segmentations_return_with_voxels_and_grid(
    reader: type[ReaderWriter], ending: str, direction: str, tmp_path: Path
) -> None:
    _, geometry = reader().read_image([write_volume(tmp_path / f"a_0000{ending}", random_array(SHAPE), direction)])
    label_map = random_array(SHAPE, 4)
    reader().write_segmentation(tmp_path / f"out{ending}", label_map, geometry)
    returned, grid = reader().read_label(tmp_path / f"out{ending}")
    np.testing.assert_array_equal(returned, label_map)
    assert grid.difference(geometry, 1e-4) is None
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([f"a_0000{ending}", f"out{ending}"])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("reader", "ending"), VOLUME_READERS)
def test_reader_order_and_properties_have_inverses(
    reader: type[ReaderWriter], ending: str, direction: str, tmp_path: Path
) -> None:
    image, geometry = reader().read_image([write_volume(tmp_path / f"a_0000{ending}", random_array(SHAPE), direction)])
    turned = reader().to_reader_order(image, geometry)
    np.testing.assert_array_equal(reader().from_reader_order(turned, geometry), image)
    properties = pickle.loads(pickle.dumps(reader().properties(geometry)))
    returned = reader().geometry_from_properties(properties, turned.shape[1:])
    assert returned.difference(geometry, 1e-6) is None


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient, Tiff3DIO])
def test_properties_of_spacing_alone_are_axis_aligned(reader: type[ReaderWriter]) -> None:
    geometry = reader().geometry_from_properties({"spacing": [3.0, 0.5, 0.75]}, (4, 5, 6))
    assert geometry.spacing_zyx_mm == (3.0, 0.5, 0.75) and geometry.shape_zyx == (4, 5, 6)
    array = random_array((4, 5, 6))
    np.testing.assert_array_equal(reader().to_reader_order(array, geometry), array)
    with pytest.raises(DatasetError, match="spacing"):
        reader().geometry_from_properties({}, (4, 5, 6))


@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_reorienting_readers_hand_over_ras(reader: type[ReaderWriter], tmp_path: Path) -> None:
    file = write_volume(tmp_path / "a_0000.nii.gz", random_array(SHAPE), "permuted")
    image, geometry = reader().read_image([file])
    canonical = nibabel.as_closest_canonical(nibabel.load(file))
    np.testing.assert_array_equal(
        reader().to_reader_order(image, geometry)[0], np.asarray(canonical.dataobj).transpose(2, 1, 0)
    )


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_turns_move_no_voxel_and_have_inverses(
    permutation: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    turn = AxisTurn(permutation, flips)
    array = np.arange(60).reshape(SHAPE)
    direction = tuple(DIRECTIONS["oblique_permuted"].ravel().tolist())
    geometry = ImageGeometry(SHAPE, (3.0, 0.5, 0.75), (1.0, 2.0, 3.0), direction)
    turned = turn.geometry(geometry)
    assert turned.shape_zyx == turn.array(array).shape
    for value in (0, 7, 59):
        before = geometry.voxel_to_world(np.argwhere(array == value))
        np.testing.assert_allclose(turned.voxel_to_world(np.argwhere(turn.array(array) == value)), before, atol=1e-9)
    np.testing.assert_array_equal(turn.inverse().array(turn.array(array[None])), array[None])
    assert turn.inverse().geometry(turned).difference(geometry, 1e-9) is None


def test_the_fourth_axis_holds_channels(tmp_path: Path) -> None:
    arrays = [random_array(SHAPE, 50 + i) for i in range(2)]
    volume = sitk.ReadImage(str(write_volume(tmp_path / "b_0000.nii.gz", arrays[0])))
    volumes = [sitk.GetImageFromArray(a) for a in arrays]
    for image in volumes:
        image.CopyInformation(volume)
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "a_0000.nii.gz"))
    channels, geometry = SimpleITKIO().read_image([tmp_path / "a_0000.nii.gz"])
    np.testing.assert_array_equal(channels, np.stack(arrays))
    assert geometry.difference(ImageGeometry.from_sitk(volume), 1e-4) is None
    with pytest.raises(DatasetError, match="2 values per voxel"):
        SimpleITKIO().read_label(tmp_path / "a_0000.nii.gz")


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_header_of_absurd_size_asks_for_no_memory(reader: type[ReaderWriter], tmp_path: Path) -> None:
    file = tmp_path / "a_0000.nii"
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).header
    header.set_data_shape((30000, 30000, 30000))
    file.write_bytes(header.binaryblock + bytes(4 + 8))
    for read in (reader().read_geometry, reader().read_label, lambda f: reader().read_image([f])):
        with pytest.raises(DatasetError, match="claims 30000 x 30000 x 30000 voxels"):
            read(file)


def test_nan_is_seen_by_nibabel(tmp_path: Path) -> None:
    array = np.ones(SHAPE, np.float32)
    array[1, 2, 3] = np.nan
    file = write_volume(tmp_path / "a_0000.nii", array)
    with pytest.raises(DatasetError, match="NaN"):
        NibabelIO().read_image([file])
    assert choose_reader({"file_ending": ".nii"}, file).name == "NibabelIO"


def test_sheared_affines_survive_nibabel(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0.5, 0, 3], [0, 1.5, 0.25, -4], [0, 0, 4, 5], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(random_array((4, 5, 3)), affine), tmp_path / "a.nii.gz")
    label_map, geometry = NibabelIO().read_label(tmp_path / "a.nii.gz")
    NibabelIO().write_segmentation(tmp_path / "b.nii.gz", label_map, geometry)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "b.nii.gz").affine, affine)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f.write_text("no image", encoding="utf-8"), "cannot read"),
        (lambda f: nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2), np.uint8), np.eye(4)), f), "2 dimensions"),
        (lambda f: nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.uint8), np.eye(4)), f), "4 dimensions"),
        (
            lambda f: nibabel.save(
                nibabel.Nifti1Image(np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), f
            ),
            "several values",
        ),
    ],
)
def test_nibabel_refuses_what_is_no_volume(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.nii")
    with pytest.raises(DatasetError, match=message):
        NibabelIO().read_geometry(tmp_path / "a.nii", "a")


def test_affine_without_inverse_is_refused() -> None:
    for affine in (np.diag([1.0, 0, 1, 1]), np.ones((4, 4)), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="affine"):
            ImageGeometry.from_affine_ras(SHAPE, affine)


def test_2d_volumes_are_refused_by_name_where_nnunet_cannot_turn_them(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkUInt8), str(tmp_path / "a_0000.nii.gz"))
    with pytest.raises(DatasetError, match="2D image"):
        SimpleITKIOWithReorient().read_image([tmp_path / "a_0000.nii.gz"])


# natural images


def save_kinds(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """2D files of many kinds with the channels (c, y, x) that are expected of them."""
    gray, rgb, rgba = random_array((6, 7)), random_array((6, 7, 3)), random_array((6, 7, 4))
    wide = random_array((6, 7), 60000, np.uint16)
    palette = Image.fromarray(rgb).quantize(8)
    palette_rgb = np.asarray(palette.convert("RGB"))
    kinds: dict[str, tuple[Any, np.ndarray]] = {
        "gray.png": (gray, gray[None]),
        "gray.bmp": (gray, gray[None]),
        "wide.png": (wide, wide[None]),
        "rgb.png": (rgb, rgb.transpose(2, 0, 1)),
        "rgb.bmp": (rgb, rgb.transpose(2, 0, 1)),
        "rgba.png": (rgba, rgba.transpose(2, 0, 1)),
        "bits.png": (gray > 100, gray[None] > 100),
        "bits.bmp": (gray > 100, gray[None] > 100),
        "palette.png": (palette, palette_rgb.transpose(2, 0, 1)),
        "palette.bmp": (palette, palette_rgb.transpose(2, 0, 1)),
    }
    files = {}
    for name, (content, expected) in kinds.items():
        image = content if isinstance(content, Image.Image) else Image.fromarray(content)
        image.save(folder / name, dpi=(300, 300))
        files[name] = (folder / name, expected)
    palette.save(folder / "transparent.png", transparency=0)
    files["transparent.png"] = (folder / "transparent.png", palette_rgb.transpose(2, 0, 1))
    for name, array, expected in (
        ("gray.tif", gray, gray[None]),
        ("wide.tif", wide, wide[None]),
        ("float.tif", gray / np.float32(7), gray[None] / np.float32(7)),
        ("rgb.tif", rgb, rgb.transpose(2, 0, 1)),
        ("planes.tif", rgb.transpose(2, 0, 1).copy(), rgb.transpose(2, 0, 1)),
    ):
        tifffile.imwrite(folder / name, array, photometric="rgb" if array.ndim == 3 else None)
        files[name] = (folder / name, expected)
    return files


def test_natural_images_give_gray_or_colours_of_one_slice(tmp_path: Path) -> None:
    for file, expected in save_kinds(tmp_path).values():
        image, geometry = NaturalImage2DIO().read_image([file])
        np.testing.assert_array_equal(image, expected[:, None].astype(np.float32), err_msg=file.name)
        assert geometry == ImageGeometry((1, 6, 7), (1.0, 1.0, 1.0), has_patient_axes=False)
        assert NaturalImage2DIO().read_geometry(file) == geometry


def test_gray_with_alpha_animations_and_volumes_are_refused(tmp_path: Path) -> None:
    gray = Image.fromarray(random_array((6, 7)))
    Image.merge("LA", (gray, gray)).save(tmp_path / "alpha.png")
    gray.save(tmp_path / "moving.png", save_all=True, append_images=[Image.fromarray(random_array((6, 7)) // 2)])
    write_tiff3(tmp_path, "volume.tif", random_array((5, 6, 7)))
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    (tmp_path / "text.tif").write_text("no image", encoding="utf-8")
    (tmp_path / "half.png").write_bytes((tmp_path / "alpha.png").read_bytes()[:60])
    messages = {
        "alpha.png": "alpha channel",
        "moving.png": "animation",
        "volume.tif": r"shape \(5, 6, 7\)",
        "text.png": "cannot read",
        "text.tif": "cannot read",
        "missing.png": "cannot read",
        "half.png": "alpha|cannot read",
    }
    for name, message in messages.items():
        with pytest.raises(DatasetError, match=message):
            NaturalImage2DIO().read_image([tmp_path / name])


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".PNG", ".TIF"])
@pytest.mark.parametrize("high", [4, 300])
def test_natural_segmentations_return(ending: str, high: int, tmp_path: Path) -> None:
    geometry = ImageGeometry((1, 6, 7), (1.0, 1.0, 1.0), has_patient_axes=False)
    label_map = random_array((1, 6, 7), high, np.uint16)
    file = tmp_path / f"out{ending}"
    if ending == ".bmp" and high > 255:
        with pytest.raises(DatasetError, match="BMP"):
            NaturalImage2DIO().write_segmentation(file, label_map, geometry)
        assert not list(tmp_path.iterdir())
        return
    NaturalImage2DIO().write_segmentation(file, label_map, geometry)
    returned, grid = NaturalImage2DIO().read_label(file)
    np.testing.assert_array_equal(returned, label_map)
    assert grid == geometry and [f.name for f in tmp_path.iterdir()] == [file.name]


def test_colour_labels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(random_array((6, 7, 3))).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"3 values per voxel.*palette"):
        NaturalImage2DIO().read_label(tmp_path / "a.png")


def test_natural_properties_hold_one_slice(tmp_path: Path) -> None:
    geometry = NaturalImage2DIO().geometry_from_properties({"spacing": (999, 1, 1)}, (1, 4, 5))
    assert geometry == ImageGeometry((1, 4, 5), (1.0, 1.0, 1.0), has_patient_axes=False)
    assert NaturalImage2DIO().properties(geometry) == {"spacing": (999, 1, 1)}
    with pytest.raises(DatasetError, match="one slice"):
        NaturalImage2DIO().geometry_from_properties({"spacing": (999, 1, 1)}, (2, 4, 5))


# 3D TIFF


def test_tiff_spacing_is_in_its_side_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = random_array((5, 6, 7), 60000, np.uint16)
    with caplog.at_level(logging.WARNING):
        image, geometry = Tiff3DIO().read_image([write_tiff3(tmp_path, "a_1_0000.tif", array, [3, 0.5, 0.75])])
    assert not caplog.text
    np.testing.assert_array_equal(image[0], array)
    assert geometry == ImageGeometry((5, 6, 7), (3.0, 0.5, 0.75))
    label_map, label_geometry = Tiff3DIO().read_label(write_tiff3(tmp_path, "a_1.tif", array))
    np.testing.assert_array_equal(label_map, array)
    assert label_geometry == geometry
    (tmp_path / "a_1.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert Tiff3DIO().read_geometry(tmp_path / "a_1_0000.tif").spacing_zyx_mm == (1.0, 1.0, 1.0)
    assert "no spacing file" in caplog.text and "a_1.json" in caplog.text


def test_tiff_segmentation_gets_a_side_file(tmp_path: Path) -> None:
    geometry = ImageGeometry((5, 6, 3), (3.0, 0.5, 0.75))
    label_map = random_array((5, 6, 3), 4)
    Tiff3DIO().write_segmentation(tmp_path / "a.tif", label_map, geometry)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.json", "a.tif"]
    assert Tiff3DIO().side_file(tmp_path / "a.tif") == tmp_path / "a.json"
    returned, grid = Tiff3DIO().read_label(tmp_path / "a.tif")
    np.testing.assert_array_equal(returned, label_map)
    assert grid == geometry
    assert tifffile.imread(tmp_path / "a.tif").dtype == np.uint8


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"spacing": [1, 2]}', '{"spacing": [1, 0, 1]}', '{"spacing": "a"}']
)
def test_faulty_spacing_files_are_named(content: str, tmp_path: Path) -> None:
    file = write_tiff3(tmp_path, "a_0000.tif", random_array((5, 6, 7)))
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"case a: spacing file .*a\.json"):
        Tiff3DIO().read_geometry(file, "a")


def test_flat_tiff_is_no_volume(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a_0000.tif", random_array((6, 7)))
    with pytest.raises(DatasetError, match="3D images only"):
        Tiff3DIO().read_image([tmp_path / "a_0000.tif"])


# writing


@pytest.mark.parametrize(("highest", "expected"), [(254, np.uint8), (255, np.uint16), (65535, np.uint16)])
def test_stored_type_is_nnunets(highest: int, expected: type, tmp_path: Path) -> None:
    geometry = ImageGeometry(SHAPE, (1.0, 1.0, 1.0))
    label_map = np.zeros(SHAPE, np.int64)
    label_map[0, 0, 0] = highest
    SimpleITKIO().write_segmentation(tmp_path / "a.mha", label_map, geometry)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha")))
    assert stored.dtype == expected and stored.max() == highest


def test_lossy_label_maps_are_refused(tmp_path: Path) -> None:
    geometry = ImageGeometry(SHAPE, (1.0, 1.0, 1.0))
    for label_map, message in (
        (np.zeros(SHAPE, np.float32), "float32"),
        (np.full(SHAPE, -1), "-1"),
        (np.full(SHAPE, 65536), "65536"),
        (np.zeros((1, 1, 1), np.uint8), "not on a grid"),
    ):
        with pytest.raises(DatasetError, match=message):
            SimpleITKIO().write_segmentation(tmp_path / "a.nii.gz", label_map, geometry)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("reader", "name"),
    [(SimpleITKIO, "a.NII.GZ"), (SimpleITKIO, "a.NRRD"), (NibabelIO, "a.NII"), (NibabelIO, "a.NII.GZ")],
)
def test_endings_in_upper_case_are_written_and_read(reader: type[ReaderWriter], name: str, tmp_path: Path) -> None:
    label_map = random_array(SHAPE, 3)
    reader().write_segmentation(tmp_path / name, label_map, ImageGeometry(SHAPE, (1.0, 2.0, 3.0)))
    returned, _ = reader().read_label(tmp_path / name)
    np.testing.assert_array_equal(returned, label_map)
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    file.write_text("old", encoding="utf-8")

    def write_half() -> None:
        with whole_file(file) as partial:
            partial.write_text("ha", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [f.name for f in tmp_path.iterdir()] == ["a.nii.gz"] and file.read_text(encoding="utf-8") == "old"


# choice


def example_files(folder: Path) -> dict[str, Path]:
    """A readable file of each kind that a data set may have."""
    flat = random_array((6, 7))
    Image.fromarray(flat).save(folder / "flat_0000.png")
    Image.fromarray(flat).save(folder / "flat_0000.bmp")
    Image.fromarray(random_array((6, 7, 3))).save(folder / "colour_0000.png")
    tifffile.imwrite(folder / "flat_0000.tif", flat)
    tifffile.imwrite(folder / "flat_0000.tiff", flat)
    write_tiff3(folder, "volume_0000.tif", random_array((5, 6, 7)), [3, 1, 1])
    write_tiff3(folder, "thin_0000.tif", random_array((3, 6, 7)), [3, 1, 1])
    tifffile.imwrite(folder / "volume_0000.tiff", random_array((5, 6, 7)))
    for ending in (".nii.gz", ".nii", ".nrrd", ".mha"):
        write_volume(folder / f"volume_0000{ending}", random_array(SHAPE))
    sitk.WriteImage(sitk.Image([6, 7], sitk.sitkUInt8), str(folder / "flat_0000.nii.gz"))
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    nibabel.save(nibabel.Nifti1Image(random_array(SHAPE), sheared), folder / "sheared_0000.nii.gz")
    nan = np.full(SHAPE, np.nan, np.float32)
    write_volume(folder / "nan_0000.mha", nan)
    return {f.name: f for f in folder.iterdir() if f.suffix != ".json"}


CHOSEN = {
    "flat_0000.png": "NaturalImage2DIO",
    "flat_0000.bmp": "NaturalImage2DIO",
    "colour_0000.png": "NaturalImage2DIO",
    "flat_0000.tif": "NaturalImage2DIO",
    "flat_0000.tiff": None,
    "volume_0000.tif": "Tiff3DIO",
    "thin_0000.tif": "NaturalImage2DIO",  # three planes look like colours
    "volume_0000.tiff": "Tiff3DIO",
    "volume_0000.nii.gz": "SimpleITKIO",
    "volume_0000.nii": "NibabelIO",
    "volume_0000.nrrd": "SimpleITKIO",
    "volume_0000.mha": "SimpleITKIO",
    "flat_0000.nii.gz": "SimpleITKIO",
    "sheared_0000.nii.gz": "NibabelIO",
    "nan_0000.mha": "SimpleITKIO",
}


def choice(content: dict[str, Any], example: Path | None) -> str | None:
    """Name of the chosen reader, None for an error."""
    try:
        return choose_reader(content, example).name
    except DatasetError:
        return None


def ending_of(file: str) -> str:
    return file[file.index(".") :]


def test_example_files_choose_the_reader(tmp_path: Path) -> None:
    files = example_files(tmp_path)
    assert {name: choice({"file_ending": ending_of(name)}, file) for name, file in files.items()} == CHOSEN
    assert choice({"file_ending": ".NII.GZ"}, files["volume_0000.nii.gz"]) == "SimpleITKIO"


def test_dataset_json_can_name_the_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"file_ending": ".nii.gz", "overwrite_image_reader_writer": "SimpleITKIOWithReorient"}
    assert choose_reader(content, tmp_path / "missing.nii.gz").name == "SimpleITKIOWithReorient"
    assert choose_reader({**content, "overwrite_image_reader_writer": "None"}).name == "SimpleITKIO"
    assert not caplog.text
    assert choose_reader({**content, "overwrite_image_reader_writer": "MyIO"}).name == "SimpleITKIO"
    assert "'MyIO' is unknown" in caplog.text
    with pytest.raises(DatasetError, match=r"no reader knows the file ending \.jpg"):
        choose_reader({"file_ending": ".jpg"})
    with pytest.raises(DatasetError, match=r"unknown image reader 'X'.*NaturalImage2DIO.*WithReorient"):
        get_reader("X")


# against the package


def nnunet_reader(name: str) -> Any:
    """nnU-Net's reader of a name."""
    pytest.importorskip("nnunetv2")
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    return recursive_find_reader_writer_by_name(name)()


def check_against_nnunet(reader: ReaderWriter, file: Path, label: Path, out: Path) -> None:
    """Same array and spacing; nnU-Net writes with our properties, we read our grid."""
    theirs = nnunet_reader(reader.name)
    expected, expected_properties = theirs.read_images((str(file),))
    image, geometry = reader.read_image([file])
    np.testing.assert_array_equal(reader.to_reader_order(image, geometry), expected)
    properties = pickle.loads(pickle.dumps(reader.properties(geometry)))
    np.testing.assert_allclose(properties["spacing"], expected_properties["spacing"], rtol=1e-6)
    assert set(properties) == set(expected_properties)
    for key, stuff in expected_properties.items():
        for name, value in stuff.items() if isinstance(stuff, dict) else ():
            if isinstance(value, str):
                assert properties[key][name] == value
            else:
                np.testing.assert_allclose(properties[key][name], value, atol=1e-5)
    label_map, label_geometry = reader.read_label(label)
    expected_label, _ = theirs.read_seg(str(label))
    np.testing.assert_array_equal(reader.to_reader_order(label_map, label_geometry), expected_label[0])
    theirs.write_seg(expected_label[0], str(out), properties)
    returned, grid = reader.read_label(out)
    np.testing.assert_array_equal(returned, label_map)
    assert grid.difference(geometry, 1e-4) is None
    reader.write_segmentation(out, label_map, geometry)
    np.testing.assert_array_equal(theirs.read_seg(str(out))[0], expected_label)


@pytest.mark.nnunet
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("reader", "ending"), VOLUME_READERS)
def test_volume_readers_agree_with_nnunets(
    reader: type[ReaderWriter], ending: str, direction: str, tmp_path: Path
) -> None:
    image = random_array(SHAPE, 3000, np.int16) - 1000
    file = write_volume(tmp_path / f"a_0000{ending}", image, direction)
    label = write_volume(tmp_path / f"a{ending}", random_array(SHAPE, 4), direction)
    check_against_nnunet(reader(), file, label, tmp_path / f"out{ending}")


@pytest.mark.nnunet
def test_2d_nifti_agrees_with_nnunets(tmp_path: Path) -> None:
    for name, high in (("a_0000.nii.gz", 200), ("a.nii.gz", 4)):
        image = sitk.GetImageFromArray(random_array((6, 7), high))
        image.SetSpacing((0.5, 0.75))
        image.SetOrigin((3.0, 4.0))
        sitk.WriteImage(image, str(tmp_path / name))
    check_against_nnunet(SimpleITKIO(), tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz", tmp_path / "out.nii.gz")


@pytest.mark.nnunet
def test_4d_images_agree_with_nnunets(tmp_path: Path) -> None:
    volumes = [sitk.GetImageFromArray(random_array(SHAPE, 50 + i)) for i in range(2)]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "a_0000.nii.gz"))
    expected, expected_properties = nnunet_reader("SimpleITKIO").read_images((str(tmp_path / "a_0000.nii.gz"),))
    image, geometry = SimpleITKIO().read_image([tmp_path / "a_0000.nii.gz"])
    np.testing.assert_array_equal(image, expected)
    assert SimpleITKIO().properties(geometry)["spacing"] == expected_properties["spacing"]


@pytest.mark.nnunet
@pytest.mark.filterwarnings("ignore")
def test_natural_images_agree_with_nnunets(tmp_path: Path) -> None:
    label_map = random_array((6, 7), 4)
    for file, _ in save_kinds(tmp_path).values():
        label = tmp_path / f"label{file.suffix}"
        if file.suffix == ".tif":
            tifffile.imwrite(label, label_map)
        else:
            Image.fromarray(label_map).save(label)
        check_against_nnunet(NaturalImage2DIO(), file, label, tmp_path / f"out{file.suffix}")


@pytest.mark.nnunet
def test_16_bit_colours_agree_with_nnunets(tmp_path: Path) -> None:
    colours = sitk.GetImageFromArray(random_array((6, 7, 3), 60000, np.uint16), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "a_0000.png"))
    expected, _ = nnunet_reader("NaturalImage2DIO").read_images((str(tmp_path / "a_0000.png"),))
    np.testing.assert_array_equal(NaturalImage2DIO().read_image([tmp_path / "a_0000.png"])[0], expected)


@pytest.mark.nnunet
@pytest.mark.parametrize("spacing", [[3.0, 0.5, 0.75], None])
def test_3d_tiffs_agree_with_nnunets(spacing: list[float] | None, tmp_path: Path) -> None:
    file = write_tiff3(tmp_path, "a_0000.tif", random_array((5, 6, 7), 60000, np.uint16), spacing)
    label = write_tiff3(tmp_path, "a.tif", random_array((5, 6, 7), 4))
    check_against_nnunet(Tiff3DIO(), file, label, tmp_path / "out.tif")


@pytest.mark.nnunet
@pytest.mark.filterwarnings("ignore")
def test_choice_agrees_with_nnunets(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json as determine

    def their_choice(content: dict[str, Any], example: Path | None) -> str | None:
        try:
            return str(determine(content, str(example) if example else None, verbose=False).__name__)
        except RuntimeError:
            return None

    files = example_files(tmp_path)
    for name, file in files.items():
        content = {"file_ending": ending_of(name)}
        assert choice(content, file) == their_choice(content, file), name
    endings = (".png", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".jpg", ".NII.GZ", ".PNG")
    for ending in endings:
        assert choice({"file_ending": ending}, None) == their_choice({"file_ending": ending}, None), ending
    example = files["volume_0000.nii.gz"]
    for reader in ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient", "Tiff3DIO", "None", "NoSuchIO"):
        content = {"file_ending": ".nii.gz", "overwrite_image_reader_writer": reader}
        assert choice(content, example) == their_choice(content, example), reader


# ---- what libraries read without a word -------------------------------------------------------------------


def test_a_nifti_file_beside_its_packed_twin_is_refused_where_itk_would_read_it(tmp_path: Path) -> None:
    grid = ImageGeometry((4, 5, 6), (3.0, 1.0, 1.0))
    packed, twin = tmp_path / "c.nii.gz", tmp_path / "c.nii"
    for file, value in ((packed, 1), (twin, 7)):
        get_reader("NibabelIO").write_segmentation(file, np.full(grid.shape_zyx, value, np.uint8), grid)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(packed))) == 7).all(), "else the check may go"
    for reader in ("SimpleITKIO", "SimpleITKIOWithReorient"):
        with pytest.raises(DatasetError, match=r"c\.nii lies beside .*c\.nii\.gz"):
            get_reader(reader).read_label(packed)
        assert (get_reader(reader).read_label(twin)[0] == 7).all()
    assert (get_reader("NibabelIO").read_label(packed)[0] == 1).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ElementSpacing = -1 1 3", "spacing"), ("TransformMatrix = 2 0 0 0 1 0 0 0 1", "direction"),
        ("TransformMatrix = 0.5 0 0 0 0.5 0 0 0 0.5", "direction"),
    ],
)  # fmt: skip
def test_numbers_that_place_no_voxels_are_refused(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8)), str(file))
    name = line.split()[0]
    file.write_bytes(re.sub(rf"{name} = [^\n]*".encode(), line.encode(), file.read_bytes()))
    with pytest.raises(DatasetError, match=rf"c\.mha is an image with .*{message}"):
        get_reader("SimpleITKIO").read_geometry(file)


def test_directions_of_two_decimals_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8)), str(file))
    line = b"TransformMatrix = 0.71 -0.71 0 0.71 0.71 0 0 0 1"
    file.write_bytes(re.sub(rb"TransformMatrix = [^\n]*", line, file.read_bytes()))
    geometry = get_reader("SimpleITKIO").read_geometry(file)
    np.testing.assert_allclose(geometry.direction, sitk.ReadImage(str(file)).GetDirection())


def test_a_gipl_image_of_another_spacing_than_numbers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.gipl"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8)), str(file))
    content = file.read_bytes()
    for spacing in (-1.0, float("nan")):
        file.write_bytes(content[:10] + struct.pack(">f", spacing) + content[14:])
        with pytest.raises(DatasetError, match=r"c\.gipl is an image with the spacing"):
            get_reader("SimpleITKIO").read_geometry(file)


def test_complex_voxels_are_refused_by_both_readers(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((5, 5, 5), 1 + 2j, np.complex64), np.eye(4)), tmp_path / "c.nii.gz")
    for reader in ("SimpleITKIO", "NibabelIO"):
        with pytest.raises(DatasetError, match=r"c\.nii\.gz"):
            get_reader(reader).read_image([tmp_path / "c.nii.gz"])


def test_a_label_map_that_nifti_cannot_hold(tmp_path: Path) -> None:
    grid = ImageGeometry((1, 2, 40000), (1.0, 1.0, 1.0))
    for reader in ("NibabelIO", "SimpleITKIO"):
        with pytest.raises(SPDError, match=r"c\.nii\.gz"):
            get_reader(reader).write_segmentation(tmp_path / "c.nii.gz", np.zeros(grid.shape_zyx, np.uint8), grid)
    assert not list(tmp_path.iterdir())


def test_channels_of_microscopes_are_on_one_grid_only_if_they_are(tmp_path: Path) -> None:
    files = [tmp_path / f"c_000{channel}.nrrd" for channel in (0, 1)]
    for file, origin in zip(files, (0.0, 0.008), strict=True):
        image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))
        image.SetSpacing((0.004, 0.004, 0.004))
        image.SetOrigin((origin, 0.0, 0.0))
        sitk.WriteImage(image, str(file))
    with pytest.raises(DatasetError, match="differ: corners up to 0.008 mm apart"):
        get_reader("SimpleITKIO").read_image(files)


def test_only_a_channel_number_is_cut_off_the_name_of_a_tiff(tmp_path: Path) -> None:
    reader = get_reader("Tiff3DIO")
    for name, spacing in (("patient10", 3.0), ("pati", 9.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"spacing": [spacing, 0.5, 0.5]}), encoding="utf-8")
    for name in ("patient10.tif", "patient10_0000.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((4, 5, 6), np.uint8))
        assert reader.read_geometry(tmp_path / name).spacing_zyx_mm == (3.0, 0.5, 0.5)


def test_a_tiff_is_there_only_with_its_spacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    reader, grid = get_reader("Tiff3DIO"), ImageGeometry((4, 5, 6), (3.0, 0.5, 0.5))
    monkeypatch.setattr(reader, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        reader.write_segmentation(tmp_path / "c.tif", np.zeros(grid.shape_zyx, np.uint8), grid)
    assert [f.name for f in tmp_path.iterdir()] == ["c.json"]
    with pytest.raises(DatasetError):
        reader.write_segmentation(tmp_path / "d.tif", np.zeros((1, 1, 1), np.uint8), grid)
    assert [f.name for f in tmp_path.iterdir()] == ["c.json"]


def test_the_name_of_a_reader_that_is_none_is_ignored() -> None:
    content = {"file_ending": ".nii.gz", "overwrite_image_reader_writer": ["SimpleITKIO"]}
    assert choose_reader(content).name == "SimpleITKIO"
