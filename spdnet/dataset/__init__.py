"""The raw data set: what cases there are, what their labels mean, reading and writing images.

Knows nnU-Net's raw folder format; knows nothing of prompts' content, plans or networks.
"""

from spdnet.dataset.image_io import ReaderWriter, choose_reader, get_reader
from spdnet.dataset.integrity import check_prompt_names, verify_dataset_integrity
from spdnet.dataset.labels import Labels
from spdnet.dataset.raw_dataset import CaseFiles, RawDataset, check_channels
from spdnet.dataset.splits import Split, load_or_create_splits

__all__ = [
    "CaseFiles",
    "Labels",
    "RawDataset",
    "ReaderWriter",
    "Split",
    "check_channels",
    "check_prompt_names",
    "choose_reader",
    "get_reader",
    "load_or_create_splits",
    "verify_dataset_integrity",
]
