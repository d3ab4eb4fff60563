"""nnU-Net's rows: channels of points, its training in parts, and what its log says of it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from stage1_file import write_plans, write_stage1

from evidence.case_prediction import prepared_cases
from evidence.jobs import Setting
from evidence.lone_pieces import drop_lone_pieces
from evidence.methods.nnunet import IMITATIONS, METHODS, TRAINERS, _divide_batch, main, progress, pseudo_dices
from evidence.noise import NOISES, write_test_prompts, write_training_prompts
from evidence.slices import heat_maps
from evidence.workspace import Workspace
from spdnet.comparison.point_channels import raw_heat_map
from spdnet.dataset import RawDataset
from spdnet.dataset.image_io import get_reader
from spdnet.inference.prompt_maps import SIGMAS_ACROSS
from spdnet.planning import NetworkCase
from spdnet.prompts import Markup, SlicePrompts, write_markups
from spdnet.tests.tiny import oblique_direction, tiny_settings, write_blob_dataset, write_volume

SETTINGS = tiny_settings()
STORED = {
    "as the patient": np.eye(3),
    "oblique and flipped": oblique_direction(),
    "sagittal first": np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
}
SLICING_AXIS = {"sagittal first": 1}  # array axis of the slices, if not the first
SHAPE = (9, 13, 20)
SPACING_ZYX_MM = (2.0, 1.5, 1.0)


def case_with_points(folder: Path, stored: str, points_zyx: list[tuple[float, float, float]]) -> Path:
    """A raw data set of one image, stored in some way, with points at given voxels; returns the image."""
    image = folder / "imagesTr" / "case_0000.nii.gz"
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    write_volume(image, values, STORED[stored], SPACING_ZYX_MM)
    (folder / "dataset.json").write_text(
        '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1, "two": 2}, "numTraining": 0,'
        ' "file_ending": ".nii.gz", "overwrite_image_reader_writer": "SimpleITKIO"}',
        encoding="utf-8",
    )
    points = get_reader("SimpleITKIO").read_geometry(image).voxel_to_world(np.array(points_zyx))
    (folder / "prompts").mkdir()
    write_markups(folder / "prompts" / "case.mrk.json", [Markup("all", "points", points, ("",) * len(points))])
    return image


def one_case(folder: Path) -> tuple[NetworkCase, SlicePrompts]:
    """The case in the network frame, and its points."""
    ((prepared, points),) = prepared_cases(folder, folder / "imagesTr", folder / "prompts", SETTINGS)
    return prepared.network_case, points


@pytest.mark.parametrize("stored", STORED)
def test_heat_is_where_the_points_are(tmp_path: Path, stored: str) -> None:
    case_with_points(tmp_path, stored, [(4, 6, 11), (7, 2, 3)])
    network_case, points = one_case(tmp_path)
    heat = raw_heat_map(points, network_case.mapping)
    assert heat.shape == SHAPE and heat.dtype == np.float32
    hottest = {tuple(voxel) for voxel in np.argwhere(heat > 0.999).tolist()}
    assert hottest == {(4, 6, 11), (7, 2, 3)}
    axis = SLICING_AXIS.get(stored, 0)
    warm = np.flatnonzero(heat.any(axis=tuple(a for a in range(3) if a != axis)))
    assert warm.tolist() == sorted(({4, 7}, {6, 2}, {11, 3})[axis])


@pytest.mark.parametrize("stored", STORED)
def test_heat_is_as_wide_as_in_the_network_s_slices(tmp_path: Path, stored: str) -> None:
    case_with_points(tmp_path, stored, [(4, 6, 11)])
    network_case, points = one_case(tmp_path)
    mapping = network_case.mapping
    own = heat_maps(points, mapping.n_slices, 1, mapping.image_size, torch.device("cpu"))[:, 0].numpy()
    (top, bottom), (left, right) = mapping.content_box
    raw = mapping.image_to_network(raw_heat_map(points, mapping)[None])[:, 0]
    difference = np.abs(raw - own)[:, top:bottom, left:right]
    assert difference.max() < 0.06 and difference.sum() < 0.1 * own.sum(), "but for interpolation"
    sigma = mapping.image_size / SIGMAS_ACROSS
    np.testing.assert_allclose(own.sum(), 2 * np.pi * sigma**2, rtol=0.05)


def channels_of(folder: Path, case: str, n_channels: int, n_classes: int) -> list[np.ndarray]:
    """The channels of points of a case."""
    wanted = [folder / f"{case}_{c:04d}.nii.gz" for c in range(n_channels, n_channels + n_classes)]
    return [sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in wanted]


def test_every_class_has_a_channel_of_its_points(tmp_path: Path) -> None:
    image = case_with_points(tmp_path, "oblique and flipped", [(4, 6, 11)])
    geometry = get_reader("SimpleITKIO").read_geometry(image)
    places = {"one": (2, 3, 4), "two": (6, 10, 15)}
    markups = [Markup(n, "points", geometry.voxel_to_world(np.array([p])), ("",)) for n, p in places.items()]
    write_markups(tmp_path / "prompts" / "case.mrk.json", markups)
    plans, output = write_plans(tmp_path / "SPDPlans.json", SETTINGS), tmp_path / "out"
    words = [tmp_path, "-images", image.parent, "-prompts", tmp_path / "prompts", "-plans", plans, "-o", output]
    main([str(w) for w in words])
    assert sorted(f.name for f in output.iterdir()) == [f"case_000{c}.nii.gz" for c in range(3)]
    assert (output / "case_0000.nii.gz").samefile(image)
    for (z, y, x), heat in zip(places.values(), channels_of(output, "case", 1, 2), strict=True):
        assert np.argwhere(heat > 0.999).tolist() == [[z, y, x]]
    _, together = get_reader("SimpleITKIO").read_image(sorted(output.iterdir()))
    assert together.difference(geometry) is None


def test_channels_of_the_slices_around_show_their_points_beside_each_slice(tmp_path: Path) -> None:
    image = case_with_points(tmp_path, "as the patient", [(4, 6, 11), (7, 2, 3)])
    settings = replace(SETTINGS, dense_prompt=replace(SETTINGS.dense_prompt, n_slices=2))
    plans, output = write_plans(tmp_path / "SPDPlans.json", settings), tmp_path / "out"
    words = [tmp_path, "-images", image.parent, "-prompts", tmp_path / "prompts", "-plans", plans, "-o", output]
    main([str(w) for w in [*words, "--around"]])
    heats = channels_of(output, "case", 1, 10)
    assert [f.name for f in sorted(output.iterdir())][-1] == "case_0010.nii.gz"
    of_class = heats[:5]  # two before, one before, its own, one behind, two behind
    assert [np.argwhere(h > 0.999).tolist() for h in of_class] == [
        [[z - o, y, x] for z, y, x in ((4, 6, 11), (7, 2, 3)) if 0 <= z - o < SHAPE[0]] for o in range(-2, 3)
    ]


def test_channels_of_the_consensus_have_what_the_saliency_trusts(tmp_path: Path) -> None:
    settings = replace(SETTINGS, distillation=replace(SETTINGS.distillation, n_context=1, empty_consensus="decode"))
    image = case_with_points(tmp_path, "as the patient", [(4, 6, 11)])
    plans = write_plans(tmp_path / "SPDPlans.json", settings)
    found = {}
    for salient in (False, True):
        stage1, output = write_stage1(tmp_path / f"{salient}.pth", settings, 2, salient), tmp_path / str(salient)
        words = [tmp_path, "-images", image.parent, "-prompts", tmp_path / "prompts", "-plans", plans]
        main([str(w) for w in [*words, "-o", output, "-stage1", stage1, "-device", "cpu"]])
        found[salient] = channels_of(output, "case", 1, 2)
    assert not any(heat.any() for heat in found[False])
    for heat in found[True]:
        assert np.flatnonzero(heat.any(axis=(1, 2))).tolist() == [3, 4, 5], "lent to both neighbours"
        assert heat[4, 6, 11] > 0.9


def test_pieces_without_points_are_dropped_on_the_image_s_own_grid(tmp_path: Path) -> None:
    """Of two classes: the first one's list speaks for it alone, the other one for both."""
    image = case_with_points(tmp_path, "oblique and flipped", [(4, 6, 11)])
    reader = get_reader("SimpleITKIO")
    geometry = reader.read_geometry(image)
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / image.name).symlink_to(image)
    label_map = np.zeros(SHAPE, dtype=np.uint8)
    label_map[1:3, 2:4, 3:6], label_map[6:8, 1:3, 3:6] = 1, 1
    label_map[1:3, 8:10, 12:15], label_map[4, 6, 11] = 2, 2
    voxels = {"one": (2.3, 2.6, 3.6), "anything": (4, 6, 11)}
    markups = [Markup(n, "points", geometry.voxel_to_world(np.array([p])), ("",)) for n, p in voxels.items()]
    write_markups(tmp_path / "prompts" / "case.mrk.json", markups)
    output = tmp_path / "found"
    output.mkdir()
    reader.write_segmentation(output / "case.nii.gz", label_map, geometry)
    drop_lone_pieces(tmp_path, tmp_path / "prompts", output)
    expected = label_map.copy()
    expected[6:8, 1:3, 3:6] = expected[1:3, 8:10, 12:15] = 0
    found, written = reader.read_label(output / "case.nii.gz")
    assert np.array_equal(found, expected) and written.difference(geometry) is None
    write_markups(tmp_path / "prompts" / "case.mrk.json", markups[:1])
    drop_lone_pieces(tmp_path, tmp_path / "prompts", output)
    assert np.array_equal(reader.read_label(output / "case.nii.gz")[0], expected), "none of the second has a point now"


