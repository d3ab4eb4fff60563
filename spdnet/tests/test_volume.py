"""One volume through the network: the stream against the whole volume at once, its memory, and full GPUs."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import pytest
import torch

from spdnet.inference import volume
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import (
    DecoderRows,
    decoder_rows,
    distill_volume,
    distill_volume_boxes,
    distill_whole_volume,
    rows_of_slices,
)
from spdnet.inference.volume import BatchSize, encode_volume, predict_encoded, predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.planning.plans import BoxSettings, DistillationSettings
from spdnet.prompts import SliceBoxes, SlicePrompts

CPU = torch.device("cpu")
N_SLICES, SIZE, MAP = 11, 56, 28

SETTINGS = [
    DistillationSettings(tau=0.5, n_context=2),
    DistillationSettings(tau=0.5, n_context=0, empty_consensus="empty"),
    DistillationSettings(tau=0.45, n_context=5, max_points=3),
    DistillationSettings(tau=0.5, n_context=1, boxes=BoxSettings(mode="distilled", min_salient_share=0.3)),
    DistillationSettings(mode="raw", boxes=BoxSettings(mode="raw")),
]


def tiny_volume() -> tuple[SPDNetwork, np.ndarray]:
    torch.manual_seed(0)
    network = build_network("tiny", 1, 2, SIZE, 0, 1, 0.0)
    for parameter in network.saliency_head.parameters():  # saliency that is neither everywhere nor nowhere
        parameter.data *= 3
    return network, np.random.default_rng(0).random((N_SLICES, 1, SIZE, SIZE)).astype(np.float16)


def random_prompts(n_slices: int = N_SLICES) -> SlicePrompts:
    """Points between the slices and outside the square too, and boxes, of one class or both."""
    rng = np.random.default_rng(4)
    points = np.column_stack([rng.uniform(-1, n_slices, 60), rng.uniform(-4, SIZE + 4, (60, 2))])
    points[30:] = points[:30] + np.array([1.0, 2.0, -1.0])  # near each other in neighbouring slices
    corners = rng.uniform(0, SIZE - 20, (8, 2))
    boxes = SliceBoxes(rng.integers(0, n_slices, 8), np.hstack([corners, corners + 18]), rng.integers(-1, 2, 8))
    return SlicePrompts(points, rng.integers(-1, 2, 60), boxes)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "DECODED_TOGETHER", 3)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_rows_of_a_part_are_those_of_the_whole_volume(settings: DistillationSettings) -> None:
    saliency = np.random.default_rng(1).random((N_SLICES, 2, 14, 14), dtype=np.float32) ** 0.8
    prompts = random_prompts()
    boxes = distill_volume_boxes(prompts, saliency, Rules(settings, SIZE))
    whole = decoder_rows(
        distill_volume(prompts, saliency, Rules(settings, SIZE)), saliency, Rules(settings, SIZE), boxes
    )
    for first, stop in ((0, 3), (3, 4), (4, 11)):
        part = rows_of_slices(prompts, saliency, first, stop, Rules(settings, SIZE))
        own = whole.select((whole.slice_index >= first) & (whole.slice_index < stop))
        n_points = part.points_yx.shape[1]
        assert not own.point_is_real[:, n_points:].any()
        np.testing.assert_array_equal(part.slice_index, own.slice_index)
        np.testing.assert_array_equal(part.class_index, own.class_index)
        np.testing.assert_array_equal(part.point_is_real, own.point_is_real[:, :n_points])
        np.testing.assert_allclose(part.points_yx, own.points_yx[:, :n_points], atol=1e-4)
        np.testing.assert_array_equal(part.has_box, own.has_box)
        np.testing.assert_allclose(part.box_yxyx, own.box_yxyx, atol=1e-4)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("batch_size", [3, 20])
def test_the_stream_is_the_whole_volume_at_once(settings: DistillationSettings, batch_size: int) -> None:
    network, slices = tiny_volume()
    prompts = random_prompts()
    streamed = predict_volume(network, slices, prompts, settings, batch_size, CPU)
    encoded = encode_volume(network, slices, batch_size, CPU)
    given = distill_whole_volume(prompts, encoded.saliency, Rules(settings, SIZE))
    consensus, boxes = given.consensus, given.boxes
    expected = predict_encoded(network, encoded, given, prompts, Rules(settings, network.image_size), CPU)
    assert np.count_nonzero(expected.any(axis=(2, 3))) > 3
    np.testing.assert_array_equal(streamed.saliency, encoded.saliency)
    np.testing.assert_allclose(streamed.probabilities, expected, atol=5e-3)  # other batches, bfloat16
    assert streamed.consensus is not None and streamed.boxes is not None
    np.testing.assert_array_equal(streamed.consensus[0].points_yx, consensus[0].points_yx)
    np.testing.assert_array_equal(streamed.boxes[1].boxes_yxyx, boxes[1].boxes_yxyx)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.gpu
def test_the_stream_on_a_gpu_is_that_on_the_cpu() -> None:
    network, slices = tiny_volume()
    on_cpu = predict_volume(network, slices, random_prompts(), SETTINGS[0], 4, CPU)
    on_gpu = predict_volume(network.cuda(), slices, random_prompts(), SETTINGS[0], 4, torch.device("cuda"))
    np.testing.assert_allclose(on_gpu.saliency, on_cpu.saliency, atol=2e-2)
    agree = (on_gpu.probabilities > 0.5) == (on_cpu.probabilities > 0.5)
    assert agree.mean() > 0.98


def test_embeddings_are_held_for_a_bounded_number_of_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the volume is; the encoder and the decoder are stand-ins."""
    network, _ = tiny_volume()
    held: list[int] = []

    def encode(network: Any, slices: np.ndarray, *more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(slices), 1, dtype=torch.float16), torch.ones(len(slices), 2, 28, 28)

    class Watched(volume._Stream):
        def _encode(self, part: slice) -> None:
            super()._encode(part)
            held.append(sum(len(e) for e in self._embeddings))

        def _decode(self, rows: DecoderRows, first: int) -> None:
            assert len(self._embeddings) == 1, "no second copy"
            super()._decode(rows, first)

    monkeypatch.setattr(volume, "_encode", encode)
    monkeypatch.setattr(volume, "_decode", lambda network, own, *more: torch.ones(len(own), 28, 28))
    monkeypatch.setattr(volume, "_Stream", Watched)
    slices = np.broadcast_to(np.zeros(1, dtype=np.float16), (900, 1, SIZE, SIZE))
    prediction = predict_volume(network, slices, random_prompts(900), SETTINGS[0], 8, CPU)
    assert prediction.probabilities.min() == 1  # all were decoded
    assert max(held) <= volume.DECODED_TOGETHER + SETTINGS[0].n_context + 2 * 8
    held.clear()
    predict_volume(network, slices, None, SETTINGS[0], 8, CPU)
    assert max(held) == 0


