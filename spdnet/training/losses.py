"""The losses of both stages (arXiv 2604.23314), computed in float32 on maps of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from spdnet.planning.plans import LossSettings


def soft_dice(a: torch.Tensor, b: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Soft Dice of maps in [0, 1], (n, H, W) each, over the pixels: (n,); 1 for two empty maps."""
    overlap = (a * b).sum(dim=(-2, -1))
    return (2 * overlap + epsilon) / (a.sum(dim=(-2, -1)) + b.sum(dim=(-2, -1)) + epsilon)


def focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """Focal loss of binary maps (n, H, W), mean over the pixels: (n,). `alpha` weighs the foreground."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = torch.sigmoid(logits)
    p_true = torch.where(target > 0.5, probability, 1 - probability)
    weight = torch.where(target > 0.5, alpha, 1 - alpha)
    return (weight * (1 - p_true) ** gamma * cross_entropy).mean(dim=(-2, -1))


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """L_sal and L_seg: weighted Dice and focal loss, mean over maps.

    Args:
        logits: (n, M, M); brought to the target's size bilinearly where they differ.
        target: float (n, H, W), 0 or 1.
    """
    logits = logits.float()
    if logits.shape != target.shape:
        logits = F.interpolate(logits[:, None], target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    dice = 1 - soft_dice(torch.sigmoid(logits), target, settings.dice_epsilon)
    focal = focal_loss(logits, target, settings.focal_gamma, settings.focal_alpha)
    return (settings.dice_weight * dice + settings.focal_weight * focal).mean()


def consistency_loss(logits: torch.Tensor, pairs: torch.Tensor, epsilon: float) -> torch.Tensor:
    """L_psc: one minus the soft Dice of each slice with the next one.

    Args:
        logits: (n, M, M).
        pairs: int64 (p, 2), rows i and i + 1 of adjacent slices; without pairs the loss is 0.
    """
    if len(pairs) == 0:
        return logits.new_zeros(())
    probability = torch.sigmoid(logits.float())
    return (1 - soft_dice(probability[pairs[:, 0]], probability[pairs[:, 1]], epsilon)).mean()