def test_imitations_stand_beside_the_points_of_the_files(tmp_path: Path) -> None:
    workspace, method = make_workspace(tmp_path), METHODS["nnunet_imitated_points"]
    method._make_dataset(workspace)
    original = RawDataset(workspace.raw)
    made = RawDataset(workspace.raw.with_name(method._dataset(workspace)))
    cases = [case.case for case in original.cases("Tr")]
    assert len(made.cases("Tr")) == made.dataset_json["numTraining"] == (1 + IMITATIONS) * len(cases)
    names = {case.case: case for case in made.cases("Tr")}
    for case in cases:
        copies = [case, *(f"{case}_imitated{number}" for number in range(IMITATIONS))]
        images = {names[copy].images[0].resolve() for copy in copies}
        labels = {label.resolve() for copy in copies if (label := names[copy].label) is not None}
        assert len(images) == len(labels) == 1, "one image and its label, under several names"
        heats = [np.stack(channels_of(made.folder / "imagesTr", copy, 1, 2)) for copy in copies]
        assert all(heat.any() for heat in heats)
        assert not any(np.array_equal(a, b) for i, a in enumerate(heats) for b in heats[:i])


@pytest.mark.parametrize(("planned", "expected"), [(115, 29), (5, 2)])
def test_copies_do_not_make_batches_larger(tmp_path: Path, planned: int, expected: int) -> None:
    plans = {"configurations": {name: {"batch_size": planned, "patch_size": [64, 64]} for name in ("2d", "3d_fullres")}}
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps(plans), encoding="utf-8")
    _divide_batch(file, 4)
    plans["configurations"]["2d"]["batch_size"] = expected
    assert json.loads(file.read_text(encoding="utf-8")) == plans


