"""The losses against their formulas in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spdnet.planning.plans import LossSettings
from spdnet.training.losses import consistency_loss, focal_loss, segmentation_loss, soft_dice


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numpy_dice(a: np.ndarray, b: np.ndarray, epsilon: float) -> float:
    return float((2 * (a * b).sum() + epsilon) / (a.sum() + b.sum() + epsilon))


def numpy_focal(logits: np.ndarray, target: np.ndarray, gamma: float, alpha: float) -> float:
    total = 0.0
    for logit, g in zip(logits.ravel(), target.ravel(), strict=True):
        s = sigmoid(logit)
        p_t, alpha_t = (s, alpha) if g == 1 else (1 - s, 1 - alpha)
        total += -alpha_t * (1 - p_t) ** gamma * np.log(p_t)
    return total / logits.size


def some_maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets (4, 2, 6, 7), in float64; the target of the last slice is empty."""
    rng = np.random.default_rng(0)
    target = (rng.random((4, 2, 6, 7)) > 0.6).astype(np.float64)
    target[3] = 0
    return torch.from_numpy(rng.normal(0, 2, (4, 2, 6, 7))), torch.from_numpy(target)


@pytest.mark.parametrize("epsilon", [1.0, 1e-5])
def test_soft_dice_is_its_formula_per_map(epsilon: float) -> None:
    logits, target = some_maps()
    a = torch.sigmoid(logits)
    found = soft_dice(a, target, epsilon)
    expected = [
        [numpy_dice(x.numpy(), g.numpy(), epsilon) for x, g in zip(*s, strict=True)]
        for s in zip(a, target, strict=True)
    ]
    np.testing.assert_allclose(found, expected)


def test_soft_dice_of_empty_full_and_disjoint_maps() -> None:
    empty, full = torch.zeros(1, 3, 3), torch.ones(1, 3, 3)
    assert soft_dice(empty, empty, 1.0).tolist() == [1.0]
    assert soft_dice(full, full, 1.0).tolist() == [1.0]
    assert soft_dice(empty, full, 1.0).tolist() == pytest.approx([0.1])


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.5), (2.0, 0.75), (0.0, 0.5), (3.0, 0.25)])
def test_focal_loss_is_its_formula(gamma: float, alpha: float) -> None:
    logits, target = some_maps()
    found = focal_loss(logits, target, gamma, alpha).mean(dim=(-2, -1))
    expected = [
        [numpy_focal(x.numpy(), g.numpy(), gamma, alpha) for x, g in zip(*s, strict=True)]
        for s in zip(logits, target, strict=True)
    ]
    np.testing.assert_allclose(found, expected)


def test_focal_loss_stays_finite_where_the_model_is_sure_and_wrong() -> None:
    logits = torch.tensor([[[-200.0, 200.0]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[[1.0, 0.0]]]), 2.0, 0.5)
    assert loss.tolist() == [[[100.0, 100.0]]]
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_segmentation_loss_weighs_dice_and_focal_loss(batch_dice: bool) -> None:
    logits, target = (t.float() for t in some_maps())
    settings = LossSettings(dice_weight=0.6, focal_weight=0.4, focal_gamma=2.0, dice_epsilon=0.5, batch_dice=batch_dice)
    found = segmentation_loss(logits, target, settings, focal_alpha=0.75)
    probability, truth = sigmoid(logits.double().numpy()), target.double().numpy()
    if batch_dice:  # one map per class, all slices of the batch side by side
        dice = np.mean([numpy_dice(probability[:, k], truth[:, k], 0.5) for k in range(2)])
    else:
        dice = np.mean([[numpy_dice(probability[n, k], truth[n, k], 0.5) for k in range(2)] for n in range(4)])
    focal = numpy_focal(logits.double().numpy(), truth, 2.0, 0.75)
    assert float(found) == pytest.approx(0.6 * (1 - dice) + 0.4 * focal, rel=1e-5)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_ignored_pixels_count_for_nothing(batch_dice: bool) -> None:
    settings = LossSettings(batch_dice=batch_dice)
    logits, target = (t.float() for t in some_maps())
    valid = torch.ones_like(logits[:, :1])
    assert segmentation_loss(logits, target, settings, 0.5, valid) == pytest.approx(
        float(segmentation_loss(logits, target, settings, 0.5))
    )
    valid[..., 2:] = 0
    kept = segmentation_loss(logits[..., :2], target[..., :2], settings, 0.5)
    logits.requires_grad_(True)
    loss = segmentation_loss(logits, target, settings, 0.5, valid)
    assert float(loss.detach()) == pytest.approx(float(kept))
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[..., 2:].any()
    assert torch.isfinite(segmentation_loss(logits, target, settings, 0.5, torch.zeros_like(valid)))


def test_logits_are_brought_to_the_size_of_the_target() -> None:
    settings: Any = LossSettings()
    coarse = torch.full((1, 1, 4, 4), -20.0)
    coarse[..., 1:3, 1:3] = 20.0
    target = torch.zeros(1, 1, 8, 8)
    target[..., 2:6, 2:6] = 1
    wrong = target.roll(3, -1)
    assert float(segmentation_loss(coarse, target, settings, 0.5)) < 0.2 * float(
        segmentation_loss(coarse, wrong, settings, 0.5)
    )


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits, target = (t.float() for t in some_maps())
    low = logits.to(torch.bfloat16)
    found = segmentation_loss(low, target, LossSettings(), 0.5)
    assert found.dtype == torch.float32
    assert float(found) == float(segmentation_loss(low.float(), target, LossSettings(), 0.5))


def test_consistency_is_one_minus_dice_over_the_pairs_given() -> None:
    logits = some_maps()[0][:, 0]
    probability = sigmoid(logits.numpy())
    pairs = torch.tensor([[0, 1], [2, 3]])
    expected = np.mean([1 - numpy_dice(probability[a], probability[b], 1.0) for a, b in pairs.tolist()])
    assert float(consistency_loss(logits, pairs, 1.0)) == pytest.approx(expected, rel=1e-5)
    sure = torch.where(logits > 0, 50.0, -50.0)
    assert float(consistency_loss(sure, torch.tensor([[1, 1]]), 1.0)) == pytest.approx(0.0, abs=1e-6)


def test_a_slice_is_drawn_to_the_neighbour_that_is_asked_for() -> None:
    maps, pairs = some_maps()[0][:, 0], torch.tensor([[0, 1]])
    values, gradients = [], {}
    for toward in ("both", "previous", "next"):
        logits = maps.clone().requires_grad_()
        loss = consistency_loss(logits, pairs, 1.0, toward=toward)  # type: ignore[arg-type]
        loss.backward()
        values.append(float(loss))
        assert logits.grad is not None
        gradients[toward] = logits.grad
    assert len(set(values)) == 1
    assert not gradients["previous"][0].any() and torch.equal(gradients["previous"][1], gradients["both"][1])
    assert not gradients["next"][1].any() and torch.equal(gradients["next"][0], gradients["both"][0])
    assert gradients["both"][0].any() and gradients["both"][1].any()


def test_without_pairs_the_consistency_is_zero_and_can_be_added() -> None:
    logits = some_maps()[0][:, 0].requires_grad_()
    loss = consistency_loss(logits, torch.zeros((0, 2), dtype=torch.long), 1.0)
    assert float(loss) == 0
    (logits.sum() + 0.1 * loss).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.ones_like(logits))
