"""nnU-Net's way to ask for predictions: files, lists, arrays, parts, processes, mirroring; and the two commands."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.cli import predict
from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import ConfigurationError, DatasetError, ModelError, PromptFileError, SPDError
from spdnet.geometry import ImageGeometry
from spdnet.inference import ModelFolder, SPDPredictor, predictor
from spdnet.inference.export import nnunet_probabilities
from spdnet.inference.mirroring import predict_mirrored
from spdnet.inference.steps import points_from_reader_order
from spdnet.inference.work_list import list_cases
from spdnet.network.checkpoint import read_checkpoint
from spdnet.prompts import PromptReading, read_markups, write_markups
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_export import FlippedIO
from spdnet.tests.test_inference import forget_saliency

EXTRAS = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}


@pytest.fixture
def images(trained: Workspace) -> Path:
    return trained.raw / "imagesTs"


@pytest.fixture
def prompts(trained: Workspace) -> Path:
    return trained.raw / "promptsTs"


def predictor_of(trained: Workspace, folds: Any = (0,), **options: Any) -> SPDPredictor:
    made = SPDPredictor(device=torch.device("cpu"), allow_tqdm=False, **{"use_mirroring": False, **options})
    made.initialize_from_trained_model_folder(str(trained.model()), folds)
    return made


def names(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


def content(folder: Path) -> dict[str, Any]:
    """Arrays and properties of a folder of predictions, by file name."""
    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if file.name.endswith(".nii.gz"):
            found[file.name] = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).tolist()
        elif file.suffix == ".npz":
            found[file.name] = np.load(file)["probabilities"].tolist()
        elif file.suffix == ".pkl":
            found[file.name] = pickle.loads(file.read_bytes())
    return found


def points_of(trained: Workspace, case: Any, labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, ImageGeometry]:
    """Points (z, y, x) in stored order and classes of a case, and its grid."""
    geometry = SimpleITKIO().read_geometry(case.images[0])
    points, classes = [], []
    for markup in read_markups(case.prompts):
        points.append(geometry.world_to_voxel(markup.points_lps_mm))
        classes += [labels.index(markup.name)] * len(points[-1])
    return np.concatenate(points), np.array(classes), geometry


# ---- files ------------------------------------------------------------------------------------------------


def test_lists_of_files_and_outputs(trained: Workspace, images: Path, prompts: Path, tmp_path: Path) -> None:
    made = predictor_of(trained)
    made.predict_from_files(images, str(tmp_path / "folder"), True, prompts=prompts)
    (tmp_path / "in").mkdir()
    shutil.copy(images / "blob_006_0000.nii.gz", tmp_path / "in" / "any_name.nii.gz")
    files = [[str(images / "blob_005_0000.nii.gz")], [tmp_path / "in" / "any_name.nii.gz"]]
    points = [prompts / "blob_005.mrk.json", str(prompts / "blob_006.mrk.json")]
    results = made.predict_from_files_sequential(
        files, [tmp_path / "a" / "first", str(tmp_path / "b" / "v1.2_second")], True, prompts=points
    )
    assert results == [None, None]
    assert names(tmp_path / "a") == {"first.nii.gz", "first.npz", "first.pkl", *EXTRAS}
    folder = content(tmp_path / "folder")
    for theirs, ours in (("a/first", "blob_005"), ("b/v1.2_second", "blob_006")):
        part = content((tmp_path / theirs).parent)
        for ending in (".nii.gz", ".npz", ".pkl"):
            assert part[Path(theirs).name + ending] == folder[ours + ending]
    made.predict_from_files(files, tmp_path / "named")
    assert {"blob_005.nii.gz", "any_name.nii.gz"} <= names(tmp_path / "named")


def test_without_output_the_segmentations_are_returned(
    trained: Workspace, images: Path, prompts: Path, tmp_path: Path
) -> None:
    made = predictor_of(trained)
    made.predict_from_files(images, tmp_path, True, prompts=prompts)
    before = names(tmp_path)
    stored = content(tmp_path)
    plain = made.predict_from_files(images, None, prompts=prompts)
    both: Any = made.predict_from_files(images, None, True, prompts=prompts)
    for i, case in enumerate(("blob_005", "blob_006")):
        assert isinstance(plain[i], np.ndarray)
        assert plain[i].tolist() == both[i][0].tolist() == stored[f"{case}.nii.gz"]
        assert both[i][1].tolist() == stored[f"{case}.npz"]
    assert names(tmp_path) == before


def test_a_case_without_a_prompt_file_in_the_list_uses_the_prior_alone(
    trained: Workspace, images: Path, prompts: Path
) -> None:
    made = predictor_of(trained)
    alone: Any = made.predict_from_files(images, None, True)
    prompted: Any = made.predict_from_files(images, None, True, prompts=prompts)
    mixed: Any = made.predict_from_files(images, None, True, prompts=[prompts / "blob_005.mrk.json", None])
    np.testing.assert_array_equal(mixed[0][1], prompted[0][1])
    np.testing.assert_array_equal(mixed[1][1], alone[1][1])
    assert not np.array_equal(alone[1][1], prompted[1][1])


def test_what_lies_beside_the_predictions(trained: Workspace, images: Path, prompts: Path, tmp_path: Path) -> None:
    predictor_of(trained, (0, 1)).predict_from_files(images, tmp_path / "out", prompts=prompts)
    assert names(tmp_path / "out") == {"blob_005.nii.gz", "blob_006.nii.gz", *EXTRAS}
    assert (tmp_path / "out" / "dataset.json").read_bytes() == (trained.model() / "dataset.json").read_bytes()
    written = json.loads((tmp_path / "out" / "plans.json").read_text(encoding="utf-8"))
    assert written == json.loads((trained.model() / "plans.json").read_text(encoding="utf-8"))
    arguments = json.loads((tmp_path / "out" / "predict_from_raw_data_args.json").read_text(encoding="utf-8"))
    nnunets = (
        "list_of_lists_or_source_folder output_folder_or_list_of_truncated_output_files save_probabilities overwrite "
        "num_processes_preprocessing num_processes_segmentation_export folder_with_segs_from_prev_stage num_parts "
        "part_id"
    )
    assert set(arguments) == {
        *nnunets.split(),
        "prompts",
        "save_prompts",
        "save_saliency",
        "model",
        "folds",
        "checkpoint",
        "use_mirroring",
        "frame",
        "outside",
        "cases",
    }
    assert arguments["list_of_lists_or_source_folder"] == str(images)
    assert arguments["folds"] == ["0", "1"]


def test_parts_share_the_cases(trained: Workspace, images: Path, prompts: Path, tmp_path: Path) -> None:
    made = predictor_of(trained)
    made.predict_from_files(images, tmp_path / "all", prompts=prompts)
    for part in (0, 1):
        made.predict_from_files(images, tmp_path / str(part), num_parts=2, part_id=part, prompts=prompts)
    first, second = content(tmp_path / "0"), content(tmp_path / "1")
    assert list(first) == ["blob_005.nii.gz"]
    assert {**first, **second} == content(tmp_path / "all")
    listed = [prompts / "blob_005.mrk.json", prompts / "blob_006.mrk.json"]
    made.predict_from_files(images, tmp_path / "listed", num_parts=2, part_id=1, prompts=listed)
    assert content(tmp_path / "listed") == second, "prompts stay with their images"
    assert made.predict_from_files(images, None, num_parts=5, part_id=4) == []
    for num_parts, part in ((2, 2), (2, -1), (0, 0)):
        with pytest.raises(ConfigurationError, match=f"part_id {part} of num_parts {num_parts} does not exist"):
            made.predict_from_files(images, tmp_path / "none", num_parts=num_parts, part_id=part)
    assert not (tmp_path / "none").exists()


def test_complete_cases_are_skipped_if_asked(
    trained: Workspace, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = predictor_of(trained)
    computed: list[str] = []
    compute = made._compute
    monkeypatch.setattr(
        made, "_compute", lambda p, *options, **more: computed.append(p.case) or compute(p, *options, **more)
    )
    caplog.set_level("INFO")

    def again(save_probabilities: bool) -> list[str]:
        computed.clear()
        made.predict_from_files(images, tmp_path, save_probabilities, overwrite=False)
        return list(computed)

    assert again(False) == ["blob_005", "blob_006"]
    assert again(False) == []
    assert "2 of 2 cases are complete and skipped" in caplog.text
    (tmp_path / "blob_005.nii.gz").unlink()
    assert again(False) == ["blob_005"]
    assert again(True) == ["blob_005", "blob_006"], "probabilities were not there"
    (tmp_path / "blob_006.pkl").unlink()
    assert again(True) == ["blob_006"]
    assert made.predict_from_files(images, tmp_path, True) == [None, None]


@pytest.mark.slow
def test_worker_processes_write_the_same_files(trained: Workspace, images: Path, prompts: Path, tmp_path: Path) -> None:
    made = predictor_of(trained)
    made.predict_from_files_sequential(images, tmp_path / "one", True, prompts=prompts)
    made.predict_from_files(images, tmp_path / "workers", True, True, 1, 1, prompts=prompts)
    assert content(tmp_path / "one") == content(tmp_path / "workers")
    assert names(tmp_path / "one") == names(tmp_path / "workers")
    case = RawDataset(trained.raw).cases("Ts")[0]
    points, classes, geometry = points_of(trained, case, made.labels.names)
    image, _ = SimpleITKIO().read_image(case.images)
    properties = SimpleITKIO().properties(geometry)
    (found,) = made.predict_from_list_of_npy_arrays(
        image, None, properties, None, 1, False, 1, points_zyx=[points], class_index=[classes]
    )
    assert isinstance(found, np.ndarray)
    assert found.tolist() == content(tmp_path / "one")["blob_005.nii.gz"]


# ---- arrays -----------------------------------------------------------------------------------------------


def test_lists_of_arrays(trained: Workspace, images: Path, prompts: Path, tmp_path: Path) -> None:
    made = predictor_of(trained)
    made.predict_from_files(images, tmp_path / "files", True, prompts=prompts)
    cases = RawDataset(trained.raw).cases("Ts")
    given = [points_of(trained, c, made.labels.names) for c in cases]
    arrays = [SimpleITKIO().read_image(c.images)[0] for c in cases]
    properties = [SimpleITKIO().properties(geometry) for *_, geometry in given]
    keywords: Any = {"points_zyx": [p for p, *_ in given], "class_index": [c for _, c, _ in given]}
    targets = [str(tmp_path / "arrays" / c.case) for c in cases]
    assert made.predict_from_list_of_npy_arrays(arrays, None, properties, targets, 0, True, 0, **keywords) == [None] * 2
    assert content(tmp_path / "arrays") == content(tmp_path / "files")
    with pytest.raises(ConfigurationError, match="one of each is needed for every image.*'properties': 1"):
        made.predict_from_list_of_npy_arrays(arrays, None, properties[:1], targets)
    with pytest.raises(ConfigurationError, match="without the file ending .nii.gz"):
        made.predict_from_list_of_npy_arrays(arrays, None, properties, [t + ".nii.gz" for t in targets])
    with pytest.raises(DatasetError, match="holds NaN"):
        made.predict_single_npy_array(np.full_like(arrays[0], np.nan), properties[0])


def test_arrays_and_files_of_a_reader_that_turns_the_axes(
    trained: Workspace, images: Path, prompts: Path, tmp_path: Path
) -> None:
    """Probabilities and arrays are in the reader's order, the segmentation file in the image's."""
    made = predictor_of(trained)
    made.predict_from_files(images, tmp_path / "plain", True, prompts=prompts)
    reader = made.reader = TurningIO()
    made.predict_from_files(images, tmp_path / "turned", True, prompts=prompts)
    plain, turned = content(tmp_path / "plain"), content(tmp_path / "turned")
    for case in RawDataset(trained.raw).cases("Ts"):
        segmentation = np.array(plain[f"{case.case}.nii.gz"])
        points, classes, geometry = points_of(trained, case, made.labels.names)
        assert turned[f"{case.case}.nii.gz"] == plain[f"{case.case}.nii.gz"]
        probabilities = np.array(turned[f"{case.case}.npz"])
        np.testing.assert_array_equal(
            probabilities, reader.to_reader_order(np.array(plain[f"{case.case}.npz"]), geometry)
        )
        expected = reader.to_reader_order(segmentation, geometry)
        np.testing.assert_array_equal(probabilities.argmax(0), expected)
        image = reader.to_reader_order(SimpleITKIO().read_image(case.images)[0], geometry)
        seen = np.stack([points[:, 2], geometry.shape_zyx[0] - 1 - points[:, 0], points[:, 1]], axis=1)
        found = made.predict_single_npy_array(image, reader.properties(geometry), points_zyx=seen, class_index=classes)
        np.testing.assert_array_equal(found, expected)


class TurningIO(FlippedIO):
    """Its properties hold the stored grid, as those of nnU-Net's readers that turn axes do."""

    def geometry_from_properties(self, properties: dict[str, Any], shape_zyx: Any) -> ImageGeometry:
        x, z, y = shape_zyx
        return super().geometry_from_properties(properties, (z, y, x))


