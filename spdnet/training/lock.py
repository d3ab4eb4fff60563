"""The lock of an output folder: two trainings that write into the same folder would destroy each other's work.

The operating system holds it for the process, so a training that was killed leaves none behind.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

from spdnet.errors import ConfigurationError
from spdnet.files import make_folder, storage_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".spd_train.lock"
_held: set[Path] = set()  # by this process, for which the system's lock is no obstacle


class FolderLock:
    """Holds a folder for one training, as a context; a record lock, which forked data workers do not inherit.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / LOCK_FILE

    def __enter__(self) -> FolderLock:
        """Take the lock.

        Raises:
            ConfigurationError: another training holds it. StorageError: the folder cannot be written to.
        """
        make_folder(self.file.parent)
        if self.file.resolve() in _held:
            raise self._refused(f"process {os.getpid()} on {socket.gethostname()}, this one")
        while True:
            with storage_errors(self.file):
                self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if fcntl is not None:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                holder = os.read(self._descriptor, 1000).decode(errors="replace").strip()
                os.close(self._descriptor)
                raise self._refused(holder or "unknown") from error
            except OSError:
                pass  # a file system without locks
            if self._is_the_file():
                break
            os.close(self._descriptor)  # its holder has removed it meanwhile
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _held.add(self.file.resolve())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _held.discard(self.file.resolve())
        self.file.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _is_the_file(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.file))
        except FileNotFoundError:
            return False

    def _refused(self, holder: str) -> ConfigurationError:
        return ConfigurationError(
            f"another training is writing to {self.file.parent} ({holder}). Wait for it or stop it; two would destroy "
            "each other's checkpoints"
        )
