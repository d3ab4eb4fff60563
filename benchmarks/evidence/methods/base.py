"""What a method is: something that learns from a raw data set with prompts and writes segmentations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from evidence.jobs import RunRecord
from evidence.workspace import Workspace


@dataclass(frozen=True)
class Method(ABC):
    """One row of the tables.

    Attributes:
        name: identifier, as in file names.
        title: as in tables.
        group: the family it is listed with.
        uses_prompts: whether test prompts change its predictions; if not it is tested once per setting.
        sees_voxels: whether the size of the networks' slices does not concern it.
    """

    name: str
    title: str
    group: str
    uses_prompts: bool = True
    sees_voxels: ClassVar[bool] = False

    def missing(self, workspace: Workspace) -> str | None:
        """Why it cannot be run here ("no checkpoint here", "needs the package monai"), or None."""
        return None

    def notes(self, workspace: Workspace) -> list[str]:
        """What a table must say beside its numbers."""
        return []

    def remarks(self, record: RunRecord) -> list[str]:
        """What a table says of a stored run besides its notes; found when the record is read, so old ones have it."""
        return []

    def training_steps(self) -> list[str]:
        """Names under which the costs of its training are noted, those shared with other methods too."""
        return [f"{self.name}/train"]

    @abstractmethod
    def train(self, workspace: Workspace) -> None:
        """Learn from the setting's training volumes; returns at once if that is done.

        What it costs is noted as "NAME/train" with the workspace.

        Raises:
            OutOfTime: the workspace's deadline came; the next call goes on.
        """

    @abstractmethod
    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Write CASE.nii.gz into `output`, on the grid of every image of `imagesTs`, given `prompts/CASE.mrk.json`.

        What it costs is noted as "NAME/predict". Raises as `train`; a call after that may begin anew.
        """
