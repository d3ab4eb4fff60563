"""What all methods that learn from single slices have in common: plans, commands, and where their files lie."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evidence.consensus import CONSENSUS_ALONE, OWN_SLICE_ALONE
from evidence.jobs import RunRecord
from evidence.methods.base import Method
from evidence.methods.spd import PLANS, STAGE1, device, plan, shared_stage1
from evidence.slice_models import SliceModel
from evidence.slice_training import FINAL
from evidence.workspace import Workspace
from spdnet.planning import SPDPlans, SPDSettings


@dataclass(frozen=True)
class SliceMethod(Method):
    """A model of single slices, trained by `evidence.slice_training` on SPD's preprocessed slices.

    Attributes:
        points: which points the model is given: "none", "raw", or "consensus" (SPD's, by the shared stage 1).
        around: whether it is given the points of the slices around each slice too, as far as SPD's dense prompt is.
        drops_lone_pieces: whether pieces of its masks without any of the given points are dropped, as SPD's are.
        model_of: name of the method that its model is one with; its own if empty.
    """

    points: Literal["none", "raw", "consensus"] = "none"
    around: bool = False
    drops_lone_pieces: bool = False
    model_of: str = ""

    @abstractmethod
    def build(self, settings: SPDSettings, n_classes: int) -> SliceModel:
        """The model before training; what is new in it is drawn from torch's generator."""

    @abstractmethod
    def n_steps(self, workspace: Workspace, settings: SPDSettings) -> int:
        """Steps of the optimiser that the budget allows."""

    @property
    def model_name(self) -> str:
        """Name of the method that its model is trained for."""
        return self.model_of or self.name

    def training_steps(self) -> list[str]:
        """Its own, and the shared stage 1 if that gives it its points."""
        return [f"{self.model_name}/train", *([STAGE1] if self.points == "consensus" else [])]

    def remarks(self, record: RunRecord) -> list[str]:
        """What it does not get of SPD's points."""
        found = [CONSENSUS_ALONE] if self.points == "consensus" else []
        return found if self.around or self.points == "none" else [*found, OWN_SLICE_ALONE]

    def reach(self, settings: SPDSettings) -> int:
        """How many slices to either side its points may come from."""
        return settings.dense_prompt.n_slices if self.around else 0

    def train(self, workspace: Workspace) -> None:
        """Plan, train SPD if its points are needed and nobody has, and train the model."""
        plan(workspace, workspace.raw.name)
        if (self._model(workspace) / FINAL).exists():
            return
        settings = SPDPlans.load(workspace.preprocessed() / f"{PLANS}.json").settings
        steps = ["-steps", str(self.n_steps(workspace, settings)), "-seed", str(workspace.setting.seed)]
        workspace.run(
            [*self._command("train", workspace), *steps], f"{self.model_name}_train", f"{self.model_name}/train"
        )

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """Predict all test cases."""
        command = [*self._command("predict", workspace), "-o", output]
        if self.points != "none":
            command += ["-prompts", prompts]
        workspace.run(command, f"{self.name}_predict", f"{self.name}/predict")

    def _command(self, what: str, workspace: Workspace) -> list[str | Path]:
        command: list[str | Path] = ["python", "-m", "evidence.slice_command", what, self.name, *device(workspace)]
        command += ["-raw", workspace.raw, "-preprocessed", workspace.preprocessed(), "-model", self._model(workspace)]
        if self.points == "consensus":
            command += ["-stage1", shared_stage1(workspace)]
        return command

    def _model(self, workspace: Workspace) -> Path:
        return workspace.results() / self.model_name
