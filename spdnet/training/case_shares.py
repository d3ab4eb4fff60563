"""What stage 2 counts in the training cases before it begins: by this plans that leave something to them are decided.

How often points are salient tells whether those of another volume look random; whether the target's pieces hold points
tells whether a piece of a mask should; and how many points on the target are salient tells how much stage 1 misses.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from spdnet.geometry import nearest_index, rescale_points
from spdnet.inference.class_rules import MeasuredShares
from spdnet.inference.pieces import lone_pieces
from spdnet.inference.prompting import backgrounds, points_of_class
from spdnet.planning import SPDSettings
from spdnet.prompts import SlicePrompts
from spdnet.prompts.random_points import count_hits
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.prompt_source import draw_prompts
from spdnet.training.stopping import StopRequest

_DRAWS = 3  # of prompts for each case, where they differ
_SEED = 20260  # beside the training's, so that these draws are those of no epoch


class Share:
    """For each class, how many of some things count.

    Attributes:
        n_inside, n: int64 (k,).
    """

    def __init__(self, n_classes: int) -> None:
        self.n_inside, self.n = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes, dtype=np.int64)

    def add(self, k: int, n_inside: int, n: int) -> None:
        """Add `n` for class `k`, of which `n_inside` count."""
        self.n_inside[k] += n_inside
        self.n[k] += n

    def values(self, of_none: float) -> np.ndarray:
        """float32 (k,); `of_none` where nothing was counted."""
        return np.where(self.n > 0, self.n_inside / np.maximum(self.n, 1), of_none).astype(np.float32)

    def in_words(self, k: int) -> str:
        """That of a class."""
        return f"{self.n_inside[k]} of {self.n[k]}"


@dataclass(frozen=True)
class CaseShares:
    """What was counted.

    Attributes:
        salient: of all points, how many are salient in their own slice.
        seen: of the points on the target, how many are.
        confirmed: of the target's pixels, how many are in pieces that hold a point.
    """

    salient: Share
    seen: Share
    confirmed: Share

    @classmethod
    def of(cls, variants: list[StoredVariant], settings: SPDSettings, seed: int, stop: StopRequest) -> CaseShares:
        """Count in training cases.

        Args:
            variants: one of each case.
            settings: of the plans.
            seed: of the training.
            stop: looked at between cases.
        """
        n_classes, tau = variants[0].saliency.shape[1], settings.distillation.tau
        found = cls(*(Share(n_classes) for _ in range(3)))
        for variant in stop.guard(variants):
            saliency = np.asarray(variant.saliency, dtype=np.float32)
            targets = [_target_maps(variant, k) for k in range(n_classes)]
            for prompts in _draws(variant, settings, seed):
                for k, behind in enumerate(backgrounds(prompts, saliency)):
                    points = points_of_class(prompts, k, settings.image_size, saliency.shape[-1])
                    hits = count_hits(points, saliency[:, k], tau, behind)
                    found.salient.add(k, hits.n_salient, hits.n)
                    _count_seen(variant, k, points, saliency[:, k] > tau, found.seen)
                    n_target = int(targets[k].sum())
                    found.confirmed.add(k, n_target - int(lone_pieces(targets[k], points).sum()), n_target)
        return found

    def measured(self) -> MeasuredShares:
        """As the network keeps them."""
        return MeasuredShares(self.salient.values(0), self.confirmed.values(0))


def _draws(variant: StoredVariant, settings: SPDSettings, seed: int) -> list[SlicePrompts]:
    """By a seed of their own, for each case."""
    rng = np.random.default_rng([seed, _SEED, zlib.crc32(variant.name.encode())])
    n_draws = 1 if settings.prompts.are_fixed else _DRAWS
    return [variant.move(draw_prompts(variant.case, settings.prompts, rng)) for _ in range(n_draws)]


def _count_seen(variant: StoredVariant, k: int, points_syx: np.ndarray, salient: np.ndarray, found: Share) -> None:
    index = nearest_index(points_syx)
    inside = ((index >= 0) & (index < salient.shape)).all(axis=1)
    on_target, is_known = variant.target_at(k, index[inside, 0], points_syx[inside, 1:])
    right = index[inside][on_target & is_known]
    found.add(k, int(salient[tuple(right.T)].sum()), len(right))


def _target_maps(variant: StoredVariant, k: int) -> np.ndarray:
    """The target of a class on the grid of the saliency maps: bool (S, M, M)."""
    side, size = variant.saliency.shape[-1], variant.masks.shape[-1]
    at = nearest_index(rescale_points(np.arange(side, dtype=np.float64), side, size))
    return np.asarray(variant.masks[:, k])[:, at][:, :, at] > 0
