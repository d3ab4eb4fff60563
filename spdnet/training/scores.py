"""The pseudo Dice that guides training: true and false positives summed over all validation slices."""

from __future__ import annotations

import numpy as np


class DiceCounter:
    """Sums pixels over slices, per class; nnU-Net's quick score between epochs, not an evaluation."""

    def __init__(self, n_classes: int) -> None:
        self._overlap = np.zeros(n_classes)
        self._total = np.zeros(n_classes)

    def add(self, predicted: np.ndarray, target: np.ndarray) -> None:
        """Add binary maps (n, k, H, W)."""
        predicted, target = predicted.astype(bool), target.astype(bool)
        self._overlap += (predicted & target).sum(axis=(0, 2, 3))
        self._total += predicted.sum(axis=(0, 2, 3)) + target.sum(axis=(0, 2, 3))

    def dice(self) -> list[float]:
        """Dice per class; NaN for a class that is neither predicted nor there."""
        with np.errstate(invalid="ignore"):
            return (2 * self._overlap / np.where(self._total > 0, self._total, np.nan)).tolist()
