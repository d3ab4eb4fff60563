"""Slices with their points, for methods that learn from single slices: augmented batches, and points as maps or boxes.

Slices, augmentation and the network frame are spdnet's own, so that such methods differ from SPD in the method alone.
The points of a batch are `SlicePrompts` whose slices are counted within the batch; those of a volume are cut the same
way, so that training and prediction look alike to a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from spdnet.planning import StoredCase
from spdnet.planning.plans import AugmentationSettings
from spdnet.prompts import SliceBoxes, SlicePrompts
from spdnet.training.saliency_stage import slice_table
from spdnet.training.sampling import BatchRequest, SliceBatch, SliceBatches, draw_batches, draw_transform

SIGMAS_ACROSS = 28  # a point's Gaussian has a standard deviation of 1/28 of the image's side: 2 px at 56 px


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

    Args:
        cases: preprocessed cases.
        prompts: points of each case, network frame.
        augmentation: of the plans.
        batch_size: slices in a batch; as in SPD's stage 1, every slice comes once before any comes again.
        seed: of all draws.
    """

    def __init__(
        self,
        cases: list[StoredCase],
        prompts: list[SlicePrompts],
        augmentation: AugmentationSettings,
        batch_size: int,
        seed: int,
    ) -> None:
        self.seed = seed
        self._batches = SliceBatches(cases, slice_table(cases), augmentation)
        self._prompts = prompts
        self._is_target = np.concatenate([c.target_slices for c in cases])
        self._batch_size = batch_size
        self._pass: tuple[int, list[BatchRequest]] = (-1, [])

    def __getitem__(self, step: int) -> PromptedBatch:
        """The batch of a step, from 0."""
        request = self._request(step)
        return PromptedBatch(self._batches[request], self._moved_points(request))

    def _request(self, step: int) -> BatchRequest:
        n_batches = -(-len(self._is_target) // self._batch_size)
        number, index = divmod(step, n_batches)
        if self._pass[0] != number:
            rng = np.random.default_rng([self.seed, number])
            rows = draw_batches(self._is_target, self._batch_size, n_batches, rng)
            self._pass = number, BatchRequest.of_epoch(rows, (self.seed, number))
        return self._pass[1][index]

    def _moved_points(self, request: BatchRequest) -> SlicePrompts:
        """The points of the slices, by the transforms that `augment` draws first from the same seeds."""
        assert request.seeds is not None
        moved = []
        for (case, number), seed in zip(self._batches.slice_table[request.rows], request.seeds, strict=True):
            transform = draw_transform(self._batches.augmentation, np.random.default_rng(seed))
            own = self._prompts[case].of_slices(number, number + 1)
            moved.append(own.transformed(transform, self._batches.cases[case].mapping.image_size))
        return stack_slices(moved)


def stack_slices(parts: Sequence[SlicePrompts]) -> SlicePrompts:
    """The points of several single slices, those of part i in slice i; without boxes."""
    placed = [np.column_stack([np.full(len(p), float(i)), p.points_syx[:, 1:]]) for i, p in enumerate(parts)]
    return SlicePrompts.concatenate([SlicePrompts(s, p.class_index) for s, p in zip(placed, parts, strict=True)])


def heat_maps(
    prompts: SlicePrompts, n_slices: int, n_classes: int, image_size: int, device: torch.device
) -> torch.Tensor:
    """Points as images: float32 (n_slices, n_classes, image_size, image_size), in [0, 1].

    Each point is a Gaussian of height 1 and standard deviation `image_size / SIGMAS_ACROSS` pixels; where several
    overlap the highest counts. A point for all classes is in the map of each.
    """
    maps = []
    for k in range(n_classes):
        own = prompts.for_class(k)
        centres = torch.from_numpy(own.points_syx[:, 1:]).to(device, torch.float32)
        distance = torch.arange(image_size, device=device) - centres[..., None]  # (N, 2, image_size): rows, columns
        profiles = torch.exp(-0.5 * (distance * SIGMAS_ACROSS / image_size) ** 2)
        blobs = (profiles[:, 0, :, None] * profiles[:, 1, None, :]).flatten(1)
        slices = torch.from_numpy(own.slice_index).to(device)[:, None].expand_as(blobs)
        maps.append(torch.zeros(n_slices, image_size**2, device=device).scatter_reduce(0, slices, blobs, "amax"))
    return torch.stack(maps, dim=1).unflatten(2, (image_size, image_size))


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