def test_points_turn_as_voxels_do() -> None:
    geometry = ImageGeometry((3, 5, 1), (1.0, 1.0, 1.0))
    stored = np.arange(15).reshape(3, 5, 1)
    turned = FlippedIO().to_reader_order(stored, geometry)
    for voxel in np.ndindex(*turned.shape):
        z, y, x = points_from_reader_order(np.array([voxel], dtype=float), FlippedIO(), geometry)[0].astype(int)
        assert stored[z, y, x] == turned[voxel]
    plain = np.array([[0.25, 1.5, 0.0]])
    np.testing.assert_array_equal(points_from_reader_order(plain, SimpleITKIO(), geometry), plain)


def test_regions(trained: Workspace, images: Path, prompts: Path, tmp_path: Path) -> None:
    made = predictor_of(trained)
    regions = {
        **made.dataset_json,
        "labels": {"background": 0, "bright": [1, 2], "half": [2]},
        "regions_class_order": [1, 2],
    }
    made.manual_initialization(made.networks, made.plans, regions, "Mine", None)
    made.predict_from_files(images, tmp_path, True, prompts=prompts)
    case = RawDataset(trained.raw).cases("Ts")[0]
    stored = content(tmp_path)
    probabilities = np.array(stored["blob_005.npz"], dtype=np.float32)
    assert len(probabilities) == 2, "regions have no background channel"
    prediction, _ = made.predict_case(case)
    np.testing.assert_array_equal(probabilities, prediction.probabilities)
    expected = np.zeros(probabilities.shape[1:], dtype=int)
    for channel, value in zip(probabilities, (1, 2), strict=True):
        expected[channel > 0.5] = value
    assert expected.max() == 2
    assert stored["blob_005.nii.gz"] == expected.tolist()


