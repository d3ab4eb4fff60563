"""The losses of both stages (arXiv 2604.23314), computed in float32 on maps of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from spdnet.planning.plans import LossSettings


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
) -> torch.Tensor:
    """L_sal and L_seg: weighted Dice and focal loss.

    Args:
        logits: (n, k, M, M), n slices and k classes; brought to the target's size bilinearly where they differ.
        target: float (n, k, H, W), 0 or 1.
        settings: weights, and whether the Dice is of each map or of each class over the batch.
        focal_alpha: weight of the foreground in the focal loss.
        valid: float (n, 1, H, W), 0 where a pixel has the ignore label and does not count; None: all count.
    """
    logits = logits.float()
    if logits.shape != target.shape:
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    focal = focal_loss(logits, target, settings.focal_gamma, focal_alpha)
    probability = torch.sigmoid(logits)
    if valid is None:
        focal = focal.mean()
    else:
        counted = valid.expand_as(focal)
        focal = (focal * counted).sum() / counted.sum().clamp(min=1)
        probability, target = probability * valid, target * valid
    if settings.batch_dice:  # one long map per class
        probability, target = (x.transpose(0, 1).flatten(1, 2) for x in (probability, target))
    dice = 1 - soft_dice(probability, target, settings.dice_epsilon).mean()
    return settings.dice_weight * dice + settings.focal_weight * focal


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
