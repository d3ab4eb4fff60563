"""From saliency, noisy points and coarse boxes to what the mask decoder is asked, for one volume.

Training and inference both build their decoder rows here, so that the decoder is trained on exactly the
kind of rows that it will be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from spdnet.geometry import rescale_points
from spdnet.inference.class_rules import Rules
from spdnet.prompts import ALL_CLASSES, SliceBoxes, SlicePrompts
from spdnet.prompts.box_distillation import BoxConsensus, distill_boxes, raw_boxes
from spdnet.prompts.distillation import Consensus, distill_prompts, limit_points, raw_prompts
from spdnet.prompts.random_points import Background, count_hits, look_random


@dataclass(frozen=True)
class DecoderRows:
    """What the decoder is asked: one row per (slice, class), sorted by class, then slice.

    A row has points, a box, both, or neither.

    Attributes:
        slice_index, class_index: int64 (R,).
        points_yx: float32 (R, P, 2), y, x in network pixels, padded with zeros.
        point_is_real: bool (R, P).
        box_yxyx: float32 (R, 4), edges top, left, bottom, right in network pixels (pixel centres are integers), zeros
            where there is no box.
        has_box: bool (R,).
    """

    slice_index: np.ndarray
    class_index: np.ndarray
    points_yx: np.ndarray
    point_is_real: np.ndarray
    box_yxyx: np.ndarray
    has_box: np.ndarray

    def __len__(self) -> int:
        return len(self.slice_index)

    def select(self, chosen: np.ndarray | slice) -> DecoderRows:
        """The rows of a bool mask (R,), of an array of indices, or of a slice."""
        return DecoderRows(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def padded(self, n_points: int) -> DecoderRows:
        """The same with room for so many points, at least as many as there is."""
        missing = n_points - self.points_yx.shape[1]
        return replace(
            self,
            points_yx=np.pad(self.points_yx, ((0, 0), (0, missing), (0, 0))),
            point_is_real=np.pad(self.point_is_real, ((0, 0), (0, missing))),
        )

    @staticmethod
    def of(
        slices: Sequence[int],
        classes: Sequence[int],
        points_yx: Sequence[np.ndarray],
        boxes_yxyx: np.ndarray,
        has_box: np.ndarray,
    ) -> DecoderRows:
        """Rows with different numbers of points, each float (N, 2) in network pixels, padded."""
        longest = max((len(p) for p in points_yx), default=0)
        padded = np.zeros((len(points_yx), longest, 2), dtype=np.float32)
        is_real = np.zeros((len(points_yx), longest), dtype=bool)
        for row, own in enumerate(points_yx):
            padded[row, : len(own)] = own
            is_real[row, : len(own)] = True
        indices = np.array(slices, dtype=np.int64), np.array(classes, dtype=np.int64)
        return DecoderRows(*indices, padded, is_real, boxes_yxyx.astype(np.float32), has_box)

    @staticmethod
    def concatenate(parts: Sequence[DecoderRows]) -> DecoderRows:
        """One after the other, padded to the longest."""
        longest = max(part.points_yx.shape[1] for part in parts)
        padded = [part.padded(longest) for part in parts]
        return DecoderRows(*(np.concatenate([getattr(p, f.name) for p in padded]) for f in fields(DecoderRows)))


def points_of_class(prompts: SlicePrompts, k: int, image_size: int, mask_size: int) -> np.ndarray:
    """The points of a class, float64 (N, 3), slice, y, x in pixels of the saliency maps of `mask_size` a side."""
    points = prompts.for_class(k).points_syx.copy()
    points[:, 1:] = rescale_points(points[:, 1:], image_size, mask_size)
    return points


def points_of_classes(prompts: SlicePrompts, saliency: np.ndarray, image_size: int) -> list[np.ndarray]:
    """`points_of_class` of all classes of saliency (S, k, M, M)."""
    _, n_classes, size, _ = saliency.shape
    return [points_of_class(prompts, k, image_size, size) for k in range(n_classes)]


def backgrounds(prompts: SlicePrompts, saliency: np.ndarray, content_share: float = 1.0) -> list[Background]:
    """Of each class, where its points lie that are there by chance.

    Args:
        prompts: points in network pixels, as `points_of_class` takes them.
        saliency: float (S, k, M, M), in [0, 1].
        content_share: of the slices, what the image fills.
    """
    n_classes, highest = saliency.shape[1], None
    if n_classes > 1 and (prompts.class_index == ALL_CLASSES).any():
        highest = saliency.max(axis=1)
    own = [prompts.for_class(k).class_index == ALL_CLASSES for k in range(n_classes)]
    return [Background(content_share, for_all, highest) for for_all in own]


def distill_volume(prompts: SlicePrompts, saliency: np.ndarray, rules: Rules) -> list[Consensus]:
    """Run CPD for every class of a volume, or of adjacent slices of it; with raw prompts all points are kept.

    Args:
        prompts: points in network pixels.
        saliency: float (S, k, M, M), in [0, 1].
        rules: of the network.

    Returns:
        One consensus per class; its `points_yx` are in pixels of the saliency map.
    """
    settings, results = rules.settings, []
    for k, points in enumerate(points_of_classes(prompts, saliency, rules.image_size)):
        if settings.mode == "raw":
            consensus = raw_prompts(points, len(saliency))
        else:
            consensus = distill_prompts(points, saliency[:, k], settings.tau, settings.n_context)
        results.append(limit_points(consensus, settings.max_points))
    return results


def asked_points(prompts: SlicePrompts, saliency: np.ndarray, rules: Rules) -> list[Consensus]:
    """The points that the decoder is given: the consensus, or all if it is to weigh them; as `distill_volume`."""
    if rules.settings.mode == "weighed":
        rules = replace(rules, settings=replace(rules.settings, mode="raw"))
    return distill_volume(prompts, saliency, rules)


def distill_volume_boxes(prompts: SlicePrompts, saliency: np.ndarray, rules: Rules) -> list[BoxConsensus]:
    """Distil the coarse boxes of every class of a volume, as the plans say; arguments as in `distill_volume`.

    Returns:
        One consensus per class; its `boxes_yxyx` are in pixels of the saliency map.
    """
    settings, n_slices = rules.settings, len(saliency)
    s = settings.boxes
    results = []
    for k in range(saliency.shape[1]):
        boxes = prompts.boxes.for_class(k) if s.mode != "off" else SliceBoxes.empty()
        edges = _rescale_boxes(boxes.boxes_yxyx, rules.image_size, saliency.shape[-1])
        boxes = replace(boxes, boxes_yxyx=edges)
        if s.mode == "distilled":
            found = distill_boxes(
                boxes, saliency[:, k], settings.tau, settings.n_context, s.margin, s.min_salient_share
            )
        else:
            found = raw_boxes(boxes, n_slices)
        results.append(found)
    return results


@dataclass(frozen=True)
class DistilledVolume:
    """What a whole volume's prompts come to.

    Attributes:
        consensus: points, one per class.
        boxes: coarse boxes, one per class.
        random: bool (k,), the classes whose points look random.
        refused: bool (k,), those of them whose points are refused for it; their consensus is empty.
        untrusted: bool (k,), the classes that are predicted as without prompts.
    """

    consensus: list[Consensus]
    boxes: list[BoxConsensus]
    random: np.ndarray
    refused: np.ndarray
    untrusted: np.ndarray


def distill_whole_volume(
    prompts: SlicePrompts,
    saliency: np.ndarray,
    rules: Rules,
    content_share: float = 1.0,
    random: np.ndarray | None = None,
) -> DistilledVolume:
    """Distil points and boxes, and see what can be told of a whole volume only: whether anything can be trusted.

    Args:
        prompts, saliency, rules: as in `distill_volume`.
        content_share: of the slices, what the image fills.
        random: bool (k,), the classes whose points look random (`spdnet.prompts.random_points`); None to see it here.
            Points are refused for it if the plans let a class do without and it has no trusted box.
    """
    consensus = distill_volume(prompts, saliency, rules)
    boxes = distill_volume_boxes(prompts, saliency, rules)
    n_slices, n_classes = saliency.shape[:2]
    has_box = np.array([b.slices_with_box(n_slices).any() for b in boxes], dtype=bool)
    may_be_untrusted = rules.settings.may_do_without_prompts & ~has_box
    if random is None:
        random = _look_random(prompts, saliency, rules, content_share)
    refused = random & may_be_untrusted
    for k in np.flatnonzero(refused).tolist():
        consensus[k] = consensus[k].select(np.zeros(0, dtype=np.int64))
    left = consensus if rules.settings.mode != "weighed" else [prompts.for_class(k) for k in range(n_classes)]
    is_empty = np.array([len(c.slice_index) == 0 for c in left], dtype=bool) | refused
    return DistilledVolume(consensus, boxes, random, refused, may_be_untrusted & is_empty)


def _look_random(prompts: SlicePrompts, saliency: np.ndarray, rules: Rules, content_share: float) -> np.ndarray:
    """bool (k,): the classes whose points do, if the plans ask and the training cases have been looked at."""
    found = np.zeros(saliency.shape[1], dtype=bool)
    if rules.measured is None or rules.settings.random_points == "keep":
        return found
    for k, behind in enumerate(backgrounds(prompts, saliency, content_share)):
        points = points_of_class(prompts, k, rules.image_size, saliency.shape[-1])
        hits = count_hits(points, saliency[:, k], rules.settings.tau, behind)
        found[k] = look_random(hits, float(rules.measured.salient[k]))
    return found


def decoder_rows(
    consensus: list[Consensus],
    saliency: np.ndarray,
    rules: Rules,
    boxes: list[BoxConsensus] | None = None,
) -> DecoderRows:
    """Which slices and classes are decoded, with which points and boxes.

    A slice with trusted points or a trusted box always is. One without is unless the plans say "empty", where any of
    its pixels is salient. With raw prompts, and for a dense prompt, every slice is decoded.

    Args:
        consensus: of `asked_points`, one per class.
        saliency: float (S, k, M, M), in [0, 1].
        rules: of the network.
        boxes: one per class, or None for no boxes.
    """
    n_slices, n_classes, mask_size, _ = saliency.shape
    image_size, settings = rules.image_size, rules.settings
    slices, classes, points, edges = [], [], [], [np.zeros((0, 4))]
    for k in range(n_classes):
        own_boxes = boxes[k].box_of_slices(n_slices) if boxes is not None else np.full((n_slices, 4), np.nan)
        decoded = consensus[k].slices_with_points(n_slices) | ~np.isnan(own_boxes[:, 0])
        if settings.mode != "consensus" or rules.dense_slices is not None:
            decoded = np.ones(n_slices, dtype=bool)
        elif settings.empty_consensus == "decode":
            decoded |= saliency[:, k].max(axis=(1, 2)) > settings.tau
        for s in np.flatnonzero(decoded).tolist():
            slices.append(s)
            classes.append(k)
            points.append(rescale_points(consensus[k].in_slice(s), mask_size, image_size))
        edges.append(_rescale_boxes(own_boxes[decoded], mask_size, image_size))
    has_box = [~np.isnan(e[:, 0]) for e in edges]
    boxes_of_rows = np.where(np.concatenate(has_box)[:, None], np.concatenate(edges), 0)
    return DecoderRows.of(slices, classes, points, boxes_of_rows, np.concatenate(has_box))


def reach_of_context(rules: Rules) -> int:
    """How many slices away a prompt can lie and still count: what `rows_of_slices` has to know around its slices.

    A dense prompt looks as far as that, too.
    """
    lends = rules.settings.mode == "consensus" or rules.settings.boxes.mode == "distilled"
    return max(rules.settings.n_context if lends else 0, rules.dense_slices or 0)


def rows_of_slices(prompts: SlicePrompts, saliency: np.ndarray, first: int, stop: int, rules: Rules) -> DecoderRows:
    """The rows that `decoder_rows` makes of a whole volume for the slices from `first` to `stop` - 1.

    Args:
        prompts: of the volume, in network pixels.
        saliency: float (S, k, M, M), in [0, 1]; only the slices within `reach_of_context` need to be known yet.
        first, stop: which slices.
        rules: of the network.

    Returns:
        `slice_index` counts from the volume's first slice.
    """
    reach = reach_of_context(rules)
    low, high = max(first - reach, 0), min(stop + reach, len(saliency))
    near, window = prompts.of_slices(low, high), saliency[low:high]
    points = asked_points(near, window, rules)
    boxes = distill_volume_boxes(near, window, rules)
    rows = decoder_rows(points, window, rules, boxes)
    rows = replace(rows, slice_index=rows.slice_index + low)
    return rows.select((rows.slice_index >= first) & (rows.slice_index < stop))


def _rescale_boxes(boxes_yxyx: np.ndarray, from_size: int, to_size: int) -> np.ndarray:
    """Boxes (N, 4) in pixels of a square of one size, to pixels of the same square at another size."""
    return rescale_points(boxes_yxyx.reshape(-1, 2), from_size, to_size).reshape(-1, 4)
