"""Packed models: what is in the zip, what is refused, and that what is there is never lost."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spdnet.cli import export_model as export_command
from spdnet.cli import install_model as install_command
from spdnet.cli import predict
from spdnet.dataset.image_io import SimpleITKIO
from spdnet.errors import ConfigurationError, ModelError, StorageError
from spdnet.inference import ModelFolder
from spdnet.network import backbones
from spdnet.network.backbones import BaseWeights, get_backbone, register_backbone
from spdnet.network.checkpoint import read_checkpoint, write_checkpoint
from spdnet.sharing import MANIFEST_FILE, export_model, install_model
from spdnet.sharing import export as export_module
from spdnet.sharing.archive import Limits
from spdnet.tests.conftest import Workspace
from spdnet.tests.tiny import DATASET, TINY

MODEL = f"{DATASET}/SPDTrainer__SPDPlans__2d"
FINAL = "checkpoint_final.pth"
WEIGHTS = b"the published weights of tiny"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pack(workspace: Workspace, **options: bool) -> Path:
    """The trained model as a zip beside the three folders."""
    file = workspace.root / "model.zip"
    export_model(ModelFolder(workspace.model()), file, ["0", "1"], [FINAL], **options)
    return file


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The zip with its entries changed."""
    with zipfile.ZipFile(file) as source:
        entries = {info.filename: source.read(info) for info in source.infolist()}
    change(entries)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return file


def refused(
    file: Path, workspace: Workspace, *parts: str, limits: Limits | None = None, overwrite: bool = True
) -> None:
    """Installing fails with all parts in its message, and leaves nnUNet_results as it is."""
    before = snapshot(workspace.root)
    with pytest.raises(ModelError) as caught:
        install_model(file, overwrite, limits)
    for part in parts:
        assert part in str(caught.value)
    assert snapshot(workspace.root) == before
    assert not list(workspace.root.rglob(".spd_install_*"))


