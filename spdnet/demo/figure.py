"""The demo's picture: some slices with the reference, the points and the predictions.

Draws arrays that others computed, all in the pixel frame of one image; computes no metric but the Dice of a slice
that it prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spdnet.geometry import nearest_index

# Okabe and Ito's colours, told apart with any colour vision; markers differ in shape as well.
_REFERENCE = "#56B4E9"
_PREDICTION = "#E69F00"
_RAW = "#F0E442"
_KEPT = "#009E73"
_REJECTED = "#D55E00"

_PANEL_INCHES = 2.3
_TITLE_INCHES = 0.3
_LEGEND_INCHES = 0.3


def choose_slices(reference: np.ndarray, n: int) -> list[int]:
    """Up to `n` slices spread evenly over those with target, ascending; over all slices if there is no target.

    Args:
        reference: bool (s, y, x).
        n: how many slices; fewer are returned if fewer have target.
    """
    candidates = np.flatnonzero(reference.any(axis=(1, 2)))
    if len(candidates) == 0:
        candidates = np.arange(len(reference))
    n = min(n, len(candidates))
    places = nearest_index((np.arange(n) + 0.5) * len(candidates) / max(n, 1) - 0.5)
    return [int(s) for s in candidates[places]]


def draw_demo_figure(
    path: Path,
    image: np.ndarray,
    reference: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    raw_points_syx: np.ndarray,
    kept_points_syx: np.ndarray,
    rejected_points_syx: np.ndarray,
    slices: Sequence[int],
    saliency: np.ndarray | None = None,
) -> None:
    """Write a picture with a row per slice: image and raw points, saliency and judged points, predictions.

    Points are drawn in the slice whose centre plane is nearest. A kept point that was lent to a neighbouring slice
    is given once for each slice that it prompts, with that slice as its first coordinate.

    Args:
        path: file to write; its ending chooses the format.
        image: float (s, y, x), any intensities.
        reference: bool (s, y, x).
        predictions: title of a column to mask bool (s, y, x), in order.
        raw_points_syx: float (N, 3), slice, y, x in pixels of `image`.
        kept_points_syx: float (M, 3), the points that saliency confirms, in each slice for which it does.
        rejected_points_syx: float (R, 3).
        slices: indices of the slices to draw.
        saliency: float (s, y, x) in [0, 1], or None for the bare image.

    Raises:
        ValueError: no slice is given.
    """
    if not slices:
        raise ValueError("no slice to draw")
    n_columns = 2 + len(predictions)
    panel_height = _PANEL_INCHES * image.shape[1] / image.shape[2]
    height = panel_height * len(slices) + _TITLE_INCHES + _LEGEND_INCHES
    figure = Figure(figsize=(_PANEL_INCHES * n_columns, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(slices), n_columns, squeeze=False)
    figure.subplots_adjust(0, _LEGEND_INCHES / height, 1, 1 - _TITLE_INCHES / height, wspace=0.02, hspace=0.02)

    titles = ["image, reference, raw points", "saliency, judged points" if saliency is not None else "judged points"]
    for axis, title in zip(axes[0], [*titles, *predictions], strict=True):
        axis.set_title(title, fontsize=9, pad=4)
    window = _window(image)
    for row, s in zip(axes, slices, strict=True):
        for axis in row:
            _show_slice(axis, image[s], window)
        _note(row[0], f"slice {s}")
        _outline(row[0], reference[s], _REFERENCE)
        _mark_points(row[0], raw_points_syx, s, 14, marker="o", color=_RAW, edgecolors="black", linewidths=0.5)
        if saliency is not None:
            row[1].imshow(saliency[s], cmap="cividis", vmin=0, vmax=1, alpha=0.65, interpolation="nearest")
        _mark_judged(row[1], kept_points_syx, rejected_points_syx, s)
        for axis, prediction in zip(row[2:], predictions.values(), strict=True):
            _outline(axis, reference[s], _REFERENCE)
            _outline(axis, prediction[s], _PREDICTION)
            _note(axis, f"Dice {_dice(prediction[s], reference[s]):.2f}")
    figure.legend(handles=_legend_handles(), loc="lower center", ncol=5, fontsize=8, frameon=False, borderaxespad=0.2)
    figure.savefig(path, dpi=130)


def _window(image: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(image, [0.5, 99.7])
    return float(low), float(max(high, low + 1e-6))


def _show_slice(axis: Axes, image: np.ndarray, window: tuple[float, float]) -> None:
    axis.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")
    axis.set_autoscale_on(False)
    axis.set_axis_off()


def _outline(axis: Axes, mask: np.ndarray, color: str) -> None:
    """Contour of a mask; it is padded so that a mask that touches the border is closed."""
    if mask.any():
        padded = np.pad(mask.astype(float), 1)
        y, x = (np.arange(size) - 1 for size in padded.shape)
        axis.contour(x, y, padded, levels=[0.5], colors=[color], linewidths=1.4)


def _mark_judged(axis: Axes, kept_syx: np.ndarray, rejected_syx: np.ndarray, s: int) -> None:
    """Kept points as circles and rejected ones as crosses, each on a white one so that it shows on any ground."""
    for color, width in (("white", 3.0), (_REJECTED, 1.5)):
        _mark_points(axis, rejected_syx, s, 26, marker="x", color=color, linewidths=width)
    for color, width in (("white", 3.0), (_KEPT, 1.5)):
        _mark_points(axis, kept_syx, s, 30, marker="o", facecolors="none", edgecolors=color, linewidths=width)


def _mark_points(axis: Axes, points_syx: np.ndarray, s: int, area: float, **style: object) -> None:
    points = np.asarray(points_syx, dtype=float).reshape(-1, 3)
    points = points[nearest_index(points[:, 0]) == s]
    axis.scatter(points[:, 2], points[:, 1], area, zorder=3, **style)  # type: ignore[arg-type]


def _note(axis: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.5, "pad": 1.5, "edgecolor": "none"}
    axis.text(0.02, 0.98, text, transform=axis.transAxes, color="white", fontsize=8, va="top", bbox=box)


def _dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks, 1 if both are empty."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else 1.0


def _legend_handles() -> list[Line2D]:
    def marker(shape: str, edge: str, face: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=shape, markeredgecolor=edge, markerfacecolor=face, label=label)

    return [
        Line2D([], [], color=_REFERENCE, label="reference"),
        Line2D([], [], color=_PREDICTION, label="prediction"),
        marker("o", "black", _RAW, "raw point"),
        marker("o", _KEPT, "none", "point that saliency confirms"),
        marker("x", _REJECTED, "none", "other point"),
    ]
