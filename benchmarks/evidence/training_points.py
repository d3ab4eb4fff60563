"""Where the points of training cases come from: as in SPD's stage 2, from files and drawn anew, as the plans say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence.consensus import Distiller, consensus_points
from spdnet.files import make_folder, whole_file
from spdnet.planning import SPDSettings, StoredCase
from spdnet.prompts import SlicePrompts
from spdnet.training.prompt_source import draw_prompts


def no_points(case: int, rng: np.random.Generator) -> SlicePrompts:
    """For models that are given none."""
    return SlicePrompts.empty()


@dataclass(frozen=True)
class RawPoints:
    """The points that SPD's stage 2 draws before it distils them."""

    cases: list[StoredCase]
    settings: SPDSettings

    def __call__(self, case: int, rng: np.random.Generator) -> SlicePrompts:
        """Points of a case, by its place, network frame."""
        return draw_prompts(self.cases[case], self.settings.prompts, rng)


@dataclass(frozen=True)
class ConsensusPoints:
    """What SPD makes of them.

    Attributes:
        raw: the points.
        saliency: of each case, float (S, k, M, M).
    """

    raw: RawPoints
    saliency: list[np.ndarray]

    def __call__(self, case: int, rng: np.random.Generator) -> SlicePrompts:
        """Points of a case, by its place, network frame."""
        saliency = np.asarray(self.saliency[case], dtype=np.float32)
        return consensus_points(self.raw(case, rng), saliency, self.raw.settings)


def stored_saliency(distiller: Distiller, cases: list[StoredCase], folder: Path) -> list[np.ndarray]:
    """Saliency of cases, float16 (S, k, M, M), memory-mapped: computed where the folder does not hold it yet."""
    make_folder(folder)
    found = []
    for case in cases:
        file = folder / f"{case.case}.npy"
        if not file.exists():
            with whole_file(file) as partial:
                np.save(partial, distiller.saliency(case.slices).astype(np.float16))
        found.append(np.load(file, mmap_mode="r"))
    return found