@pytest.fixture
def sam_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseWeights:
    """Makes the tiny backbone one with published weights, which lie in a folder of checkpoints."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "tiny.pth").write_bytes(WEIGHTS)
    monkeypatch.setenv(backbones.CHECKPOINT_FOLDER_VARIABLE, str(folder))
    weights = BaseWeights("tiny.pth", hashlib.sha256(WEIGHTS).hexdigest(), "https://example.org/tiny.pth")
    monkeypatch.setitem(backbones._REGISTRY, "tiny", replace(TINY, weights=weights))
    return weights


# ---- packing ----------------------------------------------------------------------------------------------


def test_zip_holds_what_prediction_and_nnunet_need(trained: Workspace) -> None:
    for fold in ("fold_0", "fold_1"):
        (trained.model() / fold / "debug.json").write_text("{}", encoding="utf-8")
        (trained.model() / fold / "unrelated.txt").write_text("not of the model", encoding="utf-8")
    with zipfile.ZipFile(pack(trained)) as packed:
        names = set(packed.namelist())
    expected = {"plans.json", "dataset.json", "spd_fingerprint.json", MANIFEST_FILE}
    for fold in ("fold_0", "fold_1"):
        expected |= {f"{fold}/{name}" for name in (FINAL, "debug.json", "validation/summary.json")}
    assert expected <= {name.removeprefix(f"{MODEL}/") for name in names}
    assert all(name.startswith(f"{MODEL}/") for name in names)
    assert not [n for n in names if "unrelated" in n or n.endswith(".nii.gz") or "checkpoint_best" in n]


def test_manifest_names_backbone_weights_and_every_file(trained: Workspace, sam_weights: BaseWeights) -> None:
    with zipfile.ZipFile(pack(trained)) as packed:
        manifest = json.loads(packed.read(f"{MODEL}/{MANIFEST_FILE}"))
        names = {name.removeprefix(f"{MODEL}/") for name in packed.namelist()} - {MANIFEST_FILE}
        plans = packed.read(f"{MODEL}/plans.json")
    assert manifest["backbone"] == "tiny"
    assert manifest["sam_weights"] == {
        "file_name": "tiny.pth",
        "sha256": sam_weights.sha256,
        "source": sam_weights.source,
        "included": False,
    }
    assert set(manifest["files"]) == names
    assert manifest["files"]["plans.json"] == hashlib.sha256(plans).hexdigest()


def test_registered_backbones_name_the_weights_that_they_load() -> None:
    for name, checkpoint in backbones._VIT_CHECKPOINTS.items():
        weights = get_backbone(name).weights
        assert weights is not None
        assert (weights.file_name, weights.sha256) == (checkpoint.file_name, checkpoint.sha256)
        assert weights.source.startswith("https://")
        assert weights.file == backbones.checkpoint_folder() / checkpoint.file_name
    lite = get_backbone("lite").weights
    assert lite is not None
    assert hashlib.sha256(lite.file.read_bytes()).hexdigest() == lite.sha256


def test_validation_predictions_are_packed_when_asked_for(trained: Workspace) -> None:
    with zipfile.ZipFile(pack(trained, crossvalidation_predictions=True)) as packed:
        names = packed.namelist()
    for fold in (0, 1):
        for file in (trained.model() / f"fold_{fold}" / "validation").glob("*.nii.gz"):
            assert f"{MODEL}/fold_{fold}/validation/{file.name}" in names


def test_missing_fold_or_damaged_checkpoint_is_not_packed(trained: Workspace) -> None:
    model, file = ModelFolder(trained.model()), trained.root / "m.zip"
    file.write_bytes(b"an older zip")
    with pytest.raises(ModelError, match="fold 2 has no checkpoint_final"):
        export_model(model, file, ["0", "2"], [FINAL])
    (trained.model() / "fold_1" / FINAL).write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="damaged"):
        export_model(model, file, ["0", "1"], [FINAL])
    assert file.read_bytes() == b"an older zip"
    assert not list(trained.root.glob(".partial*"))


def test_zip_appears_whole_or_not_at_all(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> str:
        raise OSError("no space left on device")

    file = pack(trained)
    before = file.read_bytes()
    monkeypatch.setattr(export_module, "sha256_of_stream", full_disk)
    with pytest.raises(StorageError, match="cannot write .*no space left"):
        pack(trained)
    assert file.read_bytes() == before
    assert not list(trained.root.glob(".partial*"))


def test_sam_weights_to_be_packed_must_be_the_published_ones(trained: Workspace, sam_weights: BaseWeights) -> None:
    sam_weights.file.write_bytes(b"something else")
    with pytest.raises(ModelError, match="not the published checkpoint"):
        pack(trained, include_sam_weights=True)
    sam_weights.file.unlink()
    with pytest.raises(ModelError, match=r"get them from https://example.org/tiny.pth"):
        pack(trained, include_sam_weights=True)
    assert not (trained.root / "model.zip").exists()


# ---- installing -------------------------------------------------------------------------------------------


def test_installed_model_predicts_identically(
    trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def predictions(folder: Path) -> dict[str, np.ndarray]:
        images = str(trained.raw / "imagesTs")
        predict.main(["-i", images, "-o", str(folder), "-d", "507", "-f", "0", "1", "-device", "cpu"])
        return {f.name: SimpleITKIO().read_label(f)[0] for f in folder.glob("*.nii.gz")}

    before = predictions(tmp_path / "before")
    zip_file = tmp_path / "m.zip"
    export_command.main(["-d", "507", "-o", str(zip_file), "-f", "0", "1"])
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere" / "results"))
    install_command.main([str(zip_file)])
    told = capsys.readouterr()
    assert "folds 0 1" in told.out
    assert all(f"{what}: 100%" in told.err for what in ("packing", "checking", "unpacking")), "bytes, all of them"
    after = predictions(tmp_path / "after")
    assert len(before) == 2 and before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    installed = tmp_path / "elsewhere" / "results" / MODEL
    assert snapshot(installed).items() >= {f"fold_0/{FINAL}": (trained.model() / "fold_0" / FINAL).read_bytes()}.items()


def test_zip_without_manifest_is_installed_and_comparisons_in_it_are_not(trained: Workspace) -> None:
    def like_nnunet(entries: dict[str, bytes]) -> None:
        del entries[f"{MODEL}/{MANIFEST_FILE}"]
        entries[f"{DATASET}/inference_information.json"] = b"{}"
        entries[f"{DATASET}/ensembles/ensemble___a___b___0_1/summary.json"] = b"{}"
        entries[f"{MODEL}/crossval_results_folds_0_1/postprocessing.json"] = b"{}"

    file = rewrite(pack(trained), like_nnunet)
    shutil.rmtree(trained.results)
    installed = install_model(file)
    assert not installed.has_manifest
    assert installed.folds == ["0", "1"]
    assert len(installed.left_out) == 2
    assert [p.name for p in trained.results.iterdir()] == ["SPDTrainer__SPDPlans__2d"]
    assert (trained.model() / "crossval_results_folds_0_1" / "postprocessing.json").exists()


def test_existing_model_is_kept_unless_it_is_to_be_replaced(trained: Workspace) -> None:
    file = pack(trained)
    marker = trained.model() / "fold_0" / "mine.txt"
    marker.write_text("mine", encoding="utf-8")
    before = snapshot(trained.results)
    with pytest.raises(ConfigurationError, match="exists already; give --overwrite"):
        install_model(file)
    assert snapshot(trained.results) == before
    install_model(file, overwrite=True)
    assert not marker.exists()
    assert (trained.model() / "fold_1" / FINAL).exists()
    assert [p.name for p in trained.results.iterdir()] == ["SPDTrainer__SPDPlans__2d"]


def test_old_model_comes_back_if_the_new_one_cannot_take_its_place(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before, rename = pack(trained), snapshot(trained.results), Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(PermissionError):
        install_model(file, overwrite=True)
    assert snapshot(trained.results) == before


def test_failed_install_leaves_no_folder_of_its_own(trained: Workspace) -> None:
    def damage(entries: dict[str, bytes]) -> None:
        del entries[f"{MODEL}/{MANIFEST_FILE}"]
        entries[f"{MODEL}/fold_1/{FINAL}"] = b"no checkpoint"

    file = rewrite(pack(trained), damage)
    shutil.rmtree(trained.results)
    refused(file, trained, f"fold_1/{FINAL} cannot be used", "Nothing was installed", overwrite=False)
    assert not trained.results.exists()


def test_model_of_another_backbone_than_its_plans_is_refused(trained: Workspace) -> None:
    checkpoint = trained.model() / "fold_1" / FINAL
    content = read_checkpoint(checkpoint)
    file = pack(trained)
    settings = {**content["spd"]["settings"], "backbone": "vit_b"}
    write_checkpoint(checkpoint, {**content, "spd": {**content["spd"], "settings": settings}})

    def mix(entries: dict[str, bytes]) -> None:
        del entries[f"{MODEL}/{MANIFEST_FILE}"]
        entries[f"{MODEL}/fold_1/{FINAL}"] = checkpoint.read_bytes()

    refused(rewrite(file, mix), trained, "do not belong together: backbone was 'vit_b', the plans say 'tiny'")


def test_a_fold_of_other_labels_is_neither_packed_nor_installed(trained: Workspace) -> None:
    checkpoint = trained.model() / "fold_1" / FINAL
    content = read_checkpoint(checkpoint)
    file = pack(trained)
    dataset_json = {**content["init_args"]["dataset_json"], "labels": {"background": 0, "half": 1, "bright": 2}}
    init_args = {**content["init_args"], "dataset_json": dataset_json}
    write_checkpoint(checkpoint, {**content, "init_args": init_args})
    with pytest.raises(ModelError, match="was trained on other labels than the dataset.json of its model has"):
        pack(trained)

    def mix(entries: dict[str, bytes]) -> None:
        del entries[f"{MODEL}/{MANIFEST_FILE}"]
        entries[f"{MODEL}/fold_1/{FINAL}"] = checkpoint.read_bytes()

    refused(rewrite(file, mix), trained, "was trained on other labels than", "Nothing was installed")


# ---- SAM's weights ----------------------------------------------------------------------------------------


def test_included_weights_are_installed_where_they_are_looked_for(
    trained: Workspace, sam_weights: BaseWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pack(trained, include_sam_weights=True)
    monkeypatch.setenv(backbones.CHECKPOINT_FOLDER_VARIABLE, str(tmp_path / "new" / "checkpoints"))
    installed = install_model(file, overwrite=True)
    assert installed.sam_state == "present"
    assert (tmp_path / "new" / "checkpoints" / "tiny.pth").read_bytes() == WEIGHTS
    assert [p.name for p in (tmp_path / "new" / "checkpoints").iterdir()] == ["tiny.pth"]
    assert not (trained.model() / "sam_weights").exists()


def test_other_weights_in_their_place_are_never_replaced(trained: Workspace, sam_weights: BaseWeights) -> None:
    file = pack(trained, include_sam_weights=True)
    sam_weights.file.write_bytes(b"other weights")
    refused(file, trained, "is not the published tiny.pth", "never replaced")
    assert sam_weights.file.read_bytes() == b"other weights"


@pytest.mark.parametrize(("content", "state"), [(None, "missing"), (b"damaged", "different"), (WEIGHTS, "present")])
def test_state_of_weights_that_are_not_included_is_reported(
    trained: Workspace,
    sam_weights: BaseWeights,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    state: str,
) -> None:
    file = pack(trained)
    sam_weights.file.unlink()
    if content is not None:
        sam_weights.file.write_bytes(content)
    install_command.main([str(file), "--overwrite"])
    said = capsys.readouterr().out
    expected = {"missing": sam_weights.source, "different": "not the published file", "present": "are here"}
    assert expected[state] in said


def test_weights_other_than_this_programs_are_refused(
    trained: Workspace, sam_weights: BaseWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pack(trained, include_sam_weights=True)
    newer = replace(sam_weights, sha256="0" * 64)
    monkeypatch.setitem(backbones._REGISTRY, "tiny", replace(TINY, weights=newer))
    refused(file, trained, "other weights of tiny")


def test_tampered_weights_are_refused(trained: Workspace, sam_weights: BaseWeights) -> None:
    def tamper(entries: dict[str, bytes]) -> None:
        entries[f"{MODEL}/sam_weights/tiny.pth"] = b"something else"

    file = rewrite(pack(trained, include_sam_weights=True), tamper)
    sam_weights.file.unlink()
    refused(file, trained, "tiny.pth is not what was packed")
    assert not sam_weights.file.exists()


def test_weights_without_a_manifest_are_refused(trained: Workspace, sam_weights: BaseWeights) -> None:
    file = rewrite(pack(trained, include_sam_weights=True), lambda entries: entries.pop(f"{MODEL}/{MANIFEST_FILE}"))
    refused(file, trained, "but no spd_model.json")


# ---- zip files that are refused ---------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Three folders with a model of a few bytes: enough for what is refused before contents are read."""
    small = Workspace(tmp_path / "small")
    (small.model() / "fold_0").mkdir(parents=True)
    small.activate(monkeypatch)
    return small