LOGS = {
    "training_log_2026_1_1_09_00_00.txt": """
2026-01-01 09:00:01.000000: Epoch 0
2026-01-01 09:00:02.000000: Current learning rate: 0.01
2026-01-01 09:00:03.000000: Pseudo dice [np.float32(0.1), np.float32(0.3)]
2026-01-01 09:00:04.000000: Epoch 1
2026-01-01 09:00:05.000000: Pseudo dice [np.float32(0.9), np.float32(nan)]
2026-01-01 09:00:06.000000: Epoch 2
""",
    "training_log_2026_1_1_10_00_00.txt": """
2026-01-01 10:00:01.000000: Epoch 1
2026-01-01 10:00:03.000000: Pseudo dice [np.float32(0.5), np.float32(nan)]
2026-01-01 10:00:04.000000: Epoch 2
2026-01-01 10:00:05.000000: Pseudo dice [0.6, 8e-01]
2026-01-01 10:00:06.000000: Epoch 3
2026-01-01 10:00:07.000000: Pseudo dice [np.float32(0.8), 1.]
""",
}


def test_log_of_a_continued_training_has_every_epoch_once(tmp_path: Path) -> None:
    for hour, (name, text) in enumerate(LOGS.items()):
        (tmp_path / name).write_text(text, encoding="utf-8")
        os.utime(tmp_path / name, (hour, hour))
    np.testing.assert_allclose(pseudo_dices(tmp_path), [0.2, 0.5, 0.7, 0.9])


