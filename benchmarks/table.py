"""Make a Markdown table of the scores that `box_methods.sh` left in a folder.

    python benchmarks/table.py FOLDER

Scores are means over all test slices (DSC) and over test cases (volume Dice), in per cent, averaged over the classes,
with 95 % bootstrap intervals over cases; differences to the first row, SPD, are paired by case.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from spdnet.evaluation.metrics import bootstrap_difference_interval, bootstrap_mean_interval

SPD = "distilled_box"
NAMES = {
    SPD: "(a) SPD with a distilled box alone",
    "saliency_alone": "(b) saliency map alone",
    "raw_box": "(c) stage-1 encoder, decoder tuned on raw boxes",
}
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
    if SPD not in there:
        sys.exit(f"{folder} has no scores of SPD ({SPD}.json)")
    print("| method | slice DSC | difference to SPD | volume Dice | difference to SPD |")
    print("| --- | --- | --- | --- | --- |")
    for method in there:
        print(row(folder, method, SPD))


if __name__ == "__main__":
    main()
