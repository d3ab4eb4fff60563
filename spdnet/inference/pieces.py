"""Pieces of a mask that none of the prompts lie in: dropped where the training cases say that a target has some.

A decoder that sees slice after slice marks what looks like the target, wherever it is. Where each piece of the training
cases' targets holds a point, so should each piece that is found. Our extension, in the spirit of nnU-Net's
postprocessing, which keeps the largest piece: that asks for the size, this for the prompts.

Pixels are those of the maps; they touch if they share a corner.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from spdnet.geometry import nearest_index
from spdnet.inference.class_rules import Rules
from spdnet.inference.prompting import DistilledVolume
from spdnet.prompts.box_distillation import BoxConsensus

_TOUCHING = np.ones((3, 3, 3))


def drop_lone_pieces(
    probabilities: np.ndarray, points_syx: Sequence[np.ndarray], given: DistilledVolume, rules: Rules
) -> None:
    """Set the pixels of lone pieces to 0, in the classes for which the plans ask for it.

    A class keeps all if none of its pieces is confirmed, if its points look random, or if it is not predicted from
    prompts.

    Args:
        probabilities: float32 (S, k, M, M), of the decoder; changed in place.
        points_syx: all points of each class, as `points_of_class` has them.
        given: the prompts of the volume, as they were distilled.
        rules: of the network.
    """
    for k in np.flatnonzero(~given.random & ~given.untrusted).tolist():
        if rules.drops_pieces(k):
            drop_where_others_are_confirmed(probabilities[:, k], points_syx[k], given.boxes[k])


def drop_where_others_are_confirmed(
    probabilities: np.ndarray, points_syx: np.ndarray, boxes: BoxConsensus | None = None
) -> None:
    """Set the lone pieces of one class, float (S, M, M), to 0 in place, unless all are lone; as `lone_pieces`."""
    mask = probabilities > 0.5
    lone = lone_pieces(mask, points_syx, boxes)
    if (mask & ~lone).any():
        probabilities[lone] = 0


def lone_pieces(mask: np.ndarray, points_syx: np.ndarray, boxes: BoxConsensus | None = None) -> np.ndarray:
    """Pixels of the pieces of a mask that hold no point and meet no box.

    Args:
        mask: bool (S, M, M).
        points_syx: float (N, 3), slice, y, x, all that were given; those outside do not count.
        boxes: that are trusted.

    Returns:
        bool (S, M, M).
    """
    pieces, n_pieces = ndimage.label(mask, _TOUCHING)
    index = nearest_index(np.asarray(points_syx, dtype=np.float64).reshape(-1, 3))
    index = index[((index >= 0) & (index < mask.shape)).all(axis=1)]
    is_met = np.zeros(n_pieces + 1, dtype=bool)
    is_met[pieces[tuple(index.T)]] = True
    for s, edges in zip(boxes.slice_index, boxes.boxes_yxyx, strict=True) if boxes is not None else ():
        top, left, bottom, right = (int(edge) for edge in nearest_index(edges).clip(0))
        is_met[np.unique(pieces[s, top : bottom + 1, left : right + 1])] = True
    is_met[0] = True
    return ~is_met[pieces]
