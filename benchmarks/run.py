"""Run methods on data sets, and store one JSON file per finished run.

    python benchmarks/run.py tables -data phantom -work work -o results           # all methods on the phantom
    python benchmarks/run.py tables noise_curves -profile small -seeds 0 1 2 -work work -o results -minutes 9
    python benchmarks/run.py -data phantom -methods spd nnunet -noise native -test_noise bad50 -work work -o results

What is stored is not run again; what was interrupted goes on. `-minutes` ends a session in time: trainings write a
checkpoint and the same command goes on with them. `--list` only tells what is done and what is missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from evidence.datasets import DATASETS
from evidence.experiments import DATA, EXPERIMENTS, jobs_of
from evidence.jobs import PROFILES, Job, RunRecord, Setting
from evidence.methods import METHODS
from evidence.methods.base import Method
from evidence.noise import NOISES, write_test_prompts, write_training_prompts
from evidence.workspace import CommandFailed, Deadline, OutOfTime, Workspace
from spdnet.dataset import RawDataset
from spdnet.evaluation import evaluate_folder


def main() -> int:
    """Run what is asked for; 0 if all is done, 1 if something failed, 3 if time ran out."""
    parser = _parser()
    args = parser.parse_args()
    if unknown := set(args.experiments) - set(EXPERIMENTS):
        parser.error(f"no such experiments: {', '.join(sorted(unknown))}; there are {', '.join(EXPERIMENTS)}")
    jobs = _jobs(args)
    missing = [j for j in jobs if not is_done(args.o / j.path)]
    print(f"{len(jobs)} runs, {len(missing)} of them missing")
    if args.list:
        for job in jobs:
            print("      " if job in missing else "done  ", job.path.with_suffix(""))
        return 0
    deadline, n_failed = Deadline(args.minutes), 0
    for job in missing:
        started = time.monotonic()
        print(job.path.with_suffix(""), end=" ", flush=True)
        try:
            file = run(job, args.work, args.device, deadline).save(args.o)
        except OutOfTime:
            print("- out of time; the same command goes on")
            return 3
        except CommandFailed as error:
            n_failed += 1
            print(f"FAILED\n{error}", file=sys.stderr)
            continue
        print(f"-> {file} ({time.monotonic() - started:.0f} s)", flush=True)
    return 1 if n_failed else 0


def is_done(file: Path) -> bool:
    """Whether there is a record with scores; what lacked a package or a checkpoint is tried again."""
    return file.exists() and RunRecord.load(file).not_run is None


def run(job: Job, work_root: Path, device: str | None, deadline: Deadline) -> RunRecord:
    """Train (or go on, or take what is there), predict and score."""
    workspace = Workspace(job.setting, work_root, device)
    workspace.deadline = deadline
    method = METHODS[job.method]
    _prepare(workspace, job)
    reason = method.missing(workspace)
    if reason is not None:
        return RunRecord(job, workspace.budget, not_run=reason)
    method.train(workspace)
    predictions = workspace.root / "predictions" / f"{job.method}@{job.test_noise}"
    shutil.rmtree(predictions, ignore_errors=True)
    predictions.mkdir(parents=True)
    name = f"{job.method}/predict"
    before = workspace.measurements().get(name)
    method.predict(workspace, workspace.prompts(job.test_noise), predictions)
    return _record(job, method, workspace, predictions, before.seconds if before else 0.0)


def _prepare(workspace: Workspace, job: Job) -> None:
    """The raw data and the prompts, once per setting; each is made beside and moved, so that it is whole or absent."""
    raw_root = workspace.root / "nnUNet_raw"
    if not any(raw_root.glob("Dataset*")):
        partial = workspace.root / "raw_in_the_making"
        shutil.rmtree(partial, ignore_errors=True)
        DATASETS[job.setting.data].write(job.setting, partial)
        for dataset in partial.glob("Dataset*"):
            if not dataset.name.endswith("_Prior"):
                write_training_prompts(NOISES[job.setting.noise], dataset, job.setting.seed)
        shutil.rmtree(raw_root)
        partial.rename(raw_root)
    for noise in {job.test_noise, "true"}:
        if not workspace.prompts(noise).exists():
            partial = workspace.root / "prompts_in_the_making"
            shutil.rmtree(partial, ignore_errors=True)
            write_test_prompts(NOISES[noise], workspace.raw, partial, job.setting.seed)
            workspace.prompts(noise).parent.mkdir(exist_ok=True)
            partial.rename(workspace.prompts(noise))


def _record(job: Job, method: Method, workspace: Workspace, predictions: Path, predicted_before_s: float) -> RunRecord:
    dataset = RawDataset(workspace.raw)
    result = evaluate_folder(
        workspace.raw / "labelsTs", predictions, dataset.reader, dataset.labels, dataset.file_ending
    ).to_dict()
    cases = [
        {**case, "classes": [{"class": name, **scores} for name, scores in case["classes"].items()]}
        for case in result["cases"]
    ]
    measured = workspace.measurements()
    predicted = measured[f"{job.method}/predict"]
    trained = [measured[step] for step in method.training_steps() if step in measured]
    seconds = {
        "train": sum(m.seconds for m in trained),
        "predict": predicted.seconds - predicted_before_s,
        "predict_slices": float(sum(case["classes"][0]["n_slices"] for case in cases)),
    }
    peak = max(m.peak_mib for m in [*trained, predicted])
    n_volumes = len(dataset.cases("Tr"))
    return RunRecord(job, workspace.budget, cases, seconds, peak, notes=method.notes(workspace), n_volumes=n_volumes)


def _jobs(args: argparse.Namespace) -> list[Job]:
    settings = [
        Setting(data, noise or DATASETS[data].noise, seed, n_train, args.part, args.profile)
        for data in args.data or DATA
        for noise in args.noise or [None]
        for n_train in args.n_train or [None]
        for seed in args.seeds
    ]
    jobs: list[Job] = []
    for setting in settings:
        if args.experiments:
            found = [j for name in args.experiments for j in EXPERIMENTS[name](setting)]
            jobs += [j for j in found if not args.methods or j.method in args.methods]
        else:
            jobs += jobs_of(args.methods or METHODS, setting, args.test_noise or [setting.noise])
    return list(dict.fromkeys(jobs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"named sets of runs: {', '.join(EXPERIMENTS)}")
    names = f"data sets, of {', '.join(DATASETS)} (default: {' '.join(DATA)})"
    parser.add_argument("-data", nargs="+", choices=DATASETS, metavar="NAME", help=names)
    parser.add_argument(
        "-noise",
        nargs="+",
        choices=NOISES,
        metavar="NAME",
        help=f"of the training prompts, of {', '.join(NOISES)} (default: the data set's)",
    )
    parser.add_argument(
        "-test_noise", nargs="+", choices=NOISES, metavar="NAME", help="without an experiment (default: as in training)"
    )
    parser.add_argument(
        "-methods",
        nargs="+",
        choices=METHODS,
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: all, or the experiment's)",
    )
    parser.add_argument("-n_train", nargs="+", type=int, help="training volumes (default: all)")
    parser.add_argument("-seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument(
        "-part", default="final", help="final (default), development, or fold0 to fold4 of the training part"
    )
    parser.add_argument("-profile", choices=PROFILES, default="small", help="sizes and lengths (default: small)")
    parser.add_argument("-device", help="cuda or cpu (default: CUDA where present)")
    parser.add_argument("-work", type=Path, default=Path("work"), help="folder of data, models and predictions")
    parser.add_argument("-o", type=Path, default=Path("results"), help="folder of the records")
    parser.add_argument("-minutes", type=float, help="stop after so many")
    parser.add_argument("--list", action="store_true", help="only tell what is done and what is missing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
