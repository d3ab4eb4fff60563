"""The errors a user can cause, and so can mend. Entry points print their text without a traceback.

Every message says what is wrong, where (file, case, point), the offending value, and what to do.
Anything else that goes wrong inside spdnet is a bug and is left to raise as it is.
"""

from __future__ import annotations

from typing import Any

_LONGEST = 200


def shown(value: Any) -> str:
    """A value of a user's file as a message shows it: not too long, and integers of any length."""
    if isinstance(value, int) and abs(value) >= 10**100:
        return "an integer of more than a hundred digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # such an integer within, or nested without measure
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


class SPDError(Exception):
    """Base class of all errors that spdnet raises on purpose."""


class ConfigurationError(SPDError):
    """An environment variable, a command-line option or a device is missing or contradictory."""


class StorageError(SPDError):
    """A file or folder cannot be written: the disk is full, the folder is read-only or gone."""


class DatasetError(SPDError):
    """A raw data set, an image or a label file is not what it must be."""


class PromptFileError(SPDError):
    """A prompt file cannot be read, or its points do not belong to the image."""


class PlansError(SPDError):
    """A fingerprint or plans file is missing, damaged or does not fit the data set."""


class ModelError(SPDError):
    """A checkpoint or a trained model folder is missing, damaged or does not fit its plans."""