def test_distillation_of_500_slices_takes_less_than_50_ms() -> None:
    """With 20 points in each: measured 3 ms on one core; the best of several, as the machine may be busy."""
    rng = np.random.default_rng(0)
    saliency = rng.random((500, 1, 28, 28), dtype=np.float32)
    points = np.column_stack([np.repeat(np.arange(500), 20), rng.uniform(0, 27, (10000, 2))])
    prompts = SlicePrompts(points, np.zeros(10000, dtype=np.int64))
    durations = []
    for _ in range(7):
        started = time.perf_counter()
        distill_volume(prompts, saliency, Rules(SETTINGS[0], 28))
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.05


# ---- GPUs that are full -----------------------------------------------------------------------------------


class FullBeyond:
    """Raises torch's error for batches of more than `fits`, and notes the batches that were computed."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.batches: list[int] = []

    def check(self, n: int) -> None:
        if n > self.fits:
            raise torch.cuda.OutOfMemoryError
        self.batches.append(n)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[3]])
def test_batches_that_do_not_fit_are_halved_and_it_is_said_once(
    settings: DistillationSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network, slices = tiny_volume()
    expected = predict_volume(network, slices, random_prompts(), settings, 2, CPU)
    encoder, decoder = FullBeyond(2), FullBeyond(3)
    encode, decode = network.encode, network.decode
    monkeypatch.setattr(network, "encode", lambda x: encoder.check(len(x)) or encode(x))
    monkeypatch.setattr(network, "decode", lambda e, *more, **named: decoder.check(len(e)) or decode(e, *more, **named))
    volume._say_halved.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = predict_volume(network, slices, random_prompts(), settings, 8, CPU)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=5e-3)
    np.testing.assert_allclose(found.saliency, expected.saliency, atol=5e-3)
    assert sum(encoder.batches) == 2 * N_SLICES and max(encoder.batches) == 2
    messages = [record.message for record in caplog.records]
    assert len(messages) == len(set(messages))
    assert "the GPU's memory does not suffice: going on with batches of 2" in caplog.text


def test_a_slice_that_does_not_fit_alone_is_an_error_and_nothing_moves_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, slices = tiny_volume()
    full = FullBeyond(0)
    monkeypatch.setattr(network, "encode", lambda x: full.check(len(x)))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        predict_volume(network, slices, None, SETTINGS[0], 8, CPU)


def test_other_errors_are_not_retried() -> None:
    def fail(part: slice) -> None:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        BatchSize(8).run(fail, 20)
