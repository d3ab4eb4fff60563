"""What is run and what is kept of it: settings, jobs, their budgets, and one JSON file per finished job."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from spdnet.files import write_json

FORMAT = 1
PACKAGES = ("spdnet", "torch", "numpy", "scipy", "SimpleITK", "peft", "monai", "nnunetv2")
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Budget:
    """How large and how long; every number is written into the records, and tables name the profile.

    Attributes:
        backbone: SAM backbone of all methods that have one.
        image_size: side of the networks' input, pixels; None: what the planner chooses.
        epochs: of SPD's two stages; an epoch is the planner's. SAM-like rivals train their decoder as long as
            stage 2 and their encoder as long as both.
        unet_iterations: optimiser steps of the networks that are trained from nothing, MONAI's.
        nnunet_epochs: of nnU-Net, 250 steps each.
        held_out_share: of the training cases, what stage 1 chooses its weights by; 0, in trainings too short to need
            it, lets it train on all; None: what the planner chooses.
        frozen: methods without training need no budget.
    """

    backbone: str = "lite"
    image_size: int | None = 56
    epochs: tuple[int, int] = (8, 24)
    unet_iterations: int = 1500
    nnunet_epochs: int = 10
    held_out_share: float | None = 0.0


PROFILES = {
    "trial": Budget(epochs=(1, 1), unet_iterations=20, nnunet_epochs=1),  # whether everything runs
    "small": Budget(),  # two CPU cores
    "long": Budget(epochs=(32, 24), held_out_share=None),  # stage 1 as the planner would train it, at most
    "long_unchecked": Budget(epochs=(32, 24)),
    "small_64": Budget(image_size=64),  # the phantom's own pixels, which nnU-Net gets
    "small_112": Budget(image_size=112),  # what the planner chooses for the phantom
    "nnunet_20": Budget(nnunet_epochs=20),  # whether nnU-Net gains by more epochs
    "full": Budget(
        backbone="vit_b",
        image_size=None,
        epochs=(100, 60),
        unet_iterations=40000,
        nnunet_epochs=250,
        held_out_share=None,
    ),
}


def other_sizes(profile: str) -> list[str]:
    """The profiles that differ from one in the size of the networks' slices alone."""
    any_size = {name: replace(budget, image_size=None) for name, budget in PROFILES.items()}
    return [name for name in PROFILES if name != profile and any_size[name] == any_size[profile]]


@dataclass(frozen=True)
class Setting:
    """One data set as all methods get it.

    Attributes:
        data: key of `evidence.datasets.DATASETS`.
        noise: key of `evidence.noise.NOISES`: of the training prompts.
        n_train: training volumes, drawn by the seed; None: all.
        part: "final" (the test part), "development" (test volumes that were looked at while the method was made), or
            "fold0" to "fold4" (a fold of the training part held out, for choices).
        seed: of the draw of volumes, of the prompts and of every training.
        profile: key of `PROFILES`.
    """

    data: str
    noise: str
    seed: int = 0
    n_train: int | None = None
    part: str = "final"
    profile: str = "small"

    @property
    def path(self) -> Path:
        """Relative folder of its records and of its work."""
        volumes = "all" if self.n_train is None else str(self.n_train)
        return Path(self.profile, self.data, self.part, self.noise, f"n_{volumes}", f"seed_{self.seed}")

    @property
    def budget(self) -> Budget:
        """The profile's sizes and lengths."""
        return PROFILES[self.profile]


@dataclass(frozen=True)
class Job:
    """One method trained in a setting and tested with prompts of some noise (by default the training prompts')."""

    setting: Setting
    method: str
    test_noise: str

    @property
    def path(self) -> Path:
        """Relative path of its record."""
        return self.setting.path / f"{self.method}@{self.test_noise}.json"


@dataclass(frozen=True)
class RunRecord:
    """What is stored of a job.

    Attributes:
        job: the job.
        budget: the numbers of its profile when it ran.
        cases: per case its name and, per class, the scores of `spdnet.evaluation` (`dsc`, `iou`: mean over slices;
            `target_dsc`: over those with target; `hd95_mm`, `asd_mm`; `volume_dice`; numbers of slices; older records
            lack some). Empty if the method could not be run.
        seconds: `train` (all parts of an interrupted one; what was shared with other methods counts in full),
            `predict`, and `predict_slices`: how many slices that were.
        peak_mib: largest resident memory of a step, MiB.
        not_run: why there are no scores ("no checkpoint here"), or None.
        notes: anything a table has to say beside the numbers.
        n_volumes: how many training volumes there were; None where it was not noted.
        versions, hardware: of the run.
    """

    job: Job
    budget: Budget
    cases: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: float | None = None
    not_run: str | None = None
    notes: list[str] = field(default_factory=list)
    n_volumes: int | None = None
    versions: dict[str, str] = field(default_factory=lambda: versions())
    hardware: dict[str, Any] = field(default_factory=lambda: hardware())

    def save(self, root: Path) -> Path:
        """Write it below a folder of results; returns the file."""
        file = root / self.job.path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"format": FORMAT, **asdict(self)})
        return file

    @staticmethod
    def load(file: Path) -> RunRecord:
        """Read what `save` wrote.

        Raises:
            ValueError: it has another format.
        """
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"{file}: not format {FORMAT}")
        job, budget = content.pop("job"), content.pop("budget")
        budget["epochs"] = tuple(budget["epochs"])
        return RunRecord(Job(Setting(**job.pop("setting")), **job), Budget(**budget), **content)


def stored_records(root: Path) -> list[RunRecord]:
    """All records below a folder, in the order of their paths."""
    return [RunRecord.load(f) for f in sorted(root.rglob("*@*.json"))]


def versions() -> dict[str, str]:
    """Of Python, the packages that matter, and the commit of this repository (with "+" if files have changed)."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, threads that torch uses of them and, where there is one, GPU."""
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        found["processor"] = names[0] if names else platform.processor()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
