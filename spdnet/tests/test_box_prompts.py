"""Coarse boxes from prompts to masks: decoder rows, SAM's decoder, whole volumes, and the training of stage 2."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from spdnet.errors import PlansError
from spdnet.inference.class_rules import Rules
from spdnet.inference.mirroring import predict_mirrored
from spdnet.inference.prompting import DecoderRows, decoder_rows, distill_volume, distill_volume_boxes
from spdnet.inference.volume import encode_volume, predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.network.precision import autocast
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import (
    AugmentationSettings,
    BoxSettings,
    DistillationSettings,
    PromptSettings,
    StageSettings,
    settings_from_dict,
)
from spdnet.prompts import ALL_CLASSES, SliceBoxes, SlicePrompts
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_training import make_trainer, prompt_stage, run, scores, stored_cases, train_epochs
from spdnet.tests.tiny import IMAGE_SIZE, build_tiny_sam, tiny_settings
from spdnet.training.prompt_source import _mm_per_pixel, draw_prompts, validation_prompts
from spdnet.training.prompt_stage import PromptStage

CPU = torch.device("cpu")


def prompts_of(points: list[list[float]], boxes: list[list[float]], box_classes: list[int]) -> SlicePrompts:
    """Points (slice, y, x) of class 0 and boxes (slice, top, left, bottom, right)."""
    rows = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    slice_boxes = SliceBoxes(rows[:, 0].astype(np.int64), rows[:, 1:], np.array(box_classes, dtype=np.int64))
    places = np.array(points, dtype=np.float64).reshape(-1, 3)
    return SlicePrompts(places, np.zeros(len(places), dtype=np.int64), slice_boxes)


# ---- decoder rows -----------------------------------------------------------------------------------------


def make_rows(prompts: SlicePrompts, saliency: np.ndarray, settings: DistillationSettings) -> DecoderRows:
    consensus = distill_volume(prompts, saliency, Rules(settings, 16))
    return decoder_rows(
        consensus, saliency, Rules(settings, 16), distill_volume_boxes(prompts, saliency, Rules(settings, 16))
    )


def as_list(rows: DecoderRows) -> list[Any]:
    """(class, slice, number of points, box or None) of each row."""
    boxes = [box.tolist() if has else None for box, has in zip(rows.box_yxyx, rows.has_box, strict=True)]
    columns = rows.class_index.tolist(), rows.slice_index.tolist(), rows.point_is_real.sum(axis=1).tolist(), boxes
    return list(zip(*columns, strict=True))


def salient(n_slices: int, *where: tuple[int, int]) -> np.ndarray:
    """Maps of 4 px for 16 px slices and two classes, salient at (1, 2) of some (slice, class): 4 to 7, 8 to 11."""
    saliency = np.full((n_slices, 2, 4, 4), 0.1, dtype=np.float32)
    for s, k in where:
        saliency[s, k, 1, 2] = 0.9
    return saliency


POINT = [4.0, 11.0]
COARSE = [0.5, 4.5, 13.5, 14.5]
SHRUNK = [3.5, 7.5, 7.5, 11.5]
LOCAL = {"n_context": 0, "boxes": BoxSettings(margin=0.0)}


def test_a_row_has_points_a_box_both_or_neither() -> None:
    saliency = salient(4, (0, 0), (1, 0), (2, 0), (3, 0))
    prompts = prompts_of([[0, *POINT], [2, *POINT]], [[1, *COARSE], [2, *COARSE]], [0, 0])
    rows = make_rows(prompts, saliency, DistillationSettings(**LOCAL, empty_consensus="decode"))
    assert as_list(rows) == [(0, 0, 1, None), (0, 1, 0, SHRUNK), (0, 2, 1, SHRUNK), (0, 3, 0, None)]
    assert rows.box_yxyx.dtype == np.float32
    assert not rows.box_yxyx[~rows.has_box].any()
    wider = make_rows(prompts, saliency, DistillationSettings(n_context=0, boxes=BoxSettings(margin=0.25)))
    np.testing.assert_allclose(wider.box_yxyx[1], [2.5, 6.5, 8.5, 12.5])


def test_boxes_are_lent_by_the_n_context_of_the_points() -> None:
    saliency = salient(4, (0, 0), (1, 0), (2, 0))
    prompts = prompts_of([], [[0, *COARSE]], [0])
    for n_context, decoded in ((0, [0]), (1, [0, 1]), (2, [0, 1, 2])):
        settings = DistillationSettings(n_context=n_context, empty_consensus="empty", boxes=BoxSettings(margin=0.0))
        assert as_list(make_rows(prompts, saliency, settings)) == [(0, s, 0, SHRUNK) for s in decoded]


def test_boxes_speak_for_their_class_or_for_all() -> None:
    saliency = salient(2, (0, 0), (0, 1), (1, 0), (1, 1))
    prompts = prompts_of([], [[0, *COARSE], [1, *COARSE]], [1, ALL_CLASSES])
    settings = DistillationSettings(**LOCAL, empty_consensus="empty")
    assert as_list(make_rows(prompts, saliency, settings)) == [(0, 1, 0, SHRUNK), (1, 0, 0, SHRUNK), (1, 1, 0, SHRUNK)]


def test_raw_boxes_are_decoded_wherever_they_are_given_and_off_ignores_them() -> None:
    saliency = salient(3, (0, 0))
    prompts = prompts_of([[0, *POINT]], [[0, *COARSE], [2, *COARSE]], [0, 0])
    raw = DistillationSettings(boxes=BoxSettings("raw"))
    assert as_list(make_rows(prompts, saliency, raw)) == [(0, 0, 1, COARSE), (0, 2, 0, COARSE)]
    off = DistillationSettings(boxes=BoxSettings("off"))
    assert as_list(make_rows(prompts, saliency, off)) == [(0, 0, 1, None)]


@pytest.mark.parametrize("mode", ["distilled", "raw", "off"])
@pytest.mark.parametrize("points", ["consensus", "raw"])
def test_without_boxes_the_rows_are_those_of_points_alone(mode: Any, points: Any) -> None:
    rng = np.random.default_rng(0)
    saliency = rng.random((9, 2, 8, 8)).astype(np.float32)
    places = np.column_stack([rng.integers(0, 9, 20), rng.uniform(0, 15, (20, 2))])
    prompts = SlicePrompts(places, rng.integers(-1, 2, 20))
    settings = DistillationSettings(points, 0.9, boxes=BoxSettings(mode))
    found = make_rows(prompts, saliency, settings)
    expected = decoder_rows(distill_volume(prompts, saliency, Rules(settings, 16)), saliency, Rules(settings, 16))
    assert not found.has_box.any()
    for field in dataclasses.fields(DecoderRows):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


# ---- decoding ---------------------------------------------------------------------------------------------

POINTS = torch.tensor([[10.0, 20.0], [33.5, 5.25], [50.0, 54.0]])  # y, x in pixels of 56
BOX = torch.tensor([8.5, 3.5, 40.25, 51.5])


def tiny_network(n_classes: int = 2) -> SPDNetwork:
    torch.manual_seed(3)
    return build_network("tiny", 1, n_classes, IMAGE_SIZE, 0, 1, 0.0)


def slices_of(batch: int) -> torch.Tensor:
    return torch.rand(batch, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def sam_logits(embedding: torch.Tensor, points_yx: torch.Tensor | None, box_yxyx: torch.Tensor | None) -> torch.Tensor:
    """Low resolution logits (m, m) of segment-anything's own predictor for one slice."""
    predictor = SamPredictor(build_tiny_sam())
    predictor.features, predictor.is_image_set = embedding, True
    predictor.input_size = predictor.original_size = (IMAGE_SIZE, IMAGE_SIZE)
    coordinates = None if points_yx is None else points_yx.flip(-1)[None]
    labels = None if points_yx is None else torch.ones(1, len(points_yx))
    box = None if box_yxyx is None else box_yxyx[None, [1, 0, 3, 2]]
    return predictor.predict_torch(coordinates, labels, box, multimask_output=False)[2][0, 0]


