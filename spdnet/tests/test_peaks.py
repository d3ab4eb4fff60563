"""Whether peaks of the saliency are used where no point is trusted: measured on training cases, kept in the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spdnet.geometry import CaseMapping, ImageGeometry, SliceTransform
from spdnet.inference.prompting import MIN_PEAK_PRECISION, decoder_rows, distill_volume, saliency_peak
from spdnet.inference.volume import predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.plans import DistillationSettings
from spdnet.planning.storage import CaseWriter
from spdnet.prompts import SlicePrompts
from spdnet.tests.tiny import tiny_settings
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.peaks import measure_peak_precision
from spdnet.training.prompt_stage import PromptStage

SIZE, N_SLICES = 56, 6
CPU = torch.device("cpu")
ON_TARGET, ELSEWHERE = (20, 24), (44, 40)  # network pixels


def tiny_network(n_classes: int = 2) -> SPDNetwork:
    torch.manual_seed(3)
    return build_network("tiny", 1, n_classes, SIZE, 4, 4, 0.0)


def a_variant(folder: Path, name: str, peaks: list[tuple[int, int] | None], points: list[list[float]]) -> StoredVariant:
    """A case whose target is a square in all slices but the last, stored with saliency that peaks where it is told."""
    masks = np.zeros((N_SLICES, 1, SIZE, SIZE), dtype=np.uint8)
    masks[:-1, 0, 16:28, 20:30] = 1
    saliency = np.zeros((N_SLICES, 1, SIZE, SIZE), dtype=np.float16)
    for s, peak in enumerate(peaks):
        if peak is not None:
            y, x = peak
            saliency[s, 0, y - 3 : y + 4, x - 3 : x + 4] = 0.7
            saliency[s, 0, y, x] = 0.9
    given = SlicePrompts(np.array(points, dtype=np.float64).reshape(-1, 3), np.zeros(len(points), dtype=np.int64))
    shape = (N_SLICES, SIZE, SIZE)
    crop = tuple((0, n) for n in shape)
    mapping = CaseMapping(shape, (0, 1, 2), (False, False, False), crop, (SIZE, SIZE), (0, 0), SIZE)
    geometry = ImageGeometry(shape, (4.0, 1.0, 1.0))
    CaseWriter(folder, name).write(masks * 0.5, masks, None, mapping, geometry, given)
    np.save(folder / f"{name}_0_saliency.npy", saliency)
    np.save(folder / f"{name}_0_masks.npy", masks)
    return StoredVariant(StoredCase(folder, name), SliceTransform(), folder, f"{name}_0")


def from_files(**distillation: object) -> SPDSettings:
    settings = tiny_settings(distillation=DistillationSettings(n_context=0, **distillation))
    return replace(settings, prompts=replace(settings.prompts, source="files", imitated_share=0.0))


def test_the_share_is_that_of_peaks_in_slices_without_a_trusted_point(tmp_path: Path) -> None:
    trusted = [0, *ELSEWHERE]  # salient, so the peak of this slice does not count
    first = a_variant(tmp_path, "a", [ELSEWHERE, ON_TARGET, ON_TARGET, ELSEWHERE, None, ON_TARGET], [trusted])
    assert measure_peak_precision([first], from_files(), 0).tolist() == [0.5], "2 hits, one miss, one without target"
    second = a_variant(tmp_path, "b", [ON_TARGET] * 4 + [None, None], [])
    assert measure_peak_precision([first, second], from_files(), 0).tolist() == [0.75]
    everywhere = [[s, *ON_TARGET] for s in range(N_SLICES)]
    prompted = a_variant(tmp_path, "c", [ON_TARGET] * N_SLICES, everywhere)
    assert measure_peak_precision([prompted], from_files(), 0).tolist() == [1.0], "no slice needs a peak"


def test_prompts_are_drawn_as_for_training(tmp_path: Path) -> None:
    variant = a_variant(tmp_path, "a", [ON_TARGET] * (N_SLICES - 1) + [ELSEWHERE], [])
    settings = from_files()
    assert measure_peak_precision([variant], settings, 0).tolist() == pytest.approx([5 / 6])
    simulated = replace(settings, prompts=replace(settings.prompts, source="simulated"))
    drawn = {measure_peak_precision([variant], simulated, seed).item() for seed in range(5)}
    assert all(share < 5 / 6 for share in drawn), "true points take most slices of the target"
    again = measure_peak_precision([variant], simulated, 3)
    assert again.tolist() == measure_peak_precision([variant], simulated, 3).tolist()


def test_pixels_to_ignore_do_not_count(tmp_path: Path) -> None:
    variant = a_variant(tmp_path, "a", [ON_TARGET, ELSEWHERE, ELSEWHERE, None, None, None], [])
    valid = np.ones((N_SLICES, SIZE, SIZE), dtype=np.uint8)
    valid[1, ELSEWHERE[0], ELSEWHERE[1]] = 0
    variant.__dict__["valid"] = valid  # a cached property
    assert measure_peak_precision([variant], from_files(), 0).tolist() == [0.5]


@pytest.mark.parametrize(("precision", "has_peak"), [(MIN_PEAK_PRECISION, True), (0.49, False), (None, True)])
def test_auto_uses_peaks_by_what_was_measured(precision: float | None, has_peak: bool) -> None:
    saliency = np.zeros((3, 2, 14, 14), dtype=np.float32)
    saliency[1, :, 3:6, 3:6] = 0.8
    nothing, settings = SlicePrompts.empty(), DistillationSettings(empty_consensus="auto")
    measured = None if precision is None else np.array([1.0, precision])
    consensus = distill_volume(nothing, saliency, SIZE, settings)
    rows = decoder_rows(consensus, saliency, SIZE, settings, None, measured)
    assert rows.slice_index.tolist() == [1, 1]
    assert rows.point_is_real.any(axis=1).tolist() == [True, has_peak]
    always = replace(settings, empty_consensus="peak")
    assert decoder_rows(consensus, saliency, SIZE, always, None, np.zeros(2)).point_is_real.all()
    raw = replace(settings, mode="raw")
    assert not decoder_rows(distill_volume(nothing, saliency, SIZE, raw), saliency, SIZE, raw).point_is_real.any()


def test_a_peak_must_be_of_one_piece() -> None:
    saliency = np.zeros((14, 14), dtype=np.float32)
    assert len(saliency_peak(saliency, 0.5)) == 0
    saliency[3, 4], saliency[4, 5] = 0.8, 0.7
    assert saliency_peak(saliency, 0.5).tolist() == [[3, 4]]
    saliency[9, 9] = 0.6
    assert len(saliency_peak(saliency, 0.5)) == 0
    assert saliency_peak(saliency, 0.65).tolist() == [[3, 4]]


def test_prediction_asks_as_the_network_has_measured() -> None:
    network = tiny_network(n_classes=1).eval()
    slices = np.random.default_rng(0).random((4, 1, SIZE, SIZE), dtype=np.float32)
    found = {}
    for precision in (1.0, 0.0):
        network.peak_precision.fill_(precision)
        found[precision] = predict_volume(
            network, slices, SlicePrompts.empty(), DistillationSettings(tau=0.0), 4, CPU
        ).probabilities
    network.peak_precision.fill_(0.0)
    for rule, precision in (("peak", 1.0), ("decode", 0.0)):
        settings = DistillationSettings(tau=0.0, empty_consensus=rule)
        expected = predict_volume(network, slices, SlicePrompts.empty(), settings, 4, CPU).probabilities
        assert np.array_equal(found[precision], expected)
    assert not np.array_equal(found[0.0], found[1.0])


def test_what_was_measured_is_part_of_the_model() -> None:
    network = tiny_network()
    network.peak_precision.copy_(torch.tensor([0.25, 0.75]))
    state = network.own_state()
    fresh = tiny_network()
    assert fresh.peak_precision.tolist() == [1.0, 1.0]
    fresh.load_own_state(state)
    assert fresh.peak_precision.tolist() == [0.25, 0.75]
    older = {name: value for name, value in state.items() if name != "peak_precision"}
    fresh.load_own_state(older)
    assert fresh.peak_precision.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("rule", ["auto", "peak"])
def test_stage_2_measures_and_says_so(rule: str, tmp_path: Path) -> None:
    settings = from_files(empty_consensus=rule, tau=0.0)  # every pixel is salient: one piece in every slice
    case = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, []).case
    network = tiny_network(n_classes=1)
    network.peak_precision.fill_(0.125)
    stage = PromptStage(network, settings, [case], [], CPU, 0, tmp_path)
    stage.prepare()
    lines = stage.findings(["bowel"])
    if rule == "peak":
        assert lines == [] and network.peak_precision.item() == 0.125
        return
    share = network.peak_precision.item()
    assert share != 0.125
    assert lines == [
        f"bowel: {share:.0%} of the training slices without a trusted prompt have their most salient pixel on it; such "
        f"slices are decoded {'from that pixel' if share >= 0.5 else 'without a point'}"
    ]
