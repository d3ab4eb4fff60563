"""Trained models as zip files: packing one, and unpacking one that someone else made.

The layout in the zip is nnU-Net's, so that each of the two programs can install what the other packed.
"""

from spdnet.sharing.export import ExportedModel, export_model
from spdnet.sharing.install import InstalledModel, install_model
from spdnet.sharing.manifest import MANIFEST_FILE, Manifest, SamWeights

__all__ = [
    "MANIFEST_FILE",
    "ExportedModel",
    "InstalledModel",
    "Manifest",
    "SamWeights",
    "export_model",
    "install_model",
]
