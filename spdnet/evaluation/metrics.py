"""Segmentation metrics on binary masks, and bootstrap intervals of their means. Pure functions of numpy arrays.

Conventions:
    Overlap per slice: both masks empty gives 1, exactly one empty gives 0.
    Boundary: the foreground pixels with a background pixel among their 4 neighbours; what lies outside the
        image counts as background.
    Directed distances from A to B: for every boundary pixel of A, the Euclidean distance in mm between its
        centre and the nearest boundary pixel centre of B. Defined only where both masks have foreground.
    HD95: the larger of the 95th percentiles (linear interpolation) of the two directed sets. This is MONAI's
        definition; medpy takes one percentile of the pooled sets, DeepMind's surface-distance weights the
        distances by the length of boundary that each stands for.
    ASD: the mean of the two directed sets pooled, MONAI's symmetric average surface distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

BOOTSTRAP_RESAMPLES = 2000
INTERVAL_LEVEL = 0.95


@dataclass(frozen=True)
class SliceScores:
    """Scores of the n slices of a volume, float64 (n,) each.

    Attributes:
        dsc: Dice similarity coefficient, 0 to 1.
        iou: intersection over union, 0 to 1.
        hd95_mm: 95 % Hausdorff distance, NaN where a mask is empty.
        asd_mm: average surface distance, NaN where a mask is empty.
    """

    dsc: np.ndarray
    iou: np.ndarray
    hd95_mm: np.ndarray
    asd_mm: np.ndarray


def slice_scores(
    reference: np.ndarray, prediction: np.ndarray, spacing_row_column_mm: tuple[float, float]
) -> SliceScores:
    """All metrics of each slice by the module's conventions.

    Args:
        reference: bool (n, rows, columns).
        prediction: bool, same shape.
        spacing_row_column_mm: distance of pixel centres along rows' and columns' index, mm.

    Raises:
        ValueError: the shapes differ or are not three-dimensional.
    """
    dsc, iou = overlap_per_slice(reference, prediction)
    hd95_mm, asd_mm = np.full(len(dsc), np.nan), np.full(len(dsc), np.nan)
    both = reference.any(axis=(1, 2)) & prediction.any(axis=(1, 2))
    for i in np.flatnonzero(both):
        directed = boundary_distances(reference[i], prediction[i], spacing_row_column_mm)
        hd95_mm[i] = max(np.percentile(distances, 95) for distances in directed)
        asd_mm[i] = np.concatenate(directed).mean()
    return SliceScores(dsc, iou, hd95_mm, asd_mm)


def overlap_per_slice(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU of each slice of two masks, bool (n, rows, columns); float64 (n,) each.

    Raises:
        ValueError: the shapes differ or are not three-dimensional.
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise ValueError(f"masks must be (n, rows, columns) and alike: {reference.shape} and {prediction.shape}")
    intersection = np.count_nonzero(reference & prediction, axis=(1, 2))
    total = np.count_nonzero(reference, axis=(1, 2)) + np.count_nonzero(prediction, axis=(1, 2))
    empty = total == 0
    dsc = np.where(empty, 1.0, 2 * intersection / np.where(empty, 1, total))
    iou = np.where(empty, 1.0, intersection / np.where(empty, 1, total - intersection))
    return dsc, iou


def boundary_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing_row_column_mm: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Directed boundary distances in mm, reference to prediction and prediction to reference.

    Args:
        reference: bool (rows, columns) with foreground.
        prediction: bool, same shape, with foreground.
        spacing_row_column_mm: in-plane spacing.

    Returns:
        two float64 arrays, one value for each boundary pixel of the mask they start from.

    Raises:
        ValueError: a mask is empty.
    """
    if not (reference.any() and prediction.any()):
        raise ValueError("boundary distances need foreground in both masks")
    box = _bounding_box(reference | prediction)
    reference_boundary, prediction_boundary = _boundary(reference[box]), _boundary(prediction[box])
    to_prediction = distance_transform_edt(~prediction_boundary, sampling=spacing_row_column_mm)
    to_reference = distance_transform_edt(~reference_boundary, sampling=spacing_row_column_mm)
    return to_prediction[reference_boundary], to_reference[prediction_boundary]


