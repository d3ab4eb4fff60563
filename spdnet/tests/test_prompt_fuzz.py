"""Whatever bytes come in, readers give markups or a `PromptFileError` that names the file; and what is written is read.

The default run tries some hundred inputs of each kind; `pytest -m slow` many more.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spdnet.dataset import Labels
from spdnet.dataset.raw_dataset import PROMPT_ENDINGS
from spdnet.errors import PromptFileError
from spdnet.geometry import ImageGeometry, raw_resolution_mapping
from spdnet.prompts import Markup, PromptReading, load_given_prompts, read_markups, read_prompt_file, write_markups
from spdnet.prompts.boxes import center_size_axes, oriented_corners
from spdnet.prompts.text_files import MAX_COORDINATE_MM, MAX_FILE_BYTES

GOLDEN = Path(__file__).parent / "golden_prompts"
LABELS = Labels(("ileum", "colon"), ((1,), (2,)))
GEOMETRY = ImageGeometry((10, 40, 50), (3.0, 1.0, 1.0), (100.0, 60.0, -20.0))
MAPPING = raw_resolution_mapping(GEOMETRY, 0)
TEXT_ENDINGS = (".mrk.json", ".fcsv", ".csv", ".tsv")

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def check_message(text: str, file: Path) -> None:
    """A message names the file, can be printed, and is no dump of the file."""
    assert str(file) in text and len(text) < 2000
    text.encode()


def check_reading(file: Path) -> None:
    """Read and load a file: markups that are what they say, or an error with the file's name."""
    for frame in (None, "ras"):
        try:
            markups = read_prompt_file(file, frame, GEOMETRY, LABELS)  # type: ignore[arg-type]
        except PromptFileError as error:
            check_message(str(error), file)
            continue
        for markup in markups:
            assert markup.kind in ("points", "curve", "closed_curve", "box")
            assert markup.points_lps_mm.shape == (len(markup.point_labels), 3)
            assert markup.points_lps_mm.dtype == np.float64
            assert (np.abs(markup.points_lps_mm) <= MAX_COORDINATE_MM).all()
            assert markup.kind != "box" or len(markup.points_lps_mm) in (0, 8)
    for outside in ("error", "drop"):
        try:
            reading = PromptReading(outside=outside)  # type: ignore[arg-type]
            prompts = load_given_prompts(file, "c", GEOMETRY, MAPPING, LABELS, reading=reading).for_network()
        except PromptFileError:
            continue
        assert GEOMETRY.contains(MAPPING.points_to_raw(prompts.points_syx)).all()
        assert ((prompts.boxes.slice_index >= 0) & (prompts.boxes.slice_index < 10)).all()


# any content


