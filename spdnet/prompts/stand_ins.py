"""Points that stand in for trusted ones in slices that have none: peaks of the saliency. Our extension of CPD.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from spdnet.geometry import nearest_index

FOLLOWED_SLICES = 4
_TOUCHING = np.ones((3, 3))  # over corners too


def saliency_peak(saliency: np.ndarray, tau: float) -> np.ndarray:
    """The most salient pixel of a map (M, M), the first if several tie: float64 (1, 2) y, x.

    None, (0, 2), unless the pixels above `tau` hang together: else which piece is meant?
    """
    if ndimage.label(saliency > tau, structure=_TOUCHING)[1] != 1:
        return np.zeros((0, 2))
    return _peak(saliency)


def continued_peaks(
    saliency: np.ndarray, slice_index: np.ndarray, points_yx: np.ndarray, prompted: np.ndarray, tau: float
) -> dict[int, np.ndarray]:
    """The most salient pixels of pieces that continue, from slice to slice, a piece with a trusted point.

    A piece is what hangs together above `tau` in a slice. It is followed into an adjacent slice that has no trusted
    prompt, to the piece there that shares most pixels with it, and so on, at most `FOLLOWED_SLICES` far.

    Args:
        saliency: float (S, M, M), in [0, 1].
        slice_index: int (N,), slices of the trusted points.
        points_yx: float (N, 2), the points.
        prompted: bool (S,), which slices have a trusted prompt.
        tau: a pixel is salient above this.

    Returns:
        float64 (1, 2) y, x for each slice that is reached.
    """
    n_slices, height, width = saliency.shape
    peaks: dict[int, np.ndarray] = {}

    def open_neighbours(s: int) -> list[int]:
        return [t for t in (s - 1, s + 1) if 0 <= t < n_slices and not prompted[t] and t not in peaks]

    followed: dict[int, np.ndarray] = {}
    for s in np.unique(slice_index).tolist():
        if open_neighbours(s):
            y, x = nearest_index(points_yx[slice_index == s]).T
            labels = _pieces(saliency[s], tau)
            own = labels[y.clip(0, height - 1), x.clip(0, width - 1)]
            followed[s] = np.isin(labels, own[own > 0])
    for _ in range(FOLLOWED_SLICES):
        reached: dict[int, tuple[int, np.ndarray]] = {}
        for s, piece in sorted(followed.items()):
            for there in open_neighbours(s):
                labels = _pieces(saliency[there], tau)
                shared = np.bincount(labels[piece], minlength=2)[1:]
                if shared.max() > reached.get(there, (0, piece))[0]:
                    reached[there] = int(shared.max()), labels == 1 + shared.argmax()
        followed = {there: piece for there, (_, piece) in reached.items()}
        peaks |= {there: _peak(np.where(piece, saliency[there], -1)) for there, piece in followed.items()}
    return peaks


def _pieces(saliency: np.ndarray, tau: float) -> np.ndarray:
    return ndimage.label(saliency > tau, structure=_TOUCHING)[0]


def _peak(saliency: np.ndarray) -> np.ndarray:
    return np.array([np.unravel_index(saliency.argmax(), saliency.shape)], dtype=np.float64)
