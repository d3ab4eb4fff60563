"""Points as channels for nnU-Net, and segmentations without pieces that hold no point: by the commands."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli import point_channels as command
from spdnet.cli import simulate_prompts
from spdnet.comparison.lone_pieces import without_lone_pieces
from spdnet.comparison.point_channels import CHANNEL_NAME, heat_map, raw_points, shifted
from spdnet.dataset import Labels, RawDataset, get_reader
from spdnet.errors import StorageError
from spdnet.files import whole_folder
from spdnet.geometry import nearest_index
from spdnet.planning import SPDPlans, SPDSettings, preprocess_image
from spdnet.prompts import SlicePrompts, read_markups
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_cli_errors import Refusal, refused, tree  # noqa: F401 (a fixture)

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

READER = get_reader("SimpleITKIO")
N_AROUND = 9  # channels of a class: the slice and four to either side


@pytest.fixture
def pointed(planned: Workspace) -> Workspace:
    """The planned data set with a point list for every case."""
    for subset in ("Tr", "Ts"):
        simulate_prompts.main(["-d", "507", "-s", subset, "--seed", "3"])
    return planned


def test_data_set_is_one_of_nnunet_with_the_same_images_and_labels(pointed: Workspace) -> None:
    command.main(["-d", "507", "-new", "608", "-np", "1"])
    made, given = RawDataset(pointed.raw.with_name("Dataset608_BlobsPoints")), RawDataset(pointed.raw)
    assert made.n_channels == 1 + 2 * N_AROUND and made.channel_names[1:] == [CHANNEL_NAME] * 2 * N_AROUND
    assert made.labels == given.labels and made.dataset_json["numTraining"] == len(given.training_cases())
    for new, old in zip(made.training_cases(), given.training_cases(), strict=True):
        assert new.case == old.case and new.label is not None and old.label is not None
        assert new.images[0].read_bytes() == old.images[0].read_bytes()
        assert new.label.read_bytes() == old.label.read_bytes()
        together, geometry = READER.read_image(new.images)
        assert len(together) == 1 + 2 * N_AROUND and geometry.difference(READER.read_geometry(old.images[0])) is None
        assert together[1:].min() >= 0 and together[1:].max() <= 1


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIOWithReorient"])
def test_channels_show_the_points_of_each_slice_and_of_those_around(pointed: Workspace, reader: str) -> None:
    set_description(pointed, overwrite_image_reader_writer=reader)
    output = pointed.root / "images"
    command.main(["-d", "507", "-i", str(pointed.raw / "imagesTs"), "-o", str(output), "-np", "1"])
    for case in RawDataset(pointed.raw).cases("Ts"):
        files = [output / f"{case.case}_{index:04d}.nii.gz" for index in range(1 + 2 * N_AROUND)]
        channels, geometry = READER.read_image(files)
        assert case.prompts is not None
        markups = read_markups(case.prompts)
        upward = 1 if geometry.voxel_to_world(np.eye(3))[0, 2] > geometry.voxel_to_world(np.zeros((1, 3)))[0, 2] else -1
        for k, name in enumerate(("bright", "half")):
            points = np.concatenate([m.points_lps_mm for m in markups if m.name in (name, "all")])
            voxels = geometry.world_to_voxel(points)
            own = channels[1 + k * N_AROUND + N_AROUND // 2]
            with_points = set(nearest_index(voxels[:, 0]).tolist())
            assert {z for z in range(len(own)) if own[z].any()} == with_points
            for z in with_points:
                hottest = np.array(np.unravel_index(own[z].argmax(), own[z].shape))
                offsets = voxels[nearest_index(voxels[:, 0]) == z, 1:] - hottest
                assert np.abs(offsets).max(axis=1).min() <= 0.5 + 1e-6, "it is the voxel of a point"
            for offset in range(1, N_AROUND // 2 + 1):
                above, below = (channels[1 + k * N_AROUND + N_AROUND // 2 + o] for o in (offset, -offset))
                forward, backward = (above, below) if upward > 0 else (below, above)
                np.testing.assert_array_equal(forward[:-offset], own[offset:])
                np.testing.assert_array_equal(backward[offset:], own[:-offset])
                assert not forward[-offset:].any() and not backward[:offset].any()


def set_description(workspace: Workspace, **entries: object) -> None:
    """Change entries of dataset.json."""
    file = workspace.raw / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **entries}), encoding="utf-8")


def test_number_of_slices_is_an_option(pointed: Workspace) -> None:
    output = pointed.root / "images"
    command.main(["-d", "507", "-i", str(pointed.raw / "imagesTs"), "-o", str(output), "-n_slices", "0", "-np", "1"])
    assert len(list(output.iterdir())) == 2 * (1 + 2)


def test_nothing_is_made_or_replaced_where_a_case_cannot_be_used(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    dataset, images = ["-d", "507", "-new", "608", "-np", "1"], pointed.raw / "imagesTs"
    folder = ["-d", "507", "-i", str(images), "-o", str(pointed.root / "out"), "-np", "1"]
    (pointed.raw / "promptsTr" / "blob_001.mrk.json").unlink()
    before = tree(pointed.root)
    refused(command.main, dataset, "blob_001", "no prompt file", "promptsTr")
    refused(command.main, [*dataset, "-prompts", str(pointed.root / "none")], "none", "does not exist")
    refused(command.main, ["-d", "507", "-new", "507"], "-new 507", "Dataset507_Blobs")
    refused(command.main, ["-d", "507", "-new", "1000"], "-new 1000", "1 to 999")
    refused(command.main, ["-d", "507"], "either -new ID", "-i FOLDER")
    refused(command.main, [*dataset, "-i", str(images)], "either -new ID")
    refused(command.main, [*folder, "-n_slices", "-1"], "-n_slices -1")
    refused(command.main, [*folder[:-3], str(images), "-np", "1"], str(images), "exists")
    refused(command.main, [*folder, "-prompts", str(pointed.root / "none")], "none", "does not exist")
    assert tree(pointed.root) == before
    simulate_prompts.main(["-d", "507", "-s", "Ts", "-mode", "boxes", "--overwrite"])
    refused(command.main, folder, "blob_005", "boxes")
    (pointed.raw / "promptsTs" / "blob_005.json").touch()
    refused(command.main, folder, "blob_005.json")
    assert not (pointed.root / "out").exists()


def test_prompts_of_another_folder_are_used_where_it_is_named(pointed: Workspace) -> None:
    others = pointed.root / "others"
    shutil.copytree(pointed.raw / "promptsTr", others)
    shutil.rmtree(pointed.raw / "promptsTr")
    command.main(["-d", "507", "-new", "608", "-prompts", str(others), "-n_slices", "0", "-np", "1"])
    assert len(list((pointed.raw.with_name("Dataset608_BlobsPoints") / "imagesTr").iterdir())) == 5 * 3


@pytest.mark.skipif(resource is None, reason="limits of a process are POSIX's")
def test_a_full_disk_leaves_nothing(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    before = tree(pointed.root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # less than an image, as if the disk were full
    try:
        refused(command.main, ["-d", "507", "-new", "608", "-np", "1"], "cannot write", "blob_000_0000.nii.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert tree(pointed.root) == before


def test_images_that_nnunet_would_slice_elsewhere_get_channels_of_their_own_slices_only(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    for image in [*(pointed.raw / "imagesTr").iterdir(), *(pointed.raw / "labelsTr").iterdir()]:
        sitk.WriteImage(sitk.PermuteAxes(sitk.ReadImage(str(image)), [0, 2, 1]), str(image))
    words = ["-d", "507", "-new", "608", "-np", "1"]
    command.main([*words, "-n_slices", "1"])  # nnU-Net turns the largest spacing to the front
    shutil.rmtree(pointed.raw.with_name("Dataset608_BlobsPoints"))
    for image in [*(pointed.raw / "imagesTr").iterdir(), *(pointed.raw / "labelsTr").iterdir()]:
        turned = sitk.ReadImage(str(image))
        turned.SetSpacing((1.0, 1.0, 1.0))
        sitk.WriteImage(turned, str(image))
    shutil.rmtree(pointed.raw / "promptsTr")
    simulate_prompts.main(["-d", "507", "-s", "Tr", "--seed", "3"])
    refused(command.main, words, "axis 0", "along 1", "-n_slices 0")
    command.main([*words, "-n_slices", "0"])


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(pointed: Workspace) -> None:
    folder = pointed.raw.with_name("Dataset608_BlobsPoints")
    left = folder.with_name(f".partial_0123abcd_{folder.name}")
    (left / "imagesTr").mkdir(parents=True)
    with whole_folder(folder) as living:
        assert not left.exists()
        (living / "mine").touch()
        with pytest.raises(StorageError, match="Dataset608"):
            fill_while_another_finishes(folder)
        assert [f.name for f in folder.iterdir()] == ["first"]
        shutil.rmtree(folder)
    assert [f.name for f in folder.iterdir()] == ["mine"] and not living.exists()


def test_nothing_stays_of_a_folder_that_an_error_interrupts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt_while_filling(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def fill_while_another_finishes(folder: Path) -> None:
    """Another process has made the folder before this one is done."""
    with whole_folder(folder) as partial:
        (partial / "its").touch()
        folder.mkdir()
        (folder / "first").touch()


def interrupt_while_filling(folder: Path) -> None:
    with whole_folder(folder) as partial:
        (partial / "file").touch()
        raise KeyboardInterrupt


def test_formats_without_fractions_are_refused(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    set_description(pointed, file_ending=".gipl", overwrite_image_reader_writer="SimpleITKIO")
    for image in (pointed.raw / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace(".nii.gz", ".gipl")))
    for label in (pointed.raw / "labelsTr").iterdir():
        label.rename(label.with_name(label.name.replace(".nii.gz", ".gipl")))
    refused(command.main, ["-d", "507", "-new", "608", "-np", "1"], ".gipl", ".nrrd")


def test_files_that_hold_several_channels_or_one_slice_are_refused(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    image = pointed.raw / "imagesTs" / "blob_006_0000.nii.gz"
    words = ["-d", "507", "-i", str(image.parent), "-o", str(pointed.root / "out"), "-np", "1"]
    whole = sitk.ReadImage(str(image))
    sitk.WriteImage(whole[:, :, 0], str(image))
    refused(command.main, words, "blob_006", "2D")
    sitk.WriteImage(sitk.JoinSeries([whole, whole]), str(image))
    plans = pointed.preprocessed / "SPDPlans.json"
    content = json.loads(plans.read_text(encoding="utf-8"))
    content["spd"]["normalization"] *= 2
    plans.write_text(json.dumps(content), encoding="utf-8")
    set_description(pointed, channel_names={"0": "MRI", "1": "MRI"})
    refused(command.main, words, "several channels")


def segmentations(workspace: Workspace) -> Path:
    """The labels of the test cases, each with a piece of "bright" in a corner where nothing is."""
    folder = workspace.root / "found"
    folder.mkdir()
    for case in RawDataset(workspace.raw).cases("Ts"):
        assert case.label is not None
        label_map, geometry = READER.read_label(case.label)
        assert not label_map[:2, :4, :4].any()
        label_map[:1, :2, :2] = 1
        READER.write_segmentation(folder / case.label.name, label_map, geometry)
    return folder


def test_pieces_without_points_go_and_all_else_stays(
    pointed: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, kept = segmentations(pointed), pointed.root / "kept"
    simulate_prompts.main(
        ["-d", "507", "-s", "Ts", "-mode", "bad_points", "-bad", "0", "-points_per_slice", "3", "--overwrite"]
    )
    images = str(pointed.raw / "imagesTs")
    command.drop_main(["-d", "507", "-i", images, "-pred", str(found), "-o", str(kept)])
    assert "2 segmentations; dropped: 8 voxels in 2 of them" in capsys.readouterr().out
    for case in RawDataset(pointed.raw).cases("Ts"):
        assert case.label is not None
        own, geometry = READER.read_label(kept / case.label.name)
        label, expected = READER.read_label(case.label)
        assert np.array_equal(own, label) and geometry.difference(expected) is None


def test_segmentations_that_are_missing_there_already_or_elsewhere_are_refused(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    found, kept = segmentations(pointed), pointed.root / "kept"
    words = ["-d", "507", "-i", str(pointed.raw / "imagesTs"), "-pred", str(found), "-o"]
    refused(command.drop_main, [*words, str(found)], str(found), "exists")
    file = found / "blob_006.nii.gz"
    file.unlink()
    refused(command.drop_main, [*words, str(kept)], "blob_006", "there is no segmentation")
    assert not kept.exists()
    shutil.copy(found / "blob_005.nii.gz", file)
    refused(command.drop_main, [*words, str(kept)], "blob_006", "not on the grid")
    label_map, geometry = READER.read_label(found / "blob_005.nii.gz")
    label_map[0, 0, 0] = 7
    READER.write_segmentation(found / "blob_005.nii.gz", label_map, geometry)
    refused(command.drop_main, [*words, str(kept)], "blob_005", "holds 7", "dataset.json")
    assert not kept.exists() and not list(pointed.root.glob(".partial*"))


def test_a_class_keeps_its_pieces_where_none_holds_a_point() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "one": 1, "two": 2}}, "")
    label_map = np.zeros((3, 6, 6), dtype=np.int32)
    label_map[0, :2, :2], label_map[0, 4:, 4:], label_map[2, :2, :2] = 1, 1, 2
    found = without_lone_pieces(label_map, [np.array([[0.2, 1.4, 0.6]]), np.array([[0.0, 1.0, 1.0]])], labels)
    label_map[0, 4:, 4:] = 0
    assert np.array_equal(found, label_map)


def test_regions_are_judged_each_as_a_whole() -> None:
    description = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    labels = Labels.from_dataset_json(description, "")
    label_map = np.zeros((1, 4, 12), dtype=np.int32)
    label_map[0, :, :4], label_map[0, 1, 1], label_map[0, :, 6:9], label_map[0, 1, 7] = 1, 2, 1, 2
    points = [np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 6.0]]), np.array([[0.0, 1.0, 1.0]])]
    found = without_lone_pieces(label_map, points, labels)
    expected = label_map.copy()
    expected[0, 1, 7] = 1
    assert np.array_equal(found, expected)


def test_heat_between_voxels_and_where_points_overlap() -> None:
    heat = heat_map(np.array([[1.0, 2.5, 3.0], [1.0, 2.5, 4.0], [9.0, 0.0, 0.0]]), (3, 6, 8), (0.0, 1.0, 2.0))
    np.testing.assert_allclose(heat[1, 2, 3], np.exp(-0.125), rtol=1e-6)
    np.testing.assert_allclose(heat[1, 4, 5], np.exp(-0.5 * (1.5**2 + 0.5**2)), rtol=1e-6)
    assert heat.max() <= 1 and not heat[[0, 2]].any()
    assert not heat_map(np.zeros((0, 3)), (2, 2, 2), (1.0, 1.0, 1.0)).any()


def test_shift_leaves_zeros_where_there_is_no_slice() -> None:
    array = np.arange(1, 13).reshape(3, 4)
    assert shifted(array, 1, 1).tolist() == [[2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]
    assert shifted(array, 0, -2).tolist() == [[0] * 4, [0] * 4, [1, 2, 3, 4]]
    assert not shifted(array, 0, 3).any() and not shifted(array, 0, -5).any()
    assert (shifted(array, 1, 0) == array).all()


def test_with_regions_only_what_is_dropped_changes() -> None:
    content = {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, "regions_class_order": [1, 2]}
    labels = Labels.from_dataset_json(content, "")
    label_map = np.zeros((2, 8, 8), dtype=np.int32)
    label_map[0, :2, :2], label_map[0, 0, 0], label_map[1, 6:, 6:] = 1, 3, 3
    nothing = [np.zeros((0, 3))] * 2
    assert np.array_equal(without_lone_pieces(label_map, nothing, labels), label_map)
    found = without_lone_pieces(label_map, [np.array([[0.0, 1.0, 1.0]]), np.zeros((0, 3))], labels)
    assert np.array_equal(found[0], label_map[0]) and set(np.unique(found[1]).tolist()) == {0, 2}


def test_every_point_of_the_file_keeps_its_piece(pointed: Workspace) -> None:
    """Also those that SPD's network does not get, as they lie where nearly another one does."""
    case = RawDataset(pointed.raw).cases("Ts")[0]
    assert case.label is not None
    _, geometry = READER.read_label(case.label)
    label_map = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    label_map[1, 3:5, 2:4], label_map[1, 3:5, 6] = 1, 1
    found = pointed.root / "found"
    found.mkdir()
    READER.write_segmentation(found / case.label.name, label_map, geometry)
    rows = "".join(f"{x},3,1,bright\n" for x in (2, 5.49999, 5.50001))  # the last one is in the second piece
    for file in (pointed.raw / "promptsTs").iterdir():
        file.unlink()
    (pointed.raw / "promptsTs" / f"{case.case}.csv").write_text(f"i,j,k,label\n{rows}", encoding="utf-8")
    alone = pointed.root / "alone"
    alone.mkdir()
    shutil.copy(case.images[0], alone)
    words = ["-d", "507", "-i", str(alone), "-prompts", str(pointed.raw / "promptsTs"), "-pred", str(found)]
    command.drop_main([*words, "-o", str(pointed.root / "kept")])
    assert np.array_equal(READER.read_label(pointed.root / "kept" / case.label.name)[0], label_map)


