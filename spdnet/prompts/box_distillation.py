"""Distilling coarse boxes: which of them to trust, shrunk to what is salient inside, and lent to neighbouring slices.

This is our extension: the paper names coarse boxes as a clinical cue, but its Contextual Prompt Distillation is for
points. Boxes are treated in the same spirit, by the same threshold and the same dual validation. Pure functions on
arrays, without a model, a file or torch; everything is in the pixel frame of the saliency maps.

    local_i     = boxes of slice i that hold enough salient pixels of slice i, shrunk to those pixels
    context_i   = where local_i is empty: the boxes of the nearest slices j, 0 < |j - i| <= n, that hold enough salient
                  pixels of slice j and of slice i, shrunk to those of slice i
    consensus_i = the smallest box around them: SAM takes one box for a mask
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spdnet.prompts.points import SliceBoxes

# An edge that lies on the border of two pixels up to rounding does not touch the pixel beyond it.
_EDGE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class BoxConsensus:
    """The boxes that are trusted, and why.

    One entry per (slice, box) pair: a box may prompt its own slice and neighbouring ones, and a slice may be prompted
    by several boxes.

    Attributes:
        slice_index: int64 (M,), slice that the box prompts; ascending.
        box_index: int64 (M,), row of the box among those given.
        source_slice: int64 (M,), slice that the box was given for; equals `slice_index` for local boxes.
        boxes_yxyx: float64 (M, 4), edges top, left, bottom, right of the box as it prompts this slice.
        salient_share: float32 (M,), share of the given box's pixels that are salient in the slice that it prompts.
        own_share: float32 (N,), for every given box that share in its own slice; 0 outside the map.
        is_rejected: bool (N,), boxes that were not trusted in their own slice and so prompt none.
    """

    slice_index: np.ndarray
    box_index: np.ndarray
    source_slice: np.ndarray
    boxes_yxyx: np.ndarray
    salient_share: np.ndarray
    own_share: np.ndarray
    is_rejected: np.ndarray

    @property
    def is_local(self) -> np.ndarray:
        """bool (M,): the box was given for the slice that it prompts."""
        return self.source_slice == self.slice_index

    def slices_with_box(self, n_slices: int) -> np.ndarray:
        """bool (n_slices,): which slices have a consensus."""
        return np.bincount(self.slice_index, minlength=n_slices)[:n_slices] > 0

    def box_of_slices(self, n_slices: int) -> np.ndarray:
        """The one box of each slice, around all that prompt it: float64 (n_slices, 4); NaN where none does."""
        merged = np.full((n_slices, 4), np.nan)
        np.fmin.at(merged[:, :2], self.slice_index, self.boxes_yxyx[:, :2])
        np.fmax.at(merged[:, 2:], self.slice_index, self.boxes_yxyx[:, 2:])
        return merged

    def only_slices(self, kept: np.ndarray) -> BoxConsensus:
        """Without the entries of some slices; `kept` is bool (n_slices,). What is known of the given boxes stays."""
        return self._with_entries(kept[self.slice_index])

    def _with_entries(self, chosen: np.ndarray) -> BoxConsensus:
        names = ("slice_index", "box_index", "source_slice", "boxes_yxyx", "salient_share")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


def distill_boxes(
    boxes: SliceBoxes, saliency: np.ndarray, tau: float, n_context: int, margin: float, min_salient_share: float
) -> BoxConsensus:
    """Distil the coarse boxes of one volume and class; our extension of CPD, see the module.

    A trusted box never grows: with its margin it stays within the box that was given. A slice whose own boxes are all
    rejected is treated as one without boxes.

    Args:
        boxes: of one class; edges in pixels of the saliency maps.
        saliency: float (S, H, W) in [0, 1].
        tau: a pixel is salient where it exceeds this.
        n_context: how many slices to either side may lend boxes; 0 is local validation only.
        margin: added on each side of the salient region, as share of the region's side; >= 0.
        min_salient_share: a box is trusted in a slice where at least this share of the pixels that it touches is
            salient, and at least one pixel; 0 asks for no more than that.

    Returns:
        The consensus of every slice, sorted by slice, then by given box.
    """
    everyone = np.arange(len(boxes))
    own, own_boxes = _judge(boxes, everyone, boxes.slice_index, saliency, tau, margin)
    trusted = (own > 0) & (own >= min_salient_share)
    rows, targets = _context_pairs(boxes.slice_index, trusted, len(saliency), n_context)
    shares, lent_boxes = _judge(boxes, rows, targets, saliency, tau, margin)
    lent = (shares > 0) & (shares >= min_salient_share)
    lent[lent] = _is_nearest(targets[lent], boxes.slice_index[rows[lent]], len(saliency))
    rows = np.concatenate([everyone[trusted], rows[lent]])
    targets = np.concatenate([boxes.slice_index[trusted], targets[lent]])
    shares = np.concatenate([own[trusted], shares[lent]])
    shrunk = np.concatenate([own_boxes[trusted], lent_boxes[lent]])
    order = np.lexsort((rows, targets))
    rows = rows[order]
    source = boxes.slice_index[rows]
    return BoxConsensus(targets[order], rows, source, shrunk[order], shares[order], own, ~trusted)


def raw_boxes(boxes: SliceBoxes, n_slices: int) -> BoxConsensus:
    """All boxes as they are, each in its own slice: what plain SAM would be given (shares are NaN).

    Args:
        boxes: of one class.
        n_slices: of the volume; a box of another slice is rejected.
    """
    in_volume = (boxes.slice_index >= 0) & (boxes.slice_index < n_slices)
    rows = np.flatnonzero(in_volume)
    rows = rows[np.argsort(boxes.slice_index[rows], kind="stable")]
    source, unknown = boxes.slice_index[rows], np.full(len(boxes), np.nan, dtype=np.float32)
    return BoxConsensus(source, rows, source, boxes.boxes_yxyx[rows], unknown[rows], unknown, ~in_volume)


def _context_pairs(
    source: np.ndarray, trusted: np.ndarray, n_slices: int, n_context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which trusted boxes may be lent to which slices without a trusted box of their own: rows and slices (P,)."""
    lacking = np.ones(n_slices, dtype=bool)
    lacking[source[trusted]] = False
    targets = source[:, None] + np.arange(-n_context, n_context + 1)
    possible = trusted[:, None] & (targets >= 0) & (targets < n_slices)
    possible[possible] = lacking[targets[possible]]
    return np.nonzero(possible)[0], targets[possible]


