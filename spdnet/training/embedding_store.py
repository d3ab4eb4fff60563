"""What a frozen encoder makes of the slices, computed once and kept on disk for all epochs of stage 2.

That is the saliency, and the embeddings, unless stage 2 trains what makes these. Spatial augmentation is kept
by storing several variants of every case, each moved by a transform of its own. A store can be kept and shared by
trainings that have the same stage 1, seed and augmentation: its folder is named by them.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from spdnet.errors import StorageError
from spdnet.files import make_folder, whole_file
from spdnet.geometry import SliceTransform, nearest_index, rescale_points
from spdnet.inference.volume import encode_for_decoder, encode_volume, saliency_of_volume
from spdnet.network import SPDNetwork
from spdnet.planning import SPDSettings, StoredCase
from spdnet.planning.embedding_rule import stored_bytes
from spdnet.prompts import SlicePrompts
from spdnet.training.distributed import current_team
from spdnet.training.sampling import draw_transform
from spdnet.training.stopping import StopRequest

STORE_PREFIX = "stage2_embeddings_"


@dataclass(frozen=True)
class StoredVariant:
    """One variant of one case.

    Attributes:
        case: the preprocessed case it was made from.
        transform: how its slices were moved.
        folder, name: where its arrays lie.
        encode: slices float32 (n, c, size, size) to embeddings float16 (n, 256, grid, grid), where these are not
            stored; by the weights as they are.
    """

    case: StoredCase
    transform: SliceTransform
    folder: Path
    name: str
    encode: Callable[[np.ndarray], np.ndarray] | None = None

    def __reduce__(self) -> tuple[type[StoredVariant], tuple[Any, ...]]:
        """Without what is open, as `StoredCase`."""
        return StoredVariant, tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def embeddings(self) -> np.ndarray:
        """float16 (S, 256, grid, grid), memory-mapped."""
        return np.load(self.folder / f"{self.name}_embeddings.npy", mmap_mode="r")

    def embeddings_of(self, slice_index: np.ndarray) -> np.ndarray:
        """float16 (n, 256, grid, grid) of some slices: read, or computed where they are not stored."""
        if self.encode is None:
            return np.asarray(self.embeddings[slice_index])
        return self.encode(self.slices_of(slice_index))

    def slices_of(self, slice_index: np.ndarray) -> np.ndarray:
        """float32 (n, c, size, size) of some slices of the case, moved."""
        return _move_slices(np.asarray(self.case.slices[slice_index], dtype=np.float32), self.transform)

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

    def target_at(self, k: int, slice_index: np.ndarray, points_yx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether points are on the target of a class, and whether that is known: bool (N,) each.

        Args:
            k: the class.
            slice_index: int64 (N,).
            points_yx: (N, 2), in pixels of the saliency maps. Those under the ignore label are not known.
        """
        size = self.masks.shape[-1]
        y, x = nearest_index(rescale_points(points_yx, self.saliency.shape[-1], size)).clip(0, size - 1).T
        on_target = np.asarray(self.masks[slice_index, k, y, x] > 0)
        if self.valid is None:
            return on_target, np.ones(len(on_target), dtype=bool)
        return on_target, np.asarray(self.valid[slice_index, y, x] > 0)

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
        augmentation = replace(s.augmentation, stored_embeddings=s.stores_embeddings)
        digest = hashlib.sha256(repr((made_by, augmentation, seed)).encode())
        for name, parameter in network.stage1_parameters().items():
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
        self.folder = parent / f"{STORE_PREFIX}{digest.hexdigest()[:16]}"
        self.settings = settings
        self.team = current_team()
        self.stop = StopRequest()
        self.network = network
        self.augmentation = settings.augmentation
        self.seed = seed
        self.keep = keep

    def encode(
        self, cases: list[StoredCase], augment: bool, batch_size: int, device: torch.device
    ) -> list[list[StoredVariant]]:
        """Encode each case, unmoved and, if it is to be augmented, in further variants; one list per case.

        The processes of a team share the cases.

        Raises:
            StorageError: the disk has no room for the embeddings.
        """
        encode = None
        if not self.settings.stores_embeddings:
            encode = partial(_encode, network=self.network, batch_size=batch_size, device=device)
        stored = [
            [
                StoredVariant(case, transform, self.folder, f"{case.case}_{i}", encode)
                for i, transform in enumerate(self._transforms(case, augment))
            ]
            for case in cases
        ]
        missing = [v for variants in stored for v in variants if not self._is_stored(v)]
        self.team.wait()  # before the first one writes
        if self.team.is_main:
            make_folder(self.folder)
            self._check_room(missing)
        self.team.wait()
        self.network.eval()
        share = tqdm(self.team.share(missing), desc="encoding for stage 2", leave=False, disable=not self.team.is_main)
        for variant in self.stop.guard(share):
            self._write(variant, batch_size, device)
        self.team.wait()
        return stored

    def close(self) -> None:
        """Remove the folder, unless it is to be kept."""
        if not self.keep and self.team.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _transforms(self, case: StoredCase, augment: bool) -> list[SliceTransform]:
        rng = np.random.default_rng([self.seed, 2, zlib.crc32(case.case.encode())])
        n_moved = self.augmentation.stored_variants - 1 if augment else 0
        return [SliceTransform(), *(draw_transform(self.augmentation, rng) for _ in range(n_moved))]

    def _is_stored(self, variant: StoredVariant) -> bool:
        """Whether all arrays are there (the masks are written last), made from the case as it is now."""
        properties = variant.case.folder / f"{variant.case.case}.json"
        return _is_newer(self.folder / f"{variant.name}_masks.npy", properties)

    def _check_room(self, variants: list[StoredVariant]) -> None:
        slices = sum(len(v.case.slices) for v in variants)
        needed = stored_bytes(slices, self.network.mask_size // 4, self.network.n_classes, self.settings)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            instead = "spd.augmentation.stored_variants in the plans to 1"
            if self.settings.stores_embeddings:
                instead = (
                    "spd.augmentation.stored_embeddings in the plans to false, so that slices are encoded in every "
                    "batch, which is slower"
                )
            raise StorageError(
                f"stage 2 stores what the encoder makes of {slices} slices in {self.folder}: {needed / 2**30:.1f} GiB, "
                f"and {free / 2**30:.1f} GiB are free. Free some space and continue with --c; or set {instead}"
            )

    def _write(self, variant: StoredVariant, batch_size: int, device: torch.device) -> None:
        case, transform = variant.case, variant.transform
        slices = variant.slices_of(np.arange(len(case.slices)))
        if case.ignored is not None:
            ignored = _move_masks(np.asarray(case.ignored)[:, None], transform)[:, 0]
            self._save(f"{variant.name}_valid.npy", 1 - ignored)
        if self.settings.stores_embeddings:
            volume = encode_volume(self.network, slices, batch_size, device)
            self._save(f"{variant.name}_embeddings.npy", volume.embeddings.numpy())
            saliency = volume.saliency
        else:
            saliency = saliency_of_volume(self.network, slices, batch_size, device)
        self._save(f"{variant.name}_saliency.npy", saliency.astype(np.float16))
        self._save(f"{variant.name}_masks.npy", _move_masks(np.asarray(case.masks), transform))

    def _save(self, name: str, array: np.ndarray) -> None:
        with whole_file(self.folder / name) as partial_file:  # another training may fill the store too
            np.save(partial_file, array)


def _encode(slices: np.ndarray, network: SPDNetwork, batch_size: int, device: torch.device) -> np.ndarray:
    """Embeddings float16 of slices, as they are stored: without dropout and gradients."""
    was_training = network.training
    network.eval()
    with torch.autocast(device.type, enabled=False):  # the encoder's own is inside; the decoder's is around this
        embeddings = encode_for_decoder(network, slices, batch_size, device)
    network.train(was_training)
    return embeddings.numpy()


def _move_slices(slices: np.ndarray, transform: SliceTransform) -> np.ndarray:
    if transform == SliceTransform():
        return slices
    return transform.slices(torch.from_numpy(slices)).numpy()


def _move_masks(masks: np.ndarray, transform: SliceTransform) -> np.ndarray:
    if transform == SliceTransform():
        return masks
    moved = transform.slices(torch.from_numpy(masks.astype(np.float32)))
    return (moved > 0.5).to(torch.uint8).numpy()


def _is_newer(file: Path, source: Path) -> bool:
    return file.exists() and file.stat().st_mtime >= source.stat().st_mtime
