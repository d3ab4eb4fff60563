"""Plans and fingerprints as nnU-Net reads them; the marked tests ask the real nnU-Net."""

from __future__ import annotations

import dataclasses
import json
import pydoc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.cli import plan_and_preprocess, train
from spdnet.inference import SPDPredictor
from spdnet.inference.export import probabilities_on_raw_grid
from spdnet.inference.volume import encode_volume
from spdnet.network.checkpoint import read_checkpoint
from spdnet.planning import Fingerprint, SPDPlans
from spdnet.planning.nnunet_plans import nnunet_fingerprint
from spdnet.tests.conftest import Workspace

PLAN = ["-d", "507", "-np", "1", "-sam", "tiny", "-image_size", "56", "-device", "cpu", "-gpu_memory_target", "0.6"]


def test_settings_changed_by_a_trainer_reach_nnunet_s_keys(planned: Workspace) -> None:
    plans = SPDPlans.load(planned.preprocessed / "SPDPlans.json")
    assert SPDPlans.from_dict(plans.to_dict()).to_dict() == plans.to_dict()
    s = plans.settings
    changed = dataclasses.replace(plans, settings=dataclasses.replace(s, lora=dataclasses.replace(s.lora, rank=3)))
    configuration = changed.to_dict()["configurations"]["2d"]
    assert configuration["architecture"]["arch_kwargs"]["lora"]["rank"] == 3
    assert plans.to_dict()["configurations"]["2d"]["architecture"]["arch_kwargs"]["lora"]["rank"] == s.lora.rank


def test_plans_without_the_keys_that_nnunet_looks_up_are_refused(planned: Workspace) -> None:
    content = SPDPlans.load(planned.preprocessed / "SPDPlans.json").to_dict()
    for key in ("configurations", "dataset_name", "image_reader_writer", "spd"):
        with pytest.raises(Exception, match=key):
            SPDPlans.from_dict({k: v for k, v in content.items() if k != key})
    with pytest.raises(Exception, match="must be a text"):
        SPDPlans.from_dict({**content, "plans_name": 3})


# ---- against nnU-Net --------------------------------------------------------------------------------------


def reorient_all(workspace: Workspace, orientation: str, first: int = 0) -> None:
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        for file in sorted((workspace.raw / folder).iterdir())[first:]:
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), orientation), str(file))


@pytest.fixture
def nnunet_paths(monkeypatch: pytest.MonkeyPatch) -> Any:
    """nnU-Net reads the environment when it is used, so the workspace's variables are enough."""
    return pytest.importorskip("nnunetv2")


