"""The losses of both stages (arXiv 2604.23314), computed in float32 on maps of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F

from spdnet.planning.plans import LossSettings

# The sum of a tensor over all processes that share a batch (`Team.total`).
Total = Callable[[torch.Tensor], torch.Tensor]


def alone(local: torch.Tensor) -> torch.Tensor:
    """The `Total` of a batch that is not shared."""
    return local


def soft_dice(a: torch.Tensor, b: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Soft Dice of maps in [0, 1], (..., H, W) each, over the pixels: (...,); 1 for two empty maps."""
    overlap = (a * b).sum(dim=(-2, -1))
    return (2 * overlap + epsilon) / (a.sum(dim=(-2, -1)) + b.sum(dim=(-2, -1)) + epsilon)


def focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """Focal loss of every pixel of binary maps (..., H, W); same shape. `alpha` weighs the foreground."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = torch.sigmoid(logits)
    p_true = torch.where(target > 0.5, probability, 1 - probability)
    weight = torch.where(target > 0.5, alpha, 1 - alpha)
    return weight * (1 - p_true) ** gamma * cross_entropy


def segmentation_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    settings: LossSettings,
    focal_alpha: float,
    valid: torch.Tensor | None = None,
    total: Total = alone,
) -> torch.Tensor:
    """L_sal and L_seg: weighted Dice and focal loss.

    Args:
        logits: (n, k, M, M), n slices and k classes; brought to the target's size bilinearly where they differ.
        target: float (n, k, H, W), 0 or 1.
        settings: weights, and whether the Dice is of each map or of each class over the batch.
        focal_alpha: weight of the foreground in the focal loss.
        valid: float (n, 1, H, W), 0 where a pixel has the ignore label and does not count; None: all count.
        total: where these slices are a share of a batch, adds up over the processes that share it; the loss is that of
            the whole batch.
    """
    logits = logits.float()
    if logits.shape != target.shape:
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    focal = focal_loss(logits, target, settings.focal_gamma, focal_alpha)
    probability = torch.sigmoid(logits)
    n_pixels = focal.new_full((), focal.numel())
    if valid is not None:
        counted = valid.expand_as(focal)
        focal, n_pixels = focal * counted, counted.sum()
        probability, target = probability * valid, target * valid
    focal = total(focal.sum()) / total(n_pixels).clamp(min=1)
    dice = 1 - _mean_dice(probability, target, settings, total)
    return settings.dice_weight * dice + settings.focal_weight * focal


def _mean_dice(probability: torch.Tensor, target: torch.Tensor, settings: LossSettings, total: Total) -> torch.Tensor:
    """Mean soft Dice of maps (n, k, H, W): of the classes, each over the whole batch, or of all maps."""
    if settings.batch_dice:
        overlap = total((probability * target).sum(dim=(0, 2, 3)))
        sizes = total(probability.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3)))
        return ((2 * overlap + settings.dice_epsilon) / (sizes + settings.dice_epsilon)).mean()
    of_maps = soft_dice(probability, target, settings.dice_epsilon)
    return total(of_maps.sum()) / total(of_maps.new_full((), of_maps.numel()))


def consistency_loss(
    logits: torch.Tensor,
    pairs: torch.Tensor,
    epsilon: float,
    total: Total = alone,
    toward: Literal["both", "previous", "next"] = "both",
) -> torch.Tensor:
    """L_psc: one minus the soft Dice of each slice with the next one.

    Args:
        logits: (n, M, M).
        pairs: int64 (p, 2), rows i and i + 1 of adjacent slices; without pairs the loss is 0.
        total: as in `segmentation_loss`.
        toward: which neighbour a slice is drawn to; the value is the same, the gradient is not.
    """
    probability = torch.sigmoid(logits.float())
    previous, following = probability[pairs[:, 0]], probability[pairs[:, 1]]
    if toward == "previous":
        previous = previous.detach()
    elif toward == "next":
        following = following.detach()
    differences = 1 - soft_dice(previous, following, epsilon)
    return total(differences.sum()) / total(differences.new_full((), len(pairs))).clamp(min=1)
