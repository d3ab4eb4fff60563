"""What tests share: the tiny backbone, a raw data set, the three folders, and one trained model."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from spdnet.tests.tiny import DATASET, register_tiny, write_blob_dataset

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")

register_tiny()
torch.set_num_threads(1)
# tqdm's lock is a semaphore that forked processes share: one that a test kills while it holds it would stop all others.
os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders with the blob data set in the raw one."""

    root: Path

    @property
    def raw(self) -> Path:
        """Folder of the raw data set."""
        return self.root / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        """Folder of the preprocessed data set."""
        return self.root / "nnUNet_preprocessed" / DATASET

    @property
    def results(self) -> Path:
        """Folder of the data set's models."""
        return self.root / "nnUNet_results" / DATASET

    def model(self, trainer: str = "SPDTrainer") -> Path:
        """Folder of a trained model."""
        return self.results / f"{trainer}__SPDPlans__2d"

    def activate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the environment variables to these folders."""
        for variable in VARIABLES:
            monkeypatch.setenv(variable, str(self.root / variable))

    def copy(self, target: Path) -> Workspace:
        """A copy of all three folders."""
        shutil.copytree(self.root, target)
        return Workspace(target)


def new_workspace(root: Path, n_train: int = 5, n_test: int = 2) -> Workspace:
    """Make the three folders and write the data set."""
    for variable in VARIABLES:
        (root / variable).mkdir(parents=True)
    write_blob_dataset(root / "nnUNet_raw", n_train, n_test)
    return Workspace(root)


@pytest.fixture(scope="session")
def raw_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The raw data set alone; tests must not write into it."""
    return new_workspace(tmp_path_factory.mktemp("raw_workspace"))


@pytest.fixture(scope="session")
def planned_workspace(raw_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Planned and preprocessed for the tiny backbone by the command; tests must not write into it."""
    from spdnet.cli.plan_and_preprocess import main

    workspace = raw_workspace.copy(tmp_path_factory.mktemp("planned") / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        workspace.activate(patch)
        options = ["-sam", "tiny", "-image_size", "56", "-device", "cpu", "-gpu_memory_target", "0.6"]
        main(["-d", "507", "-np", "1", *options])
    return workspace


@pytest.fixture(scope="session")
def trained_workspace(planned_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two folds trained, and test prompts simulated, by the commands; tests must not write into it."""
    from spdnet.cli import simulate_prompts, train

    workspace = planned_workspace.copy(tmp_path_factory.mktemp("trained") / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        workspace.activate(patch)
        simulate_prompts.main(["-d", "507", "-s", "Ts", "--seed", "1"])
        plans_file = workspace.preprocessed / "SPDPlans.json"
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        plans["spd"]["stage1"]["learning_rate"] = 1e-2  # few epochs have to do
        plans["spd"]["stage2"]["learning_rate"] = 2e-3
        plans_file.write_text(json.dumps(plans), encoding="utf-8")
        for fold in ("0", "1"):
            train.main(["507", fold, "-epochs", "5", "8", "-device", "cpu"])
    return workspace


@pytest.fixture
def workspace(raw_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh copy of the raw data set, the environment variables set."""
    copy = raw_workspace.copy(tmp_path / "workspace")
    copy.activate(monkeypatch)
    return copy


@pytest.fixture
def planned(planned_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh copy, planned and preprocessed, the environment variables set."""
    copy = planned_workspace.copy(tmp_path / "workspace")
    copy.activate(monkeypatch)
    return copy


@pytest.fixture
def trained(trained_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh copy with a trained model of folds 0 and 1, the environment variables set."""
    copy = trained_workspace.copy(tmp_path / "workspace")
    copy.activate(monkeypatch)
    return copy


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the folders, processes or checkpoints of the machine it runs on."""
    for variable in (*VARIABLES, "SPD_checkpoints", "nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
        monkeypatch.delenv(variable, raising=False)