# ---- models -----------------------------------------------------------------------------------------------


def test_attributes_are_nnunets(trained: Workspace) -> None:
    made = predictor_of(trained, 0)
    assert made.trainer_name == "SPDTrainer"
    assert made.label_manager is made.labels
    assert made.network is made.networks[0]
    assert made.dataset_json["file_ending"] == ".nii.gz"
    assert made.device == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="no model is loaded"):
        _ = SPDPredictor().network
    with pytest.raises(ConfigurationError, match="no model is loaded"):
        SPDPredictor().predict_from_files(".", None)


def test_networks_in_memory(trained: Workspace, images: Path) -> None:
    loaded = predictor_of(trained, (0, 1))
    made = SPDPredictor(0.5, True, True, True, torch.device("cpu"), False, False, False)
    networks = ModelFolder(trained.model()).load_networks(["0", "1"], "checkpoint_final.pth", torch.device("cpu"))
    for network in networks:
        network.train()
    made.manual_initialization(networks, loaded.plans, loaded.dataset_json, "Mine", [1])
    assert not any(n.training for n in made.networks)
    assert (made.trainer_name, made.allowed_mirroring_axes) == ("Mine", (1,))
    made.use_mirroring = False
    for ours, theirs in zip(
        made.predict_from_files(images, None), loaded.predict_from_files(images, None), strict=True
    ):
        assert np.mean(np.asarray(ours) == np.asarray(theirs)) > 0.995  # those loaded have the form for prediction
    made.manual_initialization(networks[0], loaded.plans, loaded.dataset_json, "Mine", None)
    assert made.networks == [networks[0]]