def test_a_point_between_two_slices_is_where_the_network_counts_it(pointed: Workspace) -> None:
    for case in RawDataset(pointed.raw).cases("Ts"):  # one of them is stored from above
        network_case = preprocess_image(*READER.read_image(case.images), settings_of(pointed), case.case)
        mapping = network_case.mapping
        middle = np.array([[2.5, 20.0, 20.0]])
        points = SlicePrompts(mapping.points_to_network(mapping.points_to_raw(middle)), np.zeros(1, dtype=np.int64))
        raw = raw_points(points, mapping)
        assert points.slice_index.tolist() == [3]
        assert mapping.points_to_network(raw)[0, 0] == 3.0 == nearest_index(mapping.points_to_network(raw)[:, 0])


def settings_of(workspace: Workspace) -> SPDSettings:
    """Of the planned data set."""
    return SPDPlans.load(workspace.preprocessed / "SPDPlans.json").settings


def test_test_images_that_are_stored_otherwise_than_the_training_cases_are_refused(
    pointed: Workspace,
    refused: Refusal,  # noqa: F811
) -> None:
    image = pointed.raw / "imagesTs" / "blob_006_0000.nii.gz"
    sitk.WriteImage(sitk.PermuteAxes(sitk.ReadImage(str(image)), [0, 2, 1]), str(image))
    words = ["-d", "507", "-i", str(image.parent), "-o", str(pointed.root / "out"), "-np", "1"]
    refused(command.main, words, "blob_006", "axis 0", "along 1")
    assert not (pointed.root / "out").exists()
    command.main([*words, "-n_slices", "0"])


def test_endings_in_capitals_are_written(pointed: Workspace) -> None:
    set_description(pointed, file_ending=".NII.GZ", overwrite_image_reader_writer="SimpleITKIO")
    for folder in ("imagesTr", "labelsTr"):
        for file in (pointed.raw / folder).iterdir():
            file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    command.main(["-d", "507", "-new", "608", "-n_slices", "0", "-np", "1"])
    assert len(list((pointed.raw.with_name("Dataset608_BlobsPoints") / "imagesTr").glob("*.NII.GZ"))) == 5 * 3
