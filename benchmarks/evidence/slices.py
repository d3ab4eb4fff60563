"""Slices with their points, for methods that learn from single slices: augmented batches, and points as maps or boxes.

Slices, augmentation and the network frame are spdnet's own, so that such methods differ from SPD in the method alone.
The points of a batch are `SlicePrompts` whose slices are counted within the batch; those of a volume are cut the same
way, so that training and prediction look alike to a model. A model that is to know the points of the slices around gets
those of a window of slices in the place of each slice.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from spdnet.inference import prompt_maps
from spdnet.planning import StoredCase
from spdnet.planning.plans import AugmentationSettings
from spdnet.prompts import SliceBoxes, SlicePrompts
from spdnet.training.saliency_stage import slice_table
from spdnet.training.sampling import BatchRequest, SliceBatch, SliceBatches, draw_batches, draw_transform

DrawPoints = Callable[[int, np.random.Generator], SlicePrompts]


@dataclass(frozen=True)
class PromptedBatch:
    """Augmented slices, and their points moved with them; slice i of `prompts` is row i of the batch."""

    slices: SliceBatch
    prompts: SlicePrompts

    def pin_memory(self) -> PromptedBatch:
        """The batch in page-locked memory; called by torch's loader."""
        return replace(self, slices=self.slices.pin_memory())


class PromptedSlices(Dataset):
    """Training batches by step. What a step holds depends on the seed and the step alone.

    In every pass over the slices each comes once before any comes again, as in SPD's stage 1, and every case has points
    drawn anew, as in its stage 2.

    Args:
        cases: preprocessed cases.
        draw_points: points of a case, by its place in `cases`, network frame.
        augmentation: of the plans.
        batch_size: slices in a batch.
        seed: of all draws.
        reach: slices to either side whose points are given with those of each slice (`window_points`).
    """

    def __init__(
        self,
        cases: list[StoredCase],
        draw_points: DrawPoints,
        augmentation: AugmentationSettings,
        batch_size: int,
        seed: int,
        reach: int = 0,
    ) -> None:
        self.seed = seed
        self._reach = reach
        self._batches = SliceBatches(cases, slice_table(cases), augmentation)
        self._draw_points = draw_points
        self._is_target = np.concatenate([c.target_slices for c in cases])
        self._batch_size = batch_size
        self._pass = -1
        self._requests: list[BatchRequest] = []
        self._points: dict[int, SlicePrompts] = {}

    def __getitem__(self, step: int) -> PromptedBatch:
        """The batch of a step, from 0."""
        n_batches = -(-len(self._is_target) // self._batch_size)
        if self._pass != step // n_batches:
            self._begin_pass(step // n_batches, n_batches)
        request = self._requests[step % n_batches]
        return PromptedBatch(self._batches[request], self._moved_points(request))

    def _begin_pass(self, number: int, n_batches: int) -> None:
        rng = np.random.default_rng([self.seed, number])
        rows = draw_batches(self._is_target, self._batch_size, n_batches, rng)
        self._pass, self._requests, self._points = number, BatchRequest.of_epoch(rows, (self.seed, number)), {}

    def _points_of(self, case: int) -> SlicePrompts:
        """The points of a case in this pass."""
        if case not in self._points:
            name = zlib.crc32(self._batches.cases[case].case.encode())
            self._points[case] = self._draw_points(case, np.random.default_rng([self.seed, self._pass, name]))
        return self._points[case]

    def _moved_points(self, request: BatchRequest) -> SlicePrompts:
        """The points of the slices, by the transforms that `augment` draws first from the same seeds."""
        assert request.seeds is not None
        moved = []
        for (case, number), seed in zip(self._batches.slice_table[request.rows], request.seeds, strict=True):
            transform = draw_transform(self._batches.augmentation, np.random.default_rng(seed))
            own = window_points(self._points_of(int(case)), int(number), self._reach)
            moved.append(own.transformed(transform, self._batches.cases[case].mapping.image_size))
        return stack_windows(moved, self._reach)


def window_points(prompts: SlicePrompts, number: int, reach: int) -> SlicePrompts:
    """The points of a slice and of `reach` slices to either side, as those of 2 `reach` + 1 slices, the first one 0."""
    return prompts.of_slices(number - reach, number + reach + 1)


def stack_windows(parts: Sequence[SlicePrompts], reach: int) -> SlicePrompts:
    """The points of several windows one after the other, slice s of window i as slice (2 `reach` + 1) i + s; no boxes.

    With `reach` 0 these are single slices, window i as slice i.
    """
    length = 2 * reach + 1
    placed = [np.column_stack([length * i + p.slice_index, p.points_syx[:, 1:]]) for i, p in enumerate(parts)]
    return SlicePrompts.concatenate([SlicePrompts(s, p.class_index) for s, p in zip(placed, parts, strict=True)])


def heat_maps(
    prompts: SlicePrompts, n_slices: int, n_classes: int, image_size: int, device: torch.device
) -> torch.Tensor:
    """Points as images: float32 (n_slices, n_classes, image_size, image_size), in [0, 1].

    Those that SPD's dense prompt is made of (`spdnet.inference.prompt_maps`). A point for all classes is in the map of
    each.
    """
    maps = []
    for k in range(n_classes):
        own = prompts.for_class(k)
        maps.append(prompt_maps.heat_maps(own.slice_index, own.points_syx[:, 1:], n_slices, image_size, device))
    return torch.stack(maps, dim=1)


def boxes_round_points(prompts: SlicePrompts, n_classes: int) -> SlicePrompts:
    """Instead of points the smallest box round them, for every class and slice that has any.

    The box of a single point is the pixel round it.
    """
    edges, slices, classes = [], [], []
    for k in range(n_classes):
        own = prompts.for_class(k)
        for number in np.unique(own.slice_index):
            points = own.points_syx[own.slice_index == number, 1:]
            edges.append([*(points.min(axis=0) - 0.5), *(points.max(axis=0) + 0.5)])
            slices.append(int(number))
            classes.append(k)
    slice_index, class_index = (np.array(values, dtype=np.int64) for values in (slices, classes))
    boxes = SliceBoxes(slice_index, np.array(edges, dtype=np.float64).reshape(-1, 4), class_index)
    return replace(SlicePrompts.empty(), boxes=boxes)
