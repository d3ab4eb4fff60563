"""Records with scores made up by tests, and small registries to go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence.collection import Collection
from evidence.jobs import PROFILES, Job, RunRecord, Setting

HARDWARE = {"machine": "x86_64", "cores": 2, "processor": "AMD EPYC"}


@dataclass(frozen=True)
class Method:
    """An entry of a registry."""

    name: str
    title: str
    group: str
    uses_prompts: bool = True
    true_prompts: bool = False
    only_right: bool = False


@dataclass(frozen=True)
class Noise:
    """An entry of a registry."""

    title: str
    ladder: str | None = None
    value: float | None = None


METHODS = {
    m.name: m
    for m in (
        Method("spd", "SPD", "SPD"),
        Method("spd_no_psc", "SPD without PSC", "ablation"),
        Method("stage1_raw", "raw points, stage-1 encoder", "ablation"),
        Method("saliency", "saliency alone", "ablation", uses_prompts=False),
        Method("sam_tuning", "SAM-Tuning", "SAM"),
        Method("right_points", "without wrong points", "ceiling", only_right=True),
        Method("ceiling", "ceiling", "ceiling", uses_prompts=False, true_prompts=True),
        Method("consensus", "consensus", "ablation"),
        Method("spd_context0", "consensus, n = 0", "context"),
        Method("spd_context4", "consensus, n = 4", "context"),
        Method("spd_tau30", "consensus, tau = 0.3", "threshold"),
        Method("frozen_all", "frozen SAM, all points", "frozen SAM"),
        Method("frozen_consensus", "frozen SAM, consensus", "frozen SAM"),
        Method("frozen_true", "frozen SAM, true points", "frozen SAM", uses_prompts=False, true_prompts=True),
        Method("unet", "U-Net", "U-Net", uses_prompts=False),
        Method("nnunet", "nnU-Net", "nnU-Net", uses_prompts=False),
        Method("sam2", "SAM 2", "SAM 2"),
    )
}
NOISES = {
    "native": Noise("its own"),
    "bad0": Noise("0 % bad points", "bad", 0),
    "bad90": Noise("90 % bad points", "bad", 90),
    "bad100": Noise("100 % bad points", "bad", 100),
    "shift2": Noise("displaced by 2 mm", "shift", 2),
    "shift10": Noise("displaced by 10 mm", "shift", 10),
}


def record(
    method: str,
    dsc: Sequence[float] | Mapping[str, Sequence[float]],
    seed: int = 0,
    n_slices: Sequence[int] | None = None,
    data: str = "phantom",
    test_noise: str = "native",
    n_train: int | None = None,
    part: str = "final",
    profile: str = "small",
    commit: str = "abc1234",
    scores: Mapping[str, Sequence[float | None]] | None = None,
    **fields: Any,
) -> RunRecord:
    """A record of cases c0, c1, ... with a slice DSC each, or several classes with theirs.

    Other scores follow from it by fixed rules unless `scores` has them (of all classes alike).
    """
    classes = dsc if isinstance(dsc, Mapping) else {"target": dsc}
    counts = n_slices or [10] * len(next(iter(classes.values())))
    cases = []
    for i, n in enumerate(counts):
        per_class = []
        for name, values in classes.items():
            d = values[i]
            content: dict[str, Any] = {"class": name, "n_slices": n, "n_distance_slices": n // 2, "dsc": d}
            content |= {"n_target_slices": n - 1, "n_false_slices": 1, "target_dsc": d - 0.1}
            content |= {"iou": d / (2 - d), "hd95_mm": 20 * (1 - d), "asd_mm": 5 * (1 - d), "volume_dice": d - 0.05}
            content |= {key: given[i] for key, given in (scores or {}).items()}
            per_class.append(content)
        cases.append({"case": f"c{i}", "slicing_axis": "S", "classes": per_class})
    setting = Setting(data, "native", seed, n_train, part, profile)
    given: dict[str, Any] = {
        "budget": PROFILES[profile],
        "cases": cases,
        "seconds": {"train": 100.0, "predict": 4.0, "predict_slices": 40.0},
        "peak_mib": 512.0,
        "versions": {"commit": commit},
        "hardware": HARDWARE,
    }
    return RunRecord(Job(setting, method, test_noise), **{**given, **fields})


def collection(*records: RunRecord) -> Collection:
    """With this module's registries."""
    return Collection(records, METHODS, NOISES, {"phantom": "tube phantom", "easy": "easy target"})
