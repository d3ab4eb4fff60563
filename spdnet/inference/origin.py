"""How the predictions of a folder were made: the record `predict_from_raw_data_args.json` beside them.

nnU-Net writes a file of that name too, with the arguments of its call. Here it also says of which cases predictions
are begun: one that lies in the folder but is not among them was made otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spdnet.errors import ConfigurationError
from spdnet.files import read_json, write_json

ORIGIN_FILE = "predict_from_raw_data_args.json"
ORIGIN_KEYS = ("model", "folds", "checkpoint", "use_mirroring", "prompts", "frame", "outside")
CASES_KEY = "cases"
_MAY_CHANGE = (("outside", "error"),)  # what was predicted had no prompts outside, so "drop" gives the same


def check_continues(folder: Path, origin: dict[str, Any]) -> None:
    """Check that the predictions in a folder were made as those that are to join them.

    Args:
        folder: of predictions.
        origin: what is now, plain data; `ORIGIN_KEYS` of it are compared, as far as the folder's own record has them.

    Raises:
        ConfigurationError: they were made otherwise.
    """
    there = read_origin(folder)
    if (key := _difference(there, origin)) is not None:
        raise ConfigurationError(
            f"{folder} holds predictions made with {key} {there[key]!r}; now it is {origin.get(key)!r}. Go on with "
            "the same, choose another output folder, or leave --continue_prediction out to replace them"
        )


def is_alike(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether a folder's record says, as far as it says anything, that its predictions were made in this way."""
    try:
        return _difference(read_origin(folder), origin) is None
    except ConfigurationError:  # cut off, as nnU-Net's may be: nothing is known
        return False


def begun_cases(folder: Path) -> set[str] | None:
    """The cases of which predictions of the recorded kind were begun; None where the record does not say."""
    cases = read_origin(folder).get(CASES_KEY)
    return set(map(str, cases)) if isinstance(cases, list) else None


def write_origin(folder: Path, origin: dict[str, Any], cases: Iterable[str]) -> None:
    """Record how predictions are made from now on, and of which cases; raises `StorageError`.

    Cases that were begun in the same way before stay on record. A record that does not say of which cases it is, as
    nnU-Net's, goes on saying nothing: all predictions of the folder may be of this kind.
    """
    begun: set[str] | None = set(cases)
    if (folder / ORIGIN_FILE).is_file() and is_alike(folder, origin):
        before = begun_cases(folder)
        begun = None if before is None else before | set(cases)
    write_json(folder / ORIGIN_FILE, origin if begun is None else {**origin, CASES_KEY: sorted(begun)})


def _difference(there: dict[str, Any], origin: dict[str, Any]) -> str | None:
    """The first key by which a record is of predictions that were made otherwise."""
    for key in ORIGIN_KEYS:
        if key in there and there[key] != origin.get(key) and (key, there[key]) not in _MAY_CHANGE:
            return key
    return None


def read_origin(folder: Path) -> dict[str, Any]:
    """The record of a folder; nothing where there is none.

    Raises:
        ConfigurationError: it is no JSON.
    """
    file = folder / ORIGIN_FILE
    if not file.is_file():
        return {}
    there = read_json(file, "record of the predictions", "Remove it.", ConfigurationError)
    return there if isinstance(there, dict) else {}
