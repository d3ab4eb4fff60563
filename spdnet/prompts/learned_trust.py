"""Which points to trust, learned from the training cases: how likely a point is on the target. Our extension of CPD.

In place of a threshold on the saliency, a small network weighs all that speaks for and against a point
(`spdnet.prompts.point_features`), in its own slice and in those that it might be lent to. Stage 2 fits it.

Pure functions on arrays, without torch; the fit is `spdnet.training.trust_learning`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit

from spdnet.geometry import nearest_index
from spdnet.prompts.background import WHOLE_MAPS, Background
from spdnet.prompts.distillation import Consensus, PointUses, consensus_of, point_uses
from spdnet.prompts.point_features import N_FEATURES, describe_uses

WIDTH = 32  # of the hidden layers
_FARTHEST = 5.0  # standard deviations, to which features are clipped


@dataclass(frozen=True)
class LearnedTrust:
    """A perceptron with two hidden layers (rectified linear units) on standardised features, for one class.

    Attributes:
        mean, scale: float32 (F,), of the features.
        weight_1, weight_2, weight_3: float32 (F, W), (W, W) and (W,).
        bias_1, bias_2, bias_3: float32 (W,), (W,) and ().
    """

    mean: np.ndarray
    scale: np.ndarray
    weight_1: np.ndarray
    bias_1: np.ndarray
    weight_2: np.ndarray
    bias_2: np.ndarray
    weight_3: np.ndarray
    bias_3: np.ndarray

    @staticmethod
    def shapes() -> dict[str, tuple[int, ...]]:
        """Of its arrays, by name."""
        known = (N_FEATURES,), (N_FEATURES,), (N_FEATURES, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH,), ()
        return dict(zip((f.name for f in fields(LearnedTrust)), known, strict=True))

    def standardized(self, features: np.ndarray) -> np.ndarray:
        """Features (Q, F) as the network takes them, float32."""
        return ((features - self.mean) / self.scale).clip(-_FARTHEST, _FARTHEST)

    def probability(self, features: np.ndarray) -> np.ndarray:
        """Of each use to be on the target, float32 (Q,), given what `describe_uses` says of it, float32 (Q, F)."""
        hidden = np.maximum(self.standardized(features) @ self.weight_1 + self.bias_1, 0)
        hidden = np.maximum(hidden @ self.weight_2 + self.bias_2, 0)
        return expit(hidden @ self.weight_3 + self.bias_3)


@dataclass(frozen=True)
class JudgedUses:
    """All uses of the points of a volume and class, and how likely each is on the target.

    Attributes:
        uses: which point in which slice.
        probability: float32 (Q,).
        own_saliency: float32 (N,), for every given point its saliency in its own slice; 0 outside the maps.
        here: float32 (Q,), saliency at the point in the slice that it would prompt.
        nearest_slice: int64 (N,), of every given point, also of those outside the maps, which have no use.
    """

    uses: PointUses
    probability: np.ndarray
    own_saliency: np.ndarray
    here: np.ndarray
    nearest_slice: np.ndarray


def judge_uses(
    points_syx: np.ndarray,
    saliency: np.ndarray,
    n_context: int,
    trust: LearnedTrust,
    background: Background = WHOLE_MAPS,
) -> JudgedUses:
    """Judge the points of one volume and class.

    Args:
        points_syx: float (N, 3), slice, y, x in pixels of the saliency maps.
        saliency: float (S, M, M) in [0, 1].
        n_context: how many slices to either side a point may be lent to.
        trust: of the class.
        background: where points of chance can lie.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    uses = point_uses(points, saliency.shape, n_context)
    here = uses.saliency(saliency)
    probability = trust.probability(describe_uses(uses, saliency, background))
    return JudgedUses(uses, probability, uses.at_home(here, len(points)), here, nearest_index(points[:, 0]))


def distill_by_trust(
    points_syx: np.ndarray,
    saliency: np.ndarray,
    n_context: int,
    trust: LearnedTrust,
    min_trust: float,
    background: Background = WHOLE_MAPS,
) -> Consensus:
    """`distill_prompts` by another criterion: points prompt the slices in which they are likely to be on the target.

    Args:
        points_syx, saliency, n_context, trust, background: as in `judge_uses`.
        min_trust: probability above which a use counts.
    """
    points = np.asarray(points_syx, dtype=np.float64).reshape(-1, 3)
    judged = judge_uses(points, saliency, n_context, trust, background)
    chosen = judged.probability > min_trust
    return consensus_of(points, judged.uses, judged.here, judged.own_saliency, chosen)