def allow_mirroring(trained: Workspace, fold: int, axes: Any) -> None:
    file = trained.model() / f"fold_{fold}" / "checkpoint_final.pth"
    torch.save({**read_checkpoint(file), "inference_allowed_mirroring_axes": axes}, file)


def test_mirroring_follows_the_first_folds_checkpoint(trained: Workspace, tmp_path: Path) -> None:
    allow_mirroring(trained, 0, (0, 1))
    allow_mirroring(trained, 1, None)
    case = RawDataset(trained.raw).cases("Ts")[0]
    off, on = predictor_of(trained, (0, 1)), predictor_of(trained, (0, 1), use_mirroring=True)
    assert off.allowed_mirroring_axes == on.allowed_mirroring_axes == (0, 1)
    assert predictor_of(trained, (1, 0), use_mirroring=True).allowed_mirroring_axes is None
    plain, mirrored = off.predict_case(case)[0], on.predict_case(case)[0]
    assert not np.array_equal(plain.probabilities, mirrored.probabilities)
    settings, network_case = on.plans.settings, plain.network_case
    for network, volume in zip(on.networks, mirrored.volumes, strict=True):
        expected = predict_mirrored(
            network, network_case.slices, on.network_prompts(case, network_case), settings.distillation,
            settings.stage1.batch_size, torch.device("cpu"), (0, 1),
        )  # fmt: skip
        np.testing.assert_array_equal(volume.probabilities, expected.probabilities)
    allow_mirroring(trained, 0, (2,))
    with pytest.raises(ModelError, match=r"mirroring axes \(2,\) do not exist"):
        predictor_of(trained)


