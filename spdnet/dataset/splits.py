"""Cross-validation splits, shared with nnU-Net through `splits_final.json`."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spdnet.errors import ConfigurationError, DatasetError
from spdnet.files import read_json, write_json

logger = logging.getLogger(__name__)

N_FOLDS = 5
SPLIT_SEED = 12345  # nnU-Net's


@dataclass(frozen=True)
class Split:
    """Case identifiers for training and validation."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def create_splits(case_ids: list[str]) -> list[dict[str, list[str]]]:
    """Five folds by nnU-Net's rule: scikit-learn's KFold, shuffled with seed 12345, over the sorted cases.

    Raises:
        DatasetError: fewer than five cases.
    """
    names = np.array(sorted(case_ids))
    if len(names) < N_FOLDS:
        raise DatasetError(
            f"{len(names)} training cases are too few for {N_FOLDS} folds. Train on all of them: spd_train ID all"
        )
    shuffled = np.arange(len(names))
    np.random.RandomState(SPLIT_SEED).shuffle(shuffled)
    splits = []
    for held_out in np.array_split(shuffled, N_FOLDS):
        is_val = np.zeros(len(names), dtype=bool)
        is_val[held_out] = True
        splits.append({"train": names[~is_val].tolist(), "val": names[is_val].tolist()})
    return splits


def read_splits(file: Path) -> list[dict[str, list[str]]]:
    """Content of a `splits_final.json`: for each fold its "train" and "val" cases.

    Raises:
        DatasetError: the file is not JSON, or not such a list.
    """
    splits = read_json(file, "splits file", "Mend it, or remove it to get the default.", DatasetError)
    if not isinstance(splits, list) or not splits:
        raise DatasetError(f"{file} must hold a list with one entry per fold, not {str(splits)[:60]}")
    for fold, split in enumerate(splits):
        for part in ("train", "val"):
            names = split.get(part) if isinstance(split, dict) else None
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DatasetError(
                    f'{file}: fold {fold} must be {{"train": [cases], "val": [cases]}}; "{part}" is {str(names)[:60]}'
                )
    return splits


def load_or_create_splits(file: Path, case_ids: list[str], fold: int | str) -> Split:
    """The split of one fold; `splits_final.json` is used if there, else made.

    Fold "all" trains on every case and holds none out. A fold beyond the stored ones is nnU-Net's seeded
    80:20 split.

    Raises:
        DatasetError: the file is not a list of splits, or names cases that do not exist, or one twice, or there are too
            few cases.
        ConfigurationError: `fold` is neither "all" nor a number from 0.
    """
    if fold == "all":
        return Split(tuple(sorted(case_ids)), ())
    if not isinstance(fold, int) or fold < 0:
        raise ConfigurationError(f"fold {fold!r} is neither a number from 0 nor 'all'")
    if not file.exists():
        write_json(file, create_splits(case_ids))
    splits = read_splits(file)
    if fold >= len(splits):
        split = _random_split(sorted(case_ids), fold)
        if not split.train:
            raise DatasetError(f"fold {fold} would have no training case: {len(case_ids)} cases are too few to split")
        return split
    split = Split(tuple(splits[fold]["train"]), tuple(splits[fold]["val"]))
    unknown = sorted(set(split.train + split.val) - set(case_ids))
    if unknown:
        raise DatasetError(
            f"{file}: fold {fold} names cases that were not preprocessed: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}. Run spd_preprocess again, or mend the file."
        )
    if not split.train:
        raise DatasetError(f"{file}: fold {fold} has no training case. Mend the file.")
    for part, names in (("train", split.train), ("val", split.val)):
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise DatasetError(f'{file}: fold {fold} names {twice[0]} twice in "{part}". Mend the file.')
    if both := sorted(set(split.train) & set(split.val)):
        logger.warning(
            "%s: fold %s validates on %d of its own training cases, as %s; its scores will say too much",
            file, fold, len(both), both[0],
        )  # fmt: skip
    return split


def _random_split(case_ids: list[str], fold: int) -> Split:
    rng = np.random.RandomState(SPLIT_SEED + fold)
    chosen = set(rng.choice(len(case_ids), int(len(case_ids) * 0.8), replace=False).tolist())
    train = tuple(c for i, c in enumerate(case_ids) if i in chosen)
    return Split(train, tuple(c for i, c in enumerate(case_ids) if i not in chosen))
