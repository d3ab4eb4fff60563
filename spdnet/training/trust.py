"""What of distillation the training cases decide, after stage 1 and before stage 2: where the plans say "auto".

Where the saliency lights up on the target alone, the points that it trusts are on the target, and so is its peak in
slices that no trusted point reaches. Where it lights up on something that looks like the target, the points on that
have to be told apart by their neighbours, and the peak leads astray, as the slices without trusted points are those of
the other structure.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from spdnet.geometry import nearest_index, rescale_points
from spdnet.inference.class_rules import MeasuredShares, Rules
from spdnet.inference.pieces import lone_pieces
from spdnet.inference.prompting import backgrounds, distill_class, distill_volume, distill_volume_boxes, points_of_class
from spdnet.planning import SPDSettings
from spdnet.planning.plans import AgreementSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.distillation import Consensus, point_uses
from spdnet.prompts.learned_trust import LearnedTrust
from spdnet.prompts.near_points import near_points
from spdnet.prompts.random_points import count_hits
from spdnet.prompts.second_look import NeighbourMasks
from spdnet.prompts.stand_ins import continued_peaks, saliency_peak
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.prompt_source import draw_prompts
from spdnet.training.stopping import StopRequest

_DRAWS = 3  # of prompts for each case
_SEED = 20260  # beside the training's, so that these draws are those of no epoch


class Share:
    """For each class, how many of some pixels count.

    Attributes:
        n_inside, n: int64 (k,).
    """

    def __init__(self, n_classes: int) -> None:
        self.n_inside, self.n = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes, dtype=np.int64)

    def count(self, variant: StoredVariant, k: int, slice_index: np.ndarray, points_yx: np.ndarray) -> None:
        """Add points (N, 2) of class `k`, in pixels of the saliency maps, in slices (N,): which are on the target.

        Those under the ignore label do not take part.
        """
        on_target, is_known = variant.target_at(k, slice_index, points_yx)
        self.add(k, int((on_target & is_known).sum()), int(is_known.sum()))

    def add(self, k: int, n_inside: int, n: int) -> None:
        """Add `n` pixels for class `k`, of which `n_inside` count."""
        self.n_inside[k] += n_inside
        self.n[k] += n

    def values(self, of_none: float) -> np.ndarray:
        """float32 (k,); `of_none` where nothing was counted."""
        return np.where(self.n > 0, self.n_inside / np.maximum(self.n, 1), of_none).astype(np.float32)

    def in_words(self, k: int) -> str:
        """That of a class."""
        return f"{self.n_inside[k]} of {self.n[k]}"


class TrustMeasurement:
    """Of the training cases: the points that saliency trusts, and what could stand in for them where it trusts none.

    Attributes:
        points, peaks, continued, near: how many are on the target.
        look: of what a second look would change with perfect masks, how much is for the better.
        readmit, prolong, follow: of the points that it could readmit beside last masks, of the places that it could add
            there, and of the points that further looks could follow, how many are on the target.
        salient: of all points, how many are salient in their own slice.
        confirmed: of the target's pixels, how many are in pieces that hold a point.
    """

    def __init__(self, n_classes: int, trust: tuple[LearnedTrust | None, ...] = ()) -> None:
        self._trust = trust
        self.points, self.peaks, self.continued, self.salient, self.near = (Share(n_classes) for _ in range(5))
        self.look, self.readmit, self.prolong, self.follow, self.confirmed = (Share(n_classes) for _ in range(5))

    def shares(self) -> MeasuredShares:
        """As the network keeps them."""
        return MeasuredShares(
            points=self.points.values(1),
            peaks=self.peaks.values(1),
            continued=self.continued.values(0),
            continued_per_peak=(self.continued.n / np.maximum(self.peaks.n, 1)).astype(np.float32),
            salient=self.salient.values(0),
            near=self.near.values(0),
            look=self.look.values(0),
            readmit=self.readmit.values(0),
            prolong=self.prolong.values(0),
            follow=self.follow.values(1),
            confirmed=self.confirmed.values(0),
            trust=self._trust,
        )


def measure_trust(
    variants: list[StoredVariant],
    settings: SPDSettings,
    seed: int,
    stop: StopRequest,
    trust: tuple[LearnedTrust | None, ...] = (),
) -> TrustMeasurement:
    """How often trusted points, and the pixels that would stand in for them, are on the target in training cases.

    The points are those that saliency alone trusts, each counted in every slice that it prompts. What would stand in
    is that of `spdnet.prompts.stand_ins`, in the slices that have no trusted prompt under the rules that the points'
    share leads to; near points are those of `spdnet.prompts.near_points` under the same rules. Under these, too, it is
    counted which points a second look would drop, which gaps bridge, which points readmit or follow, and which ends
    prolong, if the slices with trusted prompts had perfect masks. It is counted besides how
    many of all points are salient.

    Args:
        variants: one of each training case.
        settings: of the plans.
        seed: of the training.
        stop: looked at between cases.
        trust: what the classes have learned; the points' share does not depend on it.
    """
    found = TrustMeasurement(variants[0].saliency.shape[1], trust)
    rule, size = settings.distillation, settings.image_size
    by_saliency = Rules(replace(rule, agreement=AgreementSettings(), near_points="off", trust="saliency"), size)
    drawn = [(variant, _draws(variant, settings, seed)) for variant in stop.guard(variants)]
    for variant, draws in stop.guard(drawn):
        saliency = np.asarray(variant.saliency, dtype=np.float32)
        for prompts in draws:
            behind = backgrounds(prompts, saliency, variant.content_share)
            for k, consensus in enumerate(distill_volume(prompts, saliency, by_saliency)):
                found.points.count(variant, k, consensus.slice_index, consensus.points_yx)
                points = points_of_class(prompts, k, size, saliency.shape[-1])
                hits = count_hits(points, saliency[:, k], rule.tau, behind[k])
                found.salient.add(k, hits.n_salient, hits.n)
                target = _target_maps(variant, k)
                n_target = int(target.sum())
                found.confirmed.add(k, n_target - int(lone_pieces(target, points).sum()), n_target)
    rules = Rules(rule, size, found.shares())
    for variant, draws in stop.guard(drawn):
        saliency = np.asarray(variant.saliency, dtype=np.float32)
        for prompts in draws:
            _count_near(variant, saliency, prompts, rules, found.near)
    rules = Rules(rule, size, found.shares())
    for variant, draws in stop.guard(drawn):
        saliency = np.asarray(variant.saliency, dtype=np.float32)
        for prompts in draws:
            _count_stand_ins(variant, saliency, prompts, rules, found)
    return found


def count_seen(variants: list[StoredVariant], settings: SPDSettings, seed: int, stop: StopRequest) -> Share:
    """For each class, of the points on the target, how many are salient in their own slice.

    Arguments and points are those of `measure_trust`.
    """
    found, size, tau = Share(variants[0].saliency.shape[1]), settings.image_size, settings.distillation.tau
    for variant in stop.guard(variants):
        saliency = np.asarray(variant.saliency, dtype=np.float32)
        for prompts in _draws(variant, settings, seed):
            for k in range(saliency.shape[1]):
                points = points_of_class(prompts, k, size, saliency.shape[-1])
                _count_seen(variant, k, points, saliency[:, k] > tau, found)
    return found


def _draws(variant: StoredVariant, settings: SPDSettings, seed: int) -> list[SlicePrompts]:
    """By a seed of their own, for each case."""
    rng = np.random.default_rng([seed, _SEED, zlib.crc32(variant.name.encode())])
    return [variant.move(draw_prompts(variant.case, settings.prompts, rng)) for _ in range(_DRAWS)]


def _count_seen(variant: StoredVariant, k: int, points_syx: np.ndarray, salient: np.ndarray, found: Share) -> None:
    uses = point_uses(points_syx, salient.shape, 0)  # each in its own slice
    on_target, is_known = variant.target_at(k, uses.slice_index, points_syx[uses.point_index, 1:])
    right = uses.select(on_target & is_known)
    found.add(k, int(right.saliency(salient).sum()), len(right.slice_index))


def _count_near(
    variant: StoredVariant,
    saliency: np.ndarray,
    prompts: SlicePrompts,
    rules: Rules,
    found: Share,
) -> None:
    for k, background in enumerate(backgrounds(prompts, saliency, variant.content_share)):
        rule = replace(rules.of_class(k), near_points="off")
        points, maps = points_of_class(prompts, k, rules.image_size, saliency.shape[-1]), saliency[:, k]
        trusted = distill_class(points, maps, rule, rules.trust_of_class(k), background)
        near = near_points(trusted, points, maps)
        found.count(variant, k, nearest_index(points[near, 0]), points[near, 1:])


def _count_stand_ins(
    variant: StoredVariant,
    saliency: np.ndarray,
    prompts: SlicePrompts,
    rules: Rules,
    found: TrustMeasurement,
) -> None:
    tau, n_slices = rules.settings.tau, len(saliency)
    consensus = distill_volume(prompts, saliency, rules, variant.content_share)
    boxes = distill_volume_boxes(prompts, saliency, rules)
    for k in range(saliency.shape[1]):
        own, maps = consensus[k], saliency[:, k]
        prompted = own.slices_with_points(n_slices) | boxes[k].slices_with_box(n_slices)
        for s in np.flatnonzero(~prompted).tolist():
            peak = saliency_peak(maps[s], tau)
            found.peaks.count(variant, k, np.full(len(peak), s), peak)
        points = points_of_class(prompts, k, rules.image_size, maps.shape[-1])
        _count_look(variant, maps, k, points, own, prompted, found)
        for s, peak in continued_peaks(maps, own.slice_index, own.points_yx, prompted, tau).items():
            found.continued.count(variant, k, np.full(len(peak), s), peak)


def _count_look(
    variant: StoredVariant,
    saliency: np.ndarray,
    k: int,
    points_syx: np.ndarray,
    trusted: Consensus,
    prompted: np.ndarray,
    found: TrustMeasurement,
) -> None:
    """Points that are dropped count if they are off the target, and places that are added if they are on it.

    Points are dropped by the masks of all slices, the most that could speak for them; only slices with a prompt can
    have a mask that a gap is bridged from, or that is prolonged.
    """
    masks = _target_maps(variant, k)
    dropped = ~NeighbourMasks.of(masks).bear_out(trusted.slice_index, trusted.points_yx)
    on_target, is_known = variant.target_at(k, trusted.slice_index[dropped], trusted.points_yx[dropped])
    found.look.add(k, int((~on_target & is_known).sum()), int(is_known.sum()))
    around, own_slices = NeighbourMasks.of(masks & prompted[:, None, None]), nearest_index(points_syx[:, 0])
    for s in np.flatnonzero(~prompted).tolist():
        bridge, beside = around.bridge(s, saliency[s]), around.prolong(s, saliency[s])
        own = points_syx[own_slices == s, 1:] if len(beside) else np.zeros((0, 2))
        readmitted, followed = own[around.readmit(s, own)], own[around.follow(s, own)]
        counted = (found.look, bridge), (found.readmit, readmitted), (found.prolong, beside), (found.follow, followed)
        for share, places in counted:
            share.count(variant, k, np.full(len(places), s), places)


def _target_maps(variant: StoredVariant, k: int) -> np.ndarray:
    """The target of a class on the grid of the saliency maps: bool (S, M, M)."""
    side, size = variant.saliency.shape[-1], variant.masks.shape[-1]
    at = nearest_index(rescale_points(np.arange(side, dtype=np.float64), side, size))
    return np.asarray(variant.masks[:, k])[:, at][:, :, at] > 0