# ---- what is refused --------------------------------------------------------------------------------------


def test_contradictory_files_are_refused_before_any_work(
    trained: Workspace, images: Path, prompts: Path, tmp_path: Path
) -> None:
    made, out = predictor_of(trained), tmp_path / "out"
    first, second = images / "blob_005_0000.nii.gz", images / "blob_006_0000.nii.gz"
    refused: list[tuple[type[SPDError], str, tuple[Any, ...], dict[str, Any]]] = [
        (ConfigurationError, "1 outputs for 2 cases", (images, [out / "a"]), {}),
        (ConfigurationError, "without the file ending .nii.gz", ([[first]], [out / "a.nii.gz"]), {}),
        (ConfigurationError, "several cases would be written to .*/a;", (images, [out / "a", out / "a"]), {}),
        (ConfigurationError, "several cases would be written", ([[first], [first]], out), {}),
        (ConfigurationError, "would replace the images", ([[first]], [images / "blob_005_0000"]), {}),
        (ConfigurationError, "each case of the list must be a list", ([str(first)], out), {}),
        (ConfigurationError, "no cascade", (images, out), {"folder_with_segs_from_prev_stage": out}),
        (DatasetError, "nowhere.nii.gz does not exist", ([[first], [out / "nowhere.nii.gz"]], out), {}),
        (DatasetError, "the model is for .nii.gz files", ([[prompts / "blob_005.mrk.json"]], out), {}),
        (PromptFileError, "1 prompt files for 2 cases", ([[first], [second]], out), {"prompts": [None]}),
        (PromptFileError, "1 prompt files do not exist: .*x.json", ([[first]], out), {"prompts": [out / "x.json"]}),
        (PromptFileError, "prompts folder .* does not exist", ([[first]], out), {"prompts": out}),
    ]
    for error, message, arguments, keywords in refused:
        with pytest.raises(error, match=message):
            made.predict_from_files(*arguments, **keywords)
    assert not out.exists()


def test_what_no_prediction_has_written_is_not_replaced(trained: Workspace, images: Path, tmp_path: Path) -> None:
    made, labels = predictor_of(trained), tmp_path / "labelsTs"
    shutil.copytree(trained.raw / "labelsTs", labels)
    before = {f.name: f.read_bytes() for f in labels.iterdir()}
    (labels / "blob_005.nii.gz").rename(tmp_path / "first.nii.gz")
    message = r"would replace 1 files of .*labelsTs \(blob_006.nii.gz\) that no prediction has written.*are they labels"
    options: tuple[dict[str, Any], ...] = ({}, {"overwrite": False}, {"num_parts": 2, "part_id": 0})
    for each in options:
        with pytest.raises(ConfigurationError, match=message):
            made.predict_from_files(images, labels, **each)
    with pytest.raises(ConfigurationError, match=message):
        made.predict_from_files([[images / "blob_005_0000.nii.gz"]], [labels / "blob_006"])
    (tmp_path / "first.nii.gz").rename(labels / "blob_005.nii.gz")
    assert {f.name: f.read_bytes() for f in labels.iterdir()} == before


