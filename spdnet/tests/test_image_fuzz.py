"""Whatever bytes come in, readers give an image or a `DatasetError`: no crash, no hang, no flood of memory.

The default run tries some dozens of damaged files of each kind; `pytest -m slow` many more.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spdnet.dataset import Labels, get_reader
from spdnet.dataset.image_io import ReaderWriter, stored
from spdnet.dataset.raw_dataset import explicit_cases, read_dataset_json
from spdnet.dataset.splits import load_or_create_splits
from spdnet.errors import DatasetError, PlansError, SPDError
from spdnet.geometry import ImageGeometry
from spdnet.planning import Fingerprint, SPDPlans
from spdnet.tests.test_plans import some_plans

KINDS = [
    ("SimpleITKIO", ".nii.gz"), ("SimpleITKIO", ".nii"), ("NibabelIO", ".nii.gz"), ("NibabelIO", ".nii"),
    ("SimpleITKIO", ".nrrd"), ("SimpleITKIO", ".mha"), ("SimpleITKIO", ".gipl"), ("NaturalImage2DIO", ".png"),
    ("NaturalImage2DIO", ".bmp"), ("NaturalImage2DIO", ".tif"), ("Tiff3DIO", ".tif"),
]  # fmt: skip
PACKED = [kind for kind in KINDS if kind[1] in (".nii.gz", ".nrrd", ".mha", ".png", ".tif")]
EXAMPLES, MANY_EXAMPLES = 60, 2000
LONGEST_S = 5.0  # of the processor for one file; milliseconds are usual
MOST_MEMORY_KB = 300_000  # beyond what the tests had used before

options = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
NASTY = [
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"9999999999",
    b"-1",
    b"nan ",
    b"\n",
    b"=",
    b"",
]
changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "cut", "end", "flip"]),
        st.integers(0, 1 << 16),
        st.sampled_from(NASTY) | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def changed(content: bytes, what: list[tuple[str, int, bytes]]) -> bytes:
    """A file's content with changes at some places."""
    for kind, place, data in what:
        at = place % max(len(content), 1)
        if kind == "replace":
            content = content[:at] + data + content[at + len(data) :]
        elif kind == "insert":
            content = content[:at] + data + content[at:]
        elif kind == "cut":
            content = content[:at] + content[at + len(data) :]
        elif kind == "end":
            content = content[:at]
        elif content:
            content = content[:at] + bytes([content[at] ^ (1 << len(data) % 8)]) + content[at + 1 :]
    return content


def small_file(reader: ReaderWriter, ending: str, folder: Path) -> tuple[Path, np.ndarray]:
    """A label file of a kind, and its voxels."""
    is_flat = reader.name == "NaturalImage2DIO"
    geometry = ImageGeometry((1 if is_flat else 4, 9, 11), (1.0, 1.0, 1.0), has_patient_axes=not is_flat)
    label_map = np.random.default_rng(0).integers(0, 90, geometry.shape_zyx)
    reader.write_segmentation(folder / f"c{ending}", label_map, geometry)
    return folder / f"c{ending}", label_map


@pytest.fixture(autouse=True)
def _no_flood() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    logging.disable(logging.NOTSET)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY_KB


def check_message(error: SPDError) -> None:
    """A message can be printed and is no dump of the file."""
    assert len(str(error).encode()) < 3000


def read_all(reader: ReaderWriter, file: Path) -> np.ndarray | None:
    """Read a file as grid, image and label, if it can be read; errors are `DatasetError` and name the file."""
    begun, label = time.process_time(), None
    for read in (reader.read_geometry, lambda f: reader.read_image([f]), reader.read_label):
        try:
            found: Any = read(file)
        except DatasetError as error:
            check_message(error)
            assert str(file) in str(error)  # noqa: PT017
        else:
            label = found[0] if read == reader.read_label else label
    assert time.process_time() - begun < LONGEST_S
    return label


def fuzz_images(name: str, ending: str, folder: Path, n: int) -> None:
    """Read `n` damaged files; of a packed NIfTI file half are damaged before packing."""
    reader = get_reader(name)
    file, _ = small_file(reader, ending, folder)
    content = file.read_bytes()

    @settings(options, max_examples=n)
    @given(what=changes, within=st.booleans())
    def run(what: list[tuple[str, int, bytes]], within: bool) -> None:
        if within and ending.endswith(".gz"):
            file.write_bytes(gzip.compress(changed(gzip.decompress(content), what), 1))
        else:
            file.write_bytes(changed(content, what))
        read_all(reader, file)

    run()


