"""Two-stage training on the tiny backbone: sampling, stages, resume, checkpoints, variants, validation."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet.dataset import load_or_create_splits
from spdnet.errors import ConfigurationError, DatasetError, ModelError, PlansError
from spdnet.geometry import SliceTransform
from spdnet.inference.prompting import DecoderRows, DistilledVolume, distill_whole_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.network.checkpoint import read_checkpoint
from spdnet.network.spd_network import MEASURED
from spdnet.planning import SPDPlans, SPDSettings, StoredCase
from spdnet.planning.plans import (
    AugmentationSettings,
    ConsistencySettings,
    DensePromptSettings,
    DistillationSettings,
    NormalizationSettings,
    PromptSettings,
    RecipeSettings,
    SelectionSettings,
    StageSettings,
)
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import tiny_settings
from spdnet.training.embedding_store import EmbeddingStore
from spdnet.training.losses import consistency_loss
from spdnet.training.pretrained import load_pretrained_weights
from spdnet.training.prompt_batches import RowsRequest, Run, StoredRows, adjacent_pairs, cut_into_runs
from spdnet.training.prompt_source import draw_prompts, validation_prompts
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.registry import TRAINERS, get_trainer
from spdnet.training.resume import resume_checkpoint
from spdnet.training.saliency_stage import SaliencyStage, slice_table
from spdnet.training.sampling import BatchRequest, SliceBatches, augment, draw_batches
from spdnet.training.scores import pixel_counts, pseudo_dice
from spdnet.training.stages import Stage
from spdnet.training.trainer import SPDTrainer

CPU = torch.device("cpu")
STILL = AugmentationSettings(0.0, (1.0, 1.0), flip_columns=False, intensity=False, stored_variants=1)

# ---- sampling ---------------------------------------------------------------------------------------------


def test_every_slice_comes_once_before_any_comes_again() -> None:
    is_target = np.arange(13) < 6
    drawn = np.concatenate(draw_batches(is_target, 4, 8, np.random.default_rng(0)))
    for start in range(0, 26, 13):
        assert sorted(drawn[start : start + 13].tolist()) == list(range(13))
    assert drawn[:13].tolist() != drawn[13:26].tolist()


@pytest.mark.parametrize("batch_size", [2, 3, 4, 8, 16])
def test_rare_targets_make_up_a_third_of_every_batch(batch_size: int) -> None:
    is_target = np.zeros(60, dtype=bool)
    is_target[[3, 17, 40, 41, 59]] = True
    batches = draw_batches(is_target, batch_size, 12, np.random.default_rng(0))
    n_target = max(1, round(batch_size / 3))
    assert [len(b) for b in batches] == [batch_size] * 12
    assert [int(is_target[b].sum()) for b in batches] == [n_target] * 12
    targets = np.concatenate([b[is_target[b]] for b in batches])
    for start in range(0, len(targets) - 4, 5):
        assert sorted(targets[start : start + 5].tolist()) == [3, 17, 40, 41, 59]


def test_data_without_target_is_still_drawn() -> None:
    (batch,) = draw_batches(np.zeros(6, dtype=bool), 6, 1, np.random.default_rng(0))
    assert sorted(batch.tolist()) == list(range(6))


def test_batches_repeat_with_their_generator() -> None:
    is_target = np.arange(30) < 4
    drawn = [np.stack(draw_batches(is_target, 4, 6, np.random.default_rng(seed))).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def augment_inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    images = rng.random((24, 2, 20, 20), dtype=np.float32)
    return images, (rng.random((24, 3, 20, 20)) > 0.7).astype(np.float32)


def generators(seed: int, n: int = 24) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def test_augmentation_replays_from_its_generator_alone() -> None:
    images, masks = augment_inputs()
    results = []
    for global_seed in (0, 1):
        random.seed(global_seed)
        np.random.seed(global_seed)
        torch.manual_seed(global_seed)
        results.append(augment(images, masks, None, AugmentationSettings(), generators(11)))
    assert torch.equal(results[0].images, results[1].images)
    assert torch.equal(results[0].masks, results[1].masks)
    other = augment(images, masks, None, AugmentationSettings(), generators(12))
    assert not torch.equal(results[0].images, other.images)


def test_augmentation_leaves_global_generators_alone_and_ranges_intact() -> None:
    images, masks = augment_inputs()
    copies = images.copy(), masks.copy()
    states = random.getstate(), np.random.get_state()[1].tolist()
    batch = augment(images, masks, None, AugmentationSettings(), generators(0))
    moved, moved_masks = batch.images, batch.masks
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert moved.dtype == moved_masks.dtype == torch.float32
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert set(moved_masks.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(masks, copies[1])


def test_images_and_masks_move_together_each_slice_its_own_way() -> None:
    mask = np.zeros((8, 1, 40, 40), dtype=np.float32)
    mask[:, :, 5:20, 8:30] = 1
    settings = replace(AugmentationSettings(), intensity=False)
    batch = augment(mask, mask, mask, settings, generators(0, 8))
    assert torch.equal((batch.images > 0.5).float(), batch.masks)
    assert batch.valid is not None
    assert torch.equal(batch.valid, 1 - batch.masks), "the ignored pixels move with the slice, what comes in counts"
    assert len({m.numpy().tobytes() for m in batch.masks}) > 4


def test_no_augmentation_is_the_identity() -> None:
    images, masks = augment_inputs()
    batch = augment(images, masks, None, STILL, generators(0))
    torch.testing.assert_close(batch.images, torch.from_numpy(images), atol=1e-5, rtol=0)
    assert torch.equal(batch.masks, torch.from_numpy(masks))
    assert batch.valid is None


# ---- stages -----------------------------------------------------------------------------------------------


def stored_cases(planned: Workspace, count: int | None = None) -> list[StoredCase]:
    folder = planned.preprocessed / "SPDPlans_2d"
    return [StoredCase(folder, case) for case in StoredCase.list(folder)[:count]]


def tiny_network(settings: SPDSettings) -> SPDNetwork:
    torch.manual_seed(0)
    return build_network("tiny", 1, 2, 56, settings.lora.rank, settings.lora.alpha, settings.lora.dropout)


def test_batches_hold_the_slices_of_the_table(planned: Workspace) -> None:
    cases = stored_cases(planned)
    table = slice_table(cases)
    assert len(table) == sum(len(c.slices) for c in cases)
    data = SliceBatches(cases, table, AugmentationSettings())
    batch = data[BatchRequest(np.array([0, 9]))]
    case, index = table[9]
    np.testing.assert_array_equal(batch.images[1], cases[case].slices[index].astype(np.float32))
    np.testing.assert_array_equal(batch.masks[1], cases[case].masks[index])
    assert batch.names == ("blob_000, slice 0", f"{cases[case].case}, slice {index}")


def train_epochs(stage: Stage, n_epochs: int) -> list[float]:
    """Train a stage with Adam as it is, without a trainer; returns the mean loss of each epoch."""
    stage.prepare()
    optimizer = torch.optim.Adam(stage.parameters(), lr=stage.stage_settings.learning_rate)
    means = []
    for epoch in range(n_epochs):
        losses = []
        batches = stage.training_batches(epoch)
        stage.network.train()
        for batch in batches:
            optimizer.zero_grad()
            loss = stage.training_loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        means.append(float(np.mean(losses)))
    return means


def scores(stage: Stage) -> tuple[float, float]:
    """Mean loss and mean Dice of the validation cases."""
    stage.network.eval()
    with torch.no_grad():
        outputs = [stage.validation_scores(batch) for batch in stage.validation_batches()]
    return float(np.mean([o["loss"] for o in outputs])), float(np.nanmean(pseudo_dice(outputs)))


def test_stage_1_learns_one_batch_and_changes_nothing_else(planned: Workspace) -> None:
    cases = stored_cases(planned, 1)
    n_slices = len(cases[0].slices)
    settings = tiny_settings(stage1=StageSettings(30, 1, n_slices, 1e-2), augmentation=STILL)
    network = tiny_network(settings)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    losses = train_epochs(SaliencyStage(network, settings, cases, [], CPU, 0), 30)
    assert losses[-1] < 0.6 * losses[0]
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == network.stage1_parameters().keys()


TRUE_POINTS = PromptSettings("simulated", RecipeSettings("true_points"))


def raw_true_settings(**changes: Any) -> SPDSettings:
    """Four true points per slice, all slices decoded: nothing depends on what stage 1 has learned."""
    start = {"distillation": DistillationSettings(mode="raw"), "prompts": TRUE_POINTS, "augmentation": STILL}
    return tiny_settings(**{**start, **changes})


@pytest.mark.parametrize("toward", ["both", "previous", "next"])
def test_stage_2_asks_for_the_consistency_of_the_plans(
    toward: str, planned: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def spy(*arguments: Any) -> torch.Tensor:
        asked.append(arguments[-1])
        return consistency_loss(*arguments)

    monkeypatch.setattr("spdnet.training.prompt_stage.consistency_loss", spy)
    settings = raw_true_settings(consistency=ConsistencySettings(toward=toward))  # type: ignore[arg-type]
    stage = PromptStage(tiny_network(settings), settings, stored_cases(planned, 1), [], CPU, 0, tmp_path)
    stage.prepare()
    for batch in stage.training_batches(0):
        assert torch.isfinite(stage.training_loss(batch))
    assert set(asked) == {toward}


def prompt_stage(planned: Workspace, settings: SPDSettings, folder: Path, n_cases: int = 1) -> PromptStage:
    cases = stored_cases(planned, n_cases)
    return PromptStage(tiny_network(settings), settings, cases, cases[:1], CPU, 0, folder / "cache")


def test_stage_2_learns_and_changes_the_decoder_only(planned: Workspace, tmp_path: Path) -> None:
    settings = raw_true_settings(stage2=StageSettings(20, 1, 100, 1e-3))
    stage = prompt_stage(planned, settings, tmp_path)
    network = stage.network
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    stage.prepare()
    first_loss, first_dice = scores(stage)
    losses = train_epochs(stage, 20)
    last_loss, last_dice = scores(stage)
    assert losses[-1] < 0.75 * losses[0]
    assert last_loss < first_loss
    assert last_dice > first_dice
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= network.stage2_parameters().keys()
    assert "class_embedding.weight" in changed
    assert any(n.startswith("mask_decoder.transformer.") for n in changed)
    stage.finish()
    assert not list((tmp_path / "cache").iterdir())


def test_the_consistency_term_changes_the_training(planned: Workspace, tmp_path: Path) -> None:
    weights = []
    for index, consistency in enumerate((0.0, 0.1, 0.1)):
        settings = raw_true_settings(consistency=ConsistencySettings(consistency), stage2=StageSettings(1, 2, 8, 1e-3))
        stage = prompt_stage(planned, settings, tmp_path / str(index))
        train_epochs(stage, 1)
        weights.append(torch.cat([p.detach().flatten() for p in stage.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_prompts_are_fresh_each_epoch_and_fixed_in_validation(planned: Workspace) -> None:
    case = stored_cases(planned, 1)[0]
    simulated = PromptSettings("simulated")
    drawn = [draw_prompts(case, simulated, np.random.default_rng(s)).points_syx for s in (0, 1)]
    assert drawn[0].shape != drawn[1].shape or not np.array_equal(*drawn)
    fixed = [validation_prompts(case, simulated).points_syx for _ in range(2)]
    np.testing.assert_array_equal(*fixed)
    other = validation_prompts(stored_cases(planned, 2)[1], simulated).points_syx
    assert other.shape != fixed[0].shape or not np.array_equal(other, fixed[0])
    true = draw_prompts(case, TRUE_POINTS, np.random.default_rng(0))
    s, y, x = np.floor(true.points_syx + 0.5).astype(int).T
    assert np.asarray(case.masks)[s, true.class_index, y, x].all()
    files = draw_prompts(case, PromptSettings("files"), np.random.default_rng(0))
    assert len(files) == 0, "this data set was preprocessed without prompt files"
    for share, most in ((0.0, 0), (0.5, 15), (1.0, 20)):
        mixed = PromptSettings("files", RecipeSettings(), imitated_share=share)
        n_imitated = sum(len(draw_prompts(case, mixed, np.random.default_rng(s))) > 0 for s in range(20))
        assert most - 10 <= n_imitated <= most and (share % 1 or n_imitated == most)
        assert len(validation_prompts(case, mixed)) == 0, "validation has the files alone"
    assert len(draw_prompts(case, PromptSettings("none"), np.random.default_rng(0))) == 0
    line = PromptSettings("simulated", RecipeSettings("centreline", {"uncovered": 0.5}))
    drawn = draw_prompts(case, line, np.random.default_rng(0))
    assert np.bincount(drawn.for_class(0).points_syx[:, 0].astype(int)).max() == 1, "one point per slice"


def store_of(folder: Path, network: SPDNetwork, keep: bool = False, seed: int = 5) -> EmbeddingStore:
    settings = replace(tiny_settings(), augmentation=replace(AugmentationSettings(), stored_variants=3))
    return EmbeddingStore(folder, network, settings, seed, keep)


def test_stored_variants_move_slices_masks_and_points_alike(planned: Workspace, tmp_path: Path) -> None:
    case = stored_cases(planned, 1)[0]
    network = tiny_network(tiny_settings())
    store = store_of(tmp_path / "store", network)
    (variants,) = store.encode([case], True, 4, CPU)
    (again,) = store_of(tmp_path / "again", network).encode([case], True, 4, CPU)
    assert len(variants) == 3
    assert [v.transform for v in variants] == [v.transform for v in again]
    assert variants[0].transform == SliceTransform()
    np.testing.assert_array_equal(variants[0].masks, case.masks)
    with torch.no_grad():
        images = torch.from_numpy(np.asarray(case.slices, dtype=np.float32))
        embeddings = network.encode(images)
        saliency = torch.sigmoid(network.saliency_logits(embeddings))
    np.testing.assert_allclose(variants[0].embeddings, embeddings, atol=0.05)
    np.testing.assert_allclose(variants[0].saliency, saliency, atol=0.02)
    prompts = draw_prompts(case, TRUE_POINTS, np.random.default_rng(0))
    for variant in variants[1:]:
        assert variant.transform != SliceTransform()
        assert not np.array_equal(variant.masks, case.masks)
        moved = variant.move(prompts)
        s, y, x = np.floor(moved.points_syx + 0.5).astype(int).T
        inside = np.asarray(variant.masks)[s, moved.class_index, y, x]
        assert inside.mean() > 0.85, "all but points at the border stay inside the moved mask"
    (plain,) = store_of(tmp_path / "plain", network).encode([case], False, 4, CPU)
    assert len(plain) == 1
    store.close()
    assert not list((tmp_path / "store").iterdir())


def test_kept_embeddings_are_used_again_only_where_they_fit(planned: Workspace, tmp_path: Path) -> None:
    case = stored_cases(planned, 1)[0]
    network = tiny_network(tiny_settings())
    first = store_of(tmp_path, network, keep=True)
    first.encode([case], True, 4, CPU)
    first.close()
    marker = first.folder / f"{case.case}_0_embeddings.npy"
    written = marker.stat().st_mtime_ns
    store_of(tmp_path, network, keep=True).encode([case], True, 4, CPU)
    assert marker.stat().st_mtime_ns == written, "not encoded again"
    assert store_of(tmp_path, network, seed=6).folder != first.folder
    properties = case.folder / f"{case.case}.json"
    later = marker.stat().st_mtime + 10
    os.utime(properties, (later, later))  # preprocessed again since
    store_of(tmp_path, network, keep=True).encode([case], True, 4, CPU)
    assert marker.stat().st_mtime_ns > written
    other_slices = EmbeddingStore(tmp_path, network, replace(tiny_settings(), pixel_spacing_mm=9.0), 5, True)
    assert other_slices.folder != first.folder
    disturbed = next(iter(network.stage1_parameters().values()))
    disturbed.data += 1
    assert store_of(tmp_path, network).folder != first.folder


def rows_of(slices: list[int], classes: list[int]) -> DecoderRows:
    n = len(slices)
    points = np.zeros((n, 1, 2), dtype=np.float32), np.zeros((n, 1), dtype=bool)
    boxes = np.zeros((n, 4), dtype=np.float32), np.zeros(n, dtype=bool)
    return DecoderRows(np.array(slices), np.array(classes), *points, *boxes)


def test_a_data_worker_that_does_not_inherit_memory_opens_the_files_itself(planned: Workspace, tmp_path: Path) -> None:
    cases = stored_cases(planned, 3)
    stores = store_of(tmp_path, tiny_network(tiny_settings())).encode(cases, True, 4, CPU)
    variants = [v for variants in stores for v in variants]
    asked = [RowsRequest(variants[1].name, np.array([0, 1]), 0)]
    for data, request in (
        (StoredRows(variants, embeddings=False), asked),
        (SliceBatches(cases, slice_table(cases), STILL), BatchRequest(np.array([0, 1]))),
    ):
        expected = data[request]  # type: ignore[index]
        sent = pickle.dumps(data)
        assert len(sent) < 3000 < sum(case.slices.nbytes for case in cases)
        found = pickle.loads(sent)[request]
        assert torch.equal(found.masks, expected.masks)


@pytest.mark.parametrize("run_length", [1, 3, 4, 20])
def test_runs_cover_every_row_once_stay_in_class_and_vary(run_length: int) -> None:
    rows = rows_of([0, 1, 2, 3, 5, 6, 7, 9, 0, 1, 8], [0] * 8 + [1] * 3)
    seen = set()
    for seed in range(30):
        parts = cut_into_runs(rows, run_length, np.random.default_rng(seed))
        assert np.concatenate(parts).tolist() == list(range(11))
        assert all(0 < len(p) <= run_length for p in parts)
        assert all(len(set(rows.class_index[p].tolist())) == 1 for p in parts)
        seen.add(tuple(len(p) for p in parts))
    assert len(seen) == 1 if run_length == 1 else len(seen) > 1


def test_pairs_are_adjacent_slices_of_one_run_that_both_hold_target() -> None:
    rows = rows_of([2, 3, 4, 6, 7, 3, 4], [0, 0, 0, 0, 0, 1, 1])
    variant: Any = None
    runs = [Run(variant, rows, np.array(i), None) for i in ([0, 1, 2, 3, 4], [5, 6], [6])]
    masks = np.ones((8, 2, 2), dtype=np.uint8)
    assert adjacent_pairs(runs, masks).tolist() == [[0, 1], [1, 2], [3, 4], [5, 6]]
    masks[1] = 0
    assert adjacent_pairs(runs, masks).tolist() == [[3, 4], [5, 6]]
    assert adjacent_pairs(runs, np.zeros_like(masks)).shape == (0, 2)
    assert adjacent_pairs([Run(variant, rows, np.array([3]), None)], masks[:1]).shape == (0, 2)


def test_the_validation_of_stage_2_knows_how_much_of_the_slices_is_image(
    planned: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = []

    def spy(*given: Any) -> DistilledVolume:
        told.append(given[3])
        return distill_whole_volume(*given)

    monkeypatch.setattr("spdnet.training.prompt_stage.distill_whole_volume", spy)
    stage = prompt_stage(planned, tiny_settings(), tmp_path)
    stage.prepare()
    variants = stage._train[0]
    stage.validation_scores(variants[0])
    assert told == [variants[0].case.mapping.content_share] and told[0] < 1


def test_batches_of_stage_2_hold_whole_runs_and_keep_to_the_plans(planned: Workspace, tmp_path: Path) -> None:
    settings = raw_true_settings(stage2=StageSettings(1, 3, 6, 1e-3), consistency=ConsistencySettings(0.1, 4))
    stage = prompt_stage(planned, settings, tmp_path, n_cases=3)
    stage.prepare()
    batches = stage._draw_batches(np.random.default_rng(0))
    assert len(batches) == 3
    assert all(6 <= sum(len(r.indices) for r in batch) < 6 + 4 for batch in batches)
    seen = [(r.variant.name, int(i)) for batch in batches for r in batch for i in r.indices]
    assert len(seen) == len(set(seen))


def test_stage_2_is_trained_without_prompts_where_the_plans_say_so(planned: Workspace, tmp_path: Path) -> None:
    settings = raw_true_settings()
    for share, has_points in ((0.0, True), (1.0, False)):
        prompts = replace(settings.prompts, absent_share=share)
        stage = prompt_stage(planned, replace(settings, prompts=prompts), tmp_path, n_cases=2)
        stage.prepare()
        runs = [r for batch in stage._draw_batches(np.random.default_rng(0)) for r in batch]
        assert any(r.rows.point_is_real.any() for r in runs) == has_points


class OneParameterStage(Stage):
    """A stage of one weight, whose loss is a thousand times that weight."""

    number = 1
    name = "test"

    @property
    def stage_settings(self) -> StageSettings:
        return self.settings.stage1

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.parameter]

    def prepare(self) -> None:
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def training_batches(self, epoch: int) -> list[None]:
        return [None]

    def training_loss(self, batch: None) -> torch.Tensor:
        return 1000 * self.parameter.sum()

    def validation_batches(self) -> list[None]:
        return []

    def validation_scores(self, batch: None) -> dict[str, np.ndarray]:
        raise NotImplementedError


def one_parameter_trainer(planned: Workspace, settings: StageSettings, start: Path | None = None) -> SPDTrainer:
    trainer = make_trainer(planned, "all", change=lambda s: replace(s, stage1=settings))
    trainer.initialize()
    if start is not None:
        trainer.load_checkpoint(start)
    arguments: Any = (trainer.network, trainer.settings, [], [], CPU, 0)
    trainer.stage = OneParameterStage(*arguments)
    trainer.on_stage_start()
    return trainer


def test_poly_schedule_is_nnunet_s(planned: Workspace) -> None:
    trainer = one_parameter_trainer(planned, StageSettings(10, 1, 1, 0.1))
    rates = []
    for _ in range(10):
        trainer._run_epoch()
        rates.append(trainer.log.records[-1].learning_rate)
    np.testing.assert_allclose(rates, [0.1 * (1 - e / 10) ** 0.9 for e in range(10)])


def test_plateau_schedule_halves_after_five_epochs_without_progress(planned: Workspace) -> None:
    trainer = one_parameter_trainer(planned, StageSettings(10, 1, 1, 0.1, scheduler="plateau"))
    for _ in range(8):
        trainer._run_epoch()
        with torch.no_grad():
            trainer.stage.parameters()[0].zero_()  # no progress
    assert [r.learning_rate for r in trainer.log.records] == [0.1] * 6 + [0.05] * 2


@pytest.mark.parametrize("resumed_at", [None, 1])
def test_the_learning_rate_rises_step_by_step_and_the_schedule_goes_on_as_without(
    planned: Workspace, resumed_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneParameterStage, "training_batches", lambda self, epoch: [None] * 4)
    settings = StageSettings(10, 4, 1, 0.1, warmup_iterations=8)
    trainer = one_parameter_trainer(planned, settings)
    first = 0
    if resumed_at is not None:
        trainer._run_epoch()
        first = resumed_at
        trainer.save_checkpoint("checkpoint_latest.pth")
        stored = trainer.output_folder / "checkpoint_latest.pth"
        trainer = one_parameter_trainer(planned, settings, stored)
    seen = []
    trainer.optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    for _ in range(first, 4):
        trainer._run_epoch()
    of_epoch = [0.1 * (1 - e / 10) ** 0.9 for e in range(4)]
    shares = [*np.arange(1, 9) / 8, *[1.0] * 8]
    np.testing.assert_allclose(seen, (np.repeat(of_epoch, 4) * shares)[4 * first :])
    np.testing.assert_allclose([r.learning_rate for r in trainer.log.records[-(4 - first) :]], of_epoch[first:])


def test_gradients_are_clipped(planned: Workspace) -> None:
    trainer = one_parameter_trainer(planned, StageSettings(10, 1, 1, 0.1))
    trainer.train_step(None)
    (parameter,) = trainer.stage.parameters()
    assert parameter.grad is not None
    assert float(parameter.grad) == pytest.approx(12.0, rel=1e-4)


def test_pseudo_dice_sums_pixels_over_slices() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.random((2, 5, 3, 6, 6)) > 0.5
    predicted[:, 2] = target[:, 2] = False
    counts = [pixel_counts(predicted[:2], target[:2].astype(np.uint8)), pixel_counts(predicted[2:], target[2:])]
    dice = pseudo_dice(counts)
    for k in (0, 1):
        overlap = (predicted[:, k] & target[:, k]).sum()
        assert dice[k] == pytest.approx(2 * overlap / (predicted[:, k].sum() + target[:, k].sum()))
    assert np.isnan(dice[2])
    valid = np.ones((5, 1, 6, 6), dtype=np.uint8)
    valid[..., :3] = 0
    counted = pixel_counts(predicted, target, valid)
    right = pixel_counts(predicted[..., 3:], target[..., 3:])
    assert all(np.array_equal(counted[name], right[name]) for name in right)


# ---- trainer ----------------------------------------------------------------------------------------------


def make_trainer(
    planned: Workspace,
    fold: int | str = 0,
    epochs: tuple[int, int] = (2, 2),
    trainer_class: type[SPDTrainer] = SPDTrainer,
    change: Callable[[SPDSettings], SPDSettings] = lambda s: s,
) -> SPDTrainer:
    plans = SPDPlans.load(planned.preprocessed / "SPDPlans.json")
    s = plans.settings
    stages = {"stage1": replace(s.stage1, epochs=epochs[0], iterations_per_epoch=2)}
    stages["stage2"] = replace(s.stage2, epochs=epochs[1], iterations_per_epoch=2)
    lenient = replace(s.distillation, tau=0.3)  # the saliency of two epochs is low
    dropout = replace(s.lora, dropout=0.1)  # so that what dropout draws matters too
    plans = replace(plans, settings=change(replace(s, **stages, distillation=lenient, lora=dropout)))
    dataset_json = json.loads((planned.preprocessed / "dataset.json").read_text(encoding="utf-8"))
    return trainer_class(plans.to_dict(), "2d", fold, dataset_json, CPU, 3)


def run(trainer: SPDTrainer) -> SPDTrainer:
    trainer.initialize()
    trainer.run_training()
    return trainer


def interrupted_after(epochs: int, trainer: type[SPDTrainer] = SPDTrainer) -> type[SPDTrainer]:
    """A trainer like another that is cut off after so many epochs in all."""

    class Interrupted(trainer):  # type: ignore[valid-type, misc]
        done = 0

        def on_epoch_start(self) -> None:
            if self.done == epochs:
                raise KeyboardInterrupt
            super().on_epoch_start()

        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            self.done += 1

        def save_checkpoint(self, filename: str) -> None:
            if filename == "checkpoint_final.pth":
                raise KeyboardInterrupt
            super().save_checkpoint(filename)

    Interrupted.__name__ = trainer.__name__
    return Interrupted


def records(trainer: SPDTrainer) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("started", "ended", "waited")} for r in trainer.log.state()]


@pytest.mark.parametrize("held_out_share", [0.0, 0.4])
def test_a_resumed_training_ends_bit_equal_wherever_it_was_cut_off(planned: Workspace, held_out_share: float) -> None:
    def change(settings: SPDSettings) -> SPDSettings:
        return replace(settings, selection=SelectionSettings(held_out_share))

    straight = run(make_trainer(planned, change=change))
    assert bool(straight.held_out_cases) == bool(held_out_share)
    expected, curve = straight.network.own_state(), records(straight)
    assert len(curve) == 4
    for epochs_done in (1, 2, 3, 4):
        first = make_trainer(planned, trainer_class=interrupted_after(epochs_done), change=change)
        (first.output_folder / "checkpoint_final.pth").unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            run(first)
        file = resume_checkpoint(first.output_folder)
        assert file is not None
        assert file.name == "checkpoint_latest.pth"
        second = make_trainer(planned, change=change)
        second.initialize()
        second.load_checkpoint(file)
        second.run_training()
        state = second.network.own_state()
        different = [n for n, p in state.items() if not torch.equal(p, expected[n])]
        assert not different, f"cut off after {epochs_done} epochs"
        assert records(second) == curve
        assert second.best_smoothed_dice == straight.best_smoothed_dice
        assert not list(first.output_folder.glob("stage2_embeddings*"))


def test_the_seed_decides_everything(planned: Workspace) -> None:
    states = []
    for seed in (3, 3, 4):
        trainer = make_trainer(planned, "all", (1, 1))
        trainer.seed = seed
        states.append(run(trainer).network.own_state())
    assert all(torch.equal(p, states[1][n]) for n, p in states[0].items())
    assert any(not torch.equal(p, states[2][n]) for n, p in states[0].items())


def test_a_training_leaves_what_nnunet_users_expect(planned: Workspace) -> None:
    trainer = make_trainer(planned, 0, (1, 2))
    trainer.initialize()
    assert not trainer.model_folder.exists(), "nothing is written before the training starts"
    trainer.run_training()
    names = {f.name for f in trainer.output_folder.iterdir()}
    logs = {n for n in names if n.startswith("training_log_")}
    assert len(logs) == 1
    assert names - logs == {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "debug.json"}
    assert {f.name for f in trainer.model_folder.iterdir()} == {
        "plans.json", "dataset.json", "spd_fingerprint.json", "dataset_fingerprint.json", "fold_0",
    }  # fmt: skip
    assert SPDPlans.load(trainer.model_folder / "plans.json") == trainer.plans
    text = (trainer.output_folder / logs.pop()).read_text(encoding="utf-8")
    for part in ("stage 1", "stage 2", "train loss", "val Dice bright", "half", "lr", "best smoothed Dice"):
        assert part in text
    content = torch.load(trainer.output_folder / "checkpoint_final.pth", weights_only=True)
    assert content.keys() == {
        "network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args",
        "trainer_name", "inference_allowed_mirroring_axes", "spd",
    }  # fmt: skip
    assert content["trainer_name"] == "nnUNetTrainer", "nnU-Net builds the network of the plans by this trainer"
    assert content["spd"]["trainer_name"] == "SPDTrainer"
    assert content["init_args"].keys() == {"plans", "configuration", "fold", "dataset_json", "device"}
    assert content["inference_allowed_mirroring_axes"] == (1,)
    assert content["current_epoch"] == 3
    assert {len(v) for v in content["logging"].values()} == {3}
    assert content["network_weights"].keys() == trainer.network.own_state().keys()
    debug = json.loads((trainer.output_folder / "debug.json").read_text(encoding="utf-8"))
    assert debug["val_cases"] == [c.case for c in trainer.val_cases]


def test_the_best_checkpoint_follows_nnunet_s_smoothing(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, 0, (2, 3)))
    smoothed: float | None = None
    for index, record in enumerate(trainer.log.records):
        smoothed = None if index in (0, 2) else smoothed  # each stage starts anew
        mean = float(np.nanmean(record.dice))
        smoothed = mean if smoothed is None else 0.9 * smoothed + 0.1 * mean
        assert record.smoothed_dice == pytest.approx(smoothed)
    stage2 = [r.smoothed_dice for r in trainer.log.records if r.stage == 2]
    best = torch.load(trainer.output_folder / "checkpoint_best.pth", weights_only=True)
    assert best["_best_ema"] == trainer.best_smoothed_dice == max(s for s in stage2 if s is not None)
    assert best["spd"]["stage_epoch"] == int(np.argmax(stage2)) + 1
    assert best["current_epoch"] == 2 + int(np.argmax(stage2)) + 1


def test_splits_are_made_once_and_then_used(planned: Workspace) -> None:
    file = planned.preprocessed / "splits_final.json"
    by_preprocessing = file.read_bytes()
    file.unlink()
    trainer = make_trainer(planned, 2)
    trainer.initialize()
    assert file.read_bytes() == by_preprocessing
    made = json.loads(file.read_text(encoding="utf-8"))
    assert len(made) == 5
    assert [c.case for c in trainer.val_cases] == made[2]["val"]
    assert {c.case for c in trainer.train_cases} == set(made[2]["train"])
    other = [{"train": ["blob_000", "blob_001"], "val": ["blob_004"]}]
    file.write_text(json.dumps(other), encoding="utf-8")
    trainer = make_trainer(planned, 0)
    trainer.initialize()
    assert [c.case for c in trainer.train_cases] == ["blob_000", "blob_001"]
    assert [c.case for c in trainer.val_cases] == ["blob_004"]
    assert json.loads(file.read_text(encoding="utf-8")) == other
    file.write_text(json.dumps([{"train": ["gone"], "val": []}]), encoding="utf-8")
    with pytest.raises(DatasetError, match="gone"):
        make_trainer(planned, 0).initialize()


def test_fold_all_holds_nothing_out_and_is_validated_on_its_training_cases(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, "all", (1, 1)))
    assert len(trainer.train_cases) == 5
    assert not trainer.val_cases
    assert not (trainer.output_folder / "checkpoint_best.pth").exists()
    assert all(r.val_loss is None for r in trainer.log.records)
    summary = trainer.perform_actual_validation()
    assert len(summary["metric_per_case"]) == 5
    assert "training cases" in trainer.log.file.read_text(encoding="utf-8")
    assert load_or_create_splits(planned.preprocessed / "none.json", ["a", "b"], "all").val == ()


def forget_what_cases_are_made_with(planned: Workspace) -> None:
    """Leave the cases as an earlier version did, which go with any plans of their image size."""
    (planned.preprocessed / "SPDPlans_2d" / ".made_with.json").unlink()


def test_checkpoints_of_something_else_are_refused(planned: Workspace) -> None:
    written = run(make_trainer(planned, "all", (1, 0)))
    file = written.output_folder / "checkpoint_final.pth"
    plans_file = written.model_folder / "plans.json"
    before = plans_file.read_bytes()
    forget_what_cases_are_made_with(planned)

    def load(change: Callable[[SPDSettings], SPDSettings] = lambda s: s, **options: Any) -> None:
        trainer = make_trainer(planned, "all", (1, 1), change=change, **options)
        trainer.initialize()
        trainer.load_checkpoint(file)

    load()
    with pytest.raises(ModelError, match="was written by SPDTrainer, not SPDTrainerNoPSC; choose it with -tr"):
        load(trainer_class=TRAINERS["SPDTrainerNoPSC"])
    with pytest.raises(ModelError, match=r"normalization was .*99\.5.*the plans say .*98\.0"):
        load(lambda s: replace(s, normalization=(replace(s.normalization[0], high=98.0),)))
    with pytest.raises(ModelError, match=r"lora was .*rank"):
        load(lambda s: replace(s, lora=replace(s.lora, rank=2)))
    load(lambda s: replace(s, distillation=replace(s.distillation, tau=0.4)))
    assert plans_file.read_bytes() == before, "a refused checkpoint changes no plans"
    content = torch.load(file, weights_only=True)
    settings = {**content["spd"]["settings"], "backbone": "lite"}
    torch.save({**content, "spd": {**content["spd"], "settings": settings}}, file)
    with pytest.raises(ModelError, match="backbone was 'lite', the plans say 'tiny'"):
        load()
    torch.save({**content, "network_weights": {}}, file)
    with pytest.raises(ModelError, match="does not fit the plans of this training"):
        load()


def test_cases_preprocessed_for_another_size_are_refused(planned: Workspace) -> None:
    trainer = make_trainer(planned, "all", change=lambda s: replace(s, image_size=112))
    with pytest.raises(
        DatasetError, match=r"blob_000 is preprocessed for 56 px, SPDPlans says 112; run spd_preprocess"
    ):
        trainer.initialize()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slicing_axis": "P"}, "spd.slicing_axis 'S'; now it is 'P'"),
        ({"pixel_spacing_mm": 9.0}, r"spd.pixel_spacing_mm [\d.]+; now it is 9.0"),
        ({"crop_to_nonzero": True}, "spd.crop_to_nonzero False; now it is True"),
        (
            {"normalization": (NormalizationSettings("window", 0.0, 1.0),)},
            r"spd.normalization \[.*percentile.*\]; now it is \[.*window.*\]",
        ),
        ({"prompts": PromptSettings("files")}, "spd.prompts.source 'simulated'; now it is 'files'"),
    ],
)
def test_cases_preprocessed_by_other_settings_are_refused(
    planned: Workspace, change: dict[str, Any], message: str
) -> None:
    folder = planned.preprocessed / "SPDPlans_2d"
    changed = make_trainer(planned, "all", change=lambda s: replace(s, **change))
    with pytest.raises(DatasetError, match=f"the cases in {folder} were preprocessed with {message}. Run spd_preproc"):
        changed.initialize()
    forget_what_cases_are_made_with(planned)
    changed.initialize()


def test_cases_fit_settings_that_they_do_not_depend_on(planned: Workspace) -> None:
    for change in ({"consistency": ConsistencySettings(weight=0.5)}, {"prompts": PromptSettings("none")}):
        make_trainer(planned, "all", change=lambda s, c=change: replace(s, **c)).initialize()
    record = planned.preprocessed / "SPDPlans_2d" / ".made_with.json"
    made_with = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**made_with, "spd.prompts.source": "files"}), encoding="utf-8")
    make_trainer(planned, "all").initialize()  # prompts are there, and not asked for
    file = planned.preprocessed / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "labels": {"background": 0, "bright": 1, "dim": 2}}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"labels of dataset.json \{.*'half': \[2\].*; now it is \{.*'dim': \[2\]"):
        make_trainer(planned, "all").initialize()


def test_unpreprocessed_data_is_an_error(planned: Workspace) -> None:
    for file in (planned.preprocessed / "SPDPlans_2d").glob("*.json"):
        file.unlink()
    with pytest.raises(DatasetError, match="holds no preprocessed cases; run spd_plan_and_preprocess"):
        make_trainer(planned).initialize()


def test_stage_1_can_be_taken_from_another_training(planned: Workspace) -> None:
    source = run(make_trainer(planned, "all", (1, 1)))
    file = source.output_folder / "checkpoint_final.pth"
    trainer = make_trainer(planned, "all", (1, 1), TRAINERS["SPDTrainerLocalOnly"])
    trainer.initialize()
    published = trainer.network.own_state()
    trainer.start_from_stage1(file)
    state, given = trainer.network.own_state(), source.network.own_state()
    stage1 = trainer.network.stage1_parameters().keys()
    assert all(torch.equal(p, (given if n in stage1 else published)[n]) for n, p in state.items())
    trainer.run_training()
    final = trainer.network.own_state()
    assert all(torch.equal(final[n], given[n]) for n in stage1)
    assert any(not torch.equal(final[n], published[n]) for n in final.keys() - stage1)
    assert [r.stage for r in trainer.log.records] == [2]
    other = make_trainer(planned, "all", (1, 1), change=lambda s: replace(s, lora=replace(s.lora, rank=2)))
    other.initialize()
    with pytest.raises(ModelError, match="trained with other plans: lora"):
        other.start_from_stage1(file)
    forget_what_cases_are_made_with(planned)
    resized = make_trainer(planned, "all", (1, 1), change=lambda s: replace(s, pixel_spacing_mm=9.0))
    resized.initialize()
    with pytest.raises(ModelError, match="trained with other plans: pixel_spacing_mm"):
        resized.start_from_stage1(file)
    tuning = run(make_trainer(planned, "all", (1, 0), TRAINERS["SPDTrainerSAMTuning"]))
    with pytest.raises(ModelError, match="holds no trained stage 1"):
        other.start_from_stage1(tuning.output_folder / "checkpoint_final.pth")


def test_pretrained_weights_fit_but_for_layers_of_the_classes(planned: Workspace) -> None:
    source = run(make_trainer(planned, "all", (1, 1)))
    file = source.output_folder / "checkpoint_final.pth"
    given = source.network.own_state()
    trainer = make_trainer(planned, "all", (1, 1), TRAINERS["SPDTrainerNoPSC"])
    trainer.initialize()
    trainer.load_pretrained_weights(file)
    taken = trainer.network.own_state()
    begins_anew = {n for n in taken if n.startswith("decoder_encoder.")}
    assert all(torch.equal(p, given[n]) for n, p in taken.items() if n not in begins_anew | {*MEASURED})
    assert given["salient_share"].max() > 0, "what the other training measured"
    assert not any(taken[name].any() for name in MEASURED), "not its own"
    assert (trainer.stage_number, trainer.current_epoch) == (1, 0)
    trainer.network = build_network("tiny", 1, 3, 56, 16, 16, 0.0)
    drawn = trainer.network.own_state()
    skipped = load_pretrained_weights(trainer.network, read_checkpoint(file), "tiny", file)
    assert "class_embedding.weight" in skipped
    assert all(n.startswith(("saliency_head.", "class_embedding.")) for n in skipped)
    for name, value in trainer.network.own_state().items():
        assert torch.equal(value, drawn[name] if name in skipped or name in MEASURED else given[name])
    with pytest.raises(ModelError, match="is a model on tiny, the plans are for lite"):
        load_pretrained_weights(trainer.network, read_checkpoint(file), "lite", file)
    other = build_network("tiny", 1, 2, 56, 2, 2, 0.0)
    with pytest.raises(ModelError, match="lora.* are missing or of another shape; was it trained with the same LoRA"):
        load_pretrained_weights(other, read_checkpoint(file), "tiny", file)


def test_disabled_checkpointing_writes_none(planned: Workspace) -> None:
    trainer = make_trainer(planned, 0, (1, 1))
    trainer.disable_checkpointing = True
    run(trainer).perform_actual_validation()
    assert not list(trainer.output_folder.glob("*.pth"))
    assert (trainer.output_folder / "validation" / "summary.json").exists()


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in settings.items():
        content |= {f"{name}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {name: value}
    return content


ALWAYS_GIVEN = {"distillation.without_prompts": "saliency", "prompts.absent_share": 0.0}
RAW = {
    **ALWAYS_GIVEN,
    "distillation.mode": "raw",
    "distillation.boxes.mode": "raw",
    "distillation.lone_pieces": "keep",
    "consistency.weight": 0.0,
}
ONE_ENCODER = {"decoder_encoder": "shared"}
SAMS_OWN = {"dense_prompt.mode": "none", "dense_prompt.n_slices": 4, **ONE_ENCODER}
CONSENSUS = {**SAMS_OWN, **ALWAYS_GIVEN, "distillation.mode": "consensus", "distillation.lone_pieces": "keep"}

BOX_ONLY = {"prompts.source": "none", "prompts.boxes": "simulated"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("SPDTrainer", {}),
        ("SPDTrainerNoPSC", {"consistency.weight": 0.0}),
        ("SPDTrainerLocalOnly", {"distillation.n_context": 0, **CONSENSUS}),
        ("SPDTrainerConsensus", CONSENSUS),
        ("SPDTrainerKeepPieces", {"distillation.lone_pieces": "keep"}),
        ("SPDTrainerRawPrompts", {**RAW, **SAMS_OWN}),
        ("SPDTrainerRawBoxes", {"distillation.boxes.mode": "raw"}),
        ("SPDTrainerNoBoxes", {"distillation.boxes.mode": "off"}),
        ("SPDTrainerBoxOnly", BOX_ONLY),
        ("SPDTrainerRawBoxOnly", {**BOX_ONLY, "distillation.boxes.mode": "raw"}),
        ("SPDTrainerSAMTuning", {**RAW, **SAMS_OWN, "lora.rank": 0, "stage1.epochs": 0}),
        ("SPDTrainerTruePoints", {**RAW, "prompts.recipe.mode": "true_points"}),
        ("SPDTrainerEmptyMask", {**CONSENSUS, "distillation.empty_consensus": "empty"}),
        ("SPDTrainerKeepRandom", {"distillation.random_points": "keep"}),
        ("SPDTrainerSharedEncoder", ONE_ENCODER),
        ("SPDTrainerPromptsOptional", {"prompts.absent_share": 0.1}),
        (
            "SPDTrainerPlateau",
            {f"stage{i}.{k}": v for i in (1, 2) for k, v in (("scheduler", "plateau"), ("warmup_iterations", 0))},
        ),
    ],
)
def test_variants_change_what_they_say_and_nothing_else(name: str, changes: dict[str, Any]) -> None:
    extensions = {"random_points": "refuse", "lone_pieces": "auto", "mode": "weighed", "without_prompts": "decode"}
    maps = DensePromptSettings("maps", 3)
    settings = tiny_settings(distillation=DistillationSettings(**extensions), dense_prompt=maps)  # type: ignore[arg-type]
    settings = replace(settings, prompts=replace(settings.prompts, absent_share=0.2))
    stages = {name: replace(getattr(settings, name), warmup_iterations=3) for name in ("stage1", "stage2")}
    settings = replace(settings, **stages, decoder_encoder="own")
    before = flat(dataclasses.asdict(settings))
    after = flat(dataclasses.asdict(get_trainer(name).adapt_settings(settings)))
    assert {k: v for k, v in after.items() if v != before[k]} == changes


def test_optional_prompts_are_decoded_without() -> None:
    settings = tiny_settings(dense_prompt=DensePromptSettings("maps"))
    optional = get_trainer("SPDTrainerPromptsOptional").adapt_settings(settings)
    assert optional.distillation == replace(settings.distillation, without_prompts="decode")
    with pytest.raises(PlansError, match="without prompts the decoder goes by maps"):
        get_trainer("SPDTrainerPromptsOptional").adapt_settings(tiny_settings())


def test_true_points_are_trained_without_boxes() -> None:
    settings = tiny_settings(prompts=PromptSettings("simulated", boxes="simulated"))
    assert get_trainer("SPDTrainerTruePoints").adapt_settings(settings).prompts.boxes == "none"


def test_every_trainer_is_covered_above_and_unknown_ones_list_the_known() -> None:
    (mark,) = test_variants_change_what_they_say_and_nothing_else.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == TRAINERS.keys()
    with pytest.raises(ConfigurationError, match=r"'SPDTrainerX'; known are SPDTrainer, SPDTrainerNoPSC"):
        get_trainer("SPDTrainerX")


def test_sam_tuning_trains_the_published_encoder_s_decoder_only(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, "all", (5, 1), TRAINERS["SPDTrainerSAMTuning"]))
    assert [r.stage for r in trainer.log.records] == [2]
    assert not any("lora" in n for n in trainer.network.own_state())
    assert trainer.plans.settings.stage1.epochs == 0


def test_validation_writes_predictions_and_an_nnunet_summary(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, 0, (2, 2)))
    trainer.perform_actual_validation()
    folder = trainer.output_folder / "validation"
    stored = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert stored.keys() == {"foreground_mean", "mean", "metric_per_case"}
    assert stored["mean"].keys() == {"1", "2"}
    cases = [c.case for c in trainer.val_cases]
    extras = ["prompts", "prompts.json", "saliency", "summary.json"]
    assert sorted(f.name for f in folder.iterdir()) == [*(f"{c}.nii.gz" for c in sorted(cases)), *extras]
    dice: dict[str, list[float]] = {"1": [], "2": []}
    for case, entry in zip(cases, stored["metric_per_case"], strict=True):
        label = sitk.ReadImage(str(planned.raw / "labelsTr" / f"{case}.nii.gz"))
        image = sitk.ReadImage(str(folder / f"{case}.nii.gz"))
        assert image.GetSize() == label.GetSize()
        np.testing.assert_allclose(image.GetDirection(), label.GetDirection(), atol=1e-6)
        np.testing.assert_allclose(image.GetOrigin(), label.GetOrigin(), atol=1e-4)
        truth, found = sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(image)
        for key, values in dice.items():
            a, b = truth == int(key), found == int(key)
            values.append(2 * (a & b).sum() / (a.sum() + b.sum()))
            assert entry["metrics"][key]["Dice"] == pytest.approx(values[-1])
            assert entry["metrics"][key]["n_pred"] == b.sum()
    trainer.perform_actual_validation(save_probabilities=True)
    assert sorted(f.name for f in folder.glob("*.npz")) == [f"{c}.npz" for c in sorted(cases)]
    means = [float(np.mean(v)) for v in dice.values()]
    assert stored["foreground_mean"]["Dice"] == pytest.approx(np.mean(means))


def test_validation_warns_where_the_decoder_answers_with_empty_masks(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, 0, (2, 2)))
    log = next(trainer.output_folder.glob("training_log*"))
    trainer.perform_actual_validation()
    assert "no mask meets its target" not in log.read_text(encoding="utf-8")
    decoder = trainer.network.mask_decoder
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.zero_()
        decoder.output_upscaling[3].bias.fill_(1)
        for mlp in decoder.output_hypernetworks_mlps:
            mlp.layers[-1].bias.fill_(-1)  # times the pixels above: every logit is below 0
    assert trainer.perform_actual_validation()["foreground_mean"]["Dice"] == 0
    for name in trainer.labels.names:
        assert f"warning: {name}: no mask meets its target" in log.read_text(encoding="utf-8")
