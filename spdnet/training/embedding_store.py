"""Embeddings of a frozen encoder, computed once and kept on disk for all epochs of stage 2.

Spatial augmentation is kept by storing several variants of every case, each moved by a transform of its own. A
store can be kept and shared by trainings that have the same encoder, seed and augmentation: its folder is named by
them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spdnet.geometry import SliceTransform
from spdnet.inference.volume import encode_volume
from spdnet.network import SPDNetwork
from spdnet.planning import SPDSettings, StoredCase
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

    @cached_property
    def valid(self) -> np.ndarray | None:
        """uint8 (S, size, size), 0 where a pixel has the ignore label, memory-mapped; None if the data set has none."""
        if self.case.ignored is None:
            return None
        return np.load(self.folder / f"{self.name}_valid.npy", mmap_mode="r")

    def move(self, prompts: SlicePrompts) -> SlicePrompts:
        """Points of the case, moved with its slices."""
        return prompts.transformed(self.transform, self.masks.shape[-1])


class EmbeddingStore:
    """Encodes cases into a folder of its own.

    Args:
        parent: where to make the folder.
        network: the encoder, with the weights that stage 2 will have.
        settings: how slices are made, and how training cases are moved.
        seed: of the transforms.
        keep: leave the folder in place when closed, and use what an earlier store left there.
    """

    def __init__(self, parent: Path, network: SPDNetwork, settings: SPDSettings, seed: int, keep: bool) -> None:
        s = settings
        made_by = (s.slicing_axis, s.image_size, s.pixel_spacing_mm, s.crop_to_nonzero, s.normalization, s.backbone)
        digest = hashlib.sha256(repr((made_by, s.augmentation, seed)).encode())
        for name, parameter in network.stage1_parameters().items():
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
        self.folder = parent / f"stage2_embeddings_{digest.hexdigest()[:16]}"
        self.network = network
        self.augmentation = settings.augmentation
        self.seed = seed
        self.keep = keep

    def encode(
        self, cases: list[StoredCase], augment: bool, batch_size: int, device: torch.device
    ) -> list[list[StoredVariant]]:
        """Encode each case, unmoved and, if it is to be augmented, in further variants; one list per case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.network.eval()
        stored = []
        for case in tqdm(cases, desc="encoding for stage 2", leave=False):
            rng = np.random.default_rng([self.seed, 2, zlib.crc32(case.case.encode())])
            transforms = [SliceTransform()]
            if augment:
                transforms += [
                    draw_transform(self.augmentation, rng) for _ in range(self.augmentation.stored_variants - 1)
                ]
            stored.append(
                [
                    self._encode_variant(case, transform, f"{case.case}_{i}", batch_size, device)
                    for i, transform in enumerate(transforms)
                ]
            )
        return stored

    def close(self) -> None:
        """Remove the folder, unless it is to be kept."""
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _encode_variant(
        self,
        case: StoredCase,
        transform: SliceTransform,
        name: str,
        batch_size: int,
        device: torch.device,
    ) -> StoredVariant:
        variant = StoredVariant(case, transform, self.folder, name)
        if _is_newer(self.folder / f"{name}_masks.npy", case.folder / f"{case.case}.json"):  # both written last
            return variant
        slices, masks = np.asarray(case.slices, dtype=np.float32), np.asarray(case.masks)
        if transform != SliceTransform():
            slices = transform.slices(torch.from_numpy(slices)).numpy()
        if case.ignored is not None:
            ignored = _move_masks(np.asarray(case.ignored)[:, None], transform)[:, 0]
            np.save(self.folder / f"{name}_valid.npy", 1 - ignored)
        volume = encode_volume(self.network, slices, batch_size, device)
        np.save(self.folder / f"{name}_embeddings.npy", volume.embeddings.numpy())
        np.save(self.folder / f"{name}_saliency.npy", volume.saliency.astype(np.float16))
        partial = self.folder / f".partial_{os.getpid()}_{name}_masks.npy"  # another training may fill the store too
        np.save(partial, _move_masks(masks, transform))
        partial.replace(self.folder / f"{name}_masks.npy")
        return variant


def _move_masks(masks: np.ndarray, transform: SliceTransform) -> np.ndarray:
    if transform == SliceTransform():
        return masks
    moved = transform.slices(torch.from_numpy(masks.astype(np.float32)))
    return (moved > 0.5).to(torch.uint8).numpy()


def _is_newer(file: Path, source: Path) -> bool:
    return file.exists() and file.stat().st_mtime >= source.stat().st_mtime
