"""nnU-Net's files of a predicted case: what is in them, and in which order they appear."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from spdnet.dataset import Labels
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import DatasetError, StorageError
from spdnet.geometry import ImageGeometry
from spdnet.inference.export import is_complete, nnunet_probabilities, write_prediction

TWO = Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2}})
REGIONS = Labels.from_dataset_json(
    {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
)
GEOMETRY = ImageGeometry((2, 3, 4), (4.0, 1.5, 1.0), (-3.0, 5.0, 7.0), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))


class FlippedIO(SimpleITKIO):
    """As SimpleITKIO, but its nnU-Net counterpart would turn the axes."""

    def to_reader_order(self, array: np.ndarray, geometry: ImageGeometry) -> np.ndarray:
        return np.moveaxis(array, -1, -3)[..., ::-1, :]

    def from_reader_order(self, array: np.ndarray, geometry: ImageGeometry) -> np.ndarray:
        return np.moveaxis(array[..., ::-1, :], -3, -1)


def foreground(labels: Labels = TWO, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((len(labels), *GEOMETRY.shape_zyx)).astype(np.float32)


def write(folder: Path, probabilities: np.ndarray, labels: Labels = TWO, reader: Any = None, **options: Any) -> None:
    write_prediction(
        folder, "c", ".nii.gz", probabilities, options.get("geometry", GEOMETRY), labels, reader or SimpleITKIO(),
        options.get("save_probabilities", True),
    )  # fmt: skip


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_the_argmax_is_our_segmentation_at_ties_and_beside_them() -> None:
    half = np.float32(0.5)
    steps = [half, np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(1)), 0, 1, 0.7, 0.3, 1 / 3]
    steps += [np.nextafter(np.float32(v), np.float32(1)) for v in (0.7, 0.3, 1 / 3)]
    values = np.array(steps, dtype=np.float32)
    for k in (1, 2, 3):
        labels = Labels.from_dataset_json({"labels": {"background": 0, **{f"l{i}": i for i in range(1, k + 1)}}})
        grid = np.stack(np.meshgrid(*[values] * k, indexing="ij")).reshape(k, 1, 1, -1)
        near = np.random.default_rng(k).uniform(0.4999999, 0.5000001, (k, 1, 100, 100))
        for probabilities in (grid, near.astype(np.float32)):
            stored = nnunet_probabilities(probabilities, labels)
            assert stored.dtype == np.float32
            assert stored.shape == (k + 1, *probabilities.shape[1:])
            np.testing.assert_array_equal(stored.argmax(0), labels.merge(probabilities))
            np.testing.assert_allclose(stored.sum(0), 1, atol=1e-6)
            averaged = (stored + stored) / np.float32(2)  # an ensemble of a prediction with itself
            np.testing.assert_array_equal(averaged.argmax(0), labels.merge(probabilities))


def test_rounding_that_makes_a_tie_is_undone() -> None:
    """Two classes one step apart whose quotients by the sum are equal: the tie would go to the wrong one."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0.5, 1, 20000).astype(np.float32)
    three = Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}})
    probabilities = np.stack([low, np.nextafter(low, np.float32(2)), 0.9 * low]).reshape(3, 1, 1, -1)
    stacked = np.concatenate([1 - probabilities.max(0, keepdims=True), probabilities])
    assert ((stacked / stacked.sum(0)).argmax(0) != 2).any()
    assert (nnunet_probabilities(probabilities, three).argmax(0) == 2).all()


def test_regions_are_stored_as_they_are() -> None:
    probabilities = foreground(REGIONS)
    np.testing.assert_array_equal(nnunet_probabilities(probabilities, REGIONS), probabilities)


def test_labels_are_in_ascending_order_and_ignore_has_no_channel() -> None:
    labels = Labels.from_dataset_json({"labels": {"background": 0, "b": 2, "a": 1, "ignore": 3}})
    assert labels.names == ("a", "b")
    assert len(nnunet_probabilities(foreground(labels), labels)) == 3


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_the_files_of_a_case(tmp_path: Path, labels: Labels) -> None:
    probabilities = foreground(labels)
    write(tmp_path, probabilities, labels)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["c.nii.gz", "c.npz", "c.pkl"]
    segmentation = read(tmp_path / "c.nii.gz")
    np.testing.assert_array_equal(segmentation, labels.merge(probabilities))
    with np.load(tmp_path / "c.npz") as stored:
        assert stored.files == ["probabilities"]
        np.testing.assert_array_equal(stored["probabilities"], nnunet_probabilities(probabilities, labels))
    properties = pickle.loads((tmp_path / "c.pkl").read_bytes())
    assert properties == SimpleITKIO().properties(GEOMETRY)
    assert b"numpy" not in (tmp_path / "c.pkl").read_bytes(), "any version of numpy must read it"


def test_without_probabilities_there_is_only_the_segmentation(tmp_path: Path) -> None:
    write(tmp_path, foreground(), save_probabilities=False)
    assert [f.name for f in tmp_path.iterdir()] == ["c.nii.gz"]


def test_probabilities_are_in_the_readers_order_and_the_segmentation_in_the_files(tmp_path: Path) -> None:
    probabilities = foreground()
    write(tmp_path, probabilities, reader=FlippedIO())
    stored = np.load(tmp_path / "c.npz")["probabilities"]
    assert stored.shape == (3, 4, 2, 3)
    segmentation = read(tmp_path / "c.nii.gz")
    np.testing.assert_array_equal(segmentation, TWO.merge(probabilities))
    np.testing.assert_array_equal(stored.argmax(0), np.moveaxis(segmentation, 2, 0)[:, ::-1])


def test_the_segmentation_comes_last(tmp_path: Path) -> None:
    class Failing(SimpleITKIO):
        def write_segmentation(self, file: Path, label_map: np.ndarray, geometry: ImageGeometry) -> None:
            assert sorted(f.name for f in tmp_path.iterdir()) == ["c.npz", "c.pkl"]
            raise OSError("disk full")

    write(tmp_path, foreground())
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, foreground(seed=1), reader=Failing())
    assert not is_complete(tmp_path, "c", ".nii.gz", False), "an older one does not stand beside newer probabilities"


def test_a_failing_write_of_probabilities_leaves_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path, **arrays: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    write(tmp_path, foreground())
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(StorageError, match=r"cannot write .*c\.npz: disk full"):
        write(tmp_path, foreground(seed=1))
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_what_does_not_fit_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"case c: probabilities of shape \(2, 2, 3, 3\) do not fit 2 classes .*4\)"):
        write(tmp_path, foreground()[..., :3])
    with pytest.raises(DatasetError, match="case c: .*do not fit 2 classes"):
        write(tmp_path, foreground()[:1])
    undeclared = Labels.from_dataset_json(
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 7]}
    )
    with pytest.raises(DatasetError, match=r"holds \[7\], which dataset.json does not declare"):
        write(tmp_path, np.ones_like(foreground()), undeclared)
    assert not list(tmp_path.iterdir())


def test_complete_is_all_that_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path, foreground(), save_probabilities=False)
    assert is_complete(tmp_path, "c", ".nii.gz", False)
    assert not is_complete(tmp_path, "c", ".nii.gz", True)
    write(tmp_path, foreground())
    assert is_complete(tmp_path, "c", ".nii.gz", True)
    (tmp_path / "c.pkl").unlink()
    assert not is_complete(tmp_path, "c", ".nii.gz", True)