def test_the_folder_of_images_and_that_of_a_data_set_are_no_output(
    trained: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = predictor_of(trained)
    monkeypatch.chdir(images)
    before = {f: f.read_bytes() for f in trained.raw.rglob("*") if f.is_file()}
    with pytest.raises(ConfigurationError, match="output folder .* is the folder of the images"):
        made.predict_from_files(images, ".")
    content = json.loads((trained.raw / "dataset.json").read_text(encoding="utf-8"))
    (trained.raw / "dataset.json").write_text(json.dumps({**content, "licence": "ours"}), encoding="utf-8")
    before[trained.raw / "dataset.json"] = (trained.raw / "dataset.json").read_bytes()
    with pytest.raises(ConfigurationError, match=r"the model's dataset.json would replace .*dataset.json, which is"):
        made.predict_from_files(images, trained.raw)
    assert {f: f.read_bytes() for f in trained.raw.rglob("*") if f.is_file()} == before


def test_what_a_prediction_has_written_is_replaced(trained: Workspace, images: Path, tmp_path: Path) -> None:
    made, second = predictor_of(trained), [[images / "blob_006_0000.nii.gz"]]
    for part in (0, 1):  # as two processes would, into one folder
        made.predict_from_files(images, tmp_path / "out", num_parts=2, part_id=part)
    plain = content(tmp_path / "out")
    (tmp_path / "out" / "plans.json").write_text("{}", encoding="utf-8")  # of another model
    made.predict_from_files(images, tmp_path / "out", True)
    made.predict_from_files(second, [tmp_path / "out" / "blob_006"])
    assert content(tmp_path / "out")["blob_006.nii.gz"] == plain["blob_006.nii.gz"]


def test_files_among_the_prompts_that_are_none_are_named(
    trained: Workspace, images: Path, prompts: Path, tmp_path: Path
) -> None:
    made = predictor_of(trained)
    shutil.copy(prompts / "blob_005.mrk.json", prompts / "blob_099.mrk.json")  # of a case that is not predicted here
    shutil.copy(prompts / "blob_006.mrk.json", prompts / "blob_006.json")
    with pytest.raises(PromptFileError, match=r"holds files that are not read as prompts: blob_006\.json\. .*\.fcsv"):
        made.predict_from_files(images, tmp_path / "out", prompts=prompts)
    assert not (tmp_path / "out").exists()
    (prompts / "blob_006.json").unlink()
    made.predict_from_files(images, tmp_path / "out", prompts=prompts)
    for file in prompts.glob("*.mrk.json"):
        shutil.copy(file, images)
    made.predict_from_files(images, tmp_path / "beside", prompts=images)  # images are no misnamed prompts
    for image in images.glob("*_0000.nii.gz"):
        image.rename(image.with_name(image.name.replace("_0000", "_0001")))
    with pytest.raises(SPDError, match=r"blob_005_0000\.nii\.gz"):
        made.predict_from_files(images, tmp_path / "faulty", prompts=images)
    assert len(list((tmp_path / "beside").glob("*.nii.gz"))) == 2


def test_points_that_are_dropped_are_told_once(
    trained: Workspace, images: Path, prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    markup = read_markups(prompts / "blob_006.mrk.json")[0]
    points = np.concatenate([markup.points_lps_mm, [[0.0, 0.0, 900.0]]])
    own = replace(markup, points_lps_mm=points, point_labels=(*markup.point_labels, "far"))
    write_markups(prompts / "blob_006.mrk.json", [own])
    made = predictor_of(trained, prompt_reading=PromptReading(outside="drop"))
    made.predict_from_files(images, tmp_path / "out", prompts=prompts)
    (told,) = [r.getMessage() for r in caplog.records if "Dropped" in r.getMessage()]
    assert "case blob_006: point 'far'" in told and "--outside" not in told, "it was given"


def test_cases_of_one_name_do_not_share_a_prompt_file(images: Path, prompts: Path, tmp_path: Path) -> None:
    files = []
    for number, patient in ((5, "p1"), (6, "p2")):
        (tmp_path / patient).mkdir()
        files.append([shutil.copy(images / f"blob_00{number}_0000.nii.gz", tmp_path / patient / "CT_0000.nii.gz")])
    outputs = [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "prompts").mkdir()
    shutil.copy(prompts / "blob_005.mrk.json", tmp_path / "prompts" / "CT.mrk.json")
    with pytest.raises(ConfigurationError, match=r"several cases of the list are called CT, and .* one prompt file"):
        list_cases(files, outputs, tmp_path / "prompts", ".nii.gz", 1)
    own = [prompts / "blob_005.mrk.json", prompts / "blob_006.mrk.json"]
    assert [c.files.prompts for c in list_cases(files, outputs, own, ".nii.gz", 1)] == own
    assert len(list_cases(files, outputs, None, ".nii.gz", 1)) == 2


def test_a_model_without_a_prior_is_refused_before_any_work(
    trained: Workspace, images: Path, prompts: Path, tmp_path: Path
) -> None:
    forget_saliency(trained, 0)
    made = predictor_of(trained)
    with pytest.raises(ModelError, match="needs prompts, which 1 cases lack: blob_006"):
        made.predict_from_files(images, tmp_path / "out", prompts=[prompts / "blob_005.mrk.json", None])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="needs prompts"):
        made.predict_single_npy_array(np.zeros((1, 4, 8, 8), dtype=np.float32), {"spacing": (1, 1, 1)})


def test_an_image_that_cannot_be_predicted_costs_its_own_case_only(
    trained: Workspace, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = images / "blob_005_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file)) * 0, str(file))
    with pytest.raises(SystemExit) as caught:
        predict.main(["-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu", "--no_prompts", "-f", "0"])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "1 of 2 cases failed, the others are predicted:" in error
    assert "\n  case blob_005: the image is constant" in error
    assert names(tmp_path / "out") == {"blob_006.nii.gz", *EXTRAS}


def test_a_full_gpu_is_explained(trained: Workspace, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(predictor, "predict_mirrored", fail)
    with pytest.raises(SPDError, match="case blob_005: not even a single slice fits into the GPU"):
        predictor_of(trained).predict_from_files(images, None)


# ---- commands ---------------------------------------------------------------------------------------------


def test_the_model_of_a_folder_needs_no_variables(
    trained: Workspace,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = ["-i", str(images), "-device", "cpu", "-f", "0", "--disable_progress_bar", "--save_probabilities"]
    predict.main([*folders, "-d", "507", "-c", "2d", "-o", str(tmp_path / "found")])
    predict.main([*folders, "-d", "Dataset507_Blobs", "-o", str(tmp_path / "named"), "-npp", "0", "-nps", "0"])
    moved = shutil.copytree(trained.model(), tmp_path / "model")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable)
    arguments = [*folders, "-m", str(moved), "-o", str(tmp_path / "given"), "--verbose"]
    predict.modelfolder_main(arguments)
    assert f"model: {moved}" in capsys.readouterr().out
    assert content(tmp_path / "found") == content(tmp_path / "given") == content(tmp_path / "named")
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "given").glob("blob*")}
    assert len(before) == 6
    predict.modelfolder_main([*arguments, "--c"])
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "given").glob("blob*")} == before
    predict.modelfolder_main([*arguments, "-chk", "checkpoint_best.pth", "-num_parts", "2", "-part_id", "1"])
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "given").glob("blob*")}
    assert {n for n in after if after[n] != before[n]} == {"blob_006.nii.gz", "blob_006.npz", "blob_006.pkl"}


