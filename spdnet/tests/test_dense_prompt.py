"""The dense prompt: its maps against plain loops, and what it means to a network, a volume and a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spdnet.inference import volume
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompt_maps import SIGMAS_ACROSS, PromptMaps
from spdnet.inference.prompting import (
    DecoderRows,
    asked_points,
    decoder_rows,
    distill_volume,
    distill_whole_volume,
    points_of_classes,
    rows_of_slices,
)
from spdnet.inference.volume import encode_volume, predict_encoded, predict_volume
from spdnet.network import SPDNetwork, build_network
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SliceBoxes, SlicePrompts

CPU = torch.device("cpu")
N_SLICES, SIZE, MAP = 11, 56, 28
REACH = 2


def rows_without_boxes(slices: list[int], classes: list[int], points_yx: list[np.ndarray]) -> DecoderRows:
    n = len(slices)
    return DecoderRows.of(slices, classes, points_yx, np.zeros((n, 4)), np.zeros(n, dtype=bool))


def network_with_dense_prompt(trained: bool) -> SPDNetwork:
    torch.manual_seed(0)
    network = build_network("tiny", 1, 2, SIZE, 0, 1, 0.0, dense_slices=REACH)
    assert network.dense_prompt is not None
    if trained:
        for parameter in network.dense_prompt.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        network.mask_decoder.output_hypernetworks_mlps[0].layers[
            -1
        ].weight.data *= 20  # an untrained decoder's are grey
    return network


def some_prompts() -> SlicePrompts:
    rng = np.random.default_rng(3)
    points = np.column_stack([rng.integers(0, N_SLICES, 40), rng.uniform(0, SIZE - 1, (40, 2))])
    return SlicePrompts(points, rng.integers(-1, 2, 40))


def test_maps_are_points_and_saliency_of_the_slices_around() -> None:
    rng = np.random.default_rng(0)
    saliency = rng.random((N_SLICES, 2, MAP, MAP), dtype=np.float32)
    prompts = some_prompts()
    points = points_of_classes(prompts, saliency, SIZE)
    maps = PromptMaps.of(network_with_dense_prompt(False), points, saliency)
    assert maps is not None
    rows = rows_without_boxes([1, 9, 4, 5], [0, 0, 1, 1], [np.zeros((0, 2)), *rng.uniform(0, SIZE, (3, 2, 2))])
    found = maps.of_rows(rows, CPU).numpy()
    assert found.shape == (4, 1 + 2 * (2 * REACH + 1), MAP, MAP)

    def heat(points_yx: np.ndarray) -> np.ndarray:
        image = np.zeros((MAP, MAP))
        for y, x in (points_yx + 0.5) * MAP / SIZE - 0.5:
            for i, j in np.ndindex(MAP, MAP):
                squared = ((i - y) ** 2 + (j - x) ** 2) * (SIGMAS_ACROSS / MAP) ** 2
                image[i, j] = max(image[i, j], np.exp(-squared / 2))
        return image

    for row, (s, k) in enumerate(zip(rows.slice_index, rows.class_index, strict=True)):
        np.testing.assert_allclose(found[row, 0], heat(rows.points_yx[row][rows.point_is_real[row]]), atol=1e-5)
        for i, t in enumerate(range(s - REACH, s + REACH + 1)):
            own_points, own_saliency = found[row, 1 + i], found[row, 2 + 2 * REACH + i]
            if not 0 <= t < N_SLICES:
                assert not own_points.any() and not own_saliency.any()
                continue
            counts = (prompts.points_syx[:, 0] == t) & np.isin(prompts.class_index, (-1, k))
            np.testing.assert_allclose(own_points, heat(prompts.points_syx[counts, 1:]), atol=1e-5)
            np.testing.assert_array_equal(own_saliency, saliency[t, k])


@pytest.mark.gpu
def test_maps_on_a_gpu_are_those_on_the_cpu() -> None:
    saliency = np.random.default_rng(0).random((N_SLICES, 2, MAP, MAP), dtype=np.float32)
    points = points_of_classes(some_prompts(), saliency, SIZE)
    maps = PromptMaps.of(network_with_dense_prompt(False), points, saliency)
    assert maps is not None
    rows = rows_without_boxes([1, 4], [0, 1], [np.array([[3.0, 5.0]]), np.array([[30.0, 50.0], [1.0, 2.0]])])
    on_gpu = maps.of_rows(rows, torch.device("cuda"))
    torch.testing.assert_close(on_gpu.cpu(), maps.of_rows(rows, CPU))


def test_it_changes_nothing_until_it_is_trained() -> None:
    plain = build_network("tiny", 1, 2, SIZE, 0, 1, 0.0)
    network = network_with_dense_prompt(False)
    embeddings = torch.randn(3, 256, 7, 7)
    asked = torch.rand(3, 2, 2) * SIZE, torch.ones(3, 2, dtype=torch.bool), torch.tensor([0, 1, 0])
    maps = torch.rand(3, 1 + 2 * (2 * REACH + 1), MAP, MAP)
    assert torch.equal(network.decode(embeddings, *asked, maps=maps), plain.decode(embeddings, *asked))
    trained = network_with_dense_prompt(True)
    assert not torch.allclose(trained.decode(embeddings, *asked, maps=maps), plain.decode(embeddings, *asked))


def test_a_network_that_needs_maps_says_so() -> None:
    network = network_with_dense_prompt(False)
    with pytest.raises(ValueError, match="needs maps"):
        network.decode(
            torch.zeros(1, 256, 7, 7), torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.bool), torch.tensor([0])
        )


def test_it_belongs_to_stage_2_and_to_a_checkpoint() -> None:
    network, other = network_with_dense_prompt(True), network_with_dense_prompt(False)
    assert any(name.startswith("dense_prompt.") for name in network.stage2_parameters())
    other.load_own_state(network.own_state())
    for name, parameter in network.dense_prompt.named_parameters():  # type: ignore[union-attr]
        assert torch.equal(parameter, other.get_parameter(f"dense_prompt.{name}"))
    plain = build_network("tiny", 1, 2, SIZE, 0, 1, 0.0)
    with pytest.raises(KeyError, match="missing"):
        network.load_own_state(plain.own_state())


def test_a_decoder_that_weighs_the_points_gets_all_of_them() -> None:
    saliency = np.zeros((N_SLICES, 2, MAP, MAP), dtype=np.float32)
    settings = DistillationSettings(mode="weighed", max_points=100)
    rules = Rules.of(settings, network_with_dense_prompt(False))
    assert all(len(c.slice_index) == 0 for c in distill_volume(some_prompts(), saliency, rules)), "none is salient"
    for k, found in enumerate(asked_points(some_prompts(), saliency, rules)):
        assert len(found.slice_index) == len(some_prompts().for_class(k))
    part = rows_of_slices(some_prompts(), saliency, 2, 5, rules)
    own = [some_prompts().for_class(k).points_syx[:, 0] for k in range(2)]
    expected = [np.count_nonzero(own[k] == s) for k in range(2) for s in range(2, 5)]
    assert part.point_is_real.sum(axis=1).tolist() == expected


@pytest.mark.parametrize("mode", ["raw", "consensus"])
def test_every_slice_is_decoded_for_it(mode: str) -> None:
    saliency = np.zeros((N_SLICES, 2, MAP, MAP), dtype=np.float32)
    settings = DistillationSettings(mode=mode)  # type: ignore[arg-type]
    for network in (network_with_dense_prompt(False), build_network("tiny", 1, 2, SIZE, 0, 1, 0.0)):
        rules = Rules.of(settings, network)
        rows = decoder_rows(distill_volume(some_prompts(), saliency, rules), saliency, rules)
        assert len(rows) == (2 * N_SLICES if mode == "raw" or network.dense_prompt is not None else 0)


@pytest.mark.parametrize("batch_size", [3, 20])
@pytest.mark.parametrize("mode", ["raw", "consensus", "weighed"])
@pytest.mark.parametrize("n_context", [0, REACH + 3])
def test_the_stream_is_the_whole_volume_at_once(
    n_context: int, mode: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where points and boxes are lent less far, or farther, than the maps look."""
    monkeypatch.setattr(volume, "DECODED_TOGETHER", 3)
    network = network_with_dense_prompt(True)
    slices = np.random.default_rng(0).random((N_SLICES, 1, SIZE, SIZE)).astype(np.float16)
    settings = DistillationSettings(mode=mode, n_context=n_context)  # type: ignore[arg-type]
    boxes = SliceBoxes(
        np.array([1, 8]), np.array([[4.0, 4.0, 40.0, 40.0], [10.0, 12.0, 50.0, 50.0]]), np.array([0, -1])
    )
    prompts = replace(some_prompts(), boxes=boxes)
    streamed = predict_volume(network, slices, prompts, settings, batch_size, CPU)
    encoded = encode_volume(network, slices, batch_size, CPU)
    rules = Rules.of(settings, network)
    given = distill_whole_volume(prompts, encoded.saliency, rules)
    assert max(len(b.slice_index) for b in given.boxes) > 1
    expected = predict_encoded(network, encoded, given, prompts, rules, CPU)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(streamed.probabilities, expected, atol=2e-2)  # other batches, bfloat16


def test_far_slices_count_as_far_as_it_looks() -> None:
    """A point moves the masks of the slices within reach, and no others."""
    network = network_with_dense_prompt(True)
    slices = np.random.default_rng(0).random((N_SLICES, 1, SIZE, SIZE)).astype(np.float16)
    settings = DistillationSettings(mode="raw")
    point = SlicePrompts(np.array([[5.0, 20.0, 30.0]]), np.array([0]))
    moved = replace(point, points_syx=np.array([[5.0, 40.0, 10.0]]))
    first, second = (predict_volume(network, slices, p, settings, 4, CPU).probabilities for p in (point, moved))
    changed = np.abs(first - second).max(axis=(2, 3)) > 1e-6
    assert np.flatnonzero(changed[:, 0]).tolist() == list(range(5 - REACH, 5 + REACH + 1))
    assert not changed[:, 1].any()
