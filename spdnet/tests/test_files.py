"""Files appear whole or not at all, whatever interrupts their writing; what was there stays, what is left over goes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from spdnet import files
from spdnet.cli.common import entry_point
from spdnet.dataset import get_reader
from spdnet.dataset.raw_dataset import find_cases
from spdnet.errors import PlansError, SPDError, StorageError
from spdnet.evaluation.pairs import find_pairs
from spdnet.files import (
    copy_file,
    make_folder,
    parse_json,
    read_json,
    remove_leftovers,
    whole_file,
    whole_folder,
    write_json,
)
from spdnet.geometry import ImageGeometry

needs_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounts a small file system, which needs root"
)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, for as long as the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def half_written(file: Path) -> Path:
    """What a process that was killed while writing `file` leaves: a partial file that nobody holds."""
    seen: list[Path] = []
    with suppress(ZeroDivisionError), whole_file(file) as partial:
        seen.append(partial)
        raise ZeroDivisionError
    seen[0].write_bytes(b"half")
    return seen[0]


def names(folder: Path) -> list[str]:
    """Names of what is in a folder, hidden files too."""
    return sorted(f.name for f in folder.iterdir())


# ---- whole or not at all ----------------------------------------------------------------------------------


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"b": 1, "a": 2})
    with whole_file(file) as partial:
        partial.write_text("[1", encoding="utf-8")
        assert json.loads(file.read_text(encoding="utf-8")) == {"b": 1, "a": 2}
        assert partial.parent == tmp_path and partial.name.startswith(".") and partial.name.endswith("a.json")
        partial.write_text("[1]", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == "[1]" and names(tmp_path) == ["a.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"b": 1, "a": 2})
    before = file.read_text(encoding="utf-8")
    assert before.index("b") < before.index("a"), "the order of keys matters for regions"
    with pytest.raises(TypeError):
        write_json(file, {"b": object()})
    with suppress(KeyboardInterrupt), whole_file(file) as partial:
        partial.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert file.read_text(encoding="utf-8") == before and names(tmp_path) == ["a.json"]


def test_several_processes_may_write_one_file(tmp_path: Path) -> None:
    threads = [threading.Thread(target=write_json, args=(tmp_path / "a.json", [i] * 1000)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert len(content) == 1000 and len(set(content)) == 1 and names(tmp_path) == ["a.json"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("", encoding="utf-8")
    write_json(tmp_path / "a.json", [])
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


WRITER = """
import sys
from pathlib import Path
from spdnet.files import whole_file
for n in range(10**9):
    with whole_file(Path(sys.argv[1])) as partial, partial.open("w") as stream:
        for _ in range(200):
            stream.write(str(n % 10) * 1000)
            stream.flush()
    print(n, flush=True)
