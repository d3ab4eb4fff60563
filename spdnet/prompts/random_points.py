"""Whether the points of a volume are like random ones: those of another image, or put there by mistake. Our extension.

A single point tells little, as some random points fall on the target. All points of a volume together do: where those
of the training cases hit the saliency more often than random ones would, so should these. But volumes differ: stage 1
may know one worse than those of the training, and its points are needed the more then.

Points for all classes may be right without being salient for the one that is looked at: of those, only the ones that
are salient for no other class count, in the area that is salient for none.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, xlog1py, xlogy

from spdnet.geometry import nearest_index

MIN_ODDS = 20.0  # of random points to points like those of the training
# How a volume's share of salient points differs from that of the training: a beta distribution, by its first parameter.
# The share's standard deviation is 1 / sqrt(3) of it where it is small; see docs/choices.md.
LIKENESS = 3.0
MAX_SHARE = 0.9  # no training is so good that a few misses tell


@dataclass(frozen=True)
class Background:
    """What of the maps can hold points of a volume and class that are there by chance.

    Attributes:
        content_share: of the maps, what the image fills; points lie nowhere else.
        for_all: bool (N,), the points that speak for all classes, among those of the class; None: none of them.
        highest: float (S, H, W), saliency of the most salient class; None: there is one class.
    """

    content_share: float = 1.0
    for_all: np.ndarray | None = None
    highest: np.ndarray | None = None

    def parts(self, saliency: np.ndarray, n_points: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Kinds of points, bool (N,), each with the maps (S, H, W) in which a point by chance is not salient.

        Args:
            saliency: float (S, H, W), of the class.
            n_points: N.
        """
        if self.for_all is None or self.highest is None or not self.for_all.any():
            return [(np.ones(n_points, dtype=bool), saliency)]
        kinds = [(~self.for_all, saliency), (self.for_all, self.highest)]
        return [(points, maps) for points, maps in kinds if points.any()]


WHOLE_MAPS = Background()


@dataclass(frozen=True)
class Hits:
    """How often points are salient.

    Attributes:
        n_salient: points that are salient in their own slice.
        n: points within the maps, but for those that another class accounts for.
        chance: that a random point of these is salient, mean over the points' slices; 0 without points.
    """

    n_salient: int
    n: int
    chance: float


def count_hits(points_syx: np.ndarray, saliency: np.ndarray, tau: float, background: Background = WHOLE_MAPS) -> Hits:
    """Count the points of one volume and class that are salient.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps.
        saliency: float (S, H, W) in [0, 1].
        tau: a pixel is salient above this.
        background: where random points can lie.
    """
    index = nearest_index(np.asarray(points_syx, dtype=np.float64).reshape(-1, 3))
    inside = ((index >= 0) & (index < saliency.shape)).all(axis=1)
    content = saliency[0].size * background.content_share
    n_salient = n = 0
    by_chance = 0.0
    for chosen, maps in background.parts(saliency, len(index)):
        own = index[inside & chosen]
        is_salient = saliency[tuple(own.T)] > tau
        counts = is_salient | ~(maps[tuple(own.T)] > tau)
        slices, n_points = np.unique(own[counts, 0], return_counts=True)
        area, taken = (np.array([np.count_nonzero(m[s] > tau) for s in slices], dtype=int) for m in (saliency, maps))
        room = np.maximum(content - (taken - area), np.maximum(area, 1))
        by_chance += float(area / room @ n_points)
        n_salient += int(is_salient.sum())
        n += int(counts.sum())
    return Hits(n_salient, n, by_chance / n if n else 0.0)


def look_random(hits: Hits, training_share: float) -> bool:
    """Whether points hit the saliency like random ones, though those of the training hit it more often.

    They do if no more of them are salient than random ones would be, and if that is `MIN_ODDS` times as likely of
    random points, by the binomial distribution, as of a volume like those of the training, by the beta-binomial one, as
    volumes differ in their share (`LIKENESS`). About half of the volumes with random points hit by chance more often
    than that and pass; so do those with few points, which cannot tell.

    Args:
        hits: of the volume.
        training_share: of the training cases' points, the share that is salient.
    """
    share = min(training_share, MAX_SHARE)
    if share <= hits.chance or hits.n_salient > hits.chance * hits.n:
        return False
    others = LIKENESS * (1 - share) / share
    missed = hits.n - hits.n_salient  # the binomial coefficient is in both
    by_chance = xlogy(hits.n_salient, hits.chance) + xlog1py(missed, -hits.chance)
    as_in_training = betaln(LIKENESS + hits.n_salient, others + missed) - betaln(LIKENESS, others)
    return bool(by_chance - as_in_training >= np.log(MIN_ODDS))
