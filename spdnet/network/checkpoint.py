"""Checkpoint files: plain values and tensors only, written whole or not at all, read with weights_only.

SAM's own weights are not in them; they are named by backbone and rebuilt from the published file.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from spdnet.errors import ModelError

FORMAT_VERSION = 1
# what torch's restricted unpickler raises on damaged files
_UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)
REQUIRED_KEYS = ("network_weights", "trainer_name", "init_args", "current_epoch", "backbone", "format_version")


def write_checkpoint(file: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside its final place, then rename."""
    partial = file.with_name(f".partial_{file.name}")
    torch.save({**content, "format_version": FORMAT_VERSION}, partial)
    partial.replace(file)


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
        raise ModelError(f"checkpoint {file} is damaged or not a checkpoint: {reason}") from error
    missing = [key for key in REQUIRED_KEYS if key not in content] if isinstance(content, dict) else REQUIRED_KEYS
    if missing:
        raise ModelError(f"checkpoint {file} was not written by spdnet: {', '.join(missing)} missing")
    if content["format_version"] != FORMAT_VERSION:
        raise ModelError(
            f"checkpoint {file} has format version {content['format_version']}; this spdnet reads {FORMAT_VERSION}"
        )
    return content