@pytest.mark.parametrize(("name", "ending"), KINDS)
def test_damaged_images(name: str, ending: str, tmp_path: Path) -> None:
    fuzz_images(name, ending, tmp_path, EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ending"), KINDS)
def test_many_damaged_images(name: str, ending: str, tmp_path: Path) -> None:
    fuzz_images(name, ending, tmp_path, MANY_EXAMPLES)


@pytest.mark.parametrize(("name", "ending"), KINDS)
@settings(options, max_examples=20)
@given(content=st.binary(max_size=400))
def test_any_bytes(name: str, ending: str, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{ending}"
    file.write_bytes(content)
    assert read_all(get_reader(name), file) is None


@pytest.mark.parametrize(("name", "ending"), KINDS)
def test_cut_off_files_are_refused(name: str, ending: str, tmp_path: Path) -> None:
    reader = get_reader(name)
    file, voxels = small_file(reader, ending, tmp_path)
    content = file.read_bytes()
    for share in np.linspace(0.02, 0.98, 25):
        file.write_bytes(content[: int(len(content) * share)])
        label = read_all(reader, file)
        assert label is None or np.array_equal(label, voxels), f"{share:.0%} of the file was read as if it were whole"


@pytest.mark.parametrize(("name", "ending"), PACKED)
def test_a_changed_byte_in_packed_voxels_is_found(name: str, ending: str, tmp_path: Path) -> None:
    reader = get_reader(name)
    file, voxels = small_file(reader, ending, tmp_path)
    content = file.read_bytes()
    begin = {".nii.gz": 12, ".nrrd": content.find(b"\n\n") + 12, ".mha": content.find(b"LOCAL\n") + 6}.get(ending, 60)
    for at in range(begin, len(content) - (200 if ending == ".tif" else 16), 7):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        label = read_all(reader, file)
        assert label is None or np.array_equal(label, voxels), f"byte {at} of {len(content)} was not missed"


def test_voxels_stored_without_packing_must_all_be_there(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((4, 30, 30), np.uint8))
    for ending in (".nii", ".mha", ".nrrd", ".gipl"):
        file = tmp_path / f"c{ending}"
        sitk.WriteImage(image, str(file), useCompression=False)
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(DatasetError, match="is incomplete: it holds 3500 of the 3600 bytes of voxels"):
            get_reader("SimpleITKIO").read_image([file])
    tifffile.imwrite(tmp_path / "c.tif", np.ones((4, 30, 30), np.uint8))
    content = (tmp_path / "c.tif").read_bytes()
    (tmp_path / "c.tif").write_bytes(content[:-100])
    with pytest.raises(DatasetError, match=r"c\.tif"):
        get_reader("Tiff3DIO").read_image([tmp_path / "c.tif"])


# ---- claims of a header -----------------------------------------------------------------------------------


def _png(file: Path) -> None:
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0)
    blocks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in blocks)
    )


def _tiff(file: Path) -> None:
    tifffile.imwrite(file, np.zeros((9, 11), np.uint8))
    with tifffile.TiffFile(file, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(10**6)


def _nifti(file: Path) -> None:
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).header
    header.set_data_shape((10_000, 10_000, 10_000))
    content = header.binaryblock + bytes(4 + 1000)
    file.write_bytes(gzip.compress(content) if file.name.endswith(".gz") else content)


def _replaced(before: bytes, after: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 9, 11), np.uint8)), str(file), useCompression=True)
        content = file.read_bytes()
        assert content.count(before) == 1
        file.write_bytes(content.replace(before, after))

    return write


@pytest.mark.parametrize(
    ("name", "ending", "write"),
    [
        ("SimpleITKIO", ".nii", _nifti), ("SimpleITKIO", ".nii.gz", _nifti), ("NibabelIO", ".nii.gz", _nifti),
        ("SimpleITKIO", ".nrrd", _replaced(b"sizes: 11 9 4", b"sizes: 10000 10000 10000")),
        ("SimpleITKIO", ".mha", _replaced(b"DimSize = 11 9 4", b"DimSize = 10000 10000 10000")),
        ("SimpleITKIO", ".gipl", _replaced(struct.pack(">HHH", 11, 9, 4), struct.pack(">HHH", 10000, 10000, 10000))),
        ("NaturalImage2DIO", ".png", _png), ("NaturalImage2DIO", ".tif", _tiff),
    ],
)  # fmt: skip
def test_a_header_that_claims_a_million_million_voxels(
    name: str, ending: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    file = tmp_path / f"c{ending}"
    write(file)
    reader = get_reader(name)
    for read in (reader.read_geometry, reader.read_label, lambda f: reader.read_image([f])):
        with pytest.raises(DatasetError, match=r"c\.[a-z.]+.*claims|cannot read the header"):
            read(file)


def test_a_header_that_claims_what_the_packed_file_does_not_hold(tmp_path: Path) -> None:
    """Three gigabytes, which the size of the file does not rule out."""
    file = tmp_path / "c.nii.gz"
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).header
    header.set_data_shape((1500, 1500, 1500))
    noise = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8).tobytes()
    file.write_bytes(gzip.compress(header.binaryblock + bytes(4) + noise, 1))
    for name in ("SimpleITKIO", "NibabelIO"):
        with pytest.raises(DatasetError, match="incomplete: it holds 1048576 of the 3375000000 bytes|of memory"):
            get_reader(name).read_image([file])


