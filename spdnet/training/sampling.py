"""Which slices an epoch sees, and what is done to them: every draw comes from a generator that can be replayed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from torch.utils.data import Dataset

from spdnet.geometry import SliceTransform
from spdnet.geometry.slice_transform import transform_slices
from spdnet.planning import StoredCase
from spdnet.planning.plans import AugmentationSettings

MIN_TARGET_SHARE = 1 / 3  # as nnU-Net's oversampling


def draw_batches(is_target: np.ndarray, batch_size: int, n_batches: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw batches of slice indices; each index comes once before any comes again.

    Where fewer than a third of the slices hold target, target slices are drawn more often, to make up a third
    of every batch.

    Args:
        is_target: bool (N,), which slices hold target.
        batch_size, n_batches: how many.
        rng: source of all draws.

    Returns:
        `n_batches` arrays int64 (batch_size,).
    """
    share = is_target.mean()
    if share == 0 or share >= MIN_TARGET_SHARE:
        stream = _endless(np.arange(len(is_target)), rng)
        return [np.fromiter(stream, np.int64, batch_size) for _ in range(n_batches)]
    n_target = max(1, round(batch_size * MIN_TARGET_SHARE))
    targets = _endless(np.flatnonzero(is_target), rng)
    others = _endless(np.flatnonzero(~is_target), rng)
    return [
        np.concatenate([np.fromiter(targets, np.int64, n_target), np.fromiter(others, np.int64, batch_size - n_target)])
        for _ in range(n_batches)
    ]


def _endless(indices: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(indices)


@dataclass(frozen=True)
class SliceBatch:
    """A batch of slices.

    Attributes:
        images: float32 (B, c, size, size) in [0, 1].
        masks: float32 (B, k, size, size), 0 or 1.
        valid: float32 (B, 1, size, size), 0 where a pixel has the ignore label; None where the data set has none.
        names: case and slice of each.
    """

    images: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor | None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> SliceBatch:
        """The batch on a device, images in the memory layout that is fastest there."""
        images = self.images.to(device, non_blocking=True, memory_format=torch.channels_last)
        masks, valid = (None if t is None else t.to(device, non_blocking=True) for t in (self.masks, self.valid))
        assert masks is not None
        return SliceBatch(images, masks, valid, self.names)

    def pin_memory(self) -> SliceBatch:
        """The batch in page-locked memory, for asynchronous copies; called by torch's loader."""
        valid = None if self.valid is None else self.valid.pin_memory()
        return SliceBatch(self.images.pin_memory(), self.masks.pin_memory(), valid, self.names)


@dataclass(frozen=True)
class BatchRequest:
    """What a batch is to hold: all that is drawn, but for the augmentation of each slice, which has a seed of its own.

    Attributes:
        rows: int64 (B,), rows of the slice table.
        seeds: one for each slice, or None for slices as they are.
    """

    rows: np.ndarray
    seeds: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of_epoch(cls, batches: list[np.ndarray], seed: tuple[int, ...]) -> list[BatchRequest]:
        """Requests for an epoch of augmented batches, given the rows of each; slice j of batch i has (*seed, i, j)."""
        return [
            cls(rows, tuple((*seed, index, place) for place in range(len(rows)))) for index, rows in enumerate(batches)
        ]

    def share(self, rank: int, size: int) -> BatchRequest:
        """Every `size`-th slice, augmented as in the whole batch."""
        return BatchRequest(self.rows[rank::size], None if self.seeds is None else self.seeds[rank::size])


class SliceBatches(Dataset):
    """Makes batches of stage 1. What is made depends on the request alone, not on the worker that makes it.

    Args:
        cases: preprocessed cases.
        slice_table: int64 (N, 2), case and slice of every slice.
        augmentation: settings for requests with seeds.
    """

    def __init__(self, cases: list[StoredCase], slice_table: np.ndarray, augmentation: AugmentationSettings) -> None:
        self.cases = cases
        self.slice_table = slice_table
        self.augmentation = augmentation

    def __getitem__(self, request: BatchRequest) -> SliceBatch:
        """The batch that a request describes."""
        chosen = self.slice_table[request.rows]
        names = tuple(f"{self.cases[c].case}, slice {s}" for c, s in chosen)
        images = np.stack([self.cases[c].slices[s] for c, s in chosen]).astype(np.float32)
        masks = np.stack([self.cases[c].masks[s] for c, s in chosen]).astype(np.float32)
        ignored = None
        if self.cases[0].ignored is not None:
            ignored = np.stack([self.cases[c].ignored[s] for c, s in chosen]).astype(np.float32)[:, None]
        if request.seeds is None:
            valid = None if ignored is None else torch.from_numpy(1 - ignored)
            return SliceBatch(torch.from_numpy(images), torch.from_numpy(masks), valid, names)
        rngs = [np.random.default_rng(seed) for seed in request.seeds]
        return replace(augment(images, masks, ignored, self.augmentation, rngs), names=names)


def augment(
    images: np.ndarray,
    masks: np.ndarray,
    ignored: np.ndarray | None,
    settings: AugmentationSettings,
    rngs: Sequence[np.random.Generator],
) -> SliceBatch:
    """Move every slice by a transform of its own, and vary its intensities.

    Args:
        images: float32 (B, c, size, size) in [0, 1].
        masks: float32 (B, k, size, size), 0 or 1.
        ignored: float32 (B, 1, size, size), 1 where a pixel has the ignore label; None without one.
        settings: of the plans.
        rngs: source of all draws, one for each slice.
    """
    transforms = [draw_transform(settings, rng) for rng in rngs]

    def move_mask(mask: np.ndarray) -> torch.Tensor:
        return (transform_slices(transforms, torch.from_numpy(mask)) > 0.5).float()

    moved = transform_slices(transforms, torch.from_numpy(images))
    if settings.intensity:
        moved = torch.from_numpy(_vary_intensities(moved.numpy(), rngs))
    return SliceBatch(moved, move_mask(masks), None if ignored is None else 1 - move_mask(ignored))


def draw_transform(settings: AugmentationSettings, rng: np.random.Generator) -> SliceTransform:
    """Draw one spatial transform."""
    return SliceTransform.draw(
        rng, settings.max_angle_degrees, settings.scale_range, settings.flip_columns, settings.flip_rows
    )


def _vary_intensities(images: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
    """nnU-Net's intensity augmentation by batchgenerators, clipped to [0, 1]."""
    transform = Compose(
        [
            GaussianNoiseTransform(noise_variance=(0, 0.01), p_per_sample=0.15),
            GaussianBlurTransform((0.5, 1.0), different_sigma_per_channel=True, p_per_sample=0.1),
            BrightnessMultiplicativeTransform((0.75, 1.25), p_per_sample=0.25),
            ContrastAugmentationTransform((0.75, 1.25), p_per_sample=0.25),
            GammaTransform((0.7, 1.5), per_channel=True, retain_stats=False, p_per_sample=0.3),
        ]
    )
    state, python_state = np.random.get_state(), random.getstate()
    varied = images.copy()
    try:
        for index, rng in enumerate(rngs):
            np.random.seed(rng.integers(2**32))  # batchgenerators draws from the global states of numpy and of Python
            random.seed(int(rng.integers(2**32)))
            varied[index] = transform(data=varied[index : index + 1])["data"][0]
    finally:
        np.random.set_state(state)
        random.setstate(python_state)
    return np.clip(varied, 0.0, 1.0).astype(np.float32)
