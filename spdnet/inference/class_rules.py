"""What becomes of each class' prompts where the plans leave it to the training cases: from "auto" to rules.

Stage 2 counts in the training cases how often a rule would be right (`spdnet.training.trust`), and keeps that in the
network; training and inference decide by it here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from spdnet.network import SPDNetwork
from spdnet.planning.plans import AgreementSettings, DistillationSettings
from spdnet.prompts.learned_trust import LearnedTrust

# With "auto", neighbouring slices are asked if a smaller share of the points that saliency trusts is on the target.
# Seen were 0.79 where it lights up on a look-alike and asking helps, and 0.91 to 0.94 elsewhere.
MIN_POINT_PRECISION = 0.85
MIN_PRECISION = 0.5  # with "auto", of what any other rule would do, the share that has to be right
MIN_CONFIRMED = 0.95  # with "auto", of the target, what has to be in pieces with a point, so that others are dropped


@dataclass(frozen=True)
class MeasuredShares:
    """What stage 2 measured on the training cases: by this "auto" in the plans is decided, and points are refused.

    Attributes:
        points, peaks, continued, continued_per_peak, salient, near, look, readmit, prolong, follow, confirmed: float32
            (k,), as `point_precision`, `peak_precision`, `continued_precision`, `continued_per_peak`, `salient_share`,
            `near_precision`, `look_precision`, `readmit_precision`, `prolong_precision`, `follow_precision` and
            `confirmed_share` of `SPDNetwork`.
        trust: for each class which points to trust, or None where that was not learned; empty: nowhere.
    """

    points: np.ndarray
    peaks: np.ndarray
    continued: np.ndarray
    continued_per_peak: np.ndarray
    salient: np.ndarray
    near: np.ndarray
    look: np.ndarray
    readmit: np.ndarray
    prolong: np.ndarray
    follow: np.ndarray
    confirmed: np.ndarray
    trust: tuple[LearnedTrust | None, ...] = ()

    @classmethod
    def of(cls, network: SPDNetwork) -> MeasuredShares:
        """That of a trained network."""
        shares = {name: getattr(network, buffer).cpu().numpy() for name, buffer in BUFFERS.items()}
        return cls(**shares, trust=network.learned_trust())

    def keep_in(self, network: SPDNetwork) -> None:
        """Make the shares part of a network; what its classes have learned to trust is there already."""
        for name, buffer in BUFFERS.items():
            getattr(network, buffer).copy_(torch.from_numpy(getattr(self, name)))


BUFFERS = {  # of `SPDNetwork`
    "points": "point_precision",
    "peaks": "peak_precision",
    "continued": "continued_precision",
    "continued_per_peak": "continued_per_peak",
    "salient": "salient_share",
    "near": "near_precision",
    "look": "look_precision",
    "readmit": "readmit_precision",
    "prolong": "prolong_precision",
    "follow": "follow_precision",
    "confirmed": "confirmed_share",
}
_SHARE_OF_RULE = {
    "near_points": "near",
    "second_look": "look",
    "readmit": "readmit",
    "prolong": "prolong",
    "follow": "follow",
}


@dataclass(frozen=True)
class Rules:
    """How the prompts of a network are distilled: the plans, and what the training cases say where these are "auto".

    Attributes:
        settings: of the plans.
        image_size: side of the network's slices.
        measured: None where the training cases have not been asked: peaks then, no agreement, near points or second
            look.
        dense_slices: slices to either side that a dense prompt sees; None if there is none.
    """

    settings: DistillationSettings
    image_size: int
    measured: MeasuredShares | None = None
    dense_slices: int | None = None

    @classmethod
    def of(cls, settings: DistillationSettings, network: SPDNetwork) -> Rules:
        """Those of a network, with what it has measured."""
        dense_slices = None if network.dense_prompt is None else network.dense_prompt.n_slices
        return cls(settings, network.image_size, MeasuredShares.of(network), dense_slices)

    def trust_of_class(self, k: int) -> LearnedTrust | None:
        """Which points of a class to trust, if the plans allow for what was learned, and the class has learned."""
        if self.settings.trust == "saliency" or self.measured is None or not self.measured.trust:
            return None
        return self.measured.trust[k]

    def of_class(self, k: int) -> DistillationSettings:
        """The rules of a class, without "auto"."""
        settings, measured = self.settings, self.measured
        if self.trust_of_class(k) is None:
            settings = replace(settings, trust="saliency")
        else:
            settings = replace(settings, trust="learned", agreement=AgreementSettings(), near_points="off")
        decided: dict[str, Any] = {}
        if settings.agreement.mode == "auto":
            too_low = measured is not None and measured.points[k] < np.float32(MIN_POINT_PRECISION)
            decided["agreement"] = replace(settings.agreement, mode="neighbours" if too_low else "off")
        if settings.empty_consensus == "auto":
            decided["empty_consensus"] = _stand_in_of_class(k, measured)
        for rule, share in _SHARE_OF_RULE.items():
            if getattr(settings, rule) == "auto":
                is_right = measured is not None and getattr(measured, share)[k] >= MIN_PRECISION
                decided[rule] = "on" if is_right else "off"
        if settings.lone_pieces == "auto":
            is_confirmed = measured is not None and measured.confirmed[k] >= np.float32(MIN_CONFIRMED)
            decided["lone_pieces"] = "drop" if is_confirmed else "keep"
        return replace(settings, **decided)

    def looked_at_again(self, n_classes: int) -> np.ndarray:
        """bool (k,): which classes get a second look; only of the consensus, and not where slices are to stay empty."""
        rules = [self.of_class(k) for k in range(n_classes)]
        return np.array(
            [r.second_look == "on" and r.mode == "consensus" and r.empty_consensus != "empty" for r in rules]
        )


def _stand_in_of_class(k: int, measured: MeasuredShares | None) -> Literal["peak", "continued", "decode"]:
    """What has more pixels on the target than off it in the training cases, by how many more; rather peaks, or none."""
    if measured is None:
        return "peak"
    for_peaks = measured.peaks[k] - MIN_PRECISION
    for_continued = (measured.continued[k] - MIN_PRECISION) * measured.continued_per_peak[k]
    if for_peaks >= max(for_continued, 0):
        return "peak"
    return "continued" if measured.continued[k] >= MIN_PRECISION else "decode"


def falls_back_on_saliency(settings: DistillationSettings) -> bool:
    """Whether, by the rules of a class, a volume in which nothing is trusted is predicted from the saliency alone."""
    if settings.mode == "consensus":
        return settings.empty_consensus in ("continued", "decode")
    return settings.mode == "weighed"
