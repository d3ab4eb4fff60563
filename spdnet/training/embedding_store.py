"""Embeddings of a frozen encoder, computed once and kept on disk for all epochs of stage 2.

Spatial augmentation is kept by storing several variants of every case, each moved by a transform of its own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spdnet.geometry import SliceTransform
from spdnet.inference.volume import encode_volume
from spdnet.network import SPDNetwork
from spdnet.planning import StoredCase
from spdnet.planning.plans import AugmentationSettings
from spdnet.prompts import SlicePrompts
from spdnet.training.sampling import draw_transform


@dataclass(frozen=True)
class StoredVariant:
    """One variant of one case.

    Attributes:
        case: the preprocessed case it was made from.
        transform: how its slices were moved.
        folder, name: where its arrays lie.
    """

    case: StoredCase
    transform: SliceTransform
    folder: Path
    name: str

    @cached_property
    def embeddings(self) -> np.ndarray:
        """float16 (S, 256, grid, grid), memory-mapped."""
        return np.load(self.folder / f"{self.name}_embeddings.npy", mmap_mode="r")

    @cached_property
    def saliency(self) -> np.ndarray:
        """float16 (S, k, M, M), memory-mapped."""
        return np.load(self.folder / f"{self.name}_saliency.npy", mmap_mode="r")

    @cached_property
    def masks(self) -> np.ndarray:
        """uint8 (S, k, size, size), memory-mapped."""
        return np.load(self.folder / f"{self.name}_masks.npy", mmap_mode="r")

    def move(self, prompts: SlicePrompts) -> SlicePrompts:
        """Points of the case, moved with its slices."""
        return prompts.transformed(self.transform, self.masks.shape[-1])


class EmbeddingStore:
    """Encodes cases into a folder of its own and removes it when closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def encode(
        self,
        network: SPDNetwork,
        cases: list[StoredCase],
        augmentation: AugmentationSettings | None,
        batch_size: int,
        device: torch.device,
        seed: int,
    ) -> list[list[StoredVariant]]:
        """Encode each case, unmoved and, with `augmentation`, in further variants; one list per case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        network.eval()
        stored = []
        for index, case in enumerate(tqdm(cases, desc="encoding for stage 2", leave=False)):
            rng = np.random.default_rng([seed, 2, index])
            transforms = [SliceTransform()]
            if augmentation is not None:
                transforms += [draw_transform(augmentation, rng) for _ in range(augmentation.stored_variants - 1)]
            prefix = "val" if augmentation is None else "train"
            stored.append(
                [
                    self._encode_variant(network, case, transform, f"{prefix}_{case.case}_{i}", batch_size, device)
                    for i, transform in enumerate(transforms)
                ]
            )
        return stored

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _encode_variant(
        self,
        network: SPDNetwork,
        case: StoredCase,
        transform: SliceTransform,
        name: str,
        batch_size: int,
        device: torch.device,
    ) -> StoredVariant:
        slices, masks = np.asarray(case.slices, dtype=np.float32), np.asarray(case.masks)
        if transform != SliceTransform():
            slices = transform.slices(torch.from_numpy(slices)).numpy()
            moved = transform.slices(torch.from_numpy(masks.astype(np.float32)))
            masks = (moved > 0.5).to(torch.uint8).numpy()
        volume = encode_volume(network, slices, batch_size, device)
        np.save(self.folder / f"{name}_embeddings.npy", volume.embeddings.numpy())
        np.save(self.folder / f"{name}_saliency.npy", volume.saliency.astype(np.float16))
        np.save(self.folder / f"{name}_masks.npy", masks)
        return StoredVariant(case, transform, self.folder, name)
