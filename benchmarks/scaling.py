"""How cost grows with the data: preprocessing, training and prediction of synthetic volumes, up to 20,000 slices.

    python benchmarks/scaling.py -slices 1000 5000 20000 -o benchmarks/results/scaling

Every size is a data set of its own, made of cases of 100 slices of 48 x 48 pixels, with a fifth as many to predict.
Each step runs in processes of its own, so that the peak of memory is that of the step. The network is the tiny one of
the tests, as it is the growth that is of interest and not the network. Writes OUTPUT.json and OUTPUT.png: seconds and
peak memory against the number of slices.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SLICES_PER_CASE = 100
SIDE = 48
PREDICTED_SHARE = 5  # one test case for so many training cases
STEPS = ("preprocess", "train", "predict")
DATASET = "Dataset900_Scaling"


def write_dataset(folder: Path, n_cases: int) -> None:
    """Volumes with one bright ball each."""
    from spdnet.tests.tiny import write_volume

    for index in range(n_cases + max(1, n_cases // PREDICTED_SHARE)):
        rng = np.random.default_rng(index)
        z, y, x = np.indices((SLICES_PER_CASE, SIDE, SIDE), dtype=np.float32)
        centre = rng.uniform(0.35, 0.65, 3) * (SLICES_PER_CASE, SIDE, SIDE)
        label = ((z - centre[0]) / 3) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 100
        image = (60 * label + rng.normal(30, 5, label.shape)).astype(np.float32)
        subset, name = ("Tr" if index < n_cases else "Ts"), f"case_{index:04d}"
        write_volume(folder / f"images{subset}" / f"{name}_0000.nii.gz", image, np.eye(3), (2.0, 1.0, 1.0))
        write_volume(folder / f"labels{subset}" / f"{name}.nii.gz", label.astype(np.uint8), np.eye(3), (2.0, 1.0, 1.0))
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}, "numTraining": n_cases}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}), encoding="utf-8")


def run_step(step: str, n_processes: int) -> None:
    """One step in this process, on the data set of the environment's folders; prints seconds and memory as JSON."""
    from spdnet.cli import plan_and_preprocess, predict, simulate_prompts, train
    from spdnet.tests.tiny import register_tiny

    register_tiny()
    raw = Path(os.environ["nnUNet_raw"]) / DATASET
    if step == "predict":
        simulate_prompts.main(["-d", "900", "-s", "Ts"])
    started = time.perf_counter()
    if step == "preprocess":
        # planned in this process, where the tiny backbone is known
        options = ["-sam", "tiny", "-image_size", "56", "-device", "cpu", "-np", str(n_processes)]
        plan_and_preprocess.main(["-d", "900", *options])
    elif step == "train":  # fixed iterations of stage 1; stage 2 encodes all slices
        file = Path(os.environ["nnUNet_preprocessed"]) / DATASET / "SPDPlans.json"
        plans = json.loads(file.read_text(encoding="utf-8"))
        for stage in ("stage1", "stage2"):
            plans["spd"][stage]["iterations_per_epoch"] = 10
        file.write_text(json.dumps(plans), encoding="utf-8")
        train.main(["900", "all", "-epochs", "1", "1", "-device", "cpu", "-batch_size", "8"])
    else:
        output = raw.parent.parent / "predictions"
        predict.main(["-d", "900", "-i", str(raw / "imagesTs"), "-o", str(output), "-f", "all", "-device", "cpu"])
    seconds = time.perf_counter() - started
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print("RESULT " + json.dumps({"seconds": seconds, "peak_mib": peak / 1024}))


def measure(n_slices: int, n_processes: int) -> dict[str, dict[str, float]]:
    """All steps on a data set of `n_slices` training slices."""
    results = {}
    with tempfile.TemporaryDirectory() as root:
        environment = dict(os.environ)
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            environment[variable] = f"{root}/{variable}"
            Path(environment[variable]).mkdir()
        write_dataset(Path(environment["nnUNet_raw"]) / DATASET, n_slices // SLICES_PER_CASE)
        for step in STEPS:
            command = [sys.executable, __file__, "-step", step, "-np", str(n_processes)]
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            (line,) = [x for x in output.splitlines() if x.startswith("RESULT ")]
            results[step] = json.loads(line.removeprefix("RESULT "))
            print(f"{n_slices} slices, {step}: {results[step]}", flush=True)
    return results


def draw(results: dict[str, dict[str, dict[str, float]]], file: Path) -> None:
    """Seconds and peak memory against the number of training slices."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    slices = [int(n) for n in results]
    for step in STEPS:
        left.plot(slices, [r[step]["seconds"] for r in results.values()], "o-", label=step)
        right.plot(slices, [r[step]["peak_mib"] for r in results.values()], "o-", label=step)
    left.set_ylabel("seconds")
    right.set_ylabel("peak memory of a process, MiB")
    for axis in (left, right):
        axis.set_xlabel("training slices")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    left.legend()
    figure.savefig(file)


def main() -> None:
    """Measure all sizes, or run one step of one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-slices", type=int, nargs="+", default=[1000, 5000, 10000, 20000])
    parser.add_argument("-np", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-o", type=Path, default=Path("scaling"))
    parser.add_argument("-step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step is not None:
        run_step(args.step, args.np)
        return
    results = {str(n): measure(n, args.np) for n in args.slices}
    content = {
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "processes": args.np,
        "slices": results,
    }
    args.o.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    draw(results, args.o.with_suffix(".png"))


if __name__ == "__main__":
    main()