def pack_small(workspace: Workspace) -> Path:
    """A zip with the right names in it and nothing else that is right."""
    file = workspace.root / "model.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name in ("plans.json", "dataset.json", f"fold_0/{FINAL}"):
            target.writestr(f"{MODEL}/{name}", bytes(1000))
    return file


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.txt", "leads out of its folder"),
        (f"{MODEL}/../../../evil.txt", "leads out of its folder"),
        (f"{MODEL}//plans.json", "leads out of its folder"),
        ("/etc/evil", "absolute path"),
        ("C:/evil.txt", "names a drive"),
        (f"{MODEL}/fold_0\\evil.pth", "backslash"),
        (f"{MODEL}/evil.py", "is not part of a packed 2d model"),
        (f"{MODEL}/plans.json.py", "is not part of a packed 2d model"),
        (f"{MODEL}/fold_0/evil.pth", "is not part of a packed 2d model"),
        (f"{MODEL}/fold_0/validation/blob_000.npz", "is not part of a packed 2d model"),
        (f"{MODEL}/fold_0/validation/sub/blob_000.nii.gz", "is not part of a packed 2d model"),
        (f"{DATASET}/SPDTrainer__SPDPlans__3d_fullres/plans.json", "is not part of a packed 2d model"),
        (f"{DATASET}/SPDTrainer__Other__2d/plans.json", "one model of one data set"),
        ("Dataset508_Other/SPDTrainer__SPDPlans__2d/debug.json", "is not part of a packed 2d model"),
        ("readme.txt", "does not lie in a folder DatasetNNN_Name"),
        (f"{MODEL}/fold_0/checkpoint_FINAL.pth", "have one name"),
        (f"{MODEL}/fold_0/debug.json ", "not every system can hold"),
        (f"{MODEL}/fold_0/validation/a\tb.json", "not every system can hold"),
    ],
)
def test_unexpected_entries_are_refused(small: Workspace, name: str, reason: str) -> None:
    file = rewrite(pack_small(small), lambda entries: entries.update({name: b"evil"}))
    refused(file, small, reason)
    assert not (small.root / "evil.txt").exists()


