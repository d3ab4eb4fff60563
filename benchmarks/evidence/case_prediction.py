"""From the cases of a raw data set to segmentations on their own grids, for whatever segments a volume of slices.

Slicing, resampling and the way of the points into the network frame, and of the result back, are spdnet's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spdnet.dataset import RawDataset
from spdnet.files import make_folder
from spdnet.inference.steps import CaseTools, NetworkResult, PreparedCase, finish_case, prepare_case
from spdnet.inference.work_list import list_cases
from spdnet.planning import NetworkCase, SPDSettings
from spdnet.prompts import SlicePrompts

# Name, the case in the network frame, its points: to probabilities float (S, k, M, M) of the same square.
Segment = Callable[[str, NetworkCase, SlicePrompts], np.ndarray]


def prepared_cases(
    raw: Path, images: Path, prompts: Path | None, settings: SPDSettings, output: Path | None = None
) -> Iterator[tuple[PreparedCase, SlicePrompts]]:
    """The cases of a folder of images in the network frame, one after the other, each with its points.

    Args:
        raw: data set that describes the images.
        images: folder of images.
        prompts: folder with a prompt file for each case, or None for none.
        settings: of the plans.
        output: where predictions will go, if any.

    Raises:
        DatasetError, PromptFileError: a file is missing or not what it must be.
    """
    tools = _tools(raw, settings)
    for item in list_cases(images, output, prompts, tools.file_ending, len(settings.normalization)):
        case = prepare_case(item, tools)
        yield case, case.prompts or SlicePrompts.empty()


def predict_test_cases(raw: Path, prompts: Path | None, output: Path, settings: SPDSettings, segment: Segment) -> None:
    """Segment every image of `imagesTs` and write CASE.nii.gz; raises as `prepared_cases`."""
    make_folder(output)
    for case, points in prepared_cases(raw, raw / "imagesTs", prompts, settings, output):
        network_case = case.network_case
        probabilities = segment(case.case, network_case, points)
        result = NetworkResult(case.case, case.target, probabilities, network_case.mapping, network_case.geometry)
        finish_case(result, _tools(raw, settings), save_probabilities=False)


def prediction_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments of `predict_test_cases`, and a device."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="raw data set, with imagesTs")
    parser.add_argument("-plans", type=Path, required=True, help="SPD's plans file")
    parser.add_argument("-prompts", type=Path, help="folder with a prompt file for each test case")
    parser.add_argument("-o", type=Path, required=True, help="folder for the predictions")
    parser.add_argument("-device", help="cuda or cpu (default: CUDA where present)")
    return parser


def _tools(raw: Path, settings: SPDSettings) -> CaseTools:
    dataset = RawDataset(raw)
    return CaseTools(settings, dataset.labels, dataset.reader, dataset.file_ending)
