"""Readers by name, and nnU-Net's rule that chooses one for a data set."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from spdnet.dataset.image_io.base import ReaderWriter
from spdnet.dataset.image_io.natural import NaturalImage2DIO
from spdnet.dataset.image_io.nifti import NibabelIO, NibabelIOWithReorient
from spdnet.dataset.image_io.simpleitk import SimpleITKIO, SimpleITKIOWithReorient
from spdnet.dataset.image_io.tiff import Tiff3DIO
from spdnet.errors import DatasetError

logger = logging.getLogger(__name__)

# In the order in which nnU-Net tries them; those behind are chosen by name only.
_AUTOMATIC: tuple[type[ReaderWriter], ...] = (
    NaturalImage2DIO,
    SimpleITKIO,
    Tiff3DIO,
    NibabelIO,
    NibabelIOWithReorient,
)
_BY_NAME: tuple[type[ReaderWriter], ...] = (SimpleITKIOWithReorient,)


def get_reader(name: str) -> ReaderWriter:
    """The reader of a name, as plans and dataset.json hold it.

    Raises:
        DatasetError: unknown name; lists the known ones.
    """
    known = {reader.__name__: reader for reader in (*_AUTOMATIC, *_BY_NAME)}
    if name not in known:
        raise DatasetError(f"unknown image reader {name!r}; known are {', '.join(known)}")
    return known[name]()


def choose_reader(dataset_json: dict[str, Any], example_file: Path | None = None) -> ReaderWriter:
    """The reader of a data set by nnU-Net's rule.

    `overwrite_image_reader_writer` of dataset.json names it ("None" or an unknown name: automatic); else the first
    that knows the file ending and can read the example file, if there is one. Headers decide; voxels are not read,
    so NaN in the example, say, is found when it is read by the reader whose format it is.

    Raises:
        DatasetError: no reader knows the ending, or none that does can read the example.
    """
    known = {reader.__name__ for reader in (*_AUTOMATIC, *_BY_NAME)}
    wanted = dataset_json.get("overwrite_image_reader_writer", "None")
    if isinstance(wanted, str) and wanted in known:
        return get_reader(wanted)
    if wanted != "None":
        logger.warning("overwrite_image_reader_writer %r is unknown and ignored, as nnU-Net does", wanted)
    ending = str(dataset_json["file_ending"]).lower()
    failures = []
    for reader in (r() for r in _AUTOMATIC if ending in r.supported_file_endings):
        if example_file is None:
            return reader
        try:
            reader.read_geometry(example_file)
        except DatasetError as error:
            failures.append(f"{reader.name}: {error}")
        else:
            return reader
    if failures:
        raise DatasetError(f"no reader for {ending} files can read {example_file}. " + "; ".join(failures))
    endings = sorted({e for r in _AUTOMATIC for e in r.supported_file_endings})
    raise DatasetError(f"no reader knows the file ending {ending}; known are {', '.join(endings)}")
