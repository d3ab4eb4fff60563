"""Methods that learn from single slices: their data, their training and its interruptions, and what each tunes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from evidence import slice_command
from evidence.case_prediction import predict_test_cases
from evidence.consensus import Distiller, consensus_points
from evidence.jobs import PROFILES, Budget, Setting
from evidence.methods import spd as spd_methods
from evidence.methods.medsam import MedSamMethod
from evidence.methods.sam_adapter import Adapter, SamAdapterMethod, add_adapters
from evidence.methods.spd import SPD, STAGE1, plan, shared_stage1
from evidence.methods.unets import DICE_AND_CROSS_ENTROPY, EQUAL_WEIGHTS, PointChannelNetwork
from evidence.slice_command import METHODS
from evidence.slice_method import SliceMethod
from evidence.slice_models import PromptedSam, SliceModel, build_plain_sam, predict_slices
from evidence.slice_training import FINAL, LATEST, load_trained, train_slices
from evidence.slices import PromptedBatch, PromptedSlices, boxes_round_points, heat_maps, stack_windows, window_points
from evidence.training_points import RawPoints
from evidence.workspace import Workspace
from spdnet.cli import plan_and_preprocess, simulate_prompts
from spdnet.cli import train as train_command
from spdnet.dataset import RawDataset
from spdnet.errors import ConfigurationError
from spdnet.geometry import CaseMapping, ImageGeometry
from spdnet.inference.model_folder import ModelFolder
from spdnet.inference.volume import predict_volume
from spdnet.planning import NetworkCase, SPDPlans, SPDSettings, StoredCase
from spdnet.planning.plans import AugmentationSettings
from spdnet.planning.storage import CaseWriter
from spdnet.prompts import ALL_CLASSES, SliceBoxes, SlicePrompts
from spdnet.tests.tiny import (
    DATASET,
    IMAGE_SIZE,
    SPACING_ZYX_MM,
    blob_case,
    oblique_direction,
    tiny_settings,
    write_blob_dataset,
    write_volume,
)
from spdnet.training.losses import segmentation_loss
from spdnet.training.stopping import EXIT_STATUS, TrainingStoppedError
from spdnet.training.trainer import SPDTrainer

needs_monai = pytest.mark.skipif(
    find_spec("monai") is None or find_spec("einops") is None, reason="needs the packages monai and einops"
)
CPU = torch.device("cpu")
ALL_METHODS = [pytest.param(n, marks=[needs_monai] if m.group == "U-Net" else []) for n, m in METHODS.items()]
SAM_METHODS = [name for name, method in METHODS.items() if method.group == "SAM"]


class InProcess(Workspace):
    """A workspace that runs the commands in this process, where the tiny backbone is known."""

    def run(self, command: Sequence[str | Path], log: str, counts_for: str | None = None) -> None:
        """Call the command's main function with the workspace's environment."""
        program, *words = (str(word) for word in command)
        mains: dict[str, Callable[[list[str]], None]] = {
            "spd_plan_and_preprocess": plan_and_preprocess.main,
            "spd_train": train_command.main,
            "python": lambda rest: slice_command.main(rest[2:]),
        }
        with pytest.MonkeyPatch.context() as patch, self.measured(counts_for):
            for name, value in self.environment().items():
                patch.setenv(name, value)
            mains[program](words)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    """The blob data set with prompts for all cases, planned for very short trainings."""
    PROFILES["tiny"] = Budget("tiny", IMAGE_SIZE, (2, 1), unet_iterations=3)
    made = InProcess(Setting("blobs", "recipe", profile="tiny"), tmp_path_factory.mktemp("slices"), "cpu")
    write_blob_dataset(made.root / "nnUNet_raw", n_train=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_raw", str(made.root / "nnUNet_raw"))
        simulate_prompts.main(["-d", DATASET, "-s", "Tr", "--seed", "1"])
        simulate_prompts.main(["-d", DATASET, "-s", "Ts", "--seed", "2", "-o", str(made.prompts("recipe"))])
        plan(made, DATASET)
    file = made.preprocessed() / "SPDPlans.json"
    plans = SPDPlans.load(file)
    stage1 = replace(plans.settings.stage1, learning_rate=1e-2, batch_size=4, iterations_per_epoch=12)
    stage2 = replace(plans.settings.stage2, iterations_per_epoch=1, batch_size=4)
    few_are_salient = replace(plans.settings.distillation, tau=0.02)  # after so short a stage 1
    settings = replace(plans.settings, stage1=stage1, stage2=stage2, distillation=few_are_salient)
    replace(plans, settings=settings).save(file)
    return made


@pytest.fixture(scope="module")
def settings(workspace: InProcess) -> SPDSettings:
    """Of its plans."""
    return SPDPlans.load(workspace.preprocessed() / "SPDPlans.json").settings


def stored_cases(workspace: Workspace) -> list[StoredCase]:
    """Its preprocessed cases."""
    folder = workspace.preprocessed() / "SPDPlans_2d"
    return [StoredCase(folder, case) for case in StoredCase.list(folder)]


def training_data(workspace: Workspace, settings: SPDSettings, kind: type[PromptedSlices]) -> PromptedSlices:
    """Batches of its cases with their raw points."""
    cases = stored_cases(workspace)
    return kind(cases, RawPoints(cases, settings), settings.augmentation, 4, 5)


def fresh(method: SliceMethod, settings: SPDSettings, seed: int = 0) -> SliceModel:
    """A model for two classes, as drawn by a seed."""
    torch.manual_seed(seed)
    return method.build(settings, 2)


def points(rows: Sequence[Sequence[float]]) -> SlicePrompts:
    """Points from rows of slice, y, x, class."""
    array = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return SlicePrompts(array[:, :3], array[:, 3].astype(np.int64))


# ---- data -------------------------------------------------------------------------------------------------


def test_points_move_with_their_slices(tmp_path: Path) -> None:
    """Each class has a dot in every slice and a point at its centre: mask and heat map agree after augmentation."""
    rng, n_slices, size = np.random.default_rng(0), 6, IMAGE_SIZE
    centres = rng.uniform(16, 40, (n_slices, 2, 2))  # slice, class, (y, x)
    y, x = np.indices((size, size))
    distance = np.hypot(y - centres[..., :1, None], x - centres[..., 1:, None])
    masks = (distance <= 3).astype(np.uint8)
    given = points([[s, *centres[s, k], k] for s in range(n_slices) for k in range(2)])
    shape, whole = (n_slices, size, size), ((0, n_slices), (0, size), (0, size))
    mapping = CaseMapping(shape, (0, 1, 2), (False,) * 3, whole, (size, size), (0, 0), size)
    grid = ImageGeometry(shape, (4.0, 1.0, 1.0))
    CaseWriter(tmp_path, "dots").write(masks[:, :1] * 0.5, masks, None, mapping, grid, given)
    case, augmentation = StoredCase(tmp_path, "dots"), replace(tiny_settings().augmentation, flip_rows=True)
    data = PromptedSlices([case], lambda index, rng: case.prompts, augmentation, 4, 3)
    moved = 0
    for step in range(6):
        batch = data[step]
        maps = heat_maps(batch.prompts, 4, 2, size, CPU)
        for mask, heat in zip(batch.slices.masks.flatten(0, 1).numpy(), maps.flatten(0, 1).numpy(), strict=True):
            centroid = np.argwhere(mask).mean(axis=0)
            peak = np.average(np.argwhere(heat > 0.01), axis=0, weights=heat[heat > 0.01])
            assert np.abs(centroid - peak).max() < 0.5
            moved += np.abs(centroid - centres.reshape(-1, 2)).max(axis=1).min() > 1
    assert moved > 24  # of 48: else nothing was augmented


def test_heat_maps_are_gaussians_by_class() -> None:
    given = points([[0, 20, 30, 0], [2, 10.5, 12, 1], [2, 40, 41, ALL_CLASSES]])
    maps = heat_maps(given, 3, 2, 56, CPU)
    assert maps.shape == (3, 2, 56, 56) and maps.dtype == torch.float32
    assert maps[0, 0, 20, 30] == 1 and maps[0, 0, 22, 30] == pytest.approx(np.exp(-0.5))  # 2 px: one deviation
    assert maps[2, 1, 10, 12] == pytest.approx(np.exp(-(0.25**2) / 2)) and maps[2, 1, 40, 41] == 1
    assert maps[2, 0, 40, 41] == 1 and maps[2, 0, 10, 12] < 1e-6
    assert maps[1].max() == 0 and maps[0, 1].max() == 0
    assert heat_maps(points([[0, 20, 30, 0], [0, 21, 30, 0]]), 1, 1, 56, CPU).max() == 1
    larger = heat_maps(points([[0, 20, 30, 0]]), 1, 1, 112, CPU)
    assert larger[0, 0, 24, 30] == pytest.approx(np.exp(-0.5))  # as wide a share of a larger square


def test_every_step_is_drawn_anew_and_repeats_itself(workspace: InProcess, settings: SPDSettings) -> None:
    data = training_data(workspace, settings, PromptedSlices)
    n_slices = sum(len(c.slices) for c in stored_cases(workspace))
    n_batches = -(-n_slices // 4)
    passes = [[data[i * n_batches + step].slices.names for step in range(n_slices // 4)] for i in (0, 1)]
    assert passes[0] != passes[1]
    for names in passes:
        assert len({name for batch in names for name in batch}) == 4 * len(names)
    again, other = data[1], data[1 + n_batches]
    repeated = training_data(workspace, settings, PromptedSlices)[1]
    assert torch.equal(again.slices.images, repeated.slices.images)
    assert np.array_equal(again.prompts.points_syx, repeated.prompts.points_syx)
    assert not torch.equal(again.slices.images, other.slices.images)


@pytest.mark.parametrize(("share", "are_drawn_anew"), [(0.0, False), (1.0, True)])
def test_points_are_drawn_anew_in_every_pass_as_the_plans_say(
    share: float, are_drawn_anew: bool, workspace: InProcess, settings: SPDSettings
) -> None:
    prompts = replace(settings.prompts, imitated_share=share)
    plain = AugmentationSettings(0.0, (1.0, 1.0), False, False, False)
    cases = stored_cases(workspace)
    n_slices = sum(len(c.slices) for c in cases)
    data = PromptedSlices(cases, RawPoints(cases, replace(settings, prompts=prompts)), plain, n_slices, 5)

    def by_slice(step: int) -> dict[str, list[list[float]]]:
        batch = data[step]
        found = [batch.prompts.of_slices(i, i + 1).points_syx.tolist() for i in range(n_slices)]
        return dict(zip(batch.slices.names, found, strict=True))

    first, second = by_slice(0), by_slice(1)
    assert first.keys() == second.keys() and any(first.values())
    assert (first != second) == are_drawn_anew
    assert by_slice(0) == first
    if not are_drawn_anew:
        for case in cases:
            own = [case.prompts.of_slices(i, i + 1).points_syx[:, 1:].tolist() for i in range(len(case.slices))]
            for i, expected in enumerate(own):
                found = [row[1:] for row in first[f"{case.case}, slice {i}"]]
                assert np.array(found) == pytest.approx(np.array(expected))


def test_boxes_lie_round_the_points_of_each_class_and_slice() -> None:
    given = points([[0, 10, 20, 0], [0, 14.5, 12, ALL_CLASSES], [2, 30, 31, 1]])
    boxes = boxes_round_points(given, 2)
    assert len(boxes) == 0  # no points are left
    found = zip(boxes.boxes.class_index, boxes.boxes.slice_index, boxes.boxes.boxes_yxyx, strict=True)
    assert {(k, s): tuple(box) for k, s, box in found} == {
        (0, 0): (9.5, 11.5, 15.0, 20.5),
        (1, 0): (14.0, 11.5, 15.0, 12.5),
        (1, 2): (29.5, 30.5, 30.5, 31.5),
    }
    assert len(boxes_round_points(SlicePrompts.empty(), 2).boxes) == 0


def test_consensus_is_what_spd_decodes(workspace: InProcess, settings: SPDSettings) -> None:
    stage1, case = shared_stage1(workspace), stored_cases(workspace)[1]
    median = float(np.median(Distiller(settings, 2, stage1, CPU).saliency(case.slices)))  # splits the points
    settings = replace(settings, distillation=replace(settings.distillation, tau=median, empty_consensus="decode"))
    distiller = Distiller(settings, 2, stage1, CPU)
    found = distiller.distill(case, case.prompts)
    network = distiller._network
    how = settings.distillation, 4, CPU, case.mapping.content_share
    expected = predict_volume(network, case.slices, case.prompts, *how).consensus
    assert expected is not None and len(found) > 0
    scale = IMAGE_SIZE / network.mask_size
    for k, consensus in enumerate(expected):
        own = found.for_class(k)
        assert np.array_equal(own.slice_index, consensus.slice_index)
        assert own.points_syx[:, 1:] == pytest.approx((consensus.points_yx + 0.5) * scale - 0.5, abs=1e-4)
        assert (consensus.saliency > median).all()
    assert len(found) != len(case.prompts)


@needs_monai
def test_consensus_takes_the_place_of_the_points_in_training_and_prediction(
    workspace: InProcess, settings: SPDSettings, tmp_path: Path
) -> None:
    method, cases = METHODS["unet_consensus"], stored_cases(workspace)
    distiller = Distiller(settings, 2, shared_stage1(workspace), CPU)
    drawn_from_files = replace(settings, prompts=replace(settings.prompts, imitated_share=0.0))
    for _ in range(2):  # saliency computed, then read
        draw = slice_command.training_points(method, cases, drawn_from_files, distiller, tmp_path)
        for index, case in enumerate(cases):
            own = draw(index, np.random.default_rng(0))
            stored = distiller.saliency(case.slices).astype(np.float16).astype(np.float32)
            expected = consensus_points(case.prompts, stored, settings)
            assert np.array_equal(own.points_syx, expected.points_syx) and len(own) != len(case.prompts)
    assert {f.name for f in tmp_path.glob("saliency/*")} == {f"{c.case}.npy" for c in cases}
    method.train(workspace)
    method.predict(workspace, workspace.prompts("recipe"), tmp_path / "found")
    model = fresh(method, settings)
    load_trained(model, workspace.results() / method.name, CPU)

    def segment(name: str, case: NetworkCase, given: SlicePrompts) -> np.ndarray:
        return predict_slices(model, case.slices, distiller.distill(case, given), 4, CPU)

    predict_test_cases(workspace.raw, workspace.prompts("recipe"), tmp_path / "expected", settings, segment)
    for file in (tmp_path / "expected").iterdir():
        one, other = (sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (file, tmp_path / "found" / file.name))
        assert np.array_equal(one, other) and one.any()


# ---- training ---------------------------------------------------------------------------------------------


class Stopping(PromptedSlices):
    """Batches that have SIGTERM sent to this process before the third step, once."""

    is_armed = True

    def __getitem__(self, step: int) -> PromptedBatch:
        if step == 2 and Stopping.is_armed:
            Stopping.is_armed = False
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(step)


@pytest.mark.parametrize("name", ALL_METHODS)
def test_a_stopped_training_ends_with_the_same_weights(
    name: str, workspace: InProcess, settings: SPDSettings, tmp_path: Path
) -> None:
    straight, data = fresh(METHODS[name], settings), training_data(workspace, settings, PromptedSlices)
    begun = {n: p.clone() for n, p in straight.trained().items()}
    train_slices(straight, data, 4, tmp_path / "straight", CPU)
    Stopping.is_armed = True
    with pytest.raises(TrainingStoppedError):
        train_slices(fresh(METHODS[name], settings), training_data(workspace, settings, Stopping), 4, tmp_path, CPU)
    assert torch.load(tmp_path / LATEST, weights_only=True)["step"] == 2 and not (tmp_path / FINAL).exists()
    resumed = fresh(METHODS[name], settings, seed=9)
    with pytest.raises(ConfigurationError, match="n_steps"):
        train_slices(resumed, data, 5, tmp_path, CPU)
    train_slices(resumed, data, 4, tmp_path, CPU)
    assert (tmp_path / FINAL).exists() and not (tmp_path / LATEST).exists()
    for key, weight in resumed.trained().items():
        assert torch.equal(weight, straight.trained()[key]), key
    assert any(not torch.equal(weight, begun[key]) for key, weight in straight.trained().items())


@pytest.mark.parametrize("name", ALL_METHODS)
def test_a_method_trains_and_predicts_every_test_case_on_its_grid(
    name: str, workspace: InProcess, settings: SPDSettings, tmp_path: Path
) -> None:
    method = METHODS[name]
    final = workspace.results() / method.model_name / FINAL
    method.train(workspace)
    written = final.stat().st_mtime_ns
    method.train(workspace)
    assert final.stat().st_mtime_ns == written
    method.predict(workspace, workspace.prompts("recipe"), tmp_path)
    images = sorted((workspace.raw / "imagesTs").iterdir())
    assert [f.name for f in sorted(tmp_path.iterdir())] == [f.name.replace("_0000", "") for f in images]
    for image_file in images:
        image, found = (sitk.ReadImage(str(f)) for f in (image_file, tmp_path / image_file.name.replace("_0000", "")))
        assert found.GetSize() == image.GetSize()
        for read in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(found, read)() == pytest.approx(getattr(image, read)(), abs=1e-5)
        assert set(np.unique(sitk.GetArrayFromImage(found))) <= {0, 1, 2}
    costs = workspace.measurements()
    assert {*method.training_steps(), f"{name}/predict"} <= costs.keys()
    assert (STAGE1 in method.training_steps()) == (method.points == "consensus")


def test_budgets_are_kept(workspace: InProcess, settings: SPDSettings) -> None:
    assert METHODS["unet"].n_steps(workspace, settings) == 3
    stages = settings.stage1.iterations_per_epoch, settings.stage2.iterations_per_epoch
    assert METHODS["sam_adapter"].n_steps(workspace, settings) == 2 * stages[0] + stages[1] == 2 * stages[0] + 1


@pytest.mark.parametrize("name", ALL_METHODS)
def test_points_reach_the_models_that_are_to_have_them(name: str, settings: SPDSettings) -> None:
    method, images = METHODS[name], torch.rand(2, 1, IMAGE_SIZE, IMAGE_SIZE)
    model = fresh(method, settings).eval()
    prompts = points([[0, 12, 40, 0], [0, 15, 30, 0], [1, 30, 30, 1]])
    given = stack_windows([window_points(prompts, n, model.reach) for n in range(2)], model.reach)
    with torch.no_grad():
        without, found = model(images, SlicePrompts.empty()), model(images, given)
    changed = (without - found).abs().amax(dim=(2, 3)) > 1e-4
    assert without.shape[:2] == (2, 2) and method.uses_prompts == (method.points != "none")
    if method.points == "none":
        assert not changed.any()
    elif name in SAM_METHODS:
        assert changed.tolist() == [[True, False], [False, True]]  # each class of each slice has its own prompt
    else:
        assert changed.any(dim=1).all()


@needs_monai
def test_a_unet_learns_a_volume_and_finds_it_on_the_images_grid(tmp_path: Path) -> None:
    """One case, stored flipped and oblique, learnt by heart: what comes back lies where the label does."""
    PROFILES["overfit"] = Budget("tiny", IMAGE_SIZE, (0, 0), unet_iterations=60)
    made = InProcess(Setting("blob", "recipe", profile="overfit"), tmp_path, "cpu")
    write_blob_dataset(made.root / "nnUNet_raw", n_train=1, n_test=1)
    image, label = blob_case(0)
    for subset in ("Tr", "Ts"):
        name = f"blob_{0 if subset == 'Tr' else 1:03d}"
        files = made.raw / f"images{subset}" / f"{name}_0000.nii.gz", made.raw / f"labels{subset}" / f"{name}.nii.gz"
        for file, array in zip(files, (image, label), strict=True):
            write_volume(file, array, oblique_direction(), SPACING_ZYX_MM)
    METHODS["unet"].train(made)
    METHODS["unet"].predict(made, tmp_path, tmp_path / "found")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "found" / "blob_001.nii.gz")))
    for value in (1, 2):
        overlap = ((found == value) & (label == value)).sum()
        assert 2 * overlap / ((found == value).sum() + (label == value).sum()) > 0.8


def test_an_interrupted_second_stage_goes_on(workspace: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(trainer: SPDTrainer) -> None:
        raise KeyboardInterrupt

    method = SPD("interrupted", "SPD that is interrupted", "choice", trainer="SPDTrainerNoPSC")
    shared_stage1(workspace)
    with monkeypatch.context() as patch:
        patch.setattr(SPDTrainer, "on_train_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            method.train(workspace)
    folder = workspace.results() / "SPDTrainerNoPSC__SPDPlans__2d" / "fold_all"
    assert {f.name for f in folder.glob("*.pth")} == {"checkpoint_latest.pth"}
    method.train(workspace)
    assert {f.name for f in folder.glob("*.pth")} == {"checkpoint_final.pth"}


def test_a_method_that_borrows_weights_predicts_with_plans_of_its_own(workspace: InProcess) -> None:
    lender, kept = spd_methods.METHODS["spd"], spd_methods.METHODS["pieces_kept"]
    lender.train(workspace)
    for _ in range(2):  # the second time it is there
        name = kept._borrowed_plans(workspace, lender)
    model, lenders = (ModelFolder(workspace.results() / f"SPDTrainer__{p}__2d") for p in (name, lender.plans))
    lent, own = lenders.plans(), model.plans()
    assert lent.settings.distillation.lone_pieces == "auto" and own.settings.distillation.lone_pieces == "keep"
    changed = replace(lent.settings.distillation, lone_pieces="keep")
    assert own == replace(lent, plans_name=name, settings=replace(lent.settings, distillation=changed))
    device = torch.device("cpu")
    networks = [f.load_networks(["all"], "checkpoint_final.pth", device)[0] for f in (model, lenders)]
    states = [network.own_state() for network in networks]
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


@pytest.mark.slow
@needs_monai
def test_the_command_goes_on_after_sigterm(workspace: InProcess, tmp_path: Path) -> None:
    folders = ["-raw", workspace.raw, "-preprocessed", workspace.preprocessed(), "-model", tmp_path]
    command = [sys.executable, "-m", "evidence.slice_command", "train", "unet", *folders]
    command += ["-steps", "150", "-seed", "0", "-device", "cpu"]
    log = tmp_path / "log.txt"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=workspace.environment(), stdout=output, stderr=output)
        end = time.monotonic() + 600
        while "step 50:" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == EXIT_STATUS and (tmp_path / LATEST).exists()
        subprocess.run(command, env=workspace.environment(), stdout=output, stderr=output, check=True, timeout=600)
    assert (tmp_path / FINAL).exists()
    assert [int(n) for n in re.findall(r"step (\d+):", log.read_text(encoding="utf-8"))] == [50, 100, 150]


# ---- losses and what is tuned -----------------------------------------------------------------------------


def test_the_loss_of_the_unets_is_dice_and_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 8, 8), (torch.rand(3, 2, 8, 8) > 0.6).float()
    probability = torch.sigmoid(logits)
    dice = 2 * (probability * target).sum((0, 2, 3)) / (probability.sum((0, 2, 3)) + target.sum((0, 2, 3)))
    expected = 1 - dice.mean() + F.binary_cross_entropy_with_logits(logits, target)
    found = segmentation_loss(logits, target, DICE_AND_CROSS_ENTROPY, EQUAL_WEIGHTS)
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_slices_are_padded_to_a_multiple_and_cropped_again() -> None:
    seen = []
    body = torch.nn.Conv2d(1, 1, 1)
    body.register_forward_hook(lambda module, given, found: seen.append(tuple(given[0].shape)))
    images = torch.rand(2, 1, 56, 56)
    found = PointChannelNetwork(body, 1, False, 32)(images, SlicePrompts.empty())
    assert seen == [(2, 1, 64, 64)] and torch.equal(found, body(images))


@pytest.mark.parametrize("backbone", ["tiny", "lite"])
@pytest.mark.parametrize("name", SAM_METHODS)
def test_what_shall_be_trained_gets_gradients_and_nothing_else_changes(name: str, backbone: str) -> None:
    model = fresh(METHODS[name], tiny_settings(backbone=backbone))
    images, given = torch.rand(2, 1, IMAGE_SIZE, IMAGE_SIZE), points([[0, 20, 20, 0], [1, 30, 12, ALL_CLASSES]])
    model.train()
    for module in model.modules():
        if isinstance(module, Adapter):
            torch.nn.init.normal_(module.up.weight, std=0.1)  # at 0 nothing goes back beyond it
    before = {n: b.clone() for n, b in model.named_buffers() if "running" in n or "tracked" in n}
    model(images, given).square().mean().backward()
    touched = {n.removeprefix("network.") for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    everything = {n.removeprefix("network.") for n, _ in model.named_parameters()}
    if name == "sam_adapter":
        assert touched == {n for n in everything if ".adapter." in n} | {"class_embedding.weight"}
    else:
        encoder = {n for n in everything if n.startswith("image_encoder.")}
        assert encoder <= touched
        assert touched - encoder <= {n for n in everything if n.startswith(("mask_decoder.", "class_embedding."))}
        assert any(n.startswith("mask_decoder.transformer.") for n in touched) and "class_embedding.weight" in touched
    assert not any(n.startswith(("prompt_encoder.", "saliency_head.")) for n in touched)
    for key, buffer in before.items():
        assert torch.equal(buffer, dict(model.named_buffers())[key]), key
    assert len(before) > 0 or backbone == "tiny"


@pytest.mark.parametrize(("backbone", "in_encoder"), [("tiny", 4), ("lite", 20)])
def test_adapters_change_nothing_before_they_are_trained_and_then_each_does(backbone: str, in_encoder: int) -> None:
    settings = tiny_settings(backbone=backbone)
    published, adapted = build_plain_sam(settings, 2).eval(), build_plain_sam(settings, 2)
    add_adapters(adapted)
    adapted.eval()
    images = torch.rand(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    asked = torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1, dtype=torch.bool), torch.tensor([1])

    def run(network: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            embeddings = network.encode(images)
            return embeddings, network.decode(embeddings, *asked)

    embeddings, masks = run(published)
    for found, expected in zip(run(adapted), (embeddings, masks), strict=True):
        assert torch.equal(found, expected)
    adapters = {n: m for n, m in adapted.named_modules() if isinstance(m, Adapter)}
    assert sum(n.startswith("image_encoder.") for n in adapters) == in_encoder
    assert sum(n.startswith("mask_decoder.") for n in adapters) == 6
    for name, adapter in adapters.items():
        torch.nn.init.normal_(adapter.up.weight, std=0.1)
        changed = [not torch.equal(a, b) for a, b in zip(run(adapted), (embeddings, masks), strict=True)]
        assert changed == [name.startswith("image_encoder."), True], name
        torch.nn.init.zeros_(adapter.up.weight)


@pytest.mark.parametrize("as_box", [False, True])
def test_a_prompted_sam_decodes_as_the_network_does(as_box: bool) -> None:
    settings = tiny_settings()
    model = MedSamMethod("m", "M", "SAM", as_box=as_box).build(settings, 2).eval()
    assert isinstance(model, PromptedSam)
    images = torch.rand(3, 1, IMAGE_SIZE, IMAGE_SIZE)
    given = points([[0, 10, 20, 1], [0, 14, 12, 1], [2, 30, 31, 0]])
    given = replace(given, boxes=SliceBoxes(np.array([1]), np.array([[3.0, 3.0, 20.0, 20.0]]), np.array([0])))
    box = torch.tensor([[9.5, 11.5, 14.5, 20.5]])
    real = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        masks = model(images, given)
        embeddings = model.network.encode(images)[:1]
        first, second = torch.tensor([0]), torch.tensor([1])
        prompted = (
            model.network.decode(embeddings, torch.zeros(1, 0, 2), real[:, :0], second, box, real[:, 0])
            if as_box
            else model.network.decode(embeddings, torch.tensor([[[10.0, 20.0], [14.0, 12.0]]]), real, second)
        )
        alone = model.network.decode(embeddings, torch.zeros(1, 0, 2), real[:, :0], first)
        empty = model(images, SlicePrompts.empty())
    for found, expected in ((masks[0, 1], prompted[0]), (masks[0, 0], alone[0])):
        assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(masks[0, 1], empty[0, 1], atol=1e-4)
    assert torch.allclose(masks[1], empty[1], atol=1e-4)  # coarse boxes of the files are not used


def test_adapters_are_a_small_part_of_sam(settings: SPDSettings) -> None:
    model = fresh(SamAdapterMethod("a", "A", "SAM"), replace(settings, backbone="lite"))
    trained = sum(p.numel() for p in model.trained().values())
    assert 0.02 < trained / sum(p.numel() for p in model.parameters()) < 0.1


@needs_monai
@pytest.mark.parametrize("name", ["unet_raw_points", "unet_points_around"])
def test_slices_of_a_volume_are_predicted_alike_in_any_batches(name: str, settings: SPDSettings) -> None:
    model = fresh(METHODS[name], settings).eval()
    slices = np.random.default_rng(1).random((5, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    given = points([[s, 10 + s, 40 - s, s % 2] for s in range(5)])
    whole, parts = (predict_slices(model, slices, given, size, CPU) for size in (5, 2))
    assert whole.shape == (5, 2, IMAGE_SIZE, IMAGE_SIZE) and whole.min() >= 0 and whole.max() <= 1
    assert whole == pytest.approx(parts, abs=1e-5)


@needs_monai
def test_only_a_model_that_looks_around_follows_the_points_of_neighbours(settings: SPDSettings) -> None:
    slices = np.random.default_rng(1).random((12, 1, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    reach = settings.dense_prompt.n_slices
    changed = {}
    for name in ("unet_raw_points", "unet_points_around"):
        model = fresh(METHODS[name], settings).eval()
        without, given = (predict_slices(model, slices, p, 5, CPU) for p in (points([]), points([[6, 20, 30, 0]])))
        changed[name] = np.flatnonzero(np.abs(without - given).max(axis=(1, 2, 3)) > 1e-6).tolist()
    assert changed["unet_raw_points"] == [6]
    assert changed["unet_points_around"] == list(range(6 - reach, min(6 + reach, 11) + 1))


def test_points_of_slices_around_move_with_their_slice(tmp_path: Path) -> None:
    """Every slice has a dot at the same place, and one has a point there: windows show it on the dot."""
    n_slices, size = 5, IMAGE_SIZE
    y, x = np.indices((size, size))
    masks = np.broadcast_to(np.hypot(y - 20, x - 35) <= 3, (n_slices, 1, size, size)).astype(np.uint8)
    shape, whole = (n_slices, size, size), ((0, n_slices), (0, size), (0, size))
    mapping = CaseMapping(shape, (0, 1, 2), (False,) * 3, whole, (size, size), (0, 0), size)
    grid, given = ImageGeometry(shape, (4.0, 1.0, 1.0)), points([[2, 20, 35, 0]])
    CaseWriter(tmp_path, "dots").write(masks * 0.5, masks, None, mapping, grid, given)
    case, augmentation = StoredCase(tmp_path, "dots"), replace(tiny_settings().augmentation, flip_rows=True)
    data = PromptedSlices([case], lambda index, rng: case.prompts, augmentation, n_slices, 3, reach=1)
    batch = data[0]
    maps = heat_maps(batch.prompts, 3 * n_slices, 1, size, CPU).view(n_slices, 3, size, size).numpy()
    shown = sorted(np.flatnonzero(m.max(axis=(1, 2)) > 0.5).tolist() for m in maps)
    assert shown == [[], [], [0], [1], [2]], "in the slice before, its own and the one behind"
    for mask, window in zip(batch.slices.masks[:, 0].numpy(), maps, strict=True):
        for heat in window[window.max(axis=(1, 2)) > 0.5]:
            peak = np.average(np.argwhere(heat > 0.01), axis=0, weights=heat[heat > 0.01])
            assert np.abs(np.argwhere(mask).mean(axis=0) - peak).max() < 0.5


def test_windows_follow_one_another() -> None:
    parts = [points([[7, 1, 2, 0]]), SlicePrompts.empty(), points([[-0.4, 3, 4, ALL_CLASSES], [0.3, 5, 6, 1]])]
    single = stack_windows([window_points(p, n, 0) for n, p in zip((7, 0, 0), parts, strict=True)], 0)
    assert single.points_syx.tolist() == [[0, 1, 2], [2, 3, 4], [2, 5, 6]]
    assert single.class_index.tolist() == [0, ALL_CLASSES, 1]
    wide = stack_windows([window_points(p, n, 1) for n, p in zip((8, 4, 1), parts, strict=True)], 1)
    assert wide.points_syx.tolist() == [[0, 1, 2], [6, 3, 4], [6, 5, 6]]


def test_raw_data_set_is_described_by_its_folder(workspace: InProcess) -> None:
    assert len(RawDataset(workspace.raw).labels) == 2


def test_pieces_without_points_are_dropped_where_others_have_some() -> None:
    found = np.zeros((3, 2, 20, 20), dtype=np.float32)
    found[:, :, 2:6, 2:6] = found[0, :, 10:14, 10:14] = 0.8
    slice_command._drop_lone_pieces(found, [np.array([[1.0, 3.0, 3.0]]), np.array([[1.0, 18.0, 3.0]])])
    assert not found[0, 0, 10:14, 10:14].any() and (found[:, 0, 2:6, 2:6] > 0.5).all()
    assert (found[0, 1, 10:14, 10:14] > 0.5).all(), "no piece of this class holds a point"