@pytest.mark.parametrize(("n_points", "with_box"), [(3, False), (0, True), (3, True), (1, True)])
@torch.no_grad()
def test_one_row_is_bit_equal_to_segment_anything_s_predictor(n_points: int, with_box: bool) -> None:
    network = tiny_network()
    embedding = network.encode(slices_of(1))
    points = POINTS[:n_points]
    expected = sam_logits(embedding, points if n_points else None, BOX if with_box else None)
    found = network.decode(
        embedding,
        points[None],
        torch.ones(1, n_points, dtype=torch.bool),
        torch.tensor([0]),
        BOX[None] if with_box else None,
        torch.tensor([True]) if with_box else None,
    )
    assert torch.equal(found[0], expected)


@torch.no_grad()
def test_rows_of_all_kinds_in_one_batch_are_those_of_each_alone() -> None:
    network = tiny_network()
    embeddings = network.encode(slices_of(5))
    counts, has_box = [3, 0, 2, 0, 1], torch.tensor([False, True, True, False, True])
    points = POINTS.expand(5, 3, 2).clone()
    is_real = torch.arange(3)[None] < torch.tensor(counts)[:, None]
    boxes = BOX + torch.arange(5.0)[:, None]
    found = network.decode(embeddings, points, is_real, torch.zeros(5, dtype=torch.long), boxes, has_box)
    for row, count in enumerate(counts):
        own_box = boxes[row] if has_box[row] else None
        own = points[row, :count] if count or own_box is None else None
        expected = sam_logits(embeddings[row : row + 1], own, own_box)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)
    points[~is_real] = 3.0
    boxes[~has_box] = 7.0
    again = network.decode(embeddings, points, is_real, torch.zeros(5, dtype=torch.long), boxes, has_box)
    torch.testing.assert_close(again, found)


