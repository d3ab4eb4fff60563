"""Reading images and labels, writing segmentations: files on one side, arrays with a geometry on the other.

One reader per family of formats, named like nnU-Net's and chosen by its rule, so that both programs see the same
voxels in the same order and can write for each other.
"""

from spdnet.dataset.image_io.base import ReaderWriter
from spdnet.dataset.image_io.natural import NaturalImage2DIO
from spdnet.dataset.image_io.nifti import NibabelIO, NibabelIOWithReorient
from spdnet.dataset.image_io.registry import choose_reader, get_reader
from spdnet.dataset.image_io.simpleitk import SimpleITKIO, SimpleITKIOWithReorient
from spdnet.dataset.image_io.tiff import Tiff3DIO

__all__ = [
    "NaturalImage2DIO",
    "NibabelIO",
    "NibabelIOWithReorient",
    "ReaderWriter",
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "Tiff3DIO",
    "choose_reader",
    "get_reader",
]
