"""What becomes of the prompts of a trained network: the plans, and what the training cases say where these ask.

Stage 2 counts in the training cases what decides (`spdnet.training.case_shares`), and keeps that in the network;
training and inference decide by it here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spdnet.network import SPDNetwork
from spdnet.planning.plans import DistillationSettings

MIN_CONFIRMED = 0.95  # with "auto", of the target, what has to be in pieces with a point, so that others are dropped


@dataclass(frozen=True)
class MeasuredShares:
    """What stage 2 measured on the training cases: by this points are refused, and "auto" in the plans is decided.

    Attributes:
        salient, confirmed: float32 (k,), as `salient_share` and `confirmed_share` of `SPDNetwork`.
    """

    salient: np.ndarray
    confirmed: np.ndarray

    @classmethod
    def of(cls, network: SPDNetwork) -> MeasuredShares:
        """Those of a trained network."""
        return cls(network.salient_share.cpu().numpy(), network.confirmed_share.cpu().numpy())

    def keep_in(self, network: SPDNetwork) -> None:
        """Make the shares part of a network."""
        network.salient_share.copy_(torch.from_numpy(self.salient))
        network.confirmed_share.copy_(torch.from_numpy(self.confirmed))


@dataclass(frozen=True)
class Rules:
    """How the prompts of a network are distilled.

    Attributes:
        settings: of the plans.
        image_size: side of the network's slices.
        measured: None where the training cases have not been asked: no points are refused then, no pieces dropped.
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

    def drops_pieces(self, k: int) -> bool:
        """Whether pieces of a class' masks that no prompt lies in are dropped."""
        if self.settings.lone_pieces == "auto":
            return self.measured is not None and bool(self.measured.confirmed[k] >= np.float32(MIN_CONFIRMED))
        return self.settings.lone_pieces == "drop"
