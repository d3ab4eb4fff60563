"""Where things lie: nnU-Net's three folders, and the data sets in them.

The environment variables are read when a folder is needed, never at import, so that the library can be
used without them.
"""

from __future__ import annotations

import os
from pathlib import Path

from spdnet.errors import ConfigurationError, DatasetError

FINGERPRINT_FILE = "spd_fingerprint.json"
DEFAULT_PLANS_NAME = "SPDPlans"
CONFIGURATION = "2d"


def environment_folder(variable: str) -> Path:
    """The folder named by one of nnU-Net's environment variables (`nnUNet_raw` and its siblings).

    Raises:
        ConfigurationError: the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise ConfigurationError(
            f"The environment variable {variable} is not set. spdnet works in nnU-Net's own folders: set it to "
            f"the folder you use with nnU-Net, for example: export {variable}=/data/{variable}"
        )
    return Path(value)


def raw_root() -> Path:
    """Folder `nnUNet_raw`."""
    return environment_folder("nnUNet_raw")


def preprocessed_root() -> Path:
    """Folder `nnUNet_preprocessed`."""
    return environment_folder("nnUNet_preprocessed")


def results_root() -> Path:
    """Folder `nnUNet_results`."""
    return environment_folder("nnUNet_results")


def is_dataset_name(name: str) -> bool:
    """Whether a folder name has nnU-Net's form `DatasetNNN_Name`."""
    return name.startswith("Dataset") and len(name) > 11 and name[7:10].isdigit() and name[10] == "_"


def resolve_dataset_name(dataset: str | int) -> str:
    """The folder name `DatasetNNN_Name` of a data set given by number or by name.

    Looks in those of the three folders that are set, as nnU-Net does; exactly one name may match.

    Raises:
        DatasetError: no data set matches, or several do.
    """
    roots = _roots()
    if not roots:
        raw_root()  # raises the error that names the variable
    known = known_dataset_names()
    text = str(dataset)
    is_number = text.isascii() and text.isdigit()
    matches = [n for n in known if (int(n[7:10]) == int(text) if is_number else n == text)]
    if len(matches) == 1:
        return matches[0]
    where = ", ".join(str(root) for root in roots)
    if not matches:
        listing = ", ".join(known) if known else "none"
        raise DatasetError(f"Data set {text!r} was not found in {where}. Data sets there: {listing}.")
    raise DatasetError(f"Data set {text!r} is ambiguous: {', '.join(matches)} in {where}. Give the full name.")


def known_dataset_names() -> list[str]:
    """The names `DatasetNNN_Name` of all folders in those of the three folders that are set, sorted."""
    return sorted({p.name for root in _roots() if root.is_dir() for p in root.iterdir() if is_dataset_name(p.name)})


def _roots() -> list[Path]:
    variables = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return [Path(os.environ[v]) for v in variables if os.environ.get(v)]


def model_folder(dataset_name: str, trainer_name: str, plans_name: str) -> Path:
    """`nnUNet_results/DatasetNNN_Name/Trainer__Plans__2d`."""
    return results_root() / dataset_name / f"{trainer_name}__{plans_name}__{CONFIGURATION}"
