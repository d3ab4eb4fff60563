"""What became of every point, as files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.cli import predict, train
from spdnet.dataset import RawDataset
from spdnet.geometry import ImageGeometry
from spdnet.inference import SPDPredictor
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import distill_volume_boxes
from spdnet.inference.volume import VolumePrediction
from spdnet.planning.plans import BoxSettings, DistillationSettings
from spdnet.prompts import Markup, read_markups, write_markups
from spdnet.prompts.coarse_boxes import CoarseBoxes
from spdnet.prompts.fates import Fate
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_training import stored_cases
from spdnet.training.prompt_quality import prompt_quality, summarise_quality


def predicted(trained: Workspace, *options: str) -> Path:
    folder = trained.root / "preds"
    arguments = ["-i", str(trained.raw / "imagesTs"), "-o", str(folder), "-device", "cpu", "--disable_tta", "-f", "0"]
    predict.main([*arguments, *options])
    return folder


def test_every_point_is_told_in_a_markup_and_in_the_table(trained: Workspace) -> None:
    folder = predicted(trained, "--save_prompts")
    assert sorted(f.name for f in (folder / "prompts").iterdir()) == [
        "blob_005.csv", "blob_005.mrk.json", "blob_006.csv", "blob_006.mrk.json",
    ]  # fmt: skip
    predictor = SPDPredictor(device="cpu", use_mirroring=False)
    predictor.initialize_from_trained_model_folder(trained.model(), (0,))
    for number, case in enumerate(RawDataset(trained.raw).cases("Ts")):
        with (folder / "prompts" / f"{case.case}.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        case = type(case)(case.case, case.images, case.label, trained.raw / "promptsTs" / f"{case.case}.mrk.json")
        prediction, geometry = predictor.predict_case(case)
        consensus = prediction.volumes[0].consensus
        assert consensus is not None
        given = predictor.network_prompts(case, prediction.network_case)
        for k, name in enumerate(("bright", "half")):
            own = [r for r in rows if r["label"] == name]
            kept = [r for r in own if r["fate"].startswith("kept")]
            found = {(int(r["judged_for_slice"]), int(r["point"]) - 1) for r in kept}
            assert found == set(zip(consensus[k].slice_index.tolist(), consensus[k].point_index.tolist(), strict=True))
            assert {int(r["point"]) for r in own} == set(range(1, len(given.for_class(k)) + 1))
            for row in own:
                decided = float(row["saliency_here"])
                assert (decided > float(row["threshold"])) == (row["fate"].startswith(("kept", "left out")))
        markups = read_markups(folder / "prompts" / f"{case.case}.mrk.json")
        assert sum(len(m.points_lps_mm) for m in markups) == len(rows)
        assert {m.name.split(", ", 1)[1] for m in markups} == {r["fate"] for r in rows} <= {f.value for f in Fate}
        local = np.concatenate([m.points_lps_mm for m in markups if m.name.endswith(("local", "own slice"))])
        stored = np.concatenate([m.points_lps_mm for m in read_markups(case.prompts)])
        distances = np.linalg.norm(local[:, None] - stored[None], axis=2).min(axis=1)
        assert distances.max() < 1e-3, "points judged in their own slice lie where they were placed"
        assert number in (0, 1)
        assert geometry.contains(geometry.world_to_voxel(local)).all()


def test_it_is_only_written_when_asked_and_can_be(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (predicted(trained) / "prompts").exists()
    with pytest.raises(SystemExit):
        predicted(trained, "--save_prompts", "--no_prompts")
    assert "--save_prompts needs prompts" in capsys.readouterr().err
    stage1 = str(trained.model() / "fold_0" / "checkpoint_final.pth")
    train.main(
        ["507", "0", "-tr", "SPDTrainerRawPrompts", "-epochs", "2", "1", "-device", "cpu", "-stage1_from", stage1]
    )
    with pytest.raises(SystemExit):
        predicted(trained, "--save_prompts", "-tr", "SPDTrainerRawPrompts")
    assert "there are no fates to save" in capsys.readouterr().err


def test_points_outside_the_crop_are_told_and_the_others_keep_their_numbers(trained: Workspace, tmp_path: Path) -> None:
    predictor = SPDPredictor(device="cpu", use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model(), (0,))
    settings = replace(predictor.plans.settings, crop_to_nonzero=True)
    predictor.plans = replace(predictor.plans, settings=settings)
    image = sitk.ReadImage(str(RawDataset(trained.raw).cases("Ts")[1].images[0]))
    geometry, array = ImageGeometry.from_sitk(image), sitk.GetArrayFromImage(image)
    array[:, 18:] = 0
    cut = sitk.GetImageFromArray(array)
    geometry.apply_to_sitk(cut)
    sitk.WriteImage(cut, str(tmp_path / "cut_0000.nii.gz"))
    own = geometry.voxel_to_world(np.array([[2.0, 20, 10], [2, 10, 10], [2, 10, 10], [3, 12, 8], [4, 21, 9]]))
    shared = geometry.voxel_to_world(np.array([[1.0, 9, 9], [1, 22, 9]]))
    lists = [Markup("half", "points", own, tuple("abcde")), Markup("F", "points", shared, tuple("fg"))]
    write_markups(tmp_path / "cut.mrk.json", lists)
    predictor.predict_from_files(
        [[tmp_path / "cut_0000.nii.gz"]], tmp_path / "out", prompts=[tmp_path / "cut.mrk.json"], save_prompts=True
    )
    with (tmp_path / "out" / "prompts" / "cut.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    outside = Fate.OUTSIDE.value
    for name, given, without_row in (("bright", shared, []), ("half", np.concatenate([own, shared]), [3])):
        told = [r for r in rows if r["label"] == name]
        numbers = [int(r["point"]) for r in told]
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(1, len(given) + 1)) - set(without_row)
        for row in told:
            x, y, z = given[int(row["point"]) - 1]
            if row["slice"] == row["judged_for_slice"]:
                np.testing.assert_allclose([float(row[f"{a}_lps_mm"]) for a in "xyz"], [x, y, z], atol=1e-4)
        assert [int(r["point"]) for r in told if r["fate"] == outside] == {"bright": [2], "half": [1, 5, 7]}[name]
        assert all(r["saliency_here"] == "" for r in told if r["fate"] == outside)
    (drawn,) = (m for m in read_markups(tmp_path / "out" / "prompts" / "cut.mrk.json") if m.name == f"half, {outside}")
    assert drawn.point_labels == ("point 1", "point 5", "point 7")


def test_validation_tells_precision_and_recall_before_and_after(trained: Workspace) -> None:
    content = json.loads((trained.model() / "fold_0" / "validation" / "prompts.json").read_text(encoding="utf-8"))
    raw, distilled = (content["all_cases"][kind] for kind in ("raw", "distilled"))
    assert raw["points"] == sum(c["raw"]["points"] for c in content["cases"])
    assert raw["recall"] == 1.0, "one simulated point is inside in each target slice"
    assert 0 < raw["precision"] < 1
    assert raw["target_slices"] == distilled["target_slices"] > 0
    assert distilled["precision"] is None or distilled["precision"] >= raw["precision"]


def test_quality_of_boxes_is_the_overlap_before_and_after_distillation(planned: Workspace) -> None:
    case = stored_cases(planned)[0]
    masks = np.asarray(case.masks)
    size = masks.shape[-1]
    coarse = CoarseBoxes(0.5, 0.2).draw(masks, case.mapping.content_box, (1.0, 1.0, 1.0), np.random.default_rng(0))
    saliency = masks.astype(np.float32)  # a perfect prior
    boxes = distill_volume_boxes(coarse, saliency, Rules(DistillationSettings(boxes=BoxSettings(margin=0.0)), size))
    quality = prompt_quality(case, coarse, VolumePrediction(saliency, saliency, [], boxes))
    assert quality.raw.boxes_on_target == int(masks.any(axis=(2, 3)).sum())
    assert quality.raw.mean_box_iou < 0.8
    assert quality.distilled.mean_box_iou > 0.99, "shrunk to the target where the box held all of it"
    content = summarise_quality([quality])["all_cases"]
    assert content["distilled"]["mean_box_iou"] == quality.distilled.mean_box_iou
    assert content["distilled"]["precision"] is None, "there are no points"
