"""Where the points of a class lie that are there by chance: in the image, off what the class looks like.

How dense they are is read off the points that are not salient, in the area that is not. Points for all classes may be
right without being salient for the one that is looked at: of those, only the ones that are salient for no class count,
in the area that is salient for none.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
