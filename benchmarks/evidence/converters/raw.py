"""What the converters share: the split, the raw data set around the converted cases, and the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import ConfigurationError
from spdnet.files import make_folder, write_json
from spdnet.geometry import ImageGeometry

ENDING = ".nii.gz"
TEST_SHARE = 0.2
SPLIT_SEED = 12345


@dataclass(frozen=True)
class Converted:
    """One case after conversion.

    Attributes:
        write_image: writes the image to a file.
        label_map: integers (z, y, x).
        geometry: grid of both.
    """

    write_image: Callable[[Path], None]
    label_map: np.ndarray
    geometry: ImageGeometry


def split(cases: Sequence[str]) -> dict[str, str]:
    """ "Tr" or "Ts" for every case: a fifth of the sorted cases, drawn by `SPLIT_SEED`, is the test part.

    The paper (arXiv 2604.23314) does not say which cases it tested on, nor how many.
    """
    names = sorted(cases)
    drawn = np.random.default_rng(SPLIT_SEED).permutation(len(names))[: round(TEST_SHARE * len(names))]
    return {name: "Ts" if i in drawn else "Tr" for i, name in enumerate(names)}


def write_raw_dataset(
    target: Path, cases: Sequence[str], convert: Callable[[str], Converted], channel: str, label: str, title: str
) -> None:
    """Write a raw data set of one channel and one class; a run that was interrupted goes on.

    Args:
        target: its folder.
        cases: identifiers of all cases.
        convert: makes one of them.
        channel, label, title: names for dataset.json.

    Raises:
        ConfigurationError: the folder holds a data set, or the beginning of another one. DatasetError: as `convert`.
    """
    parts = split(cases)
    content = {
        "channel_names": {"0": channel},
        "labels": {"background": 0, label: 1},
        "numTraining": list(parts.values()).count("Tr"),
        "file_ending": ENDING,
        "name": title,
    }
    begun = target / "unfinished.json"
    if (target / "dataset.json").exists() or (
        begun.exists() and json.loads(begun.read_text(encoding="utf-8")) != content
    ):
        raise ConfigurationError(f"{target} holds another conversion, or a finished one; give another folder")
    for kind in ("images", "labels"):
        for part in ("Tr", "Ts"):
            make_folder(target / f"{kind}{part}")
    write_json(begun, content)
    for case in tqdm(sorted(cases), unit="case"):
        label_file = target / f"labels{parts[case]}" / f"{case}{ENDING}"
        if label_file.exists():
            continue
        converted = convert(case)
        converted.write_image(target / f"images{parts[case]}" / f"{case}_0000{ENDING}")
        SimpleITKIO().write_segmentation(label_file, converted.label_map, converted.geometry)
    begun.rename(target / "dataset.json")
    print(f"{len(cases)} cases, {list(parts.values()).count('Ts')} of them for testing, written to {target}")


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """SOURCE and TARGET."""
    found = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("source", type=Path, metavar="SOURCE", help="folder of the published data")
    found.add_argument("folder", type=Path, metavar="TARGET", help="folder of the raw data set to write")
    return found
