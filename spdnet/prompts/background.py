"""Where the points of a class lie that are there by chance: in the image, off what the class looks like.

How dense they are is read off the points that are not salient, in the area that is not; these say which area that is.

Pure functions on arrays, in the pixel frame of the saliency maps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Background:
    """What of the maps can hold points.

    Attributes:
        content_share: of the maps, what the image fills; points lie nowhere else.
    """

    content_share: float = 1.0


WHOLE_MAPS = Background()
