"""Batches of stage 2: runs of adjacent slices, what they ask of the decoder, and what is loaded for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spdnet.inference.prompt_maps import PromptMaps
from spdnet.inference.prompting import DecoderRows
from spdnet.training.embedding_store import StoredVariant


@dataclass(frozen=True)
class Run:
    """Rows of one variant that follow each other: adjacent slices of one class, as far as they are decoded.

    Attributes:
        variant: what they are of.
        rows: all rows of the variant.
        indices: int64 (n,), which of these.
        maps: of the variant; None for a network without dense prompt.
    """

    variant: StoredVariant
    rows: DecoderRows
    indices: np.ndarray
    maps: PromptMaps | None

    @property
    def slice_index(self) -> np.ndarray:
        """int64 (n,)."""
        return self.rows.slice_index[self.indices]

    @property
    def class_index(self) -> int:
        """The class of all of them."""
        return int(self.rows.class_index[self.indices[0]])

    def __str__(self) -> str:
        return f"{self.variant.name}, class {self.class_index}, slices {self.slice_index.tolist()}"


@dataclass(frozen=True)
class RowsRequest:
    """What is to be loaded for a run: small, as it goes to another process."""

    variant_name: str
    slice_index: np.ndarray
    class_index: int

    @classmethod
    def of(cls, run: Run) -> RowsRequest:
        """What a run needs."""
        return cls(run.variant.name, run.slice_index, run.class_index)


@dataclass(frozen=True)
class LoadedRows:
    """What is stored of the rows of a batch.

    Attributes:
        inputs: slices float32 (R, c, size, size), or their embeddings float16 (R, 256, grid, grid) where these are
            stored.
        masks: uint8 (R, size, size).
        valid: uint8 (R, size, size), 0 where a pixel has the ignore label; None where the data set has none.
    """

    inputs: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor | None

    def pin_memory(self) -> LoadedRows:
        """The same in page-locked memory, for asynchronous copies; called by torch's loader."""
        valid = None if self.valid is None else self.valid.pin_memory()
        return LoadedRows(self.inputs.pin_memory(), self.masks.pin_memory(), valid)


class StoredRows(Dataset):
    """Loads the rows of some variants; its items are asked for by lists of `RowsRequest`.

    Args:
        variants: that may be asked for.
        embeddings: whether their embeddings are stored, and loaded in place of the slices.
    """

    def __init__(self, variants: Iterable[StoredVariant], embeddings: bool) -> None:
        self._variants = {v.name: replace(v, encode=None) for v in variants}  # no network goes to another process
        self._embeddings = embeddings

    def __getitem__(self, requests: Sequence[RowsRequest]) -> LoadedRows:
        """The rows of a batch, run after run."""
        parts = [(self._variants[request.variant_name], request) for request in requests]
        inputs = [v.embeddings_of(r.slice_index) if self._embeddings else v.slices_of(r.slice_index) for v, r in parts]
        masks = [v.masks[r.slice_index, r.class_index] for v, r in parts]
        valid = [v.valid[r.slice_index] for v, r in parts if v.valid is not None]
        return LoadedRows(_tensor(inputs), _tensor(masks), _tensor(valid) if valid else None)


@dataclass(frozen=True)
class PromptBatch:
    """Some runs, and what was loaded for them."""

    runs: list[Run]
    loaded: LoadedRows

    def __len__(self) -> int:
        """Rows, which is slices if each is asked for one class."""
        return len(self.loaded.masks)


class PromptBatches:
    """The batches of an epoch.

    Args:
        batches: the runs of each.
        loader: hands out their `LoadedRows` in the same order.
    """

    def __init__(self, batches: Sequence[list[Run]], loader: DataLoader) -> None:
        self._batches = batches
        self._loader = loader

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[PromptBatch]:
        for runs, loaded in zip(self._batches, self._loader, strict=True):
            yield PromptBatch(runs, loaded)


def cut_into_runs(rows: DecoderRows, run_length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row indices in runs of at most `run_length` within a class, cut at a random offset."""
    parts = []
    for k in np.unique(rows.class_index):
        indices = np.flatnonzero(rows.class_index == k)
        first = int(rng.integers(1, run_length + 1))
        parts += np.split(indices, range(first, len(indices), run_length))
    return [p for p in parts if len(p)]


def adjacent_pairs(runs: Sequence[Run], masks: np.ndarray) -> np.ndarray:
    """Rows of a batch that are adjacent slices i, i + 1 of one class and both hold target: int64 (p, 2).

    Pairs at the ends of the target are left out: there the masks do differ.

    Args:
        runs: of the batch.
        masks: of its rows, (R, size, size).
    """
    holds_target = np.asarray(masks.any(axis=(1, 2)))
    pairs, offset = [], 0
    for run in runs:
        adjacent = np.flatnonzero(np.diff(run.slice_index) == 1) + offset
        pairs.append(adjacent[holds_target[adjacent] & holds_target[adjacent + 1]])
        offset += len(run.indices)
    first = np.concatenate(pairs)
    return np.stack([first, first + 1], axis=1)


def _tensor(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts))
