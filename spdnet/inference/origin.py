"""How the predictions of a folder were made: the record `predict_from_raw_data_args.json` beside them.

nnU-Net writes a file of that name too, with the arguments of its call, but not with the model. Here it also says of
which cases predictions are begun: one that lies in the folder but is not among them was made otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spdnet.errors import ConfigurationError
from spdnet.files import locked, read_json, write_json

ORIGIN_FILE = "predict_from_raw_data_args.json"
ORIGIN_KEYS = ("model", "folds", "checkpoint", "use_mirroring", "prompts", "frame", "outside")
CASES_KEY = "cases"
_PATHS = ("model", "prompts")
_REPLACE = "leave --continue_prediction out to replace them"
_MAY_CHANGE = (("outside", "error"),)  # what was predicted had no prompts outside, so "drop" gives the same


def check_continues(folder: Path, origin: dict[str, Any]) -> None:
    """Check that the predictions in a folder were made as those that are to join them.

    Args:
        folder: of predictions.
        origin: what is now, plain data; `ORIGIN_KEYS` of it are compared, as far as the folder's own record has them.

    Raises:
        ConfigurationError: they were made otherwise, or by another program, or the record is damaged.
    """
    there = read_origin(folder, f"Choose another output folder, or {_REPLACE}.")
    if there is None:
        return
    if "model" not in there:
        raise ConfigurationError(
            f"{folder} holds predictions of another program: its {ORIGIN_FILE} names no model of spdnet. Choose "
            f"another output folder, or {_REPLACE}"
        )
    if (key := _difference(there, origin)) is not None:
        raise ConfigurationError(
            f"{folder} holds predictions made with {key} {there[key]!r}; now it is {origin.get(key)!r}. Go on with "
            f"the same, choose another output folder, or {_REPLACE}"
        )


def is_alike(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether a folder's record says that its predictions were made in this way, by spdnet."""
    try:
        there = read_origin(folder)
    except ConfigurationError:  # cut off, as nnU-Net's may be: nothing is known
        return False
    return there is not None and "model" in there and _difference(there, origin) is None


def begun_cases(folder: Path) -> set[str]:
    """The cases of which predictions of the recorded kind were begun; none where the record does not say."""
    cases = (read_origin(folder) or {}).get(CASES_KEY)
    return set(map(str, cases)) if isinstance(cases, list) else set()


def write_origin(folder: Path, origin: dict[str, Any], cases: Iterable[str]) -> None:
    """Record how predictions are made from now on, and of which cases; raises `StorageError`.

    Cases that were begun in the same way before stay on record, also those that another process begins just now.
    """
    with locked(folder):
        before = begun_cases(folder) if is_alike(folder, origin) else set()
        write_json(folder / ORIGIN_FILE, {**origin, CASES_KEY: sorted(before | set(cases))})


def _difference(there: dict[str, Any], origin: dict[str, Any]) -> str | None:
    """The first key by which a record is of predictions that were made otherwise."""
    for key in ORIGIN_KEYS:
        if key in there and (key, there[key]) not in _MAY_CHANGE:
            before, now = there[key], origin.get(key)
            if key in _PATHS:
                before, now = _real(before), _real(now)
            if before != now:
                return key
    return None


def _real(paths: Any) -> Any:
    """A path, or paths, without links and detours."""
    if isinstance(paths, list):
        return [_real(p) for p in paths]
    return os.path.realpath(paths) if isinstance(paths, str) else paths


def read_origin(folder: Path, remedy: str = "") -> dict[str, Any] | None:
    """The record of a folder; None where there is none.

    Args:
        folder: of predictions.
        remedy: what to do about a damaged record.

    Raises:
        ConfigurationError: it is no JSON object.
    """
    file = folder / ORIGIN_FILE
    if not file.is_file():
        return None
    there = read_json(file, "record of the predictions", remedy, ConfigurationError)
    if not isinstance(there, dict):
        raise ConfigurationError(f"record of the predictions {file} is no JSON object. {remedy}")
    return there
