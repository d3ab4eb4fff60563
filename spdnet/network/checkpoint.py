"""Checkpoint files: plain values and tensors only, written whole or not at all, read with weights_only.

They have the keys of an nnU-Net v2 checkpoint, and spdnet's own under "spd". SAM's own weights are not in them; they
are named by backbone and rebuilt from the published file.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from spdnet.errors import ModelError
from spdnet.files import whole_file

FINAL, BEST, LATEST = "checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth"
FORMAT_VERSION = 2
# what torch's restricted unpickler raises on damaged files
_UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
REQUIRED_KEYS = ("network_weights", "init_args", "current_epoch", "inference_allowed_mirroring_axes", "spd")
REQUIRED_OWN_KEYS = ("format_version", "trainer_name", "settings")


def write_checkpoint(file: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; the format version is added to its part "spd".

    Raises:
        StorageError: it cannot be written; what was there before still is.
    """
    with whole_file(file) as partial, partial.open("wb") as stream:
        torch.save({**content, "spd": {**content["spd"], "format_version": FORMAT_VERSION}}, stream)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        ModelError: missing, damaged, not of spdnet, or of another format version.
    """
    if not file.exists():
        there = sorted(f.name for f in file.parent.glob("checkpoint_*.pth")) if file.parent.is_dir() else []
        hint = f"There: {', '.join(there)}; choose with -chk." if there else "Train first: spd_train."
        raise ModelError(f"checkpoint {file} is missing. {hint}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        if reason.startswith("Weights only load failed"):  # torch goes on to advise against that
            reason = "it holds more than numbers and texts, which could be a program, or is of another kind"
        raise ModelError(f"checkpoint {file} is damaged or not a checkpoint: {reason}") from error
    missing = _missing(content, REQUIRED_KEYS) or _missing(content["spd"], REQUIRED_OWN_KEYS)
    if missing:
        raise ModelError(f"checkpoint {file} was not written by this version of spdnet: {', '.join(missing)} missing")
    if content["spd"]["format_version"] != FORMAT_VERSION:
        raise ModelError(
            f"checkpoint {file} has format version {content['spd']['format_version']}; this spdnet reads "
            f"{FORMAT_VERSION}"
        )
    return content


def _missing(content: Any, keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if not isinstance(content, dict) or key not in content]