def test_progress_is_of_the_last_quarter_in_epochs_of_250_steps() -> None:
    dices = np.concatenate([np.linspace(0, 0.6, 30), np.linspace(0.7, 0.79, 10)])  # four parts an epoch
    assert progress(dices, 10) == (
        "nnU-Net's pseudo-Dice of training volumes, last 2.5 of 10 epochs: 0.745, +0.0400 an epoch"
    )


def make_workspace(root: Path) -> Workspace:
    """Blobs with points, for the shortest profile."""
    workspace = Workspace(Setting("blobs", "recipe", profile="trial"), root, "cpu")
    raw = write_blob_dataset(workspace.root / "nnUNet_raw")
    write_training_prompts(NOISES["recipe"], raw, 0)
    for noise in ("recipe", "true"):
        write_test_prompts(NOISES[noise], raw, workspace.prompts(noise), 0)
    return workspace


def test_says_that_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    workspace = Workspace(Setting("blobs", "recipe"), tmp_path)
    assert METHODS["nnunet"].missing(workspace) == "needs the package nnunetv2"


@pytest.mark.nnunet
def test_training_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nnunetv2")
    workspace = make_workspace(tmp_path)
    METHODS["nnunet"]._plan(workspace)
    variables = {"NNUNET_EPOCHS": "1", "nnUNet_n_proc_DA": "0", "nnUNet_extTrainer": str(TRAINERS)}
    for variable, value in {**workspace.environment(), **variables}.items():
        monkeypatch.setenv(variable, value)
    from nnunetv2.run.run_training import get_trainer_from_args

    def trainer() -> Any:
        made = get_trainer_from_args(workspace.raw.name, "2d", "all", "nnUNetTrainerBudget", device=torch.device("cpu"))
        assert (made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch) == (10, 25, 5)
        made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = 3, 2, 1
        return made

    stopped, goes_on = trainer(), trainer()
    folder = Path(stopped.output_folder)
    train_step = stopped.train_step

    def stop_in_second_epoch(batch: Any) -> Any:
        if stopped.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(batch)

    monkeypatch.setattr(stopped, "train_step", stop_in_second_epoch)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as exit_info:
            stopped.run_training()
        assert exit_info.value.code == 143
        goes_on.load_checkpoint(str(folder / "checkpoint_latest.pth"))
        assert goes_on.current_epoch == 1
        goes_on.run_training()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert (folder / "checkpoint_final.pth").exists() and not list(folder.glob("*.partial"))
    assert len(pseudo_dices(folder)) == 3


@pytest.mark.nnunet
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["nnunet", "nnunet_raw_points", "nnunet_points_around", "nnunet_imitated_points", "nnunet_consensus_points"]
)
def test_row_runs_in_a_workspace(tmp_path: Path, name: str) -> None:
    pytest.importorskip("nnunetv2")
    workspace, method = make_workspace(tmp_path), METHODS[name]
    method.train(workspace)
    dataset, channels = RawDataset(workspace.raw), {}
    n_maps = {"nnunet": 0, "nnunet_points_around": 2 * 9}.get(name, 2)  # of two classes
    for noise in ("recipe", "true"):
        method.predict(workspace, workspace.prompts(noise), tmp_path / noise)
        for case in dataset.cases("Ts"):
            _, geometry = dataset.reader.read_label(tmp_path / noise / f"{case.case}.nii.gz")
            assert geometry.difference(dataset.reader.read_geometry(case.images[0])) is None
            if n_maps:
                channels[noise, case.case] = channels_of(workspace.root / "channels" / name, case.case, 1, n_maps)
    (plans,) = (workspace.root / "nnUNet_preprocessed").glob("*/nnUNetPlans.json")
    (schemes,) = {
        tuple(c["normalization_schemes"])
        for c in json.loads(plans.read_text(encoding="utf-8"))["configurations"].values()
    }
    assert schemes == ("ZScoreNormalization", *["NoNormalization"] * n_maps)
    for (noise, case), maps in channels.items():
        assert all(m.any() for m in maps[n_maps // 4 :: max(1, n_maps // 2)]), "each slice's own points"
        assert noise == "true" or not np.array_equal(maps, channels["true", case]), "the test's own points are shown"
    (note,) = method.notes(workspace)
    assert "of 1 epochs: 0." in note and np.isfinite(float(note.split()[-3]))
    assert set(method.training_steps()) <= set(workspace.measurements())
    method.train(workspace)  # at once
