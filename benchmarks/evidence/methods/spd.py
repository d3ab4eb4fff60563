"""SPD, its ablations, and the baselines that are settings of spdnet, all through the commands that users run.

Ablations that keep stage 1 take it from SPD's own training, and what is stored of the slices.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evidence.jobs import RunRecord
from evidence.methods.base import Method
from evidence.right_points import keep_right_points
from evidence.workspace import Workspace
from spdnet.planning import SPDPlans

PLANS = "SPDPlans"
STAGE1 = "stage 1, shared"
_PARTS = ("distillation", "prompts", "consistency", "augmentation", "dense_prompt")  # of the plans


@dataclass(frozen=True)
class SPD(Method):
    """SPD with another trainer, other numbers in its plans, or other prompts.

    Attributes:
        trainer: class of spdnet or of `benchmarks/trainers`.
        distillation, prompts, consistency, augmentation, dense_prompt: fields of these parts of the plans that differ.
        shares_stage1: whether stage 1 is SPD's, trained once for all.
        model: name of the method whose model it predicts with, if it has none of its own; with its own `distillation`
            if that differs, which must be a part of it that no training depends on.
        prediction: further options of `spd_predict`.
        true_prompts: predicts with true points only, whatever the test prompts.
        only_right: predicts with those of the test prompts that are on the target, as the labels say.
    """

    trainer: str = "SPDTrainer"
    distillation: tuple[tuple[str, Any], ...] = ()
    prompts: tuple[tuple[str, Any], ...] = ()
    consistency: tuple[tuple[str, Any], ...] = ()
    augmentation: tuple[tuple[str, Any], ...] = ()
    dense_prompt: tuple[tuple[str, Any], ...] = ()
    shares_stage1: bool = True
    model: str | None = None
    prediction: tuple[str, ...] = ()
    true_prompts: bool = False
    only_right: bool = False

    def training_steps(self) -> list[str]:
        """Its own, and the shared stage 1."""
        if self.model is not None:
            return METHODS[self.model].training_steps()
        return [*super().training_steps(), *([STAGE1] if self.shares_stage1 else [])]

    def remarks(self, record: RunRecord) -> list[str]:
        """What its costs hold."""
        if self.model is not None and "--no_prompts" in self.prediction:
            return ["its training time is that of the whole model, whose stage 2 it makes no use of"]
        return []

    @property
    def plans(self) -> str:
        """Name of its plans."""
        differs = any(getattr(self, part) for part in _PARTS)
        return f"{PLANS}_{self.name}" if differs else PLANS

    def train(self, workspace: Workspace) -> None:
        """Plan, train stage 1 if nobody has, and train stage 2."""
        if self.model is not None:
            METHODS[self.model].train(workspace)
            return
        plan(workspace, workspace.raw.name)
        self._write_plans(workspace)
        stage1 = shared_stage1(workspace) if self.shares_stage1 else None
        name, epochs = workspace.raw.name, workspace.budget.epochs
        train(workspace, name, self.trainer, self.plans, epochs, f"{self.name}/train", stage1)

    def predict(self, workspace: Workspace, prompts: Path, output: Path) -> None:
        """`spd_predict`."""
        method = self if self.model is None else METHODS[self.model]
        plans = self._borrowed_plans(workspace, method) if method is not self and self.distillation else method.plans
        given = workspace.prompts("true") if self.true_prompts else prompts
        if self.only_right:
            given = prompts.with_name(f"{prompts.name}_right")
            keep_right_points(workspace.raw, prompts, given)
        command: list[str | Path] = ["spd_predict", "-d", workspace.raw.name, "-i", workspace.raw / "imagesTs"]
        command += ["-o", output, "-tr", method.trainer, "-p", plans, "-f", "all", *device(workspace)]
        if "--no_prompts" not in self.prediction:
            command += ["-prompts", given]
        workspace.run([*command, *self.prediction], f"{self.name}_predict", f"{self.name}/predict")

    def _borrowed_plans(self, workspace: Workspace, method: SPD) -> str:
        """Name of plans with which another method's weights lie in a model folder of their own."""
        own, borrowed = (workspace.results() / f"{method.trainer}__{p}__2d" for p in (self.plans, method.plans))
        if not own.exists():
            partial = own.with_name(f"{own.name}_in_the_making")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(borrowed, partial, ignore=shutil.ignore_patterns("validation"))
            self._with_own_fields(SPDPlans.load(partial / "plans.json")).save(partial / "plans.json")
            partial.rename(own)
        return self.plans

    def _write_plans(self, workspace: Workspace) -> None:
        folder = workspace.preprocessed()
        if self.plans == PLANS or (folder / f"{self.plans}.json").exists():
            return
        cases = folder / f"{self.plans}_2d"
        if not cases.is_symlink():
            cases.symlink_to(f"{PLANS}_2d")
        self._with_own_fields(SPDPlans.load(folder / f"{PLANS}.json")).save(folder / f"{self.plans}.json")

    def _with_own_fields(self, plans: SPDPlans) -> SPDPlans:
        parts = {part: replace(getattr(plans.settings, part), **dict(getattr(self, part))) for part in _PARTS}
        return replace(plans, plans_name=self.plans, settings=replace(plans.settings, **parts))