def _is_nearest(targets: np.ndarray, source: np.ndarray, n_slices: int) -> np.ndarray:
    """bool (P,): no other pair lends to the same slice from a nearer one."""
    distance = np.abs(targets - source)
    nearest = np.full(n_slices, n_slices)
    np.minimum.at(nearest, targets, distance)
    return distance == nearest[targets]


def _judge(
    boxes: SliceBoxes, rows: np.ndarray, targets: np.ndarray, saliency: np.ndarray, tau: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """`_shrink` for pairs of a box and a slice: float32 (P,) and float64 (P, 4); 0 for slices outside the volume."""
    shares, shrunk = np.zeros(len(rows), dtype=np.float32), np.zeros((len(rows), 4))
    for i, (row, target) in enumerate(zip(rows.tolist(), targets.tolist(), strict=True)):
        if 0 <= target < len(saliency):
            shares[i], shrunk[i] = _shrink(boxes.boxes_yxyx[row], saliency[target], tau, margin)
    return shares, shrunk


def _shrink(box_yxyx: np.ndarray, saliency: np.ndarray, tau: float, margin: float) -> tuple[float, np.ndarray]:
    """Share of a box's pixels that are salient in a slice (H, W), and the box (4,) around these; 0 and zeros if none.

    A pixel belongs to the box if any of its area does.
    """
    low = np.maximum(np.floor(box_yxyx[:2] + 0.5 + _EDGE_TOLERANCE), 0).astype(np.int64)
    high = np.minimum(np.ceil(box_yxyx[2:] + 0.5 - _EDGE_TOLERANCE), saliency.shape).astype(np.int64)
    if (high <= low).any():
        return 0.0, np.zeros(4)
    salient = saliency[low[0] : high[0], low[1] : high[1]] > tau
    if not salient.any():
        return 0.0, np.zeros(4)
    found = [np.flatnonzero(salient.any(axis=axis)) for axis in (1, 0)]  # rows, columns
    first, last = (low + [int(f[end]) for f in found] for end in (0, -1))
    grown = margin * (last - first + 1)
    top_left = np.maximum(first - 0.5 - grown, box_yxyx[:2])
    bottom_right = np.minimum(last + 0.5 + grown, box_yxyx[2:])
    return float(salient.mean()), np.concatenate([top_left, bottom_right])