@pytest.mark.nnunet
@pytest.mark.parametrize("orientation", ["RAI", "LPS", "ASR"])
def test_nnunet_makes_the_same_fingerprint(
    workspace: Workspace, nnunet_paths: Any, orientation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    reorient_all(workspace, orientation, first=1)  # the first case another way than the others
    plan_and_preprocess.extract_fingerprint_main(["-d", "507", "-np", "1"])
    ours = nnunet_fingerprint(Fingerprint.load(workspace.preprocessed / "spd_fingerprint.json"))
    DatasetFingerprintExtractor(507, 1).run(overwrite_existing=True)
    theirs = json.loads((workspace.preprocessed / "dataset_fingerprint.json").read_text(encoding="utf-8"))
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(ours["spacings"], theirs["spacings"], rtol=1e-5)
    assert np.array_equal(ours["shapes_after_crop"], theirs["shapes_after_crop"])
    assert ours["median_relative_size_after_cropping"] == pytest.approx(theirs["median_relative_size_after_cropping"])
    for name, value in theirs["foreground_intensity_properties_per_channel"]["0"].items():
        ours_value = ours["foreground_intensity_properties_per_channel"]["0"][name]
        assert ours_value == pytest.approx(value, rel=0.02), name


@pytest.mark.nnunet
@pytest.mark.parametrize("orientation", ["LPI", "RAS", "PIR"])
def test_nnunet_s_preprocessing_and_network_give_our_saliency(
    workspace: Workspace, nnunet_paths: Any, orientation: str
) -> None:
    """`nnUNetv2_predict`, step by step: plans, preprocessing, network, weights; its result against `SPDPredictor`."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    reorient_all(workspace, orientation)
    plan_and_preprocess.main(PLAN)
    train.main(["507", "all", "-epochs", "4", "0", "-device", "cpu"])
    plans = PlansManager(str(workspace.model() / "plans.json"))
    configuration = plans.get_configuration("2d")
    dataset_json = json.loads((workspace.model() / "dataset.json").read_text(encoding="utf-8"))
    image_file = workspace.raw / "imagesTs" / "blob_006_0000.nii.gz"
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([str(image_file)], None, plans, configuration, dataset_json)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=False,
    )
    assert isinstance(network, pydoc.locate("spdnet.inference.nnunet_network.SaliencyNetwork"))  # type: ignore[arg-type]
    checkpoint = torch.load(workspace.model() / "fold_all" / "checkpoint_final.pth", weights_only=True)
    network.load_state_dict(checkpoint["network_weights"])
    theirs = torch.sigmoid(_whole_slices(network.eval(), np.asarray(data))[:, 1:])
    ours = _own_saliency(workspace, image_file)
    permuted = ours.transpose(0, *(a + 1 for a in plans.transpose_forward))
    boxes = properties["bbox_used_for_cropping"]
    cropped = permuted[(slice(None), *(slice(lo, hi) for lo, hi in boxes))]
    resized = torch.nn.functional.interpolate(theirs, cropped.shape[2:], mode="bilinear").numpy().swapaxes(0, 1)
    assert np.corrcoef(resized.ravel(), cropped.ravel())[0, 1] > 0.95
    mirrored = [np.flip(resized, axis) for axis in (1, 2, 3)]
    assert max(np.corrcoef(m.ravel(), cropped.ravel())[0, 1] for m in mirrored) < 0.9, "a test that sees orientation"


def _whole_slices(network: torch.nn.Module, data: np.ndarray) -> torch.Tensor:
    """Logits of nnU-Net's array (c, S, rows, columns), each slice padded to 56 px as nnU-Net pads it."""
    slices = torch.from_numpy(data.astype(np.float32)).swapaxes(0, 1)
    rows, columns = (56 - n for n in slices.shape[2:])
    top, left = rows // 2, columns // 2
    padded = torch.nn.functional.pad(slices, (left, columns - left, top, rows - top))
    with torch.no_grad():
        logits = network(padded)
    return logits[..., top : top + slices.shape[2], left : left + slices.shape[3]]


def _own_saliency(workspace: Workspace, file: Path) -> np.ndarray:
    predictor = SPDPredictor(device="cpu")
    predictor.initialize_from_trained_model_folder(workspace.model(), ("all",))
    image, geometry = predictor.reader.read_image([file])
    from spdnet.planning import preprocess_image

    case = preprocess_image(image, geometry, predictor.plans.settings, "case")
    volume = encode_volume(predictor.networks[0], case.slices, 8, torch.device("cpu"))
    return probabilities_on_raw_grid(volume.saliency, case.mapping)


@pytest.mark.nnunet
def test_nnunet_s_preprocessing_of_our_plans_leaves_our_cases_alone(planned: Workspace, nnunet_paths: Any) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    folder = planned.preprocessed / "SPDPlans_2d"
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    preprocess_dataset(507, "SPDPlans", ["2d"], [1])
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert len(list((planned.preprocessed / "SPDPlans_2d_nnUNet").glob("*.pkl"))) == 5


@pytest.mark.nnunet
@pytest.mark.parametrize("first", ["nnunet", "spd"])
def test_both_programs_end_with_the_same_shared_files(workspace: Workspace, nnunet_paths: Any, first: str) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess_dataset,
    )
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    def nnunet() -> None:
        extract_fingerprints([507], num_processes=1, clean=True)
        plan_experiments([507])
        preprocess_dataset(507, "nnUNetPlans", ["2d"], [1])
        content = json.loads((workspace.preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
        trainer = nnUNetTrainer({**content, "continue_training": False}, "2d", 1, dataset_json(), torch.device("cpu"))
        splits.append(trainer.do_split())

    def spd() -> None:
        plan_and_preprocess.main([*PLAN, "--clean"])

    def dataset_json() -> dict[str, Any]:
        return json.loads((workspace.preprocessed / "dataset.json").read_text(encoding="utf-8"))

    splits: list[Any] = []
    order = (nnunet, spd) if first == "nnunet" else (spd, nnunet)
    order[0]()
    names = ("dataset.json", "gt_segmentations/blob_000.nii.gz")
    made = {name: (workspace.preprocessed / name).read_bytes() for name in names}
    theirs = workspace.preprocessed / "nnUNetPlans_2d"
    before = {f.name: f.read_bytes() for f in theirs.iterdir()} if theirs.exists() else {}
    order[1]()
    assert {name: (workspace.preprocessed / name).read_bytes() for name in names} == made
    assert not before or {f.name: f.read_bytes() for f in theirs.iterdir()} == before
    stored = json.loads((workspace.preprocessed / "splits_final.json").read_text(encoding="utf-8"))
    assert [list(map(str, part)) for part in splits[0]] == [stored[1]["train"], stored[1]["val"]]
    shutil.rmtree(workspace.results, ignore_errors=True)


@pytest.mark.nnunet
def test_nnunet_reads_the_checkpoint_and_its_own_keys(trained: Workspace, nnunet_paths: Any) -> None:
    file = trained.model() / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, map_location="cpu", weights_only=False)
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    assert recursive_find_trainer_class_by_name(content["trainer_name"]).__name__ == "nnUNetTrainer"
    assert read_checkpoint(file)["logging"].keys() == {
        "mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses", "lrs",
        "epoch_start_timestamps", "epoch_end_timestamps",
    }  # fmt: skip
