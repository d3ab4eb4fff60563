"""Which jobs make which table or figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from evidence.jobs import Job, Setting
from evidence.methods import METHODS

GROUPS_OF_TABLES = ("SPD", "ablation", "SAM", "frozen SAM", "refinement", "U-Net", "nnU-Net", "SAM 2", "ceiling")
DATA = ("phantom", "ambiguous_union", "ambiguous_chosen", "ambiguous_atrium", "hippocampus", "left_atrium")
CURVES = (
    "spd",
    "right_points",
    "saliency",
    "stage1_raw",
    "sam_tuning",
    "medsam_points",
    "unet",
    "unet_raw_points",
    "unet_raw_points_pieces",
    "unet_points_around",
    "unet_points_around_pieces",
    "nnunet",
    "nnunet_raw_points",
    "nnunet_raw_points_pieces",
    "nnunet_points_around",
    "nnunet_points_around_pieces",
    "nnunet_imitated_points",
)
LADDERS = {
    "bad": [f"bad{percent}" for percent in (0, 25, 50, 75, 90, 100)],
    "shift": [f"shift{mm}" for mm in (2, 5, 10, 20)],
    "drift": [f"drift{mm}" for mm in (5, 10, 20)],
}
VOLUMES = (2, 6, 12)


def jobs_of(methods: Iterable[str], setting: Setting, test_noises: Sequence[str]) -> list[Job]:
    """One job per method and test noise; methods that ignore prompts get one."""
    jobs = []
    for name in methods:
        noises = test_noises if METHODS[name].uses_prompts else [setting.noise]
        jobs += [Job(setting, name, noise) for noise in noises]
    return jobs


def _in_groups(*groups: str) -> list[str]:
    return [name for name, method in METHODS.items() if method.group in groups]


def tables(setting: Setting) -> list[Job]:
    """Every method with the prompts it was trained on: Tables 1 and 3, and the costs."""
    return jobs_of(_in_groups(*GROUPS_OF_TABLES), setting, [setting.noise])


def ablation(setting: Setting) -> list[Job]:
    """SPD's parts, its reach and its threshold: Table 2, Figures 7 and 8."""
    return jobs_of(["spd", *_in_groups("ablation", "context", "threshold", "ceiling")], setting, [setting.noise])


def choices(setting: Setting) -> list[Job]:
    """Open choices of SPD; meant for a fold of the training part."""
    methods = ["spd", "saliency", "stage1_raw", "ceiling", *_in_groups("choice")]
    return jobs_of(methods, setting, [setting.noise])


def noise_curves(setting: Setting) -> list[Job]:
    """Trained once, tested with ever worse prompts."""
    noises = [noise for ladder in LADDERS.values() for noise in ladder]
    return jobs_of([m for m in CURVES if m in METHODS], setting, noises)


def label_efficiency(setting: Setting) -> list[Job]:
    """The main methods with few training volumes."""
    methods = [m for m in (*CURVES, "ceiling") if m in METHODS]
    return [j for n in VOLUMES for j in jobs_of(methods, replace(setting, n_train=n), [setting.noise])]


EXPERIMENTS = {
    "tables": tables,
    "ablation": ablation,
    "choices": choices,
    "noise_curves": noise_curves,
    "label_efficiency": label_efficiency,
}
