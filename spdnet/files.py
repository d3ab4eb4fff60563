"""Files and folders that appear whole or not at all, and JSON with errors that name the file.

A file is written under a hidden name beside its place, flushed to the disk, and renamed. While it is being written it
is locked, so that what a killed process left behind can be told from what a living one is writing; the first write of
a process to a folder removes the former. A folder is written likewise; what is left of one goes with the next attempt.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spdnet.errors import SPDError, StorageError

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is locked and nothing left behind is removed
    fcntl = None  # type: ignore[assignment]

_PARTIAL = re.compile(r"\.partial_[0-9a-f]{8}_(.*)", re.DOTALL)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
_UNCHANGED = "What was there before is unchanged"
_tidied: set[Path] = set()  # folders that this process has tidied


@contextmanager
def whole_file(file: Path, name: str | None = None) -> Iterator[Path]:
    """A path to write to, which becomes `file` when the block ends and goes if an error comes first.

    Args:
        file: to write or to replace; its folder must exist.
        name: what the path to write to ends with, for libraries that look at the ending; default the file's name.

    Raises:
        StorageError: the disk is full, the folder cannot be written to or is gone; `file` is as it was.
    """
    remove_leftovers_once(file.parent)
    partial = file.with_name(f".partial_{secrets.token_hex(4)}_{name or file.name}")
    with storage_errors(file):
        try:
            with _created_and_locked(partial):
                yield partial
                _flush(partial)
                partial.replace(file)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends and goes if an error comes first.

    Args:
        folder: to make; must not be there.

    Raises:
        StorageError: it is there by then, or nothing can be written there.
    """
    with storage_errors(folder, "make the folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_free(folder)
        for left in list(folder.parent.iterdir()):
            if left != folder and left.is_dir() and meant(left) == folder:
                _remove_unlocked(left)
    partial = folder.with_name(f".partial_{secrets.token_hex(4)}_{folder.name}")
    with storage_errors(folder, "make the folder"), _created_and_locked(partial, is_folder=True):
        try:
            yield partial
            _check_free(folder)  # an empty folder would be replaced without a word
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_free(folder: Path) -> None:
    if os.path.lexists(folder):
        raise StorageError(f"cannot make the folder {folder}: it is there by now. Nothing in it was changed")


def meant(partial: Path) -> Path:
    """What a path given by `whole_file` or `whole_folder` is to become, for messages; other paths as they are."""
    match = _PARTIAL.fullmatch(partial.name)
    return partial.with_name(match[1]) if match else partial


@contextmanager
def storage_errors(file: Path, verb: str = "write") -> Iterator[None]:
    """Turn what the operating system says about a file or folder into a `StorageError`."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or file)
        is_own = named == str(file) or _PARTIAL.fullmatch(Path(named).name) is not None
        is_about_it = is_own or Path(named) in file.parents or error.errno in _FULL
        other, advice = "" if is_own else f" ({named})", _advice(error) if is_about_it else _UNCHANGED
        raise StorageError(f"cannot {verb} {file}: {error.strerror or error}{other}. {advice}") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if it is not there; raises `StorageError`."""
    with storage_errors(folder, "make the folder"):
        folder.mkdir(parents=True, exist_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its times, whole or not at all.

    Raises:
        StorageError: the source cannot be read, or the target cannot be written.
    """
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)
        times = source.stat()
        os.utime(partial, ns=(times.st_atime_ns, times.st_mtime_ns))


def write_text(file: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all; raises `StorageError`."""
    with whole_file(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any, indent: int | None = 4) -> None:
    """Write JSON whole or not at all, key order kept; raises `StorageError`."""
    write_text(file, json.dumps(content, indent=indent))


def read_json(file: Path, what: str, remedy: str, error: type[SPDError] = SPDError) -> Any:
    """Read JSON; `what` is the file's role and `remedy` what to do if it is missing.

    Raises:
        error: the file is missing, cannot be read, is not JSON, or has a key twice.
    """
    try:
        return parse_json(file.read_bytes())
    except FileNotFoundError as cause:
        raise error(f"{what} {file} is missing. {remedy}") from cause
    except OSError as cause:
        raise error(f"{what} {file} cannot be read: {cause.strerror}. {remedy}") from cause
    except ValueError as cause:
        raise error(f"{what} {file} is not valid JSON: {cause}. {remedy}") from cause


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly: a key that an object has twice is an error, as all but the last value would be lost.

    Raises:
        ValueError: not JSON, not UTF-8, nested without measure, or a key twice.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=without_twins)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def remove_leftovers_once(folder: Path) -> None:
    """Remove what killed processes left of files in a folder, the first time that this process asks for it."""
    key = Path(os.path.abspath(folder))
    if key not in _tidied:
        _tidied.add(key)
        remove_leftovers(folder)


def remove_leftovers(folder: Path) -> int:
    """Remove the unfinished files of a folder that no living process is writing; returns how many they were."""
    with suppress(OSError):
        partial = [folder / n for n in os.listdir(folder) if _PARTIAL.fullmatch(n)]
        return sum(_remove_unlocked(p) for p in partial if not p.is_dir())
    return 0


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this kind out of a folder while the block runs, where its file system has locks."""
    if fcntl is None:
        yield
        return
    with storage_errors(folder, "open"):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unlocked(partial: Path) -> bool:
    if fcntl is None:
        return False
    is_folder = partial.is_dir()
    try:
        descriptor = os.open(partial, (os.O_RDONLY if is_folder else os.O_RDWR) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(partial)
        else:
            partial.unlink()
    except OSError:  # locked by its writer, or a file system without locks, where one cannot know
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _created_and_locked(partial: Path, is_folder: bool = False) -> Iterator[None]:
    """A new file or folder, locked while the block runs, by the operating system's account of this process' life."""
    while True:
        descriptor = _create(partial, is_folder)
        if descriptor is None:
            yield
            return
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if partial.exists():  # not removed by another process before it was locked
                yield
                return
        finally:
            os.close(descriptor)


def _create(partial: Path, is_folder: bool) -> int | None:
    """Make a file or folder and open it; None on Windows, which opens no folders and renames nothing that is open."""
    if is_folder:
        partial.mkdir()
        return os.open(partial, os.O_RDONLY) if fcntl is not None else None
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    if fcntl is not None:
        return descriptor
    os.close(descriptor)
    return None


def _flush(file: Path) -> None:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())


def _advice(error: OSError) -> str:
    if error.errno in _FULL:
        return "Free some space and run the command again; what was there before is unchanged"
    if error.errno in _FORBIDDEN:
        return "Nothing can be written there: choose another folder, or have its permissions changed"
    if error.errno in _NO_FOLDER:
        return "A folder on the way to it is missing, was removed, or is a file"
    return _UNCHANGED


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `json.loads`; raises ValueError for a key that is there twice."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f'the key "{name[:60]}" is there twice')
        content[name] = value
    return content