def test_mirroring_is_off_unless_asked_for(trained: Workspace, images: Path, tmp_path: Path) -> None:
    allow_mirroring(trained, 0, (1,))
    folders = ["-i", str(images), "-device", "cpu", "-f", "0", "--save_probabilities"]
    predict.main([*folders, "-o", str(tmp_path / "on"), "--tta"])
    predict.main([*folders, "-o", str(tmp_path / "off")])
    predict.main([*folders, "-o", str(tmp_path / "nnunet"), "--disable_tta"])
    case = RawDataset(trained.raw).cases("Ts")[0]
    for name, use_mirroring in (("on", True), ("off", False)):
        prediction, _ = predictor_of(trained, use_mirroring=use_mirroring).predict_case(case)
        expected = nnunet_probabilities(prediction.probabilities, predictor_of(trained).labels)
        np.testing.assert_array_equal(np.load(tmp_path / name / "blob_005.npz")["probabilities"], expected)
    assert content(tmp_path / "on") != content(tmp_path / "off") == content(tmp_path / "nnunet")


def test_wrong_options(trained: Workspace, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["-i", str(images), "-o", str(tmp_path / "out"), "-device", "cpu"]

    def refused(command: Any, *options: str) -> str:
        with pytest.raises(SystemExit) as caught:
            command([*folders, *options])
        assert caught.value.code == 1
        return capsys.readouterr().err

    assert "part_id 2 of num_parts 2" in refused(predict.main, "-num_parts", "2", "-part_id", "2")
    assert "-npp -1" in refused(predict.main, "-npp", "-1")
    assert "contradict each other" in refused(predict.main, "--no_prompts", "-prompts", str(images))
    assert "is not a trained model of spdnet" in refused(predict.modelfolder_main, "-m", str(images))
    assert not (tmp_path / "out").exists()