"""


def test_killed_at_any_moment_the_file_is_an_old_or_a_new_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "a"
    left_over = 0
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        text = file.read_text(encoding="utf-8")
        assert len(text) == 200_000 and len(set(text)) == 1
        left_over += remove_leftovers(tmp_path)
        assert names(tmp_path) == ["a"]
    assert left_over > 0, "some were killed while they wrote, or this test shows nothing"


# ---- what killed processes leave --------------------------------------------------------------------------


def test_leftovers_go_with_the_first_write_to_their_folder(tmp_path: Path) -> None:
    left = half_written(tmp_path / "case_000.nii.gz")
    files._tidied.clear()  # as in a new process
    write_json(tmp_path / "a.json", [])
    assert not left.exists() and names(tmp_path) == ["a.json"]


def test_what_a_living_process_writes_is_no_leftover(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from spdnet.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as p: p.write_text('x'); print('ready', flush=True); sys.stdin.read()"
    )
    living = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert living.stdin is not None and living.stdout is not None
    living.stdout.readline()
    left = half_written(tmp_path / "b")
    assert remove_leftovers(tmp_path) == 1 and not left.exists()
    assert not (tmp_path / "a").exists()
    living.communicate()
    assert names(tmp_path) == ["a"]


def test_other_hidden_files_and_links_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    for name in (".partial_notes", ".partial_0123456_a", "partial_01234567_a", ".gitignore"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / ".partial_01234567_folder").mkdir()
    (tmp_path / ".partial_01234567_link").symlink_to(tmp_path / "precious")
    before = names(tmp_path)
    assert remove_leftovers(tmp_path) == 0
    assert names(tmp_path) == before


def test_leftovers_are_no_data(tmp_path: Path) -> None:
    for name in ("case_000_0000.nii.gz", "case_000.nii.gz"):
        (tmp_path / name).write_text("x", encoding="utf-8")
        half_written(tmp_path / name.replace("000", "001", 1))
    assert [c.case for c in find_cases(tmp_path, ".nii.gz", 1)] == ["case_000"]
    assert {p.case for p in find_pairs(tmp_path, tmp_path, ".nii.gz")} == {"case_000", "case_000_0000"}


# ---- disks ------------------------------------------------------------------------------------------------


@needs_root
def test_a_full_disk_is_said_and_earlier_files_stay(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=64k") as folder:
        write_json(folder / "a.json", "old")
        with pytest.raises(StorageError, match=r"cannot write .*a\.json: No space left on device\. Free some space"):
            write_json(folder / "a.json", "x" * 100_000)
        assert json.loads((folder / "a.json").read_text(encoding="utf-8")) == "old" and names(folder) == ["a.json"]


@needs_root
@pytest.mark.parametrize(
    ("reader", "ending"),
    [
        ("SimpleITKIO", ".nii.gz"), ("SimpleITKIO", ".nii"), ("SimpleITKIO", ".nrrd"), ("SimpleITKIO", ".mha"),
        ("SimpleITKIO", ".gipl"), ("NibabelIO", ".nii.gz"), ("Tiff3DIO", ".tif"), ("NaturalImage2DIO", ".png"),
    ],
)  # fmt: skip
def test_segmentations_that_do_not_fit_the_disk_are_not_written(reader: str, ending: str, tmp_path: Path) -> None:
    is_flat = reader == "NaturalImage2DIO"
    small, large = (
        ImageGeometry((1 if is_flat else 4, n, n), (1.0, 1.0, 1.0), has_patient_axes=not is_flat) for n in (30, 300)
    )
    noise = np.random.default_rng(0).integers(0, 255, large.shape_zyx)
    too_large = [noise]
    if ending in (".nii", ".gipl"):  # not packed: what is missing would be read as zeros, as empty memory has them
        too_large.append(noise * 0)
    with mounted(tmp_path / "small", "size=64k") as folder:
        get_reader(reader).write_segmentation(folder / f"c{ending}", np.zeros(small.shape_zyx, np.uint8), small)
        before = {f.name: f.read_bytes() for f in folder.iterdir()}
        for label_map in too_large:
            with pytest.raises(SPDError, match=r"cannot write .*c\.\w+"):
                get_reader(reader).write_segmentation(folder / f"c{ending}", label_map, large)
        assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


@needs_root
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with mounted(tmp_path / "fixed", "ro") as folder:
        with pytest.raises(StorageError, match=r"a\.json: Read-only file system\. Nothing can be written there"):
            write_json(folder / "a.json", [])
        with pytest.raises(StorageError, match=r"cannot make the folder .*/fixed/b: Read-only file system"):
            make_folder(folder / "b")
        with pytest.raises(StorageError, match=r"/fixed/b/c: Read-only file system .*Nothing can be written there"):
            make_folder(folder / "b" / "c")


def test_a_file_in_place_of_a_folder_and_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(
            StorageError, match=r"cannot make the folder .*A folder on the way to it is missing.*a file"
        ):
            make_folder(folder)
    with pytest.raises(StorageError, match=r"cannot write .*gone/a\.json: No such file"):
        write_json(tmp_path / "gone" / "a.json", [])


@pytest.mark.parametrize("content", [None, "precious"])
def test_a_folder_that_is_there_is_neither_removed_nor_replaced(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    if content:
        (folder / "file").write_text(content, encoding="utf-8")
    with pytest.raises(StorageError, match=r"out: it is there by now"):
        fill(folder, lambda: None)
    assert names(tmp_path) == ["out"] and names(folder) == (["file"] if content else [])
    with pytest.raises(StorageError, match=r"other: it is there by now"):
        fill(tmp_path / "other", (tmp_path / "other").mkdir)  # as another process might
    assert names(tmp_path) == ["other", "out"] and names(tmp_path / "other") == []


def fill(folder: Path, meanwhile: Callable[[], None]) -> None:
    """Make a folder with a file in it."""
    with whole_folder(folder) as partial:
        (partial / "file").write_text("new", encoding="utf-8")
        meanwhile()


def test_copies_have_the_times_of_the_file_and_rights_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x", encoding="utf-8")
    (tmp_path / "a").chmod(0o400)
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o200, "what is left of a killed copy can be opened and removed"


def test_copies_name_the_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*/b: No such file or directory \(.*/gone\)"):
        copy_file(tmp_path / "gone", tmp_path / "b")
    (tmp_path / "a").write_text("x", encoding="utf-8")
    os.utime(tmp_path / "a", ns=(10**18, 10**18))
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_mtime_ns == 10**18 and names(tmp_path) == ["a", "b"]


def test_disk_errors_that_nobody_expected_end_a_command_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @entry_point
    def command(argv: list[str] | None = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")

    with pytest.raises(SystemExit) as caught:
        command([])
    assert caught.value.code == 1 and capsys.readouterr().err == "error: /data/x: No space left on device\n"


# ---- JSON -------------------------------------------------------------------------------------------------


def test_a_key_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    file.write_text('{"a": {"tau": 0.5, "b": 1, "tau": 0.9}}', encoding="utf-8")
    with pytest.raises(
        PlansError, match=r'plans .*plans\.json is not valid JSON: the key "tau" is there twice\. Mend it'
    ):
        read_json(file, "plans", "Mend it.", PlansError)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 5000, b"\xff", b"", b'{"a": 1}{'])
def test_what_is_no_json_is_an_error_and_no_crash(content: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        parse_json(content)


def test_windows_editors_put_a_mark_before_the_text() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SPDError, match=r"plans .* is missing\. Plan first"):
        read_json(tmp_path / "a", "plans", "Plan first.")
    with pytest.raises(SPDError, match="cannot be read: Is a directory"):
        read_json(tmp_path, "plans", "Plan first.")
