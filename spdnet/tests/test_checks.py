"""Every check of docs/checks.md: its fault is made, and the message that the page promises must come.

The page and this file have the same checks, so neither can be forgotten. "…" in a message of the page stands for
anything.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from spdnet import paths
from spdnet.cli import simulate_prompts
from spdnet.cli.evaluate import check_output
from spdnet.cli.plan_and_preprocess import preprocess_main
from spdnet.cli.predict import sibling_prompts
from spdnet.comparison.lone_pieces import drop_lone_pieces
from spdnet.comparison.point_channels import with_prompt_files, write_images_with_points
from spdnet.dataset import RawDataset, choose_reader, get_reader, verify_dataset_integrity
from spdnet.dataset.image_io import stored
from spdnet.errors import SPDError
from spdnet.evaluation import evaluate_folder
from spdnet.geometry import ImageGeometry
from spdnet.inference import SPDPredictor
from spdnet.inference.export import write_prediction
from spdnet.inference.steps import CaseTools
from spdnet.inference.work_list import FileCase
from spdnet.network.checkpoint import FINAL, read_checkpoint
from spdnet.planning import Fingerprint, SPDPlans, SPDPreprocessor, StoredCase, extract_fingerprint
from spdnet.planning.plans import PromptSettings
from spdnet.planning.preprocessor import check_made_with, preprocess_image
from spdnet.planning.storage import RunRecord
from spdnet.prompts import Markup, write_markups
from spdnet.sharing import install_model
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import tiny_settings

PAGE = Path(__file__).parents[2] / "docs" / "checks.md"
GRID = ImageGeometry((4, 9, 11), (1.0, 1.0, 1.0))


@dataclass
class Bench:
    """What a fault is made with: an empty folder, and copies of a data set as far as it is needed."""

    folder: Path
    request: pytest.FixtureRequest
    monkeypatch: pytest.MonkeyPatch

    def workspace(self, kind: str = "workspace") -> Workspace:
        """The data set: raw, `planned` or `trained`."""
        return self.request.getfixturevalue(kind)  # type: ignore[no-any-return]

    @property
    def dataset(self) -> RawDataset:
        """The raw data set."""
        return RawDataset(self.workspace().raw)

    def prompts_folder(self) -> Path:
        """An empty promptsTr of the raw data set."""
        folder = self.workspace().raw / "promptsTr"
        folder.mkdir()
        return folder

    def change_json(self, file: Path, **changes: Any) -> None:
        """Replace values of a JSON file; `...` removes one."""
        content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}), encoding="utf-8")

    def change_dataset(self, **changes: Any) -> RawDataset:
        """The raw data set with another dataset.json."""
        self.change_json(self.workspace().raw / "dataset.json", **changes)
        return RawDataset(self.workspace().raw)

    def label(self, array: np.ndarray, name: str = "blob_002") -> RawDataset:
        """The raw data set with another label file on the same grid."""
        file = self.workspace().raw / "labelsTr" / f"{name}.nii.gz"
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(sitk.ReadImage(str(file)))
        sitk.WriteImage(image, str(file))
        return self.dataset

    def label_array(self, name: str = "blob_002") -> np.ndarray:
        """Voxels of a label file."""
        file = self.workspace().raw / "labelsTr" / f"{name}.nii.gz"
        return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))

    def image(self, array: np.ndarray, ending: str = ".nii.gz") -> Path:
        """A small image file."""
        file = self.folder / f"c_0000{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(array), str(file), useCompression=True)
        return file

    def predictor(self) -> SPDPredictor:
        """A predictor of one fold of the trained model."""
        predictor = SPDPredictor(device="cpu", allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(self.workspace("trained").model(), 0)
        return predictor

    def predict(self, prompts: bool = True, **options: Any) -> None:
        """Predict the test images."""
        raw = self.workspace("trained").raw
        folder = raw / "promptsTs" if prompts else None
        self.predictor().predict_from_files(raw / "imagesTs", self.folder / "out", prompts=folder, **options)

    def plans(self, **changes: Any) -> None:
        """Read plans with other settings; a dot in a name leads into a part, written as two underscores."""
        file = self.workspace("planned").preprocessed / "SPDPlans.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        for name, value in changes.items():
            place = content["spd"]
            *parts, last = name.split("__")
            for part in parts:
                place = place[part]
            place.pop(last, None)
            place.update({} if value is ... else {last: value})
        file.write_text(json.dumps(content), encoding="utf-8")
        SPDPlans.load(file)


def repeat(file: Path, times: int) -> None:
    """Make a 3D image file one of 4D that holds it several times."""
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(file))] * times), str(file))


def ones(*shape: int) -> np.ndarray:
    """Voxels."""
    return np.ones(shape, np.uint8)


def read(file: Path, reader: str = "SimpleITKIO") -> None:
    """Read an image."""
    get_reader(reader).read_image([file])


CHECKS: dict[str, Callable[[Bench], object]] = {}


def check(title: str) -> Callable[[Callable[[Bench], object]], Callable[[Bench], object]]:
    """Register what provokes the check of a title."""

    def register(function: Callable[[Bench], object]) -> Callable[[Bench], object]:
        assert title not in CHECKS
        CHECKS[title] = function
        return function

    return register


# ---- the data set -----------------------------------------------------------------------------------------


@check("dataset.json is missing")
def _(bench: Bench) -> object:
    (bench.workspace().raw / "dataset.json").unlink()
    return bench.dataset.labels


@check("dataset.json is not JSON")
def _(bench: Bench) -> object:
    (bench.workspace().raw / "dataset.json").write_text('{"labels": ', encoding="utf-8")
    return bench.dataset.labels


@check("a key, a label or a case twice in dataset.json")
def _(bench: Bench) -> object:
    (bench.workspace().raw / "dataset.json").write_text('{"dataset": {"case_1": 1, "case_1": 2}}', encoding="utf-8")
    return bench.dataset.labels


@check("dataset.json of nnU-Net v1 or the Decathlon")
def _(bench: Bench) -> object:
    old = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}}
    return bench.change_dataset(channel_names=..., file_ending=..., **old).labels


@check("dataset.json lacks a key")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels=...).labels


@check("channel_names of another form")
def _(bench: Bench) -> object:
    return bench.change_dataset(channel_names=["CT"]).labels


@check("file_ending is no file ending")
def _(bench: Bench) -> object:
    return bench.change_dataset(file_ending="../x").labels


@check("a file ending that no reader knows")
def _(bench: Bench) -> object:
    return choose_reader({"file_ending": ".jpg"})


@check("no background among the labels")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels={"a": 1}).labels


@check("a label that is no integer")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels={"background": 0, "a": 1.5}).labels


@check("a label value that cannot be stored")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels={"background": 0, "a": 70000}).labels


@check("two labels of one value")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels={"background": 0, "a": 1, "b": 1}).labels


@check("regions without their order")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels={"background": 0, "a": [1, 2], "b": 2}).labels


@check("an ignore label that is not the highest")
def _(bench: Bench) -> object:
    return bench.change_dataset(labels={"background": 0, "a": 1, "ignore": 7}).labels


@check("label values with gaps ¹")
def _(bench: Bench) -> object:
    return verify_dataset_integrity(bench.change_dataset(labels={"background": 0, "a": 2}))


@check("another number of cases than declared ¹")
def _(bench: Bench) -> object:
    return verify_dataset_integrity(bench.change_dataset(numTraining=9))


@check("no folder of images")
def _(bench: Bench) -> object:
    shutil.rmtree(bench.workspace().raw / "imagesTr")
    return bench.dataset.training_cases()


@check("no image with the declared ending")
def _(bench: Bench) -> object:
    return bench.change_dataset(file_ending=".nrrd").training_cases()


@check("a case without one of its channels")
def _(bench: Bench) -> object:
    images = bench.workspace().raw / "imagesTr"
    shutil.copy(images / "blob_000_0000.nii.gz", images / "blob_000_0001.nii.gz")
    return bench.change_dataset(channel_names={"0": "a", "1": "b"}).training_cases()


@check("a channel that is not declared")
def _(bench: Bench) -> object:
    images = bench.workspace().raw / "imagesTr"
    shutil.copy(images / "blob_000_0000.nii.gz", images / "blob_000_0001.nii.gz")
    return bench.dataset.training_cases()


@check("a training case without label")
def _(bench: Bench) -> object:
    (bench.workspace().raw / "labelsTr" / "blob_002.nii.gz").unlink()
    return bench.dataset.training_cases()


@check("a label without image ¹")
def _(bench: Bench) -> object:
    labels = bench.workspace().raw / "labelsTr"
    shutil.copy(labels / "blob_002.nii.gz", labels / "other.nii.gz")
    return verify_dataset_integrity(bench.dataset)


@check("prompts of a case that is not there, while others have none")
def _(bench: Bench) -> object:
    folder = bench.prompts_folder()
    write_markups(folder / "blob_2.mrk.json", [])
    return extract_fingerprint(bench.dataset, 1)


@check("training cases without prompts, while others have some ¹")
def _(bench: Bench) -> object:
    folder = bench.prompts_folder()
    write_markups(folder / "blob_002.mrk.json", [])
    return verify_dataset_integrity(bench.dataset)


@check("a file in promptsTr or promptsTs that has no ending of a prompt file")
def _(bench: Bench) -> object:
    folder = bench.prompts_folder()
    (folder / "blob_002.json").write_text("", encoding="utf-8")
    return extract_fingerprint(bench.dataset, 1)


@check("several faulty cases, as far as headers and prompt files tell")
def _(bench: Bench) -> object:
    folder = bench.prompts_folder()
    far = Markup("bright", "points", np.array([[500.0, 0, 0]]), ("F-1",))
    write_markups(folder / "blob_001.mrk.json", [far])
    (folder / "blob_002.mrk.json").write_text("{", encoding="utf-8")
    return extract_fingerprint(bench.dataset, 1)


@check("a case without prompts, where the plans ask for prompt files")
def _(bench: Bench) -> object:
    folder = bench.prompts_folder()
    for name in ("blob_000", "blob_001", "blob_003", "blob_004"):
        write_markups(folder / f"{name}.mrk.json", [])
    plans = SPDPlans("Dataset507_Blobs", "P", "SimpleITKIO", tiny_settings(prompts=PromptSettings("files")))
    return SPDPreprocessor(bench.dataset, plans, bench.folder).run(1)


@check("two prompt files of one case")
def _(bench: Bench) -> object:
    folder = bench.prompts_folder()
    write_markups(folder / "blob_002.mrk.json", [])
    (folder / "blob_002.fcsv").write_text("", encoding="utf-8")
    return bench.dataset.training_cases()


@check("an unknown data set")
def _(bench: Bench) -> object:
    bench.workspace()
    return paths.resolve_dataset_name("999")


@check("an environment variable is not set")
def _(bench: Bench) -> object:
    return paths.raw_root()


# ---- image files ------------------------------------------------------------------------------------------


@check("a file that is no image")
def _(bench: Bench) -> object:
    (bench.folder / "c.nii.gz").write_bytes(b"no image")
    return read(bench.folder / "c.nii.gz")


@check("an image that is not there")
def _(bench: Bench) -> object:
    return read(bench.folder / "c.nii.gz")


@check("a packed image that is cut off")
def _(bench: Bench) -> object:
    file = bench.image(np.random.default_rng(0).integers(0, 99, (4, 30, 30)))
    file.write_bytes(file.read_bytes()[:-500])
    return read(file)


@check("a packed image with a changed byte")
def _(bench: Bench) -> object:
    file = bench.image(np.random.default_rng(0).integers(0, 99, (4, 30, 30)), ".mha")
    content = file.read_bytes()
    file.write_bytes(content[:-500] + bytes([content[-500] ^ 0x55]) + content[-499:])
    return read(file)


@check("an image that holds fewer voxels than its header says")
def _(bench: Bench) -> object:
    file = bench.image(ones(4, 30, 30), ".nii")
    file.write_bytes(file.read_bytes()[:-500])
    return read(file)


@check("a `.nii` beside a `.nii.gz` of the same name")
def _(bench: Bench) -> object:
    for name in ("c.nii", "c.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(ones(5, 5, 5), np.eye(4)), bench.folder / name)
    return read(bench.folder / "c.nii.gz")


@check("a spacing, origin or direction that places no voxels")
def _(bench: Bench) -> object:
    file = bench.image(ones(4, 9, 9), ".mha")
    file.write_bytes(re.sub(rb"ElementSpacing = [^\n]*", b"ElementSpacing = -1 1 1", file.read_bytes()))
    return read(file)


@check("an NRRD packed by bzip2")
def _(bench: Bench) -> object:
    file = bench.image(ones(4, 9, 9), ".nrrd")
    file.write_bytes(file.read_bytes().replace(b"encoding: gzip", b"encoding: bzip2"))
    return read(file)


@check("a header that claims more than the file can hold")
def _(bench: Bench) -> object:
    header = nibabel.Nifti1Image(ones(2, 2, 2), np.eye(4)).header
    header.set_data_shape((10000, 10000, 10000))
    (bench.folder / "c.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    return read(bench.folder / "c.nii.gz")


@check("an image without slices")
def _(bench: Bench) -> object:
    header = nibabel.Nifti1Image(ones(2, 2, 2), np.eye(4)).header
    header["dim"] = [3, 9, 9, 0, 1, 1, 1, 1]
    (bench.folder / "c.nii").write_bytes(header.binaryblock + bytes(1000))
    return read(bench.folder / "c.nii", "NibabelIO")


@check("an image that memory cannot hold")
def _(bench: Bench) -> object:
    bench.monkeypatch.setattr(stored, "available_memory", lambda: 100)
    return read(bench.image(ones(4, 30, 30)))


@check("NaN or infinity ²")
def _(bench: Bench) -> object:
    return read(bench.image(np.full((4, 9, 9), np.nan, np.float32), ".mha"))


@check("a 4D image of another number of channels")
def _(bench: Bench) -> object:
    repeat(bench.workspace().raw / "imagesTr" / "blob_002_0000.nii.gz", 3)
    return extract_fingerprint(bench.dataset, 1)


@check("a 4D image for a reader of 3D images")
def _(bench: Bench) -> object:
    nibabel.save(nibabel.Nifti1Image(ones(5, 5, 5, 2), np.eye(4)), bench.folder / "c.nii")
    return read(bench.folder / "c.nii", "NibabelIO")


@check("several values per voxel")
def _(bench: Bench) -> object:
    sitk.WriteImage(sitk.GetImageFromArray(ones(4, 9, 9, 3), isVector=True), str(bench.folder / "c.mha"))
    return read(bench.folder / "c.mha")


@check("voxels in another file")
def _(bench: Bench) -> object:
    file = bench.image(ones(4, 9, 9), ".mha")
    file.write_bytes(file.read_bytes().replace(b"= LOCAL", b"= c.raw"))
    return read(file)


@check("an MHA header whose numbers do not fit together")
def _(bench: Bench) -> object:
    file = bench.image(ones(4, 9, 9), ".mha")
    file.write_bytes(file.read_bytes().replace(b"NDims = 3", b"NDims = -1"))
    return read(file)


@check("channels on different grids")
def _(bench: Bench) -> object:
    file, other = bench.image(ones(4, 9, 9)), bench.folder / "c_0001.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(ones(5, 9, 9)), str(other))
    return get_reader("SimpleITKIO").read_image([file, other])


@check("a NIfTI header with two frames")
def _(bench: Bench) -> object:
    image = nibabel.Nifti1Image(ones(9, 9, 4), np.eye(4))
    image.set_qform(np.diag([1.0, 1, 2, 1]), 1)
    image.set_sform(np.eye(4), 1)
    nibabel.save(image, bench.folder / "c.nii.gz")
    return read(bench.folder / "c.nii.gz")


@check("a NIfTI header with NaN or infinity in its affine or spacing")
def _(bench: Bench) -> object:
    image = nibabel.Nifti1Image(ones(9, 9, 4), np.eye(4))
    image.header["srow_y"][1] = np.nan
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), bench.folder / "c.nii.gz")
    return read(bench.folder / "c.nii.gz")


@check("a constant image")
def _(bench: Bench) -> object:
    return preprocess_image(np.ones((1, 4, 9, 11), np.float32), GRID, tiny_settings(), "c")


# ---- label files ------------------------------------------------------------------------------------------


@check("a label file with fractions")
def _(bench: Bench) -> object:
    return extract_fingerprint(bench.label(bench.label_array() * 0.5), 1)


@check("a label file with huge values")
def _(bench: Bench) -> object:
    return extract_fingerprint(bench.label(bench.label_array().astype(np.float64) * 1e12), 1)


@check("a label value that is not declared")
def _(bench: Bench) -> object:
    return extract_fingerprint(bench.label(bench.label_array() * 4), 1)


@check("a label file with channels")
def _(bench: Bench) -> object:
    repeat(bench.workspace().raw / "labelsTr" / "blob_002.nii.gz", 2)
    return extract_fingerprint(bench.dataset, 1)


@check("image and label on different grids")
def _(bench: Bench) -> object:
    labels = bench.workspace().raw / "labelsTr"
    shutil.copy(labels / "blob_001.nii.gz", labels / "blob_002.nii.gz")
    return extract_fingerprint(bench.dataset, 1)


@check("no target in any label file")
def _(bench: Bench) -> object:
    for number in range(5):
        bench.label(bench.label_array(f"blob_{number:03d}") * 0, f"blob_{number:03d}")
    return extract_fingerprint(bench.dataset, 1)


# ---- prompts ----------------------------------------------------------------------------------------------


@check("no folder of prompts")
def _(bench: Bench) -> object:
    (bench.folder / "imagesTs").mkdir()
    return sibling_prompts(bench.folder / "imagesTs")


@check("a folder without prompts of any case")
def _(bench: Bench) -> object:
    for file in (bench.workspace("trained").raw / "promptsTs").iterdir():
        file.unlink()
    return bench.predict()


@check("a case without prompts, while others have some")
def _(bench: Bench) -> object:
    (bench.workspace("trained").raw / "promptsTs" / "blob_006.mrk.json").unlink()
    return bench.predict()


@check("a point outside its image")
def _(bench: Bench) -> object:
    far = Markup("bright", "points", np.array([[500.0, 0, 0]]), ("F-1",))
    write_markups(bench.workspace("trained").raw / "promptsTs" / "blob_006.mrk.json", [far])
    return bench.predict()


@check("a prompt file that is damaged")
def _(bench: Bench) -> object:
    (bench.workspace("trained").raw / "promptsTs" / "blob_006.mrk.json").write_text("{", encoding="utf-8")
    return bench.predict()


# ---- fingerprint, plans and preprocessed cases ------------------------------------------------------------


@check("no plans")
def _(bench: Bench) -> object:
    return SPDPlans.load(bench.folder / "SPDPlans.json")


@check("plans of another program")
def _(bench: Bench) -> object:
    (bench.folder / "SPDPlans.json").write_text('{"dataset_name": "x", "plans_name": "nnUNetPlans"}', encoding="utf-8")
    return SPDPlans.load(bench.folder / "SPDPlans.json")


@check("an unknown key in the plans")
def _(bench: Bench) -> object:
    return bench.plans(distillation__tua=0.5)


@check("a key that is missing in the plans")
def _(bench: Bench) -> object:
    return bench.plans(stage1__epochs=...)


@check("a value of another type in the plans")
def _(bench: Bench) -> object:
    return bench.plans(image_size="56")


@check("a number out of its range in the plans")
def _(bench: Bench) -> object:
    return bench.plans(stage1__batch_size=0)


@check("an unknown choice in the plans")
def _(bench: Bench) -> object:
    return bench.plans(distillation__mode="raws")


@check("slices in the plans that are not whole tokens")
def _(bench: Bench) -> object:
    bench.plans(backbone="vit_b")
    return preprocess_main.__wrapped__(["-d", "507", "-np", "1"])  # what the command turns into its message


@check("a name in the plans that is a path")
def _(bench: Bench) -> object:
    file = bench.workspace("planned").preprocessed / "SPDPlans.json"
    bench.change_json(file, plans_name="../x")
    return SPDPlans.load(file)


@check("plans whose plans_name is not the name of their file")
def _(bench: Bench) -> object:
    folder = bench.workspace("planned").preprocessed
    shutil.copy(folder / "SPDPlans.json", folder / "SmallPlans.json")
    return SPDPlans.load_named(folder, "SmallPlans")


@check("a fingerprint of another version")
def _(bench: Bench) -> object:
    file = bench.workspace("planned").preprocessed / paths.FINGERPRINT_FILE
    bench.change_json(file, slicing_axis=...)
    return Fingerprint.load(file)


@check("a preprocessing that was not finished")
def _(bench: Bench) -> object:
    folder = bench.workspace("planned").preprocessed / "SPDPlans_2d"
    RunRecord(folder).begin({})
    return StoredCase.list(folder)


@check("plans that were changed after the preprocessing")
def _(bench: Bench) -> object:
    bench.plans(pixel_spacing_mm=9.0)
    workspace = bench.workspace("planned")
    settings = SPDPlans.load(workspace.preprocessed / "SPDPlans.json").settings
    return check_made_with(workspace.preprocessed / "SPDPlans_2d", settings, RawDataset(workspace.raw).labels)


@check("a preprocessed file that is damaged")
def _(bench: Bench) -> object:
    folder = bench.workspace("planned").preprocessed / "SPDPlans_2d"
    (folder / "blob_002.npy").write_bytes(b"")
    return StoredCase(folder, "blob_002").slices


# ---- models -----------------------------------------------------------------------------------------------


@check("a model folder without plans.json")
def _(bench: Bench) -> object:
    (bench.workspace("trained").model() / "plans.json").unlink()
    return bench.predictor()


@check("a model folder without dataset.json")
def _(bench: Bench) -> object:
    (bench.workspace("trained").model() / "dataset.json").unlink()
    return bench.predictor()


@check("a fold without checkpoint")
def _(bench: Bench) -> object:
    (bench.workspace("trained").model() / "fold_0" / FINAL).unlink()
    return bench.predictor()


@check("a checkpoint that is damaged, or holds more than numbers")
def _(bench: Bench) -> object:
    (bench.workspace("trained").model() / "fold_0" / FINAL).write_bytes(b"no checkpoint")
    return bench.predictor()


@check("a checkpoint of another version")
def _(bench: Bench) -> object:
    file = bench.workspace("trained").model() / "fold_0" / FINAL
    content = torch.load(file, weights_only=True)
    torch.save({**content, "spd": {**content["spd"], "format_version": 99}}, file)
    return read_checkpoint(file)


@check("a checkpoint of another program")
def _(bench: Bench) -> object:
    torch.save({"network_weights": {}}, bench.folder / FINAL)
    return read_checkpoint(bench.folder / FINAL)


@check("a checkpoint that was trained with other plans")
def _(bench: Bench) -> object:
    file = bench.workspace("trained").model() / "plans.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["spd"]["pixel_spacing_mm"] = 9.0
    file.write_text(json.dumps(content), encoding="utf-8")
    return bench.predictor()


@check("a zip that is no packed model")
def _(bench: Bench) -> object:
    bench.workspace("trained")
    (bench.folder / "model.zip").write_bytes(b"no zip")
    return install_model(bench.folder / "model.zip")


@check("a zip with a path that leads out of its folder")
def _(bench: Bench) -> object:
    bench.workspace("trained")
    with zipfile.ZipFile(bench.folder / "model.zip", "w") as target:
        target.writestr("Dataset501_X/../../evil", b"")
    return install_model(bench.folder / "model.zip")


# ---- predictions and evaluation ---------------------------------------------------------------------------


@check("one bad case among others to predict")
def _(bench: Bench) -> object:
    (bench.workspace("trained").raw / "imagesTs" / "blob_006_0000.nii.gz").write_bytes(b"no image")
    return bench.predict(prompts=False)


@check("a case that fails, of which an earlier prediction is there")
def _(bench: Bench) -> object:
    bench.predict(prompts=False)
    (bench.workspace("trained").raw / "imagesTs" / "blob_006_0000.nii.gz").write_bytes(b"no image")
    return bench.predict(prompts=False)


@check("prompts to read where --save_prompts would write")
def _(bench: Bench) -> object:
    raw = bench.workspace("trained").raw
    shutil.copytree(raw / "promptsTs", bench.folder / "out" / "prompts")
    prompts = bench.folder / "out" / "prompts"
    return bench.predictor().predict_from_files(
        raw / "imagesTs", bench.folder / "out", prompts=prompts, save_prompts=True
    )


@check("no case that can be predicted")
def _(bench: Bench) -> object:
    for name in ("blob_005", "blob_006"):
        (bench.workspace("trained").raw / "imagesTs" / f"{name}_0000.nii.gz").write_bytes(b"no image")
    return bench.predict()


@check("an output that would replace the images")
def _(bench: Bench) -> object:
    image = bench.workspace("trained").raw / "imagesTs" / "blob_005_0000.nii.gz"
    return bench.predictor().predict_from_files([[image]], [image.with_name("blob_005_0000")])


@check("an output folder that is the folder of the images")
def _(bench: Bench) -> object:
    images = bench.workspace("trained").raw / "imagesTs"
    return bench.predictor().predict_from_files(images, images)


@check("an output folder that holds labels, or other files with the names of the predictions")
def _(bench: Bench) -> object:
    raw = bench.workspace("trained").raw
    return bench.predictor().predict_from_files(raw / "imagesTs", raw / "labelsTs")


@check("an output folder with a dataset.json or plans.json of its own")
def _(bench: Bench) -> object:
    raw = bench.workspace("trained").raw
    bench.change_json(raw / "dataset.json", licence="ours")
    return bench.predictor().predict_from_files(raw / "imagesTs", raw)


@check("--continue_prediction with another model, checkpoint or prompts")
def _(bench: Bench) -> object:
    bench.predict()
    return bench.predict(prompts=False, overwrite=False)


@check("--continue_prediction in a folder of nnU-Net's predictions")
def _(bench: Bench) -> object:
    (bench.folder / "out").mkdir()
    record = bench.folder / "out" / "predict_from_raw_data_args.json"
    record.write_text(json.dumps({"overwrite": True, "num_parts": 1, "part_id": 0}), encoding="utf-8")
    return bench.predict(overwrite=False)


@check("scores that would replace another file")
def _(bench: Bench) -> object:
    return check_output(bench.workspace().raw / "dataset.json")


@check("probabilities that are none")
def _(bench: Bench) -> object:
    labels, reader = bench.dataset.labels, get_reader("SimpleITKIO")
    nan = np.full((len(labels), *GRID.shape_zyx), np.nan, np.float32)
    return write_prediction(bench.folder, "c", ".nii.gz", nan, GRID, labels, reader, False)


@check("a predicted value that is not declared")
def _(bench: Bench) -> object:
    labels = bench.change_dataset(labels={"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[1, 9]).labels
    one = np.ones((2, *GRID.shape_zyx), np.float32)
    return write_prediction(bench.folder, "c", ".nii.gz", one, GRID, labels, get_reader("SimpleITKIO"), False)


@check("a file that cannot be read back as it was written")
def _(bench: Bench) -> object:
    write = sitk.WriteImage
    bench.monkeypatch.setattr(sitk, "WriteImage", lambda image, *a, **k: write(image * 0, *a, **k))
    return get_reader("SimpleITKIO").write_segmentation(bench.folder / "c.nii.gz", ones(4, 9, 11), GRID)


@check("a reference without prediction")
def _(bench: Bench) -> object:
    labels = bench.workspace().raw / "labelsTr"
    return evaluate_folder(labels, bench.folder, bench.dataset.reader, bench.dataset.labels, ".nii.gz")


@check("a prediction on another grid than its reference")
def _(bench: Bench) -> object:
    labels = bench.workspace().raw / "labelsTr"
    for name in ("000", "001", "002", "003", "004"):
        shutil.copy(labels / "blob_000.nii.gz", bench.folder / f"blob_{name}.nii.gz")
    return evaluate_folder(labels, bench.folder, bench.dataset.reader, bench.dataset.labels, ".nii.gz")


# ---- points for other programs ---------------------------------------------------------------------------


def pointed(bench: Bench) -> tuple[list[FileCase], CaseTools]:
    """The test cases with their points, as plans of the tiny backbone see them."""
    workspace = bench.workspace("trained")
    dataset = RawDataset(workspace.raw)
    settings = SPDPlans.load(workspace.preprocessed / "SPDPlans.json").settings
    tools = CaseTools(settings, dataset.labels, dataset.reader, dataset.file_ending)
    return with_prompt_files(dataset.cases("Ts"), workspace.raw / "promptsTs"), tools


def channels(bench: Bench, *changes: tuple[str, object]) -> None:
    """Write the points as channels, with other tools."""
    cases, tools = pointed(bench)
    dataset = RawDataset(bench.workspace("trained").raw)
    write_images_with_points(dataset, cases, replace(tools, **dict(changes)), 1, bench.folder / "out", 1)  # type: ignore[arg-type]


def pieces(bench: Bench, case: str, change: Callable[[np.ndarray], np.ndarray] | None) -> None:
    """Drop pieces of the labels, of which that of one case is changed, or removed."""
    cases, tools = pointed(bench)
    found = bench.folder / "found"
    shutil.copytree(bench.workspace("trained").raw / "labelsTs", found)
    file = found / f"{case}.nii.gz"
    if change is None:
        file.unlink()
    else:
        label_map = change(sitk.GetArrayFromImage(sitk.ReadImage(str(file))))
        image = sitk.GetImageFromArray(label_map)
        if image.GetSize() == sitk.ReadImage(str(file)).GetSize():
            image.CopyInformation(sitk.ReadImage(str(file)))
        sitk.WriteImage(image, str(file))
    drop_lone_pieces(cases, tools, found, bench.folder / "out")


def image_of(bench: Bench, case: str) -> Path:
    """The image file of a test case."""
    return bench.workspace("trained").raw / "imagesTs" / f"{case}_0000.nii.gz"


@check("an output folder that is there")
def _(bench: Bench) -> object:
    (bench.folder / "out").mkdir()
    return channels(bench)


@check("a case without points")
def _(bench: Bench) -> object:
    (bench.workspace("trained").raw / "promptsTs" / "blob_006.mrk.json").unlink()
    return channels(bench)


@check("boxes in place of points")
def _(bench: Bench) -> object:
    bench.workspace("trained")
    simulate_prompts.main(["-d", "507", "-s", "Ts", "-mode", "boxes", "--overwrite"])
    return channels(bench)


@check("a format that holds no fractions")
def _(bench: Bench) -> object:
    return channels(bench, ("file_ending", ".gipl"))


@check("files that hold several channels")
def _(bench: Bench) -> object:
    repeat(image_of(bench, "blob_006"), 2)
    cases, tools = pointed(bench)
    two = replace(tools.settings, normalization=tools.settings.normalization * 2)
    dataset = RawDataset(bench.workspace("trained").raw)
    write_images_with_points(dataset, cases[1:], replace(tools, settings=two), 1, bench.folder / "out", 1)
    return None


@check("a 2D image among volumes")
def _(bench: Bench) -> object:
    file = image_of(bench, "blob_006")
    sitk.WriteImage(sitk.ReadImage(str(file))[:, :, 0], str(file))
    return channels(bench)


@check("slices that are not nnU-Net's")
def _(bench: Bench) -> object:
    file = image_of(bench, "blob_006")
    sitk.WriteImage(sitk.PermuteAxes(sitk.ReadImage(str(file)), [0, 2, 1]), str(file))
    return channels(bench)


@check("a case without segmentation")
def _(bench: Bench) -> object:
    return pieces(bench, "blob_006", None)


@check("a segmentation on another grid than its image")
def _(bench: Bench) -> object:
    return pieces(bench, "blob_006", lambda label_map: label_map[1:])


@check("a segmentation of another data set")
def _(bench: Bench) -> object:
    return pieces(bench, "blob_005", lambda label_map: np.where(label_map > 0, 7, label_map).astype(np.uint8))


# ---- disks ------------------------------------------------------------------------------------------------


@check("a disk that is full")
def _(bench: Bench) -> object:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    from spdnet.files import storage_errors

    with storage_errors(bench.folder / "a"), full.open("w", encoding="utf-8") as stream:
        stream.write("x")
    return None


@check("an output folder that is a file")
def _(bench: Bench) -> object:
    (bench.folder / "out").write_text("", encoding="utf-8")
    return bench.predict(prompts=False)


# ---- the page ---------------------------------------------------------------------------------------------


def rows() -> dict[str, str]:
    """Message of every check on the page, by title."""
    if not PAGE.exists():  # tests of an installed package
        return {}
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
    return {c[0].strip("| "): c[1].strip("| `") for c in cells if c[1].strip("| ").startswith("`")}


def texts_of_the_source() -> list[str]:
    """Every text in the package's code, adjacent literals together."""
    files = [f for f in sorted(Path(paths.__file__).parent.rglob("*.py")) if "tests" not in f.parts]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_warnings_of_the_page_are_in_the_code() -> None:
    if not PAGE.exists():
        pytest.skip("the documentation is not here")
    lines = PAGE.read_text(encoding="utf-8").split("| warning | what to do |")[1].splitlines()
    warnings = [
        text for line in lines if line.startswith("| `") for text in re.findall("`([^`]+)`", line.split(" | ")[0])
    ]
    assert len(warnings) > 8
    texts = texts_of_the_source()
    for warning in warnings:
        for part in (p.strip(" .") for p in warning.split("…")):
            assert any(part in text for text in texts), (part, warning)


def message_of(function: Callable[[Bench], object], bench: Bench) -> str:
    """The message of the error that a fault makes."""
    with pytest.raises(SPDError) as caught:
        function(bench)
    return str(caught.value)


def test_page_and_tests_have_the_same_checks() -> None:
    if not PAGE.exists():
        pytest.skip("the documentation is not here")
    assert list(rows()) == list(CHECKS)


@pytest.mark.parametrize("title", CHECKS)
def test_the_message_is_that_of_the_page(
    title: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench").mkdir()
    message = " ".join(message_of(CHECKS[title], Bench(tmp_path / "bench", request, monkeypatch)).split())
    promised = rows().get(title)
    if promised is not None:
        parts = [re.escape(part) for part in promised.split("…")]
        assert re.search(".*".join(parts), message, re.DOTALL), f"promised: {promised}\nfound: {message}"
