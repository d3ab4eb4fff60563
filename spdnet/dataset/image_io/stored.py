"""Whether a file holds the voxels that its header promises, found before memory is asked for.

ITK does not say when a .nii.gz is cut off or a compressed .mha is damaged: it hands over what it could unpack, and
something else for the rest. So compressed voxels are unpacked once to nowhere, which also compares their checksum.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from spdnet.errors import DatasetError

MAX_VOXELS = 2**33
# What deflate can make of a byte at best; other methods that are met in images make less.
MAX_RATIO = 1032
_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredVoxels:
    """Where a file says that its voxels are.

    Attributes:
        offset: byte at which they begin; in a packed NIfTI file, of what is unpacked.
        n_bytes: of all voxels, unpacked.
        packing: how they are packed, or "whole file" if the header is packed with them.
        n_packed: bytes that they take packed, if the header says it and readers go by that.
    """

    offset: int
    n_bytes: int
    packing: Literal["none", "gzip", "zlib", "whole file"]
    n_packed: int | None = None


def check_voxel_count(shape: Sequence[int], file: Path, case: str) -> None:
    """Refuse a header whose image could not be read.

    Raises:
        DatasetError: no voxels, more than `MAX_VOXELS`, or more than the file can hold however it is packed.
    """
    count, size = math.prod(shape), file.stat().st_size
    if min(shape, default=0) > 0 and count <= min(MAX_VOXELS, 8 * MAX_RATIO * size):
        return
    why = "it has to be cut into parts" if count > MAX_VOXELS else "there is nothing in it"
    if count > 8 * MAX_RATIO * size:  # eight in a byte
        why = f"it is not whole: it has {size} bytes"
    raise DatasetError(
        f"case {case}: the header of {file} claims {' x '.join(map(str, shape))} voxels; the file is damaged, or {why}"
    )


def check_memory(n_bytes: int, file: Path, case: str) -> None:
    """Refuse an image that cannot be held in memory.

    Raises:
        DatasetError: `n_bytes` are more than the machine, or the job, has left.
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise DatasetError(
            f"case {case}: {file} needs {n_bytes / 2**30:.1f} GiB of memory; {available / 2**30:.1f} GiB are left. Use "
            "fewer processes, a machine with more memory, or cut the image into parts"
        )


def available_memory() -> int | None:
    """Bytes that this process may still use, by Linux' accounts of the machine and of the job; None elsewhere."""
    left = []
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        left.append(int(fields["MemAvailable"].split()[0]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
            counts = dict(
                line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text(encoding="utf-8").splitlines()
            )
            left.append(int(limit) - used + int(counts["file"]))  # "file": copies of files, which make room
    except (OSError, ValueError, KeyError):
        pass
    return min(left) if left else None


def check_stored(file: Path, case: str, voxels: StoredVoxels) -> None:
    """Check that all voxels are in the file, unpacking them to nowhere.

    Raises:
        DatasetError: they are not, or their checksum is not theirs.
    """
    with _reading(file, case), file.open("rb") as stream:
        if voxels.packing == "none":
            there = os.fstat(stream.fileno()).st_size - voxels.offset
        elif voxels.packing == "whole file":
            with gzip.open(stream) as packed:
                there = _count(packed.read, voxels.offset + voxels.n_bytes) - voxels.offset
        else:
            stream.seek(voxels.offset)
            there = _count(_unpacker(stream, voxels), voxels.n_bytes)
    if there < voxels.n_bytes:
        raise DatasetError(
            f"case {case}: {file} is incomplete: it holds {max(there, 0)} of the {voxels.n_bytes} bytes of voxels that "
            "its header promises. Copy it again"
        )


def _count(read: Callable[[int], bytes], promised: int) -> int:
    """Bytes that can be read, to the end, where checksums are compared; but not far beyond what was promised."""
    count = 0
    while count <= promised + _BLOCK and (block := read(_BLOCK)):
        count += len(block)
    return count


def _unpacker(stream: IO[bytes], voxels: StoredVoxels) -> Callable[[int], bytes]:
    if voxels.packing == "gzip":
        return gzip.GzipFile(fileobj=stream).read  # type: ignore[return-value]
    unpacked = zlib.decompressobj()
    end = os.fstat(stream.fileno()).st_size if voxels.n_packed is None else voxels.offset + voxels.n_packed

    def read(size: int) -> bytes:
        while not unpacked.eof:
            packed = unpacked.unconsumed_tail or stream.read(min(_BLOCK, end - stream.tell()))
            if not packed:
                raise EOFError("the packed voxels end too early")
            if block := unpacked.decompress(packed, size):
                return block
        return b""

    return read


@contextmanager
def _reading(file: Path, case: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"case {case}: {file} is damaged or incomplete: {error}. Copy it again") from error


def float_bytes(shape: Sequence[int], stored_bytes: int) -> int:
    """What reading an image takes: the voxels as stored, and once more as float64."""
    return stored_bytes + math.prod(shape) * np.dtype(np.float64).itemsize
