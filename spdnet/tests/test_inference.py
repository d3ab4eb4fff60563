"""From a trained model folder to segmentations on the images' own grids, by the commands and by the library."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.cli import evaluate, predict
from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import ConfigurationError, DatasetError, ModelError, PromptFileError
from spdnet.geometry import CaseMapping
from spdnet.inference import ModelFolder, SPDPredictor, find_model
from spdnet.inference.class_rules import Rules
from spdnet.inference.export import probabilities_on_raw_grid
from spdnet.inference.model_folder import dataset_of_folder
from spdnet.inference.prompting import decoder_rows, distill_volume
from spdnet.inference.volume import decode_volume, encode_volume, predict_volume
from spdnet.network import build_network
from spdnet.network.checkpoint import read_checkpoint, write_checkpoint
from spdnet.planning.plans import BoxSettings, DistillationSettings
from spdnet.prompts import ALL_CLASSES, Markup, SlicePrompts, read_markups, write_markups
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import DATASET

CPU = torch.device("cpu")

# ---- decoder rows -----------------------------------------------------------------------------------------


def salient_where(n_slices: int, n_classes: int, where: dict[tuple[int, int], float]) -> np.ndarray:
    """Saliency maps of 4 px, 0.1 all over but for one value in some (slice, class)."""
    saliency = np.full((n_slices, n_classes, 4, 4), 0.1, dtype=np.float32)
    for (s, k), value in where.items():
        saliency[s, k, 1, 2] = value
    return saliency


def rows_for(points: list[list[float]], classes: list[int], saliency: np.ndarray, **settings: Any) -> list[Any]:
    """The rows as (class, slice, points in pixels of a 16 px slice)."""
    chosen = DistillationSettings(**settings)
    prompts = SlicePrompts(np.array(points, dtype=np.float64).reshape(-1, 3), np.array(classes, dtype=np.int64))
    rows = decoder_rows(distill_volume(prompts, saliency, Rules(chosen, 16)), saliency, Rules(chosen, 16))
    own = [rows.points_yx[i][rows.point_is_real[i]].tolist() for i in range(len(rows))]
    return list(zip(rows.class_index.tolist(), rows.slice_index.tolist(), own, strict=True))


# pixel (1, 2) of 4 covers (4..7, 8..11) of 16
SALIENT_POINT = [4.0, 11.0]


def test_slices_with_trusted_points_are_decoded_with_them() -> None:
    saliency = salient_where(6, 1, {(1, 0): 0.9, (2, 0): 0.9})
    rows = rows_for([[1, *SALIENT_POINT], [4, *SALIENT_POINT]], [0, 0], saliency, empty_consensus="empty")
    assert rows == [(0, 1, [SALIENT_POINT]), (0, 2, [SALIENT_POINT])]
    rows = rows_for([[1, *SALIENT_POINT]], [0], saliency, empty_consensus="empty", n_context=0)
    assert rows == [(0, 1, [SALIENT_POINT])]


def test_salient_slices_without_points_follow_the_plans() -> None:
    saliency = salient_where(4, 1, {(0, 0): 0.9, (3, 0): 0.51, (2, 0): 0.5})
    assert rows_for([[0, *SALIENT_POINT]], [0], saliency, empty_consensus="empty") == [(0, 0, [SALIENT_POINT])]
    rows = rows_for([[0, *SALIENT_POINT]], [0], saliency, empty_consensus="decode")
    assert rows == [(0, 0, [SALIENT_POINT]), (0, 3, [])]
    assert rows_for([], [], salient_where(4, 1, {}), empty_consensus="decode") == []
    assert rows_for([], [], saliency, mode="raw") == [(0, s, []) for s in range(4)]


def test_raw_prompts_decode_every_slice_with_all_its_points() -> None:
    points = [[0, *SALIENT_POINT], [0, 15.0, 15.0], [2, 0.0, 0.0]]
    rows = rows_for(points, [0, 0, 0], salient_where(3, 1, {}), mode="raw")
    assert rows == [(0, 0, [SALIENT_POINT, [15.0, 15.0]]), (0, 1, []), (0, 2, [[0.0, 0.0]])]


def test_points_speak_for_their_class_or_for_all() -> None:
    saliency = salient_where(1, 2, {(0, 0): 0.9, (0, 1): 0.9})
    a, b, c = [0, 4.0, 8.0], [0, 5.0, 9.0], [0, 6.0, 10.0]
    rows = rows_for([a, b, c], [0, ALL_CLASSES, 1], saliency)
    assert rows == [(0, 0, [a[1:], b[1:]]), (1, 0, [b[1:], c[1:]])]


def test_the_number_of_points_is_limited() -> None:
    saliency = salient_where(1, 1, {(0, 0): 0.9})
    points = [[0, 4.0 + i / 8, 9.0] for i in range(12)]
    ((_, _, own),) = rows_for(points, [0] * 12, saliency, max_points=10)
    np.testing.assert_allclose(own, [p[1:] for p in points[:10]], atol=1e-5)


def test_prompts_on_the_slice_are_found_at_any_map_resolution() -> None:
    settings = DistillationSettings(n_context=0)
    prompts = SlicePrompts(np.array([[0, 0.0, 15.0], [0, 7.49, 7.51]]), np.zeros(2, dtype=np.int64))
    consensus = distill_volume(prompts, np.ones((1, 1, 4, 4), dtype=np.float32), Rules(settings, 16))
    np.testing.assert_allclose(consensus[0].points_yx, [[-0.375, 3.375], [1.4975, 1.5025]])


# ---- one volume -------------------------------------------------------------------------------------------


def tiny_volume() -> tuple[Any, np.ndarray]:
    torch.manual_seed(0)
    network = build_network("tiny", 1, 2, 56, 0, 1, 0.0)
    return network, np.random.default_rng(0).random((7, 1, 56, 56)).astype(np.float16)


def test_a_volume_does_not_depend_on_the_batch_size() -> None:
    network, slices = tiny_volume()
    prompts = SlicePrompts(np.array([[3.0, 20, 20], [5, 30, 40]]), np.array([0, -1]))
    settings = DistillationSettings(tau=0.3)
    first = predict_volume(network, slices, prompts, settings, 2, CPU)
    second = predict_volume(network, slices, prompts, settings, 7, CPU)
    assert first.consensus is not None
    assert first.probabilities.shape == first.saliency.shape == (7, 2, 28, 28)
    np.testing.assert_allclose(first.saliency, second.saliency, atol=1e-2)
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=2e-2)


def test_what_is_not_decoded_is_zero_and_no_prompts_give_the_saliency() -> None:
    network, slices = tiny_volume()
    volume = encode_volume(network, slices, 4, CPU)
    assert volume.embeddings.dtype == torch.float16
    settings = DistillationSettings(mode="consensus", tau=0.3, n_context=0, empty_consensus="empty")
    prompts = SlicePrompts(np.array([[3.0, 20, 20]]), np.array([1]))
    rows = decoder_rows(
        distill_volume(prompts, volume.saliency, Rules(settings, 56)), volume.saliency, Rules(settings, 56)
    )
    probabilities = decode_volume(network, volume, rows, CPU)
    assert len(rows) == 1
    assert (probabilities[3, 1] > 0).all()
    probabilities[3, 1] = 0
    assert not probabilities.any()
    alone = predict_volume(network, slices, None, settings, 4, CPU)
    assert alone.consensus is None
    np.testing.assert_array_equal(alone.probabilities, volume.saliency)


def test_probabilities_of_any_resolution_land_on_the_raw_grid() -> None:
    mapping = CaseMapping((2, 8, 8), (0, 1, 2), (False, True, False), ((0, 2), (0, 8), (0, 8)), (16, 16), (0, 0), 16)
    coarse = np.zeros((2, 1, 8, 8), dtype=np.float32)
    coarse[1, 0, :4] = 1  # the upper half, which the flip of rows makes the lower one
    raw = probabilities_on_raw_grid(coarse, mapping)
    assert raw.shape == (1, 2, 8, 8)
    assert not raw[0, 0].any()
    assert (raw[0, 1, 4:] > 0.5).all()
    assert (raw[0, 1, :4] < 0.5).all()


# ---- finding models ---------------------------------------------------------------------------------------


def fake_model(
    root: Path, dataset: str, name: str, folds: tuple[str, ...] = ("0",), plans: str = '{"spd": {}}'
) -> Path:
    folder = root / dataset / name
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").write_text("", encoding="utf-8")
    (folder / "plans.json").write_text(plans, encoding="utf-8")
    return folder


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "nnUNet_results"
    root.mkdir()
    monkeypatch.setenv("nnUNet_results", str(root))
    return root


SPD = "SPDTrainer__SPDPlans__2d"


def test_the_data_set_is_the_one_the_images_lie_in(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fake_model(results, "Dataset501_A", SPD), fake_model(results, "Dataset502_B", SPD)
    images = tmp_path / "raw" / "Dataset502_B" / "imagesTs"
    images.mkdir(parents=True)
    assert find_model(images, None, None, None).path == second
    for current, given in ((images.parent, "imagesTs"), (images, "."), (images.parent / "imagesTs", "../imagesTs")):
        monkeypatch.chdir(current)
        assert find_model(Path(given), None, None, None).path == second
        assert dataset_of_folder(Path(given)) == "Dataset502_B"
    assert find_model(images, "Dataset501_A", None, None).path == first, "-d goes before the place"
    (tmp_path / "link").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    assert find_model(Path("link"), None, None, None).path == second


def test_elsewhere_the_only_trained_model_is_used(results: Path, tmp_path: Path) -> None:
    only = fake_model(results, "Dataset501_A", SPD)
    fake_model(results, "Dataset501_A", "nnUNetTrainer__nnUNetPlans__2d", plans='{"dataset_name": "x"}')
    fake_model(results, "Dataset501_A", "SPDTrainer__SPDPlans__3d_fullres")
    (results / "notes.txt").write_text("", encoding="utf-8")
    (results / "Dataset501_A" / "notes.txt").write_text("", encoding="utf-8")
    assert find_model(tmp_path, None, None, None).path == only
    assert dataset_of_folder(tmp_path) is None


def test_several_models_are_listed_with_the_options_that_choose(results: Path, tmp_path: Path) -> None:
    fake_model(results, "Dataset501_A", SPD)
    other_trainer = fake_model(results, "Dataset501_A", "SPDTrainerNoPSC__SPDPlans__2d")
    other_plans = fake_model(results, "Dataset501_A", "SPDTrainer__Fine__2d")
    fake_model(results, "Dataset502_B", SPD)
    with pytest.raises(ConfigurationError) as caught:
        find_model(tmp_path, None, None, None)
    text = str(caught.value)
    for part in ("Several", "Dataset501_A/SPDTrainer__Fine__2d", "Dataset502_B/SPDTrainer__SPDPlans__2d", "-d", "-tr"):
        assert part in text
    with pytest.raises(ConfigurationError) as caught:
        find_model(tmp_path, "Dataset501_A", "SPDTrainer", None)
    assert "NoPSC" not in str(caught.value)
    assert find_model(tmp_path, "Dataset501_A", "SPDTrainerNoPSC", None).path == other_trainer
    assert find_model(tmp_path, None, None, "Fine").path == other_plans


def test_no_fitting_model_lists_those_there_are(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No trained model fits.*\n  none\n.*spd_train"):
        find_model(tmp_path, None, None, None)
    fake_model(results, "Dataset501_A", SPD)
    images = tmp_path / "Dataset503_C" / "imagesTs"
    with pytest.raises(ConfigurationError, match=r"No .*data set Dataset503_C.*\n  Dataset501_A/SPDTrainer__SPDPlans"):
        find_model(images, None, None, None)


def test_folds_are_all_numbered_ones_else_all(tmp_path: Path) -> None:
    model = ModelFolder(fake_model(tmp_path, "Dataset501_A", SPD, ("1", "0", "all")))
    (model.path / "fold_2").mkdir()
    (model.path / "fold_1" / "checkpoint_best.pth").write_text("", encoding="utf-8")
    assert model.folds() == ["0", "1", "2", "all"]
    with pytest.raises(ModelError, match="folds 0, 1, all are trained; choose with -f"):
        model.choose_folds(None, "checkpoint_final.pth")
    assert model.choose_folds(["all"], "checkpoint_final.pth") == ["all"]
    assert model.choose_folds(None, "checkpoint_best.pth") == ["1"]
    with pytest.raises(ModelError, match=r"fold 2 has no checkpoint_final\.pth; folds that have: 0, 1, all"):
        model.choose_folds(["0", "2"], "checkpoint_final.pth")
    shutil.rmtree(model.path / "fold_all")
    assert model.choose_folds(None, "checkpoint_final.pth") == ["0", "1"]
    with pytest.raises(ModelError, match=r"no fold has x\.pth; other checkpoints there: checkpoint_best\.pth"):
        model.choose_folds(None, "x.pth")
    with pytest.raises(ModelError, match="train first: spd_train"):
        ModelFolder(tmp_path).choose_folds(None, "checkpoint_final.pth")


# ---- trained models ---------------------------------------------------------------------------------------


def run_predict(trained: Workspace, output: Path, *options: str) -> None:
    predict.main(["-i", str(trained.raw / "imagesTs"), "-o", str(output), "-device", "cpu", *options])


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    return {f.name: sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in sorted(folder.glob("*.nii.gz"))}


def dice_by_case_and_class(predictions: Path, labels: Path) -> list[float]:
    """An output on a wrong grid, flipped say, would find nothing: the two blobs lie in opposite corners."""
    dice = []
    for name, predicted in segmentations(predictions).items():
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(labels / name)))
        for value in (1, 2):
            a, b = predicted == value, truth == value
            dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return dice


def predictor_of(trained: Workspace, folds: list[int] | None = None, **options: Any) -> SPDPredictor:
    predictor = SPDPredictor(device="cpu", allow_tqdm=False, **options)
    predictor.initialize_from_trained_model_folder(trained.model(), folds)
    return predictor


def test_the_whole_way_by_the_commands(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.raw)
    predict.main(["-i", "imagesTs", "-o", "preds"])
    out = capsys.readouterr().out
    assert f"model: {trained.model()}" in out
    assert f"prompts: {trained.raw / 'promptsTs'}" in out
    for number in (5, 6):  # stored flipped and oblique, and plainly
        image = sitk.ReadImage(f"imagesTs/blob_{number:03d}_0000.nii.gz")
        prediction = sitk.ReadImage(f"preds/blob_{number:03d}.nii.gz")
        assert prediction.GetPixelID() == sitk.sitkUInt8
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-6)
        assert prediction.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-5)
        assert prediction.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
        assert set(np.unique(sitk.GetArrayFromImage(prediction)).tolist()) == {0, 1, 2}
    written = {f.name for f in Path("preds").iterdir()}
    extras = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}
    assert written == {"blob_005.nii.gz", "blob_006.nii.gz", *extras}
    evaluate.main(["-ref", "labelsTs", "-pred", "preds", "-np", "1"])
    out = capsys.readouterr().out
    assert "along S" in out
    assert json.loads(Path("preds/spd_evaluation.json").read_text(encoding="utf-8"))
    dice = dice_by_case_and_class(Path("preds"), Path("labelsTs"))
    assert min(dice) > 0.3


def test_prompts_matter_and_their_absence_is_what_the_plans_say(
    trained: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_predict(trained, tmp_path / "prompted", "--disable_tta")
    shutil.rmtree(trained.raw / "promptsTs")
    run_predict(trained, tmp_path / "alone", "--no_prompts", "--disable_tta")
    assert "predicting from the images alone" in capsys.readouterr().out
    prompted, alone = segmentations(tmp_path / "prompted"), segmentations(tmp_path / "alone")
    assert any(not np.array_equal(alone[n], prompted[n]) for n in alone)
    assert min(dice_by_case_and_class(tmp_path / "alone", trained.raw / "labelsTs")) > 0.7
    predictor = predictor_of(trained, use_mirroring=False)
    case = RawDataset(trained.raw).cases("Ts")[0]
    prediction, _ = predictor.predict_case(case)
    np.testing.assert_array_equal(prediction.segmentation, alone["blob_005.nii.gz"])
    mean = np.mean([v.saliency for v in prediction.volumes], axis=0)
    np.testing.assert_allclose(
        prediction.probabilities, probabilities_on_raw_grid(mean, prediction.network_case.mapping), atol=1e-6
    )
    settings = predictor.plans.settings
    decode = replace(settings.distillation, without_prompts="decode")
    predictor.plans = replace(predictor.plans, settings=replace(settings, distillation=decode))
    decoded, _ = predictor.predict_case(case)
    assert not np.allclose(decoded.probabilities, prediction.probabilities, atol=0.1)


def test_wrong_prompts_cost_their_own_case_and_are_said_at_once(
    trained: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor, prompts = predictor_of(trained, [0]), trained.raw / "promptsTs"

    def predict_into(name: str) -> Path:
        predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / name, prompts=prompts)
        return tmp_path / name

    (prompts / "blob_006.mrk.json").unlink()
    with pytest.raises(
        PromptFileError, match=r"1 of 2 cases failed.*\n  case blob_006 has no prompt file.*--no_prompts"
    ):
        predict_into("missing")
    assert "left out: case blob_006 has no prompt file" in caplog.text
    far = Markup("bright", "points", np.array([[500.0, 0, 0]]), ("far",))
    write_markups(prompts / "blob_006.mrk.json", [far])
    with pytest.raises(PromptFileError, match="case blob_006: point 'far'.*outside the image"):
        predict_into("outside")
    for name in ("missing", "outside"):
        assert [f.name for f in (tmp_path / name).glob("*.nii.gz")] == ["blob_005.nii.gz"]
    write_markups(prompts / "blob_005.mrk.json", [far])
    with pytest.raises(
        PromptFileError, match="none of the 2 cases can be predicted:\n  case blob_005: .*\n  case blob_006"
    ):
        predict_into("none")
    for file in prompts.glob("*.mrk.json"):
        file.unlink()
    with pytest.raises(PromptFileError, match="holds no prompt file of any case"):
        predict_into("none")
    assert not (tmp_path / "none").exists(), "found before any work"


def test_images_of_other_channels_are_refused(trained: Workspace, tmp_path: Path) -> None:
    predictor = predictor_of(trained, [0])
    with pytest.raises(DatasetError, match=r"case array 0: 2 channels; the plans are for 1"):
        predictor.predict_single_npy_array(np.zeros((2, 4, 8, 8), dtype=np.float32), {"spacing": (1, 1, 1)})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        predictor.predict_from_files(tmp_path / "empty", tmp_path / "out")


def test_an_array_gives_what_its_files_give(trained: Workspace, tmp_path: Path) -> None:
    predictor = predictor_of(trained, [0])
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out", True, prompts=trained.raw / "promptsTs")
    found = segmentations(tmp_path / "out")
    for case in RawDataset(trained.raw).cases("Ts"):
        image, geometry = SimpleITKIO().read_image(case.images, case.case)
        assert case.prompts is not None
        points, classes = [], []
        for markup in read_markups(case.prompts):
            points.append(geometry.world_to_voxel(markup.points_lps_mm))
            classes += [predictor.labels.names.index(markup.name)] * len(points[-1])
        properties = SimpleITKIO().properties(geometry)
        given = {"points_zyx": np.concatenate(points), "class_index": np.array(classes)}
        segmentation, probabilities = predictor.predict_single_npy_array(
            image, properties, save_or_return_probabilities=True, **given
        )
        np.testing.assert_array_equal(segmentation, found[f"{case.case}.nii.gz"])
        np.testing.assert_array_equal(predictor.predict_single_npy_array(image, properties, **given), segmentation)
        stored = np.load(tmp_path / "out" / f"{case.case}.npz")["probabilities"]
        assert probabilities.dtype == np.float32
        np.testing.assert_array_equal(probabilities, stored)
        np.testing.assert_array_equal(probabilities.argmax(0), segmentation)
        file = tmp_path / case.case
        assert predictor.predict_single_npy_array(image, properties, None, file, True, **given) is None
        np.testing.assert_array_equal(np.load(file.with_suffix(".npz"))["probabilities"], stored)
        np.testing.assert_array_equal(segmentations(tmp_path)[f"{case.case}.nii.gz"], segmentation)


def test_boxes_of_an_array_give_what_those_of_a_file_give(trained: Workspace, tmp_path: Path) -> None:
    predictor = predictor_of(trained, [0])
    s = predictor.plans.settings
    raw = replace(s, distillation=replace(s.distillation, mode="raw", boxes=BoxSettings("raw")))
    predictor.plans = replace(predictor.plans, settings=raw)
    case = RawDataset(trained.raw).cases("Ts")[1]  # not oblique, so the world's box is upright in it
    image, geometry = SimpleITKIO().read_image(case.images)
    corners = np.array([[[1.0, 4.0, 3.0], [3.0, 14.0, 16.0]]])
    low, high = geometry.voxel_to_world(corners[0])
    columns = [f"{axis}{end}_lps_mm" for end in (0, 1) for axis in "xyz"]
    values = [*np.minimum(low, high), *np.maximum(low, high)]
    file = tmp_path / f"{case.case}.csv"
    rows = [",".join([*columns, "label"]), ",".join([*map(str, values), "bright"])]
    file.write_text("\n".join(rows), encoding="utf-8")
    output = tmp_path / "out" / case.case
    predictor.predict_from_files([[str(f) for f in case.images]], [str(output)], True, prompts=[str(file)])
    stored = np.load(tmp_path / "out" / f"{case.case}.npz")["probabilities"]
    given = {"boxes_zyx": corners, "box_class_index": np.array([0])}
    _, found = predictor.predict_single_npy_array(image, SimpleITKIO().properties(geometry), None, None, True, **given)
    np.testing.assert_allclose(found, stored, atol=1e-5)
    everywhere = {"boxes_zyx": corners[:, ::-1], "box_class_index": np.array([1])}
    _, other_class = predictor.predict_single_npy_array(
        image, SimpleITKIO().properties(geometry), None, None, True, **everywhere
    )
    assert np.abs(other_class - stored).max() > 1e-3


def test_points_of_arrays_outside_the_crop_are_dropped_as_those_of_files(trained: Workspace) -> None:
    predictor = predictor_of(trained, [0])
    s = predictor.plans.settings
    raw = replace(s, crop_to_nonzero=True, distillation=replace(s.distillation, mode="raw"))
    predictor.plans = replace(predictor.plans, settings=raw)
    image, geometry = SimpleITKIO().read_image(RawDataset(trained.raw).cases("Ts")[1].images)
    image[:, :, 18:] = 0
    points = np.array([[2, 10, 10], [2, 20, 10]])
    found = []
    for chosen in (points, points[:1], points[:0]):
        properties = {"spacing": geometry.spacing_zyx_mm}
        found.append(predictor.predict_single_npy_array(image, properties, None, None, True, points_zyx=chosen)[1])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


def test_arrays_need_points_within_them(trained: Workspace) -> None:
    predictor = predictor_of(trained, [0])
    image, geometry = SimpleITKIO().read_image(RawDataset(trained.raw).cases("Ts")[0].images)
    properties = {"spacing": geometry.spacing_zyx_mm}
    with pytest.raises(PromptFileError, match=r"point 1 at voxel \(z, y, x\) \[0\.0, 24\.0, 0\.0\] lies outside"):
        predictor.predict_single_npy_array(image, properties, points_zyx=np.array([[0, 23, 0], [0, 24, 0]]))
    with pytest.raises(PromptFileError, match="class_index must give each of the 1 prompts a class from 0 to 1"):
        predictor.predict_single_npy_array(
            image, properties, points_zyx=np.array([[0, 23, 0]]), class_index=np.array([2])
        )
    far = np.array([[[0, 24, 0], [2, 30, 5]]])
    with pytest.raises(PromptFileError, match=r"box 0 with corners .* lies outside the image"):
        predictor.predict_single_npy_array(image, properties, boxes_zyx=far)
    with pytest.raises(PromptFileError, match=r"boxes_zyx must be finite numbers of shape \(N, 2, 3\), not \(1, 6\)"):
        predictor.predict_single_npy_array(image, properties, boxes_zyx=far.reshape(1, 6))
    with pytest.raises(ConfigurationError, match="no cascade.*points_zyx="):
        predictor.predict_single_npy_array(image, properties, np.zeros((1, 3)))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="must have axes"):
        predictor.predict_single_npy_array(image[0], properties)
    with pytest.raises(DatasetError, match='need "spacing"'):
        predictor.predict_single_npy_array(image, {})
    none = predictor.predict_single_npy_array(image, properties)
    empty = predictor.predict_single_npy_array(image, properties, points_zyx=np.zeros((0, 3)))
    assert none.shape == empty.shape == image.shape[1:]
    with pytest.raises(ConfigurationError, match="call initialize_from_trained_model_folder first"):
        SPDPredictor(device="cpu").predict_single_npy_array(image, properties)


def test_folds_are_averaged(trained: Workspace) -> None:
    case = RawDataset(trained.raw).cases("Ts")[1]
    single = [predictor_of(trained, [fold]).predict_case(case)[0].probabilities for fold in (0, 1)]
    assert not np.allclose(single[0], single[1], atol=1e-3)
    both = predictor_of(trained).predict_case(case)[0]
    assert len(both.volumes) == 2
    np.testing.assert_allclose(both.probabilities, (single[0] + single[1]) / 2, atol=1e-6)


def test_only_the_copies_beside_the_weights_are_read(trained: Workspace, tmp_path: Path) -> None:
    run_predict(trained, tmp_path / "before")
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.model(), moved)
    shutil.rmtree(trained.root / "nnUNet_preprocessed")
    (trained.raw / "dataset.json").unlink()
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(moved)
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "after", prompts=trained.raw / "promptsTs")
    before, after = segmentations(tmp_path / "before"), segmentations(tmp_path / "after")
    assert all(np.array_equal(before[n], after[n]) for n in before)


def change_plans(trained: Workspace, **changes: Any) -> None:
    file = trained.model() / "plans.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["spd"] |= changes
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "lite"}, "do not belong together: backbone was 'tiny', the plans say 'lite'"),
        ({"image_size": 112}, "do not belong together: image_size was 56, the plans say 112"),
        ({"lora": {"rank": 2}}, "do not belong together: lora"),
        ({"tau": 0.5}, "is not a trained model of spdnet: .*unknown key tau"),
    ],
)
def test_plans_and_checkpoints_that_do_not_belong_together(
    trained: Workspace, changes: dict[str, Any], message: str
) -> None:
    change_plans(trained, **changes)
    with pytest.raises(ModelError, match=message):
        predictor_of(trained)


def test_a_model_of_other_classes_is_refused(trained: Workspace) -> None:
    file = trained.model() / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["labels"]["third"] = 3
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth was trained on other labels than .*dataset\.json has"):
        predictor_of(trained)


def test_a_model_without_stage_1_needs_prompts(trained: Workspace) -> None:
    forget_saliency(trained, 0)
    case = replace(RawDataset(trained.raw).cases("Ts")[0], prompts=None)
    with pytest.raises(ModelError, match="no saliency prior and needs prompts"):
        predictor_of(trained, [0]).predict_case(case)


def test_of_older_checkpoints_the_plans_say_whether_there_was_a_stage_1(trained: Workspace) -> None:
    case = replace(RawDataset(trained.raw).cases("Ts")[0], prompts=None)
    forget_saliency(trained, 0, None)
    predictor_of(trained, [0]).predict_case(case)
    file = trained.model() / "fold_0" / "checkpoint_final.pth"
    content = read_checkpoint(file)
    content["spd"]["settings"]["stage1"]["epochs"] = 0
    write_checkpoint(file, content)
    with pytest.raises(ModelError, match="no saliency prior and needs prompts"):
        predictor_of(trained, [0]).predict_case(case)


def test_folds_that_are_averaged_need_a_saliency_each(trained: Workspace) -> None:
    forget_saliency(trained, 1)
    case = replace(RawDataset(trained.raw).cases("Ts")[0], prompts=None)
    with pytest.raises(ModelError, match="no saliency prior and needs prompts"):
        predictor_of(trained, [0, 1]).predict_case(case)


def forget_saliency(trained: Workspace, fold: int, has_saliency: bool | None = False) -> None:
    """Make the checkpoint of a fold one that never had a stage 1, or (None) that does not say so."""
    file = trained.model() / f"fold_{fold}" / "checkpoint_final.pth"
    content = read_checkpoint(file)
    content["spd"].pop("has_saliency")
    if has_saliency is not None:
        content["spd"]["has_saliency"] = has_saliency
    write_checkpoint(file, content)


def test_a_volume_stored_along_another_axis_gives_the_same_segmentation(trained: Workspace, tmp_path: Path) -> None:
    """The same patient stored with permuted and flipped axes: same world, same result."""
    source = sitk.ReadImage(str(trained.raw / "imagesTs" / "blob_006_0000.nii.gz"))
    permuted = sitk.Flip(sitk.PermuteAxes(source, (2, 0, 1)), (True, False, True))
    (tmp_path / "images").mkdir()
    (tmp_path / "prompts").mkdir()
    sitk.WriteImage(permuted, str(tmp_path / "images" / "blob_006_0000.nii.gz"))
    shutil.copy(trained.raw / "promptsTs" / "blob_006.mrk.json", tmp_path / "prompts")
    predictor = predictor_of(trained, [0])
    predictor.predict_from_files(tmp_path / "images", tmp_path / "out", prompts=tmp_path / "prompts")
    found = sitk.ReadImage(str(tmp_path / "out" / "blob_006.nii.gz"))
    assert found.GetSize() == permuted.GetSize()
    assert found.GetDirection() == pytest.approx(permuted.GetDirection())
    back = sitk.Resample(found, source, sitk.Transform(), sitk.sitkNearestNeighbor)
    original, _ = predictor.predict_case(RawDataset(trained.raw).cases("Ts")[1])
    agree = (sitk.GetArrayFromImage(back) == original.segmentation).mean()
    assert original.segmentation.any()
    assert agree > 0.999, "up to rounding in the header"


def test_a_2d_image_is_a_volume_of_one_slice(trained: Workspace, tmp_path: Path) -> None:
    predictor = predictor_of(trained, [0])
    source = sitk.ReadImage(str(trained.raw / "imagesTs" / "blob_005_0000.nii.gz"))
    image = sitk.GetImageFromArray(sitk.GetArrayFromImage(source)[3])
    image.SetSpacing((1.0, 1.2))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(image, str(tmp_path / "images" / "flat_0000.nii.gz"))
    predictor.predict_from_files(tmp_path / "images", tmp_path / "out")
    found = sitk.ReadImage(str(tmp_path / "out" / "flat.nii.gz"))
    assert found.GetDimension() == 2
    assert found.GetSize() == image.GetSize()
    assert sitk.GetArrayFromImage(found).any()


def test_a_model_folder_names_its_data_set_and_classes(trained: Workspace) -> None:
    model = ModelFolder(trained.model())
    assert model.plans().dataset_name == DATASET
    assert model.labels().names == ("bright", "half")
