"""The pseudo Dice that guides training: true and false positives summed over all validation slices.

nnU-Net's quick score between epochs, not an evaluation.
"""

from __future__ import annotations

import numpy as np


def pixel_counts(predicted: np.ndarray, target: np.ndarray, valid: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """True positives, false positives and false negatives per class.

    Args:
        predicted, target: binary maps (n, k, H, W).
        valid: (n, 1, H, W), 0 where pixels do not count; None: all do.

    Returns:
        "tp_hard", "fp_hard" and "fn_hard" (nnU-Net's names), int64 (k,) each.
    """
    predicted, target = predicted.astype(bool), target.astype(bool)
    counted = True if valid is None else valid.astype(bool)
    maps = {"tp_hard": predicted & target, "fp_hard": predicted & ~target, "fn_hard": ~predicted & target}
    return {name: (pixels & counted).sum(axis=(0, 2, 3)) for name, pixels in maps.items()}


def pseudo_dice(outputs: list[dict[str, np.ndarray]]) -> list[float]:
    """Dice per class of the summed `pixel_counts`; NaN for a class that is neither predicted nor there."""
    tp, fp, fn = (np.sum([o[name] for o in outputs], axis=0) for name in ("tp_hard", "fp_hard", "fn_hard"))
    total = 2 * tp + fp + fn
    with np.errstate(invalid="ignore"):
        return (2 * tp / np.where(total > 0, total, np.nan)).tolist()