@torch.no_grad()
def test_the_box_matters_and_so_does_the_closing_token() -> None:
    embedding = tiny_network().encode(slices_of(1))
    both, points, box = (sam_logits(embedding, *p) for p in ((POINTS, BOX), (POINTS, None), (None, BOX)))
    closed = sam_logits(embedding, torch.zeros(0, 2), None)
    for a, b in ((both, points), (both, box), (points, closed), (box, closed)):
        assert (a - b).abs().max() > 1e-3, "or the tests above say nothing"


@torch.no_grad()
def test_edges_reach_sam_as_x_y_on_the_pixels_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network()
    seen = []
    layer = network.prompt_encoder.pe_layer
    original = layer._pe_encoding
    monkeypatch.setattr(layer, "_pe_encoding", lambda c: (seen.append(c.clone()), original(c))[1])
    box = torch.tensor([[1.5, 9.5, 5.5, 20.5]])  # pixels 2 to 5 and 10 to 20
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.bool), torch.tensor([0])
    network.decode(torch.zeros(1, 256, 7, 7), *nothing, box, torch.tensor([True]))
    corners = [c for c in seen if c.shape == (1, 2, 2)]
    torch.testing.assert_close(corners[0], torch.tensor([[[10.0, 2.0], [21.0, 6.0]]]) / IMAGE_SIZE)


@torch.no_grad()
def test_the_class_embedding_speaks_to_boxes_as_well() -> None:
    network = tiny_network()
    network.class_embedding.weight[1] += 1
    embedding = network.encode(slices_of(1)).expand(2, -1, -1, -1)
    nothing = torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.bool), torch.tensor([0, 1])
    first, second = network.decode(embedding, *nothing, BOX.expand(2, 4), torch.tensor([True, True]))
    assert (first - second).abs().max() > 1e-3


# ---- one volume -------------------------------------------------------------------------------------------