def volume_dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of two masks of any shape taken as a whole; NaN if both are empty, as in nnU-Net."""
    total = np.count_nonzero(reference) + np.count_nonzero(prediction)
    return 2 * np.count_nonzero(reference & prediction) / total if total else float("nan")


def count_metrics(
    reference: np.ndarray, prediction: np.ndarray, valid: np.ndarray | None = None
) -> dict[str, float | int]:
    """The metrics of nnU-Net's summary.json for one class.

    Args:
        reference: bool, any shape.
        prediction: bool, same shape.
        valid: bool, same shape; what counts. None: everything.

    Returns:
        Dice, IoU (float, NaN if the class is absent in both), TP, FP, FN, TN, n_pred, n_ref (voxel counts, int).
    """
    if valid is not None:
        reference, prediction = reference & valid, prediction & valid
    n_valid = reference.size if valid is None else int(np.count_nonzero(valid))
    n_ref, n_pred = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    tp = int(np.count_nonzero(reference & prediction))
    n_union = n_ref + n_pred - tp
    return {
        "Dice": 2 * tp / (n_ref + n_pred) if n_union else float("nan"),
        "IoU": tp / n_union if n_union else float("nan"),
        "TP": tp,
        "FP": n_pred - tp,
        "FN": n_ref - tp,
        "TN": n_valid - n_union,
        "n_pred": n_pred,
        "n_ref": n_ref,
    }


def bootstrap_mean_interval(
    values: np.ndarray,
    rng: np.random.Generator,
    n_resamples: int = BOOTSTRAP_RESAMPLES,
    level: float = INTERVAL_LEVEL,
    weights: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Mean over cases with its percentile bootstrap interval; whole cases are drawn, with replacement.

    Args:
        values: float (n,), one per case, or (n, k), one per case and class: then the mean is taken over cases
            within each class and then over classes. NaN is ignored.
        rng: source of the resamples.
        n_resamples: how many.
        level: coverage of the interval.
        weights: float, as values; 0 or more. With slice counts as weights, the mean of per-case means is the
            mean over all slices, and the interval is that of this mean. None: equal weights.

    Returns:
        mean, low, high. All NaN without any value; low and high NaN with fewer than two cases.

    Raises:
        ValueError: values are neither (n,) nor (n, k), or weights have another shape.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.ndim not in (1, 2) or values.shape != weights.shape:
        raise ValueError(f"values {values.shape} must be (n,) or (n, k), and weights {weights.shape} alike")
    columns = values[:, None] if values.ndim == 1 else values
    weights = np.where(np.isnan(columns), 0.0, weights.reshape(columns.shape))
    used = weights.any(axis=1)
    weights, weighted = weights[used], (weights * np.nan_to_num(columns))[used]
    n_cases = len(weights)
    if n_cases == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(_mean_of_classes(weighted.sum(axis=0), weights.sum(axis=0)))
    if n_cases == 1:
        return mean, float("nan"), float("nan")
    times_drawn = rng.multinomial(n_cases, np.full(n_cases, 1 / n_cases), size=n_resamples)
    means = _mean_of_classes(times_drawn @ weighted, times_drawn @ weights)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)


def bootstrap_difference_interval(
    first: np.ndarray,
    second: np.ndarray,
    rng: np.random.Generator,
    n_resamples: int = BOOTSTRAP_RESAMPLES,
    level: float = INTERVAL_LEVEL,
    weights: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Mean of the paired difference first - second over the same cases, with its interval.

    Arguments, shapes and result as in `bootstrap_mean_interval`; pairs with a NaN are ignored.

    Raises:
        ValueError: as there, or the two differ in shape.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values must have one shape: {first.shape} and {second.shape}")
    return bootstrap_mean_interval(first - second, rng, n_resamples, level, weights)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels of a mask, bool (rows, columns)."""
    padded = np.pad(mask, 1)
    inner: np.ndarray = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _mean_of_classes(weighted_sums: np.ndarray, weight_sums: np.ndarray) -> np.ndarray:
    """Sums over cases (..., k) to the mean over those classes that have weight (...,)."""
    present = weight_sums > 0
    class_means = np.where(present, weighted_sums, 0.0) / np.where(present, weight_sums, 1.0)
    return np.asarray(class_means.sum(axis=-1) / present.sum(axis=-1))
