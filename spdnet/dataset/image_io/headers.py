"""The headers of MHA, NRRD, GIPL and TIFF files, checked before a library parses them.

ITK's parser of MHA crashes the process on numbers that do not fit together, and tifffile follows a chain of pages that
bites its own tail for ever. An MHA or NRRD header may also name another file, which is not read.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

from spdnet.dataset.image_io.stored import StoredVoxels
from spdnet.errors import DatasetError

_HEADER_BYTES = 1 << 16
_MHA_LINE = re.compile(r"\s*([A-Za-z]\w{0,60})\s*=\s*([^\0]{0,4000}?)\s*")
# numbers that a field has, for n dimensions
_MHA_NUMBERS: dict[str, Callable[[int], int]] = {
    "DimSize": lambda n: n,
    "ElementSpacing": lambda n: n,
    "ElementSize": lambda n: n,
    "Offset": lambda n: n,
    "Origin": lambda n: n,
    "Position": lambda n: n,
    "CenterOfRotation": lambda n: n,
    "TransformMatrix": lambda n: n * n,
    "Rotation": lambda n: n * n,
    "Orientation": lambda n: n * n,
}
_MHA_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
_NRRD_PACKING = {"raw": "none", "gz": "gzip", "gzip": "gzip"}
_NRRD_BYTES = {
    1: ("int8", "uint8", "signed char", "unsigned char", "uchar", "int8_t", "uint8_t"),
    2: ("int16", "uint16", "short", "short int", "signed short", "signed short int", "ushort", "unsigned short",
        "unsigned short int", "int16_t", "uint16_t"),
    4: ("int32", "uint32", "int", "signed int", "uint", "unsigned int", "int32_t", "uint32_t", "float"),
    8: ("int64", "uint64", "longlong", "long long", "long long int", "signed long long", "signed long long int",
        "ulonglong", "unsigned long long", "unsigned long long int", "int64_t", "uint64_t", "double"),
}  # fmt: skip

_GIPL_HEADER_BYTES = 256
_GIPL_BYTES = {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}  # by the number of the type, as ITK has them


def mha_voxels(file: Path, case: str) -> StoredVoxels:
    """Where the voxels of an MHA file are, by its header.

    Raises:
        DatasetError: the header is not what ITK can parse safely, or names another file.
    """
    lines, offset = _text_header(file, lambda line: line.lstrip().startswith(b"ElementDataFile"))
    fields: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _MHA_LINE.fullmatch(line)
        if match is None or match[1] in fields:
            raise _damaged(file, case, f"line {number} is {line[:60]!r}")
        fields[match[1]] = match[2]
    if fields.get("ElementDataFile", "").upper() != "LOCAL":
        raise _elsewhere(file, case)
    n = _integers(fields.get("NDims", ""))
    if len(n) != 1 or not 2 <= n[0] <= 4:
        raise _damaged(file, case, f"NDims is {fields.get('NDims', '')!r}")
    for name, count in _MHA_NUMBERS.items():
        if name in fields and len(_numbers(fields[name])) != count(n[0]):
            raise _damaged(file, case, f"{name} is {fields[name][:60]!r}")
    channels = _integers(fields.get("ElementNumberOfChannels", "1"))
    element = _MHA_BYTES.get(fields.get("ElementType", ""))
    if len(channels) != 1 or not 1 <= channels[0] <= 1000 or element is None:
        raise _damaged(file, case, f"ElementType is {fields.get('ElementType', '')[:60]!r}")
    if fields.get("BinaryData", "True")[:1] not in ("T", "t", "1") or fields.get("HeaderSize", "0") not in ("0", "-1"):
        raise _damaged(file, case, "its voxels are written as text, or elsewhere in the file")
    shape = _integers(fields.get("DimSize", ""))
    if len(shape) != n[0] or min(shape) < 1:
        raise _damaged(file, case, f"DimSize is {fields.get('DimSize', '')[:60]!r}")
    n_bytes = math.prod(shape) * element * channels[0]
    if fields.get("CompressedData", "F")[:1] not in ("T", "t", "1"):
        return StoredVoxels(offset, n_bytes, "none")
    packed = _integers(fields.get("CompressedDataSize", ""))  # ITK reads so many bytes, and zeros where they do not do
    if len(packed) != 1 or not 1 <= packed[0] <= file.stat().st_size - offset:
        raise _damaged(file, case, f"CompressedDataSize is {fields.get('CompressedDataSize', '')[:60]!r}")
    return StoredVoxels(offset, n_bytes, "zlib", packed[0])


def nrrd_voxels(file: Path, case: str) -> StoredVoxels | None:
    """Where the voxels of an NRRD file are, by its header; None where ITK has to find out.

    Raises:
        DatasetError: they are in another file, or packed in a way that ITK cannot unpack.
    """
    lines, offset = _text_header(file, lambda line: not line.strip())
    fields = {}
    for line in lines:
        name, divider, value = line.partition(":")
        if divider and not line.startswith("#"):
            fields[name.strip().lower().replace(" ", "")] = value.strip().lower()
    if "datafile" in fields:
        raise _elsewhere(file, case)
    if fields.get("encoding", "") in ("bz2", "bzip2"):
        raise DatasetError(f"case {case}: the voxels of {file} are packed by bzip2, which ITK cannot read; use gzip")
    packing = _NRRD_PACKING.get(fields.get("encoding", ""))
    size = next((n for n, names in _NRRD_BYTES.items() if fields.get("type", "") in names), None)
    shape = _integers(fields.get("sizes", ""))
    if packing is None or size is None or not shape or "byteskip" in fields or "lineskip" in fields:
        return None
    return StoredVoxels(offset, math.prod(shape) * size, packing)  # type: ignore[arg-type]


def gipl_voxels(file: Path, case: str) -> StoredVoxels | None:
    """Where the voxels of a GIPL file are, by its header; None for types of which ITK is left to find out.

    Raises:
        DatasetError: the header is not whole.
    """
    with file.open("rb") as stream:
        header = stream.read(_GIPL_HEADER_BYTES)
    if len(header) < _GIPL_HEADER_BYTES:
        raise _damaged(file, case, f"it has {len(header)} of {_GIPL_HEADER_BYTES} bytes")
    *shape, element = struct.unpack(">5H", header[:10])
    if element not in _GIPL_BYTES:
        return None
    return StoredVoxels(_GIPL_HEADER_BYTES, math.prod(max(n, 1) for n in shape) * _GIPL_BYTES[element], "none")


def check_tiff_pages(file: Path, case: str) -> None:
    """Follow the chain of a TIFF's pages.

    Raises:
        DatasetError: it is no TIFF, or the chain leads out of the file or back to an earlier page.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        kind = struct.unpack(f"{order}H", start[2:4])[0] if order and len(start) >= 8 else 0
        if kind not in (42, 43) or (kind == 43 and len(start) < 16):
            raise DatasetError(f"case {case}: cannot read the header of {file}: it is not a TIFF")
        number, entry, pointer = ("Q", 20, "Q") if kind == 43 else ("H", 12, "I")
        page = struct.unpack(f"{order}{pointer}", start[8:16] if kind == 43 else start[4:8])[0]
        seen: set[int] = set()
        while page:
            stream.seek(page)
            head = stream.read(struct.calcsize(number))
            if page in seen or len(head) < struct.calcsize(number) or len(seen) * entry > size:
                raise _damaged(file, case, f"the chain of its pages is broken after {len(seen)} pages")
            seen.add(page)
            next_at = page + len(head) + struct.unpack(f"{order}{number}", head)[0] * entry
            stream.seek(min(next_at, size))
            tail = stream.read(struct.calcsize(pointer))
            if len(tail) < struct.calcsize(pointer):
                raise _damaged(file, case, f"the chain of its pages leads out of it after {len(seen)} pages")
            page = struct.unpack(f"{order}{pointer}", tail)[0]
            if page >= size:
                raise _damaged(file, case, f"the chain of its pages leads out of it after {len(seen)} pages")


def _text_header(file: Path, is_last: Callable[[bytes], bool]) -> tuple[list[str], int]:
    """Lines of a text header to the last one, and the byte after them."""
    lines = []
    with file.open("rb") as stream:
        while stream.tell() < _HEADER_BYTES and (line := stream.readline(_HEADER_BYTES)):
            lines.append(line.decode("latin-1").rstrip("\r\n"))
            if is_last(line):
                break
        return lines, stream.tell()


def _integers(text: str) -> list[int]:
    """Integers of a text, or nothing if it holds something else."""
    parts = text.split()
    return [int(p) for p in parts] if all(re.fullmatch(r"[+-]?\d{1,18}", p, re.ASCII) for p in parts) else []


def _numbers(text: str) -> list[float]:
    """Finite numbers of a text, or nothing if it holds something else."""
    try:
        numbers = [float(p) for p in text.split()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _damaged(file: Path, case: str, what: str) -> DatasetError:
    return DatasetError(f"case {case}: the header of {file} is damaged or of a kind that is not read: {what}")


def _elsewhere(file: Path, case: str) -> DatasetError:
    return DatasetError(f"case {case}: {file} keeps its voxels in another file; store them in one")
