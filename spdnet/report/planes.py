"""Slices of a case as small PNG or JPEG images in base64, which browsers decode from memory.

Intensities become 8 bits over a range that is wider than the window first shown. They stay lossless (PNG) as long as
the case stays small, and become JPEG of the best quality that keeps it so otherwise. Label maps and saliency are
always PNG.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spdnet.planning.plans import NormalizationSettings

IMAGE_BYTES = 6_800_000  # of one case before base64, so that it stays below 10 MB with everything else
_JPEG_QUALITIES = (95, 90, 85, 80, 75, 70, 65, 60, 50, 40)
_SAMPLED_SLICES = 12
_STORED_PERCENTILES = (0.1, 99.9)
_SHOWN_PERCENTILES = (1.0, 99.0)
_ESTIMATED_VALUES = 2_000_000


@dataclass(frozen=True)
class GreyScale:
    """Which intensities the 256 grey values stand for, and which of them are shown at first.

    Attributes:
        stored: intensity of grey value 0 and of 255.
        shown: intensities that are black and white when a case is opened.
    """

    stored: tuple[float, float]
    shown: tuple[float, float]


@dataclass(frozen=True)
class Planes:
    """The slices of a volume as images.

    Attributes:
        mime: "image/png" or "image/jpeg".
        quality: of JPEG, or None where nothing is lost.
        data: base64 of each slice; empty text for a slice of zeros.
    """

    mime: str
    quality: int | None
    data: list[str]


def choose_grey_scale(image: np.ndarray, normalization: NormalizationSettings | None) -> GreyScale:
    """The grey scale of a volume: a fixed window of the plans and half of it to either side, else percentiles.

    Args:
        image: float (slices, rows, columns).
        normalization: of this channel in the plans, or None.
    """
    low, high = float(image.min()), float(image.max())
    if normalization is not None and normalization.scheme == "window":
        margin = (normalization.high - normalization.low) / 2
        stored = (max(low, normalization.low - margin), min(high, normalization.high + margin))
        return _not_empty(stored, (normalization.low, normalization.high))
    values = image.reshape(-1)[:: max(1, image.size // _ESTIMATED_VALUES)]
    stored = tuple(np.percentile(values, _STORED_PERCENTILES).tolist())
    shown = tuple(np.percentile(values, _SHOWN_PERCENTILES).tolist())
    return _not_empty((stored[0], stored[1]), (shown[0], shown[1]))


def grey_values(image: np.ndarray, scale: GreyScale) -> np.ndarray:
    """Intensities to grey values, uint8, same shape; those beyond the stored range are cut off."""
    low, high = scale.stored
    return np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)


def encode_grey(grey: np.ndarray, budget_bytes: int = IMAGE_BYTES) -> Planes:
    """Encode grey values, lossless if some slices let expect that the volume stays within the budget.

    Args:
        grey: uint8 (slices, rows, columns).
        budget_bytes: of all slices together.
    """
    sample = grey[:: max(1, len(grey) // _SAMPLED_SLICES)]
    allowed = budget_bytes * len(sample) / len(grey)
    choices: list[int | None] = [None, *_JPEG_QUALITIES]
    quality = next((q for q in choices[:-1] if sum(len(_encode(s, q)) for s in sample) <= allowed), choices[-1])
    mime = "image/png" if quality is None else "image/jpeg"
    return Planes(mime, quality, [_text(_encode(plane, quality)) for plane in grey])


def encode_exact(values: np.ndarray) -> list[str]:
    """Encode uint8 (slices, rows, columns) as PNG; empty text for slices of zeros."""
    return [_text(_encode(plane, None)) if plane.any() else "" for plane in values]


def _encode(plane: np.ndarray, quality: int | None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(plane))
    if quality is None:
        image.save(stream, "PNG", compress_level=6)
    else:
        image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _not_empty(stored: tuple[float, float], shown: tuple[float, float]) -> GreyScale:
    low, high = stored
    if not high > low:
        stored = (low, low + 1.0)
    return GreyScale(stored, shown if shown[1] > shown[0] else stored)
