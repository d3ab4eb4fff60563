"""Mirrored copies: what is turned is turned back, and points go with their image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spdnet.inference import mirroring
from spdnet.inference.mirroring import mirror_combinations, mirror_maps, mirror_prompts, predict_mirrored
from spdnet.inference.volume import predict_volume
from spdnet.planning.plans import DistillationSettings
from spdnet.prompts import SlicePrompts

CPU = torch.device("cpu")
SIZE = 16


class Equivariant:
    """A network that mirrors with its input: it sees every pixel, and the distance to every point, alike."""

    image_size, n_classes, dense_prompt = SIZE, 1, None
    salient_share = confirmed_share = torch.zeros(1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def encode_for_both(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images

    def saliency_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        return 12 * (embeddings - 0.5)

    def decode(
        self,
        embeddings: torch.Tensor,
        points_yx: torch.Tensor,
        is_real: torch.Tensor,
        class_index: torch.Tensor,
        maps: None,
    ) -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        py, px = points_yx[..., 0, None, None], points_yx[..., 1, None, None]
        near = is_real[..., None, None] * torch.exp(-((y - py) ** 2 + (x - px) ** 2) / 8)
        return 8 * near.sum(1) + embeddings[:, 0] - 3


def volume() -> tuple[np.ndarray, SlicePrompts]:
    """Slices that are salient in one corner, a point there, and one elsewhere."""
    slices = np.random.default_rng(0).random((3, 1, SIZE, SIZE)).astype(np.float32) * 0.3
    slices[:, :, 1:6, 2:5] += 0.6
    return slices, SlicePrompts(np.array([[1, 2.25, 3.75], [1, 12.0, 9.0]]), np.array([-1, -1]))


def predict(slices: np.ndarray, prompts: SlicePrompts | None, axes: tuple[int, ...] | None, **settings: Any) -> Any:
    network: Any = Equivariant()
    return predict_mirrored(network, slices, prompts, DistillationSettings(**settings), 2, CPU, axes)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("mode", ["consensus", "raw"])
def test_mirroring_changes_nothing_for_a_network_that_mirrors_with_its_input(axes: tuple[int, ...], mode: str) -> None:
    slices, prompts = volume()
    plain, mirrored = predict(slices, prompts, None, mode=mode), predict(slices, prompts, axes, mode=mode)
    assert plain.probabilities.max() > 0.9
    np.testing.assert_allclose(mirrored.probabilities, plain.probabilities, atol=1e-3)  # embeddings are float16
    np.testing.assert_array_equal(mirrored.saliency, plain.saliency)
    assert mirrored.probabilities.dtype == np.float32
    np.testing.assert_array_equal(mirrored.consensus[0].points_yx, plain.consensus[0].points_yx)


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_points_that_stay_behind_would_be_noticed(axes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    slices, prompts = volume()
    plain = predict(slices, prompts, None)
    monkeypatch.setattr(mirroring, "mirror_prompts", lambda points, axes, size: points)
    assert np.abs(predict(slices, prompts, axes).probabilities - plain.probabilities).max() > 0.1


def test_without_prompts_the_saliency_is_averaged() -> None:
    slices, _ = volume()
    mirrored = predict(slices, None, (0, 1))
    assert mirrored.consensus is None
    np.testing.assert_allclose(mirrored.probabilities, mirrored.saliency, atol=1e-3)


def test_every_copy_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a network that does not mirror with its input: the mean of the four predictions, each turned back."""

    class Lopsided(Equivariant):
        def saliency_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
            return super().saliency_logits(embeddings) + torch.arange(SIZE) / 3 - torch.arange(SIZE)[:, None] / 5

    network: Any = Lopsided()
    slices, _ = volume()
    settings = DistillationSettings()
    expected = []
    for rows, columns in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        one = predict_volume(network, slices[..., ::rows, ::columns], None, settings, 2, CPU).probabilities
        expected.append(one[..., ::rows, ::columns])
    found = predict_mirrored(network, slices, None, settings, 2, CPU, (0, 1))
    np.testing.assert_allclose(found.probabilities, np.mean(expected, axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.saliency, expected[0])
    assert np.abs(found.probabilities - expected[0]).max() > 0.1


def test_points_and_maps_are_mirrored_alike() -> None:
    maps = np.zeros((1, 1, 5, 5))
    maps[0, 0, 1, 3] = 1
    prompts = SlicePrompts(np.array([[0, 1.0, 3.0], [0, -0.5, 4.5]]), np.array([0, -1]))
    assert np.argwhere(mirror_maps(maps, (0,))[0, 0]).tolist() == [[3, 3]]
    assert mirror_prompts(prompts, (0,), 5).points_syx.tolist() == [[0, 3.0, 3.0], [0, 4.5, 4.5]]
    assert mirror_prompts(prompts, (1,), 5).points_syx.tolist() == [[0, 1.0, 1.0], [0, -0.5, -0.5]]
    both = mirror_prompts(prompts, (0, 1), 5)
    assert both.points_syx[0].tolist() == [0, *np.argwhere(mirror_maps(maps, (0, 1))[0, 0])[0].tolist()]
    assert both.class_index.tolist() == [0, -1]
    assert prompts.points_syx[0].tolist() == [0, 1.0, 3.0], "the input is left as it is"


def test_combinations_are_nnunets() -> None:
    assert mirror_combinations((0, 1)) == [(0,), (1,), (0, 1)]
    assert mirror_combinations(()) == []