def test_a_volume_is_decoded_with_its_boxes_however_it_is_batched() -> None:
    network = tiny_network()
    slices = slices_of(20).numpy()
    points = [[float(s), 20.0, 25.0] for s in range(0, 20, 2)]
    prompts = prompts_of(points, [[s, 8.5, 8.5, 40.5, 44.5] for s in range(0, 20, 3)], [ALL_CLASSES] * 7)
    for mode in ("raw", "distilled"):
        settings = DistillationSettings("raw", 0.3, n_context=0, boxes=BoxSettings(mode, min_salient_share=0.0))
        found = predict_volume(network, slices, prompts, settings, 4, CPU)
        assert found.boxes is not None
        assert found.boxes[1].slices_with_box(20).any()
        alone = predict_volume(
            network, slices, replace(prompts, boxes=prompts.boxes.select(np.zeros(7, bool))), settings, 4, CPU
        )
        changed = np.abs(found.probabilities - alone.probabilities).max(axis=(2, 3)) > 1e-4
        for k in (0, 1):
            np.testing.assert_array_equal(changed[:, k], found.boxes[k].slices_with_box(20))


def test_a_slice_s_box_reaches_the_decoder_as_it_was_given() -> None:
    network, slices = tiny_network(), slices_of(3).numpy()
    prompts = prompts_of([], [[1, *BOX.tolist()]], [1])
    settings = DistillationSettings(boxes=BoxSettings("raw"), empty_consensus="empty")
    found = predict_volume(network, slices, prompts, settings, 4, CPU).probabilities
    embedding = encode_volume(network, slices, 4, CPU).embeddings[1:2].float()
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.bool), torch.tensor([1])
    with torch.no_grad(), autocast(CPU):
        logits = network.decode(embedding, *nothing, BOX[None], torch.tensor([True]))
    np.testing.assert_array_equal(found[1, 1], torch.sigmoid(logits[0].float()))


def test_boxes_are_mirrored_with_the_slices() -> None:
    network = tiny_network()
    slices = slices_of(3).numpy()
    prompts = prompts_of([], [[1, 8.5, 2.5, 40.5, 30.5]], [ALL_CLASSES])
    settings = DistillationSettings("raw", boxes=BoxSettings("raw"))
    found = predict_mirrored(network, slices, prompts, settings, 4, CPU, (1,))
    turned = replace(prompts, boxes=replace(prompts.boxes, boxes_yxyx=np.array([[8.5, 24.5, 40.5, 52.5]])))
    plain = predict_volume(network, slices, prompts, settings, 4, CPU)
    copy = predict_volume(network, slices[..., ::-1], turned, settings, 4, CPU)
    expected = (plain.probabilities + copy.probabilities[..., ::-1]) / 2
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


# ---- training ---------------------------------------------------------------------------------------------

STILL = AugmentationSettings(0.0, (1.0, 1.0), flip_columns=False, intensity=False, stored_variants=1)
BOXES_ALONE = PromptSettings("none", boxes="simulated", box_per_slice=True, box_share=1.0)


def box_settings(prompts: PromptSettings = BOXES_ALONE, boxes: str = "raw", **changes: Any) -> SPDSettings:
    """All slices decoded and raw boxes: nothing depends on what stage 1 has learned."""
    distillation = DistillationSettings("raw", boxes=BoxSettings(boxes))  # type: ignore[arg-type]
    return tiny_settings(**{"distillation": distillation, "prompts": prompts, "augmentation": STILL, **changes})


def give_boxes(case: StoredCase, boxes: SliceBoxes) -> StoredCase:
    """The stored case with boxes as if from its prompt file."""
    file = case.folder / f"{case.case}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["prompts"] = replace(SlicePrompts.empty(), boxes=boxes).to_dict()
    file.write_text(json.dumps(content), encoding="utf-8")
    return StoredCase(case.folder, case.case)


def test_lengths_are_those_of_the_network_frame(planned: Workspace) -> None:
    case = stored_cases(planned, 1)[0]
    side = 24 * 1.2 / IMAGE_SIZE  # slices of 24 x 28 voxels of 1.2 x 1.0 mm: the longer side fills the square
    assert _mm_per_pixel(case) == pytest.approx((side, side, 4.0), rel=0.02)


def test_training_takes_the_boxes_of_files(planned: Workspace) -> None:
    boxes = SliceBoxes(np.array([1, 2]), np.array([[3.5, 4.5, 30.5, 40.5]] * 2), np.array([0, ALL_CLASSES]))
    case = give_boxes(stored_cases(planned, 1)[0], boxes)
    for prompts in (draw_prompts(case, PromptSettings("files"), np.random.default_rng(0)),
                    validation_prompts(case, PromptSettings("files"))):  # fmt: skip
        assert len(prompts) == 0
        assert prompts.boxes.to_dict() == boxes.to_dict()