def test_duplicate_entries_are_refused(small: Workspace) -> None:
    file = pack_small(small)
    with zipfile.ZipFile(file, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr(f"{MODEL}/plans.json", b"{}")
    refused(file, small, "have one name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR])
def test_links_and_special_files_are_refused(small: Workspace, kind: int) -> None:
    file = pack_small(small)
    info = zipfile.ZipInfo(f"{MODEL}/fold_0/network_architecture.pdf")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(file, "a") as target:
        target.writestr(info, "/etc/passwd")
    refused(file, small, "link or a special file")


def test_compression_bombs_are_refused(small: Workspace) -> None:
    file = rewrite(
        pack_small(small), lambda entries: entries.update({f"{MODEL}/dataset_fingerprint.json": bytes(4 << 20)})
    )
    refused(file, small, "times its size", limits=Limits(ratio=50.0, free_bytes=1 << 20))
    refused(file, small, "GiB", limits=Limits(total_bytes=3 << 20))
    refused(file, small, "entries", limits=Limits(n_entries=2))


def test_overlapping_entries_are_refused(small: Workspace) -> None:
    file = pack_small(small)
    with zipfile.ZipFile(file, "a") as target:
        copy = zipfile.ZipInfo(f"{MODEL}/fold_0/network_architecture.pdf")
        first = target.infolist()[0]
        for attribute in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
            setattr(copy, attribute, getattr(first, attribute))
        target.filelist.append(copy)
        target.NameToInfo[copy.filename] = copy
        target._didModify = True
    refused(file, small, "overlaps another")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_zip_is_refused(trained: Workspace, share: float) -> None:
    file = pack(trained)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(file, trained, "damaged, incomplete or not a zip file")


def test_flipped_byte_is_refused(trained: Workspace) -> None:
    file = pack(trained)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as opened:
        info = opened.getinfo(f"{MODEL}/fold_0/{FINAL}")
    content[info.header_offset + info.compress_size // 2] ^= 0xFF
    file.write_bytes(content)
    refused(file, trained, "damaged")


def test_file_changed_after_packing_is_refused(trained: Workspace) -> None:
    file = rewrite(pack(trained), lambda entries: entries.update({f"{MODEL}/dataset.json": b"{}"}))
    refused(file, trained, "dataset.json is not what was packed", "SHA-256")


def test_file_missing_from_the_manifest_is_refused(trained: Workspace) -> None:
    added = f"{MODEL}/fold_1/network_architecture.pdf"
    refused(rewrite(pack(trained), lambda entries: entries.update({added: b""})), trained, "in one of them only")
    lost = f"{MODEL}/fold_1/validation/summary.json"
    refused(rewrite(pack(trained), lambda entries: entries.pop(lost)), trained, "in one of them only")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not valid JSON"),
        (b'{"format_version": 2, "spdnet_version": "9.1"}', "Install the spdnet that packed it: 9.1"),
        (b'{"format_version": 1, "spdnet_version": "0.1"}', "is damaged"),
        (b"[]", "format version None"),
    ],
)
def test_damaged_manifest_is_refused(trained: Workspace, content: bytes, reason: str) -> None:
    file = rewrite(pack(trained), lambda entries: entries.update({f"{MODEL}/{MANIFEST_FILE}": content}))
    refused(file, trained, reason)


def test_model_of_nnunet_is_sent_to_nnunet(trained: Workspace) -> None:
    def plain(entries: dict[str, bytes]) -> None:
        del entries[f"{MODEL}/{MANIFEST_FILE}"]
        entries[f"{MODEL}/plans.json"] = b'{"plans_name": "nnUNetPlans"}'

    refused(rewrite(pack(trained), plain), trained, "nnUNetv2_install_pretrained_model_from_zip")


def test_backbone_that_is_not_known_is_refused(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pack(trained)
    monkeypatch.delitem(backbones._REGISTRY, "tiny")
    refused(file, trained, "'tiny'", "known are lite")
    register_backbone(TINY)


def test_no_such_zip(trained: Workspace) -> None:
    refused(trained.root / "gone.zip", trained, "no such file")


def test_descriptions_that_cannot_be_used_are_refused(trained: Workspace) -> None:
    refused(
        rewrite(pack(trained), lambda e: e.update({f"{MODEL}/plans.json": b"[" * 200000})),
        trained,
        "plans.json",
        "nested",
    )
    without = {MANIFEST_FILE, f"{MODEL}/{MANIFEST_FILE}"}

    def empty(entries: dict[str, bytes]) -> None:
        for name in list(entries):
            if name in without:
                del entries[name]
        entries[f"{MODEL}/dataset.json"] = b"{}"

    refused(rewrite(pack(trained), empty), trained, "dataset.json")