def test_an_image_that_memory_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored.available_memory() is None or stored.available_memory() > 0  # type: ignore[operator]
    monkeypatch.setattr(stored, "available_memory", lambda: 1000)
    for name, ending in KINDS:
        folder = tmp_path / name / ending
        folder.mkdir(parents=True)
        monkeypatch.setattr(stored, "available_memory", lambda: 1 << 40)
        file, _ = small_file(get_reader(name), ending, folder)
        monkeypatch.setattr(stored, "available_memory", lambda: 100)
        with pytest.raises(DatasetError, match=r"needs 0\.0 GiB of memory; 0\.0 GiB are left"):
            get_reader(name).read_image([file])


@pytest.mark.parametrize(
    "line", ["ElementDataFile = /etc/hostname", "ElementDataFile = LIST", "ElementDataFile = a%d 1 4 1"]
)
def test_no_file_is_read_that_an_mha_names(line: str, tmp_path: Path) -> None:
    _replaced(b"ElementDataFile = LOCAL", line.encode())(tmp_path / "c.mha")
    with pytest.raises(DatasetError, match="keeps its voxels in another file"):
        get_reader("SimpleITKIO").read_image([tmp_path / "c.mha"])


def test_no_file_is_read_that_an_nrrd_names(tmp_path: Path) -> None:
    _replaced(b"encoding: gzip", b"data file: /etc/hostname\nencoding: raw")(tmp_path / "c.nrrd")
    with pytest.raises(DatasetError, match="keeps its voxels in another file"):
        get_reader("SimpleITKIO").read_image([tmp_path / "c.nrrd"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"NDims = 3", b"NDims = -1"), (b"NDims = 3", b"NDims = 9"), (b"NDims = 3", b"NDims = 3\nNDims = 3"),
        (b"Offset = 0 0 0", b"Offset = 0 0"), (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 nan"),
        (b"DimSize = 11 9 4", b"DimSize = 11 9"), (b"MET_UCHAR", b"MET_OTHER"), (b"BinaryData = True", b"BinaryData"),
    ],
)  # fmt: skip
def test_mha_headers_that_crash_itk_are_refused(before: bytes, after: bytes, tmp_path: Path) -> None:
    _replaced(before, after)(tmp_path / "c.mha")
    with pytest.raises(DatasetError, match="is damaged or of a kind that is not read"):
        get_reader("SimpleITKIO").read_geometry(tmp_path / "c.mha")


# ---- dataset.json, splits, plans, fingerprints ------------------------------------------------------------

DATASET_JSON: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "a": 1, "b": [2, 3], "ignore": 4},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "dataset": {"c": {"images": ["a.nii.gz"], "label": "b.nii.gz"}},
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Path of every value in plain data."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] + [p for key, value in inner for p in places(value, (*path, key))]


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of plain data with the value at a path replaced."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = with_value(content[path[0]], path[1:], value)
    return copy


def use_dataset_json(file: Path) -> None:
    """What the commands do with a dataset.json before they read images."""
    content = read_dataset_json(file)
    labels = Labels.from_dataset_json(content, str(file))
    labels.check_consecutive()
    assert labels.merge(np.zeros((len(labels), 2, 2))).shape == (2, 2)
    if "dataset" in content:
        explicit_cases(content["dataset"], file.parent, 1)


def use_plans(file: Path) -> None:
    """Read plans, write them and read them again."""
    plans = SPDPlans.load(file)
    plans.save(file)
    assert SPDPlans.load(file) == plans


def fuzz_json(good: Any, use: Callable[[Path], Any], folder: Path, n: int) -> None:
    """Use `n` files with other values at some places, and `n` with other bytes."""
    file, text = folder / "c.json", json.dumps(good).encode()

    def tried(content: bytes) -> None:
        file.write_bytes(content)
        begun = time.process_time()
        try:
            use(file)
        except SPDError as error:
            check_message(error)
        assert time.process_time() - begun < LONGEST_S

    @settings(options, max_examples=n)
    @given(new=st.lists(st.tuples(st.sampled_from(places(good)), json_values), min_size=1, max_size=2))
    def values(new: list[tuple[tuple[Any, ...], Any]]) -> None:
        content = good
        for path, value in new:
            try:
                content = with_value(content, path, value)
            except (KeyError, IndexError, TypeError, ValueError):
                continue
        tried(json.dumps(content).encode())

    @settings(options, max_examples=n)
    @given(what=changes)
    def content(what: list[tuple[str, int, bytes]]) -> None:
        tried(changed(text, what))

    values()
    content()