def device(workspace: Workspace) -> list[str]:
    """The commands' option."""
    return [] if workspace.device is None else ["-device", workspace.device]


def plan(workspace: Workspace, dataset: str) -> None:
    """Plan and preprocess a data set by the setting's budget, once."""
    cases, file = (workspace.preprocessed(dataset) / name for name in (f"{PLANS}_2d", f"{PLANS}.json"))
    if not any(cases.glob("*.json")) or (cases / ".unfinished").exists():
        command = ["spd_plan_and_preprocess", "-d", dataset, "-sam", workspace.budget.backbone, *device(workspace)]
        if workspace.budget.image_size is not None:
            command += ["-image_size", str(workspace.budget.image_size)]
        workspace.run(command, "plan")
    share, plans = workspace.budget.held_out_share, SPDPlans.load(file)
    if share not in (None, plans.settings.selection.held_out_share):
        selection = replace(plans.settings.selection, held_out_share=share)
        replace(plans, settings=replace(plans.settings, selection=selection)).save(file)


def train(
    workspace: Workspace,
    dataset: str,
    trainer: str,
    plans: str,
    epochs: tuple[int, int],
    counts_for: str,
    stage1: Path | None = None,
) -> Path:
    """`spd_train` on all training volumes, once, going on where it stopped; returns the last checkpoint.

    With the checkpoint of another training's stage 1 only stage 2 is trained, on what that one has made of the slices.
    """
    folder = workspace.results(dataset) / f"{trainer}__{plans}__2d" / "fold_all"
    if (folder / "checkpoint_final.pth").exists():
        return folder / "checkpoint_final.pth"
    command: list[str | Path] = ["spd_train", dataset, "all", "-tr", trainer, "-p", plans]
    command += ["-epochs", *map(str, epochs), "--seed", str(workspace.setting.seed), *device(workspace)]
    if stage1 is not None:
        command.append("--keep_embeddings")
    if (folder / "checkpoint_latest.pth").exists():
        command.append("--c")
    elif stage1 is not None:
        command += ["-stage1_from", stage1]
    workspace.run(command, counts_for.replace("/", "_").replace(" ", "_"), counts_for)
    return folder / "checkpoint_final.pth"


def shared_stage1(workspace: Workspace) -> Path:
    """Checkpoint with SPD's stage 1, trained if it is not there: on the prior's labels if the setting has some."""
    dataset = workspace.raw if workspace.prior is None else workspace.prior
    plan(workspace, dataset.name)
    return train(workspace, dataset.name, "SPDTrainerStage1", PLANS, (workspace.budget.epochs[0], 0), STAGE1)


def _toward(neighbour: Literal["previous", "next"]) -> SPD:
    title = f"SPD, consistency with the {neighbour} slice"
    return SPD(f"psc_{neighbour}", title, "ablation", consistency=(("toward", neighbour),))


