"""Make a Markdown table of the scores that one of the scripts for single measurements left in a folder.

    python benchmarks/table.py FOLDER

Scores are means over all test slices (DSC) and over test cases (volume Dice), in per cent, averaged over the classes,
with 95 % bootstrap intervals over cases; differences to the first row, which is SPD but for `prompt_sources.sh`, are
paired by case. The scripts are `point_methods.sh`, `box_methods.sh` and `prompt_sources.sh`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from spdnet.evaluation.metrics import bootstrap_difference_interval, bootstrap_mean_interval

NAMES = {
    "spd": "(a) SPD",
    "saliency_alone": "(b) saliency map alone",
    "sam_tuning": "(c) SAM-Tuning: no LoRA, decoder tuned on raw points",
    "stage1_raw_points": "(d) stage-1 encoder, decoder tuned on raw points",
    "local_only": "(e) local validation only (n = 0)",
    "ceiling_true_points": "ceiling: trained and tested on true points",
    "distilled_box": "(a) SPD with a distilled box alone",
    "raw_box": "(c) stage-1 encoder, decoder tuned on raw boxes",
    "SPDTrainer": "trained on the files; peak where no point is trusted",
    "SPDTrainerCentrelinePrompts": "on simulated centrelines; peak",
    "SPDTrainerRecipePrompts": "on the paper's recipe; peak",
    "SPDTrainerNoPeak": "on the files; no point",
    "SPDTrainerCentrelinePromptsNoPeak": "on simulated centrelines; no point",
    "SPDTrainerRecipePromptsNoPeak": "on the paper's recipe; no point",
}
REFERENCES = {"spd": "SPD", "distilled_box": "SPD", "SPDTrainer": "the first row"}  # and what the table calls it
SEED = 0


def per_case(file: Path, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the classes for every case, and the number of slices of the case."""
    cases = [list(c["classes"].values()) for c in json.loads(file.read_text(encoding="utf-8"))["cases"]]
    values = np.array([[k[metric] for k in classes] for classes in cases], dtype=float)  # null becomes NaN
    slices = np.array([classes[0]["n_slices"] for classes in cases], dtype=float)
    return np.nanmean(values, axis=1), slices


def row(folder: Path, method: str, reference_method: str) -> str:
    """One line of the table."""
    cells = [NAMES[method]]
    for metric, weighted in (("dsc", True), ("volume_dice", False)):
        values, slices = per_case(folder / f"{method}.json", metric)
        reference, _ = per_case(folder / f"{reference_method}.json", metric)
        weights = slices if weighted else None
        mean, low, high = bootstrap_mean_interval(values, np.random.default_rng(SEED), weights=weights)
        cells.append(f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        if method == reference_method:
            cells.append("")
            continue
        rng = np.random.default_rng(SEED)
        mean, low, high = bootstrap_difference_interval(values, reference, rng, weights=weights)
        cells.append(f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table of a folder."""
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/table.py FOLDER")
    folder = Path(sys.argv[1])
    there = [method for method in NAMES if (folder / f"{method}.json").exists()]
    reference = next((method for method in REFERENCES if method in there), None)
    if reference is None:
        first_rows = ", ".join(f"{method}.json" for method in REFERENCES)
        sys.exit(f"{folder} has no scores that a table begins with ({first_rows}); see docs/choices.md for the folders")
    against = f"difference to {REFERENCES[reference]}"
    print(f"| method | slice DSC | {against} | volume Dice | {against} |")
    print("| --- | --- | --- | --- | --- |")
    for method in sorted(there, key=lambda m: m != reference):
        print(row(folder, method, reference))


if __name__ == "__main__":
    main()