SPLITS = [{"train": ["a", "b"], "val": ["c"]}]


def json_kinds(planned_folder: Path) -> dict[str, tuple[Any, Callable[[Path], Any]]]:
    """A good file of each kind, and what is done with it."""
    return {
        "dataset": (DATASET_JSON, use_dataset_json),
        "plans": (some_plans().to_dict(), use_plans),
        "fingerprint": (
            json.loads((planned_folder / "spd_fingerprint.json").read_text(encoding="utf-8")),
            Fingerprint.load,
        ),
        "splits": (SPLITS, lambda file: load_or_create_splits(file, ["a", "b", "c"], 0)),
    }


@pytest.mark.parametrize("kind", ["dataset", "plans", "fingerprint", "splits"])
def test_damaged_json(kind: str, planned_workspace: Any, tmp_path: Path) -> None:
    fuzz_json(*json_kinds(planned_workspace.preprocessed)[kind], tmp_path, 2 * EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "plans", "fingerprint", "splits"])
def test_many_damaged_json(kind: str, planned_workspace: Any, tmp_path: Path) -> None:
    fuzz_json(*json_kinds(planned_workspace.preprocessed)[kind], tmp_path, MANY_EXAMPLES)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spd", "image_size"), 0, "image_size is 0; it must be from 1 to 8192"),
        (("spd", "image_size"), 10**9, "image_size is 1000000000; it must be from 1 to 8192"),
        (("spd", "pixel_spacing_mm"), 0, "pixel_spacing_mm is 0.0; it must be more than 0"),
        (("spd", "pixel_spacing_mm"), float("nan"), "pixel_spacing_mm must be a finite number, not nan"),
        (("spd", "stage1", "learning_rate"), -1e-3, "stage1.learning_rate is -0.001; it must be 0 or more"),
        (("spd", "stage1", "batch_size"), 0, "stage1.batch_size is 0; it must be 1 or more"),
        (("spd", "stage2", "epochs"), 10**400, None),
        (("spd", "stage2", "weight_decay"), 10**400, "weight_decay must be a finite number, not an integer of more"),
        (("spd", "distillation", "tau"), 1.5, "distillation.tau is 1.5; it must be from 0 to 1"),
        (("spd", "augmentation", "scale_range"), [0, 1], r"scale_range is \(0.0, 1.0\); it must be more than 0"),
        (("spd", "normalization", 1, "low"), 99.9, r"normalization\[1\].low is 99.9; it must not be above high, 99.5"),
        (
            ("spd", "normalization", 1, "high"),
            101,
            r"normalization\[1\].high is 101.0; a percentile must be from 0 to 100",
        ),
        (("plans_name",), "../../evil", "must be a name, not a path"),
        (("dataset_name",), "", "must be a name, not a path"),
    ],
)
def test_numbers_that_cannot_be_meant_are_named(path: tuple[Any, ...], value: Any, message: str | None) -> None:
    content = with_value(json.loads(json.dumps(some_plans().to_dict())), path, value)
    if message is None:
        assert SPDPlans.from_dict(content).settings.stage2.epochs == value
        return
    with pytest.raises(PlansError, match=message):
        SPDPlans.from_dict(content)


@pytest.mark.parametrize(
    "size", ["", "CompressedDataSize = 0\n", "CompressedDataSize = 1\n", "CompressedDataSize = 999999\n"]
)
def test_a_packed_mha_must_say_how_many_bytes_its_voxels_take(size: str, tmp_path: Path) -> None:
    """ITK reads so many, and hands over zeros where they do not do."""
    file = tmp_path / "c.mha"
    voxels = np.random.default_rng(0).integers(1, 200, (8, 32, 32)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(file), useCompression=True)
    changed, n = re.subn(rb"CompressedDataSize = \d+\n", size.encode(), file.read_bytes())
    assert n == 1 and np.array_equal(get_reader("SimpleITKIO").read_label(file)[0], voxels)
    file.write_bytes(changed)
    with pytest.raises(DatasetError, match=r"c\.mha .*(CompressedDataSize|damaged or incomplete)"):
        get_reader("SimpleITKIO").read_label(file)