def _context(n: int) -> SPD:
    given = (("n_context", n),)
    return SPD(f"spd_context{n}", f"consensus, n = {n}", "context", trainer="SPDTrainerConsensus", distillation=given)


def _choice(name: str, title: str, **parts: dict[str, Any]) -> SPD:
    """SPD with some fields of parts of its plans set, whatever the planner chose."""
    given: dict[str, Any] = {part: tuple(fields.items()) for part, fields in parts.items()}
    return SPD(name, title, "choice", **given)


def _threshold(percent: int) -> SPD:
    tau = percent / 100
    title = f"consensus, tau = {tau:.1f}"
    return SPD(f"spd_tau{percent}", title, "threshold", trainer="SPDTrainerConsensus", distillation=(("tau", tau),))


METHODS: dict[str, SPD] = {
    m.name: m
    for m in (
        SPD("spd", "SPD", "SPD"),
        SPD("spd_no_psc", "SPD without PSC", "ablation", trainer="SPDTrainerNoPSC"),
        SPD("consensus", "SPD, consensus points, no maps, one encoder", "ablation", trainer="SPDTrainerConsensus"),
        SPD(
            "local_only",
            "SPD, consensus points of the own slice alone (n = 0)",
            "ablation",
            trainer="SPDTrainerLocalOnly",
        ),
        SPD("stage1_raw", "stage-1 encoder, decoder tuned on raw points", "ablation", trainer="SPDTrainerRawPrompts"),
        SPD("saliency", "saliency map alone", "ablation", False, model="spd", prediction=("--no_prompts",)),
        SPD("sam_tuning", "SAM-Tuning", "SAM", trainer="SPDTrainerSAMTuning", shares_stage1=False),
        SPD(
            "right_points",
            "SPD without the wrong points",
            "ceiling",
            distillation=(("random_points", "keep"),),
            model="spd",
            only_right=True,
        ),
        SPD("ceiling", "ceiling: true points only", "ceiling", False, "SPDTrainerTruePoints", true_prompts=True),
        SPD(
            "pieces_kept",
            "SPD, every piece of a mask kept",
            "choice",
            distillation=(("lone_pieces", "keep"),),
            shares_stage1=False,
            model="spd",
        ),
        _choice("maps_n0", "SPD, maps of its own slice alone", dense_prompt={"n_slices": 0}),
        _choice("maps_n1", "SPD, maps of one slice to either side", dense_prompt={"n_slices": 1}),
        _choice("maps_of_consensus", "SPD, consensus points and maps", distillation={"mode": "consensus"}),
        SPD(
            "any_rotation",
            "SPD, any rotation, both flips, scale 0.7 to 1.4",
            "choice",
            augmentation=(("max_angle_degrees", 180.0), ("flip_rows", True), ("scale_range", (0.7, 1.4))),
            shares_stage1=False,
        ),
        _choice("random_kept", "SPD, random points kept", distillation={"random_points": "keep"}),
        _choice("imitated0", "SPD, training points from files only", prompts={"imitated_share": 0.0}),
        _choice("imitated100", "SPD, training points imitated only", prompts={"imitated_share": 1.0}),
        SPD(
            "without_extensions",
            "SPD without our extensions",
            "choice",
            trainer="SPDTrainerConsensus",
            distillation=(("random_points", "keep"),),
            prompts=(("imitated_share", 0.0),),
        ),
        SPD("shared_encoder", "SPD, one encoder for both", "choice", trainer="SPDTrainerSharedEncoder"),
        SPD(
            "prompts_optional",
            "SPD, a tenth of its training without prompts",
            "choice",
            trainer="SPDTrainerPromptsOptional",
        ),
        SPD(
            "prompts_optional_none",
            "the same, without prompts",
            "choice",
            False,
            model="prompts_optional",
            prediction=("--no_prompts",),
        ),
        *(_toward(neighbour) for neighbour in ("previous", "next")),
        *(_context(n) for n in (0, 1, 3, 4)),
        *(_threshold(percent) for percent in (10, 20, 30, 40, 60, 70, 80, 90)),
    )
}