def test_boxes_are_simulated_beside_the_source_s_points_if_the_plans_say_so(planned: Workspace) -> None:
    case = stored_cases(planned, 1)[0]
    plain = PromptSettings("simulated")
    assert len(draw_prompts(case, plain, np.random.default_rng(0)).boxes) == 0
    both = draw_prompts(case, replace(plain, boxes="simulated"), np.random.default_rng(0))
    assert len(both) > len(case.masks)
    assert set(both.boxes.class_index.tolist()) == {0, 1}
    alone = draw_prompts(case, replace(BOXES_ALONE, box_per_slice=False), np.random.default_rng(0))
    assert len(alone) == 0
    assert alone.boxes.to_dict() == both.boxes.to_dict(), "the boxes do not depend on the points beside them"
    tight = replace(BOXES_ALONE, box_enlarge=0.0, box_shift=0.0)
    drawn = draw_prompts(case, tight, np.random.default_rng(0)).boxes
    masks = np.asarray(case.masks)
    assert len(drawn) == masks.any(axis=(2, 3)).sum()
    for s, k, box in zip(drawn.slice_index, drawn.class_index, drawn.boxes_yxyx, strict=True):
        y, x = np.nonzero(masks[s, k])
        assert box.tolist() == [y.min() - 0.5, x.min() - 0.5, y.max() + 0.5, x.max() + 0.5]
    fixed = [validation_prompts(case, BOXES_ALONE).boxes.to_dict() for _ in range(2)]
    assert fixed[0] == fixed[1]
    assert draw_prompts(case, BOXES_ALONE, np.random.default_rng(7)).boxes.to_dict() != fixed[0]


def rows_with_boxes(stage: PromptStage, epoch: int) -> tuple[int, int]:
    """Rows with a box among the rows of an epoch, each row counted once."""
    flags = [r.rows.has_box[r.indices] for batch in stage.training_batches(epoch) for r in batch.runs]
    return int(np.concatenate(flags).sum()), sum(len(f) for f in flags)


def test_a_share_of_the_rows_is_trained_with_boxes(planned: Workspace, tmp_path: Path) -> None:
    found = {}
    for share in (0.0, 0.5, 1.0):
        settings = box_settings(replace(BOXES_ALONE, box_share=share), stage2=StageSettings(1, 1000, 8, 1e-3))
        stage = prompt_stage(planned, settings, tmp_path / str(share), n_cases=5)
        stage.prepare()
        found[share], n_rows = zip(*(rows_with_boxes(stage, e) for e in (0, 1, 0)), strict=True)
        assert len(set(n_rows)) == 1, "raw prompts decode every slice, with or without box"
        assert found[share][0] == found[share][2], "the same epoch draws the same"
    with_target = sum(int(np.asarray(c.masks).any(axis=(2, 3)).sum()) for c in stored_cases(planned))
    assert set(found[0.0]) == {0}
    assert set(found[1.0]) == {with_target}
    assert 0.25 * with_target < min(found[0.5]) <= max(found[0.5]) < 0.75 * with_target


def test_stage_2_learns_from_boxes_alone(planned: Workspace, tmp_path: Path) -> None:
    stage = prompt_stage(planned, box_settings(stage2=StageSettings(20, 1, 100, 1e-3)), tmp_path)
    stage.prepare()
    first_loss, first_dice = scores(stage)
    losses = train_epochs(stage, 20)
    last_loss, last_dice = scores(stage)
    assert losses[-1] < 0.75 * losses[0]
    assert last_loss < first_loss
    assert last_dice > first_dice


