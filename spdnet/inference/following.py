"""Further looks, after the second: from mask to mask, as far as the points go. Our extension of CPD.

The second look sees the first masks alone. So of a target whose saliency fades it reaches one slice beyond the last
mask, and drops a right point whose neighbours had no mask yet, though it gives them one by that very point. Further
looks see the new masks. A slice that is still empty gets back its trusted points that the masks around it now bear out;
without such it gets its own points if most of them lie in the mask of a slice beside it. Looks go on until nothing
changes.

Masks are only added, each from points that the user gave: no place is invented, and no mask is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from spdnet.geometry import nearest_index, rescale_points
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import DecoderRows, DistilledVolume, rows_of_points
from spdnet.prompts.second_look import Looks, NeighbourMasks

MAX_LOOKS = 16  # each reaches one slice further

Decode = Callable[[DecoderRows], np.ndarray]  # rows to their probabilities float32 (r, M, M)


def look_further(
    decode: Decode,
    probabilities: np.ndarray,
    looks: Looks,
    given: DistilledVolume,
    points_syx: Sequence[np.ndarray],
    rules: Rules,
) -> Looks:
    """Look at the empty slices of a volume again and again, in the classes for which the plans ask for it.

    Args:
        decode: of a network, in this volume.
        probabilities: float32 (S, k, M, M), what a second look left; changed in place.
        looks: what that changed.
        given: the prompts of the volume, as they were distilled.
        points_syx: all points of each class, as `points_of_class` has them.
        rules: of the network.

    Returns:
        What all looks together have changed.
    """
    _, n_classes, size, _ = probabilities.shape
    asked = rules.looked_at_again(n_classes) & ~given.untrusted
    for k in np.flatnonzero(asked).tolist():
        if rules.of_class(k).follow != "on":
            continue
        followed = _Class(k, looks, given, points_syx[k], rules.settings.max_points)
        for _ in range(MAX_LOOKS):
            chosen = followed.look(probabilities[:, k] > 0.5)
            if not chosen:
                break
            places = [rescale_points(points, size, rules.image_size) for points in chosen.values()]
            rows = rows_of_points(list(chosen), [k] * len(chosen), places)
            probabilities[rows.slice_index, k] = decode(rows)
        looks = followed.told(looks)
    return looks


class _Class:
    """What further looks may still use of the points of class `k`, and what they have used.

    Slices that a trusted box or trusted points are left to are closed, as are those that a look has given all it could.
    """

    def __init__(self, k: int, looks: Looks, given: DistilledVolume, points_syx: np.ndarray, max_points: int) -> None:
        n_slices, trusted = len(looks.first_masks), given.consensus[k]
        self._k, self._points, self._max_points = k, points_syx, max_points
        self._own_slices = nearest_index(points_syx[:, 0])
        is_left = looks.bear_out(k, trusted.slice_index, trusted.points_yx)
        self._is_closed = given.boxes[k].slices_with_box(n_slices)
        self._is_closed |= trusted.select(is_left).slices_with_points(n_slices)
        self._dropped = trusted.select(~is_left)
        self._returned: dict[int, np.ndarray] = {}  # by slice, rows among the points
        self._readmitted: dict[int, np.ndarray] = {}

    def look(self, masks: np.ndarray) -> dict[int, np.ndarray]:
        """Points (N, 2), in pixels of masks bool (S, M, M), for slices that are empty there but have masks around."""
        around, chosen = NeighbourMasks.of(masks), {}
        is_open = ~masks.any(axis=(1, 2)) & ~self._is_closed & around.support.any(axis=(1, 2))
        for s in np.flatnonzero(is_open).tolist():
            dropped = np.flatnonzero(self._dropped.slice_index == s)
            back = dropped[around.bear_out(s, self._dropped.points_yx[dropped])]
            if len(back) and s not in self._returned:
                self._returned[s] = self._dropped.point_index[back]
                chosen[s] = self._dropped.points_yx[back]
                continue
            own = np.flatnonzero(self._own_slices == s)
            own = own[around.follow(s, self._points[own, 1:])][: self._max_points]
            if len(own):
                self._is_closed[s] = True
                self._returned.pop(s, None)
                self._readmitted[s] = own
                chosen[s] = self._points[own, 1:]
        return chosen

    def told(self, looks: Looks) -> Looks:
        """These looks beside earlier ones."""
        readmitted = np.concatenate([looks.readmitted, self._lines(self._readmitted)])
        returned = np.concatenate([looks.returned, self._lines(self._returned)])
        return replace(looks, readmitted=np.unique(readmitted, axis=0), returned=returned)

    def _lines(self, used: dict[int, np.ndarray]) -> np.ndarray:
        lines = [(self._k, s, point) for s, points in sorted(used.items()) for point in points.tolist()]
        return np.array(lines, dtype=np.int64).reshape(-1, 3)
