"""What lies beside the weights: plans, dataset.json, fingerprints, and a file for debugging."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import torch

import spdnet
from spdnet.errors import PlansError
from spdnet.files import write_json
from spdnet.paths import FINGERPRINT_FILE
from spdnet.planning import Fingerprint, SPDPlans
from spdnet.planning.nnunet_plans import nnunet_fingerprint

NNUNET_FINGERPRINT_FILE = "dataset_fingerprint.json"


def write_model_files(folder: Path, plans: SPDPlans, dataset_json: dict[str, Any], preprocessed_folder: Path) -> None:
    """Write what prediction, sharing and nnU-Net's tools read beside the folds of a model.

    nnU-Net's `dataset_fingerprint.json` is copied if nnU-Net has made one, else its content is taken from spdnet's.

    Raises:
        PlansError: the data set's fingerprint is missing or of another version.
    """
    write_json(folder / "plans.json", plans.to_dict())
    write_json(folder / "dataset.json", dataset_json)
    own = preprocessed_folder / FINGERPRINT_FILE
    if not own.exists():
        raise PlansError(f"{own} is missing; run spd_extract_fingerprint")
    shutil.copyfile(own, folder / FINGERPRINT_FILE)
    theirs = preprocessed_folder / NNUNET_FINGERPRINT_FILE
    if theirs.exists():
        shutil.copyfile(theirs, folder / NNUNET_FINGERPRINT_FILE)
    else:
        write_json(folder / NNUNET_FINGERPRINT_FILE, nnunet_fingerprint(Fingerprint.load(own)))


def write_debug_file(folder: Path, device: torch.device, training: dict[str, Any]) -> None:
    """Write `debug.json` into a fold: what runs where, for reports of problems; `training` is added as it is."""
    content = {
        "spdnet": spdnet.__version__,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        **training,
    }
    write_json(folder / "debug.json", content)