@quick
@given(content=st.binary(max_size=300), ending=st.sampled_from([*PROMPT_ENDINGS, ".txt", ""]))
def test_any_bytes_are_markups_or_an_error(
    content: bytes, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / f"c{ending}"
    file.write_bytes(content)
    check_reading(file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([1.0, 2.0, 3.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
numbers = st.lists(st.integers(-200, 200) | st.floats() | st.just(10**30), min_size=3, max_size=3)
POINT_FIELDS = {
    "position": numbers | st.just("") | json_values,
    "positionStatus": st.sampled_from(["defined", "undefined", "preview"]) | json_values,
    "label": json_values,
    "id": json_values,
}
MARKUP_FIELDS = {
    "type": st.sampled_from(["Fiducial", "Curve", "ClosedCurve", "Line", "ROI"]) | json_values,
    "name": st.sampled_from(["ileum", "F", "background"]) | json_values,
    "coordinateSystem": st.sampled_from(["LPS", "RAS", 0]) | json_values,
    "coordinateUnits": st.sampled_from(["mm", "um"]) | json_values,
    "controlPoints": st.lists(st.fixed_dictionaries({}, optional=POINT_FIELDS), max_size=4) | json_values,
    "center": numbers | json_values,
    "size": numbers | json_values,
    "orientation": st.just([1, 0, 0, 0, 1, 0, 0, 0, 1]) | json_values,
    "roiType": st.just("Box") | json_values,
    "insideOut": json_values,
}


@quick
@given(markups=st.lists(st.fixed_dictionaries({}, optional=MARKUP_FIELDS), max_size=3) | json_values)
def test_any_values_in_a_markups_file_are_markups_or_an_error(
    markups: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "c.mrk.json"
    file.write_text(json.dumps({"markups": markups}), encoding="utf-8")
    check_reading(file)


cells = st.sampled_from(
    ["", "1", "0", "110.5", "70", "-8", "1,5", "1e400", "nan", "ileum", "x", '"', "1_0", "-", "9" * 400, "\u0661"]
) | st.text(max_size=6)
COLUMNS = (
    "x_lps_mm y_lps_mm z_lps_mm l p s r a i j k x y z x0_lps_mm y0_lps_mm z0_lps_mm x1_lps_mm y1_lps_mm z1_lps_mm "
    "i0 j0 k0 i1 j1 k1 label class case order branch_id defined positive point_id other"
)
headers = st.sampled_from(COLUMNS.split())
HEADER_SETS = [
    ["l", "p", "s"],
    ["x_ras_mm", "y_ras_mm", "z_ras_mm"],
    ["i", "j", "k"],
    ["i0", "j0", "k0", "i1", "j1", "k1"],
]


@quick
@given(
    coordinates=st.sampled_from(HEADER_SETS) | st.just([]),
    header=st.lists(headers, max_size=6),
    rows=st.lists(st.lists(cells, max_size=9), max_size=5),
    separator=st.sampled_from([",", ";", "\t"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_table_is_markups_or_an_error(
    coordinates: list[str],
    header: list[str],
    rows: list[list[str]],
    separator: str,
    line_end: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.getbasetemp() / "c.csv"
    lines = [separator.join(row) for row in [[*coordinates, *header], *rows]]
    file.write_bytes(line_end.join(lines).encode("utf-8", "replace"))
    check_reading(file)


# damaged files


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Content with a few bytes changed, removed, doubled or put in, or cut off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(5)
        if action == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif action == 1:
            del data[at : at + rng.randint(1, 20)]
        elif action == 2:
            data[at:at] = data[at : at + rng.randint(1, 40)]
        elif action == 3:
            data[at:at] = rng.choice([b"[", b"{", b'"', b",", b";", b"\n", b"-", b"9" * 50, b"nan", b"null", b"1e999"])
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def try_damaged(file: Path, content: bytes, n: int, pack: Callable[[bytes], bytes] = bytes) -> None:
    """Read `n` damaged versions of a file, each within seconds."""
    rng = random.Random(file.name)
    for _ in range(n):
        file.write_bytes(pack(damaged(content, rng)))
        start = time.perf_counter()
        check_reading(file)
        assert time.perf_counter() - start < 5


def golden_files() -> list[Path]:
    """Every golden file of points."""
    return sorted(f for f in GOLDEN.iterdir() if f.name.endswith(TEXT_ENDINGS))


def test_damaged_files_are_markups_or_an_error(tmp_path: Path) -> None:
    for golden in golden_files():
        try_damaged(tmp_path / golden.name, golden.read_bytes(), 6)


@pytest.mark.slow
@pytest.mark.parametrize("golden", golden_files(), ids=lambda f: f.name)
def test_many_damaged_files_are_markups_or_an_error(golden: Path, tmp_path: Path) -> None:
    try_damaged(tmp_path / golden.name, golden.read_bytes(), 500)


def label_map_bytes(folder: Path) -> bytes:
    """A tiny NIfTI file of marks, uncompressed."""
    array = np.zeros((4, 5, 6), dtype=np.uint8)
    array[1, 2, 3], array[3, 4, 5] = 1, 2
    image = sitk.GetImageFromArray(array)
    image.SetOrigin((110.0, 70.0, -8.0))
    sitk.WriteImage(image, str(folder / "whole.nii"))
    return (folder / "whole.nii").read_bytes()


@pytest.mark.parametrize("n", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_label_maps_are_markups_or_an_error(n: int, tmp_path: Path) -> None:
    content = label_map_bytes(tmp_path)
    try_damaged(tmp_path / "c.marks.nii", content, n)
    try_damaged(tmp_path / "c.marks.nii.gz", content, n, gzip.compress)
    try_damaged(tmp_path / "d.marks.nii.gz", gzip.compress(content), n)


# files that would cost time or memory


def hostile() -> Iterator[tuple[str, bytes]]:
    """Name and content of files that are small or allowed, and dear to a careless reader."""
    yield "deep.mrk.json", b'{"markups": ' + b"[" * 100_000
    yield "deep_but_valid.mrk.json", b'{"markups": ' + b"[" * 900 + b"]" * 900 + b"}"
    yield "deep_name.mrk.json", b'{"markups": [{"name": ' + b"[" * 900 + b"]" * 900 + b"}]}"
    yield "digits.mrk.json", b'{"markups": [' + b"9" * 2_000_000 + b"]}"
    yield "many.mrk.json", b'{"markups": [' + b'{"type":"Fiducial"},' * 300_000 + b"{}]}"
    yield "points.mrk.json", b'{"markups": [{"type":"Fiducial","controlPoints":[' + b"{}," * 300_000 + b"{}]}]}"
    yield "commas.csv", b"l,p,s\n" + b"," * 2_000_000 + b"x"
    yield "columns.csv", b"l,p,s" + b",c" * 1_000_000
    yield "quote.csv", b'l,p,s\n"' + b"1,2,3\n" * 300_000
    yield "rows.csv", b"l,p,s\n" + b"1,2,3\n" * 300_000
    yield "rows.fcsv", b"# CoordinateSystem = LPS\n" + b"F,1,2,3\n" * 300_000
    yield "digits.csv", b"l,p,s\n1,2," + b"9" * 100_000
    yield "lines.csv", b"\n" * 2_000_000


@pytest.mark.parametrize(("name", "content"), [pytest.param(*case, id=case[0]) for case in hostile()])
def test_dear_files_are_refused_soon(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(PromptFileError, match=name):
        read_prompt_file(tmp_path / name, geometry=GEOMETRY, labels=LABELS)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("ending", TEXT_ENDINGS)
def test_large_files_are_refused_unread(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"c{ending}"
    with file.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(PromptFileError, match="MB are refused"):
        read_prompt_file(file)


# what is written is read

coordinates = st.floats(-MAX_COORDINATE_MM, MAX_COORDINATE_MM)
point_lists = st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=6)
# names and labels are stripped on reading, so that a blank cannot keep a name from its class
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).map(str.strip).filter(bool)


@quick
@given(
    lists=st.lists(st.tuples(texts, st.sampled_from(["points", "curve", "closed_curve"]), point_lists), max_size=3),
    label=texts,
)
def test_written_markups_are_read_to_the_last_bit(
    lists: list[tuple[str, str, list[tuple[float, float, float]]]],
    label: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.getbasetemp() / "c.mrk.json"
    written = [
        Markup(name, kind, np.array(points, dtype=np.float64).reshape(-1, 3), (label,) * len(points))
        for name, kind, points in lists
    ]
    write_markups(file, written)
    for before, after in zip(written, read_markups(file), strict=True):
        assert (after.name, after.kind, after.point_labels) == (before.name, before.kind, before.point_labels)
        np.testing.assert_array_equal(after.points_lps_mm, before.points_lps_mm)


sizes = st.floats(1e-2, 1e3)


@quick
@given(
    center=st.tuples(*[st.floats(-1e4, 1e4)] * 3),
    size=st.tuples(sizes, sizes, sizes),
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)
def test_written_boxes_are_read_again(
    center: tuple[float, ...],
    size: tuple[float, ...],
    quaternion: tuple[float, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    corners = oriented_corners(np.array(center), np.array(size), Rotation.from_quat(quaternion).as_matrix())
    np.testing.assert_allclose(center_size_axes(corners)[1], size, rtol=1e-6)
    file = tmp_path_factory.getbasetemp() / "c.mrk.json"
    write_markups(file, [Markup("R", "box", corners, ("R",) * 8)])
    (again,) = read_markups(file)
    np.testing.assert_allclose(again.points_lps_mm, corners, atol=1e-8)


@quick
@given(points=st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=6), comma=st.booleans())
def test_tables_written_with_all_digits_are_read_to_the_last_bit(
    points: list[tuple[float, float, float]], comma: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "c.csv"
    text = "\n".join(["x_lps_mm;y_lps_mm;z_lps_mm", *(";".join(map(repr, p)) for p in points)])
    file.write_text(text.replace(".", ",") if comma else text, encoding="utf-8")
    (markup,) = read_prompt_file(file)
    np.testing.assert_array_equal(markup.points_lps_mm, np.array(points))