def test_without_boxes_no_setting_of_boxes_changes_a_training(planned: Workspace, tmp_path: Path) -> None:
    weights = []
    for index, (mode, share) in enumerate((("off", 0.0), ("distilled", 0.0), ("distilled", 0.75), ("raw", 1.0))):
        settings = tiny_settings(
            distillation=DistillationSettings(tau=0.3, boxes=BoxSettings(mode)),  # type: ignore[arg-type]
            prompts=PromptSettings("simulated", box_share=share),
            stage2=StageSettings(1, 2, 8, 1e-3),
        )
        stage = prompt_stage(planned, settings, tmp_path / str(index))
        train_epochs(stage, 1)
        weights.append(torch.cat([p.detach().flatten() for p in stage.parameters()]))
    assert all(torch.equal(w, weights[0]) for w in weights[1:])


def test_without_boxes_nothing_is_drawn_for_them(planned: Workspace, tmp_path: Path) -> None:
    stage = prompt_stage(planned, box_settings(), tmp_path)
    rng = np.random.default_rng(0)
    prompts, saliency = prompts_of([[0, *POINT]], [], []), np.ones((2, 2, 28, 28), dtype=np.float32)
    before = rng.bit_generator.state
    stage._rows(prompts, saliency, rng)
    assert rng.bit_generator.state == before, "or trainings without boxes would not be what they were"
    stage._rows(prompts_of([], [[0, *COARSE]], [0]), saliency, rng)
    assert rng.bit_generator.state != before


def test_rows_of_a_batch_keep_their_own_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes, has_box = rng.random((5, 4)), np.array([True, False, False, True, True])
    rows = DecoderRows(np.arange(5), np.zeros(5, int), rng.random((5, 2, 2)), np.ones((5, 2), bool), boxes, has_box)
    chosen = np.array([1, 2, 4])
    taken = rows.select(chosen).padded(3)
    np.testing.assert_array_equal(taken.box_yxyx, boxes[chosen])
    assert taken.has_box.tolist() == [False, False, True]
    assert taken.points_yx.shape == (3, 3, 2)


def test_a_training_with_points_and_distilled_boxes_runs_and_is_validated(planned: Workspace) -> None:
    prompts = PromptSettings("simulated", boxes="simulated")
    trainer = run(make_trainer(planned, 0, (2, 2), change=lambda s: replace(s, prompts=prompts)))
    assert trainer.settings.distillation.boxes == BoxSettings("distilled")
    assert trainer.perform_actual_validation()["metric_per_case"]


# ---- plans ------------------------------------------------------------------------------------------------


def test_plans_written_before_there_were_boxes_are_read_with_the_defaults() -> None:
    content = json.loads(json.dumps(dataclasses.asdict(tiny_settings())))
    del content["distillation"]["boxes"]
    for name in [n for n in content["prompts"] if n.startswith("box")]:
        del content["prompts"][name]
    settings = settings_from_dict(SPDSettings, content, "plans")
    assert settings == tiny_settings()
    assert settings.distillation.boxes == BoxSettings("distilled")
    assert settings.prompts.boxes == "none"


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("boxes", "mode", "tight", r"plans\.distillation\.boxes\.mode must be one of distilled, raw, off, not 'tight'"),
        ("boxes", "padding", 1, r"plans\.distillation\.boxes: unknown key padding; known are mode, margin"),
        ("boxes", "margin", -0.1, r"distillation\.boxes\.margin is -0\.1; it must be 0 or more"),
        ("boxes", "min_salient_share", 1.5, r"min_salient_share is 1\.5; it must be from 0 to 1"),
        ("prompts", "boxes", "files", r"plans\.prompts\.boxes must be one of none, simulated, not 'files'"),
        ("prompts", "box_share", 2, r"prompts\.box_share is 2\.0; it must be from 0 to 1"),
        ("prompts", "box_enlarge", -1, r"prompts\.box_enlarge is -1\.0; it must be 0 or more"),
        ("prompts", "box_shift", 1.1, r"prompts\.box_shift is 1\.1; it must be from 0 to 1"),
    ],
)
def test_what_is_wrong_in_the_plans_is_named(part: str, name: str, value: Any, message: str) -> None:
    content = json.loads(json.dumps(dataclasses.asdict(tiny_settings())))
    place = content["distillation"]["boxes"] if part == "boxes" else content["prompts"]
    place[name] = value
    with pytest.raises(PlansError, match=message):
        settings_from_dict(SPDSettings, content, "plans")
