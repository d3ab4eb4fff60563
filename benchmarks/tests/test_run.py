"""The command: what it lists, refuses, runs, resumes and stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evidence.jobs import PROFILES, Job, RunRecord, Setting, stored_records

SCRIPT = Path(__file__).parents[1] / "run.py"


def run(folder: Path, *arguments: str, timeout_s: float = 1500) -> subprocess.CompletedProcess[str]:
    """Run the command on the CPU with its folders in a folder."""
    command = [sys.executable, str(SCRIPT), *arguments, "-work", str(folder / "work"), "-o", str(folder / "results")]
    return subprocess.run([*command, "-device", "cpu"], capture_output=True, text=True, timeout=timeout_s)


def test_it_lists_what_is_missing_and_makes_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "ablation", "-data", "phantom", "-seeds", "1", "2", "-profile", "trial", "--list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("missing") and len(lines) == 1 + int(lines[0].split()[0])
    assert any(line.endswith("trial/phantom/final/native/n_all/seed_2/spd@native") for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_curve_has_a_run_for_every_test_noise_of_what_follows_prompts(tmp_path: Path) -> None:
    methods = ("spd", "right_points", "saliency")
    done = run(tmp_path, "noise_curves", "-data", "phantom", "-profile", "trial", "-methods", *methods, "--list")
    assert done.returncode == 0, done.stderr
    n = {name: sum(f"/{name}@" in line for line in done.stdout.splitlines()) for name in methods}
    assert n == {"spd": 13, "right_points": 13, "saliency": 1}


def test_what_could_not_be_run_is_missing_until_there_are_scores(tmp_path: Path) -> None:
    job = Job(Setting("phantom", "native", profile="trial"), "nnunet", "native")
    arguments = ("-data", "phantom", "-profile", "trial", "-methods", "nnunet", "--list")
    RunRecord(job, PROFILES["trial"], not_run="needs the package nnunetv2").save(tmp_path / "results")
    assert "1 of them missing" in run(tmp_path, *arguments).stdout
    RunRecord(job, PROFILES["trial"], cases=[{"case": "c0"}]).save(tmp_path / "results")
    assert "0 of them missing" in run(tmp_path, *arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "exists"),
    [(["nonsense"], "ablation"), (["-data", "nonsense"], "phantom"), (["-methods", "nonsense"], "spd")],
)
def test_unknown_names_are_refused_with_those_that_exist(tmp_path: Path, arguments: list[str], exists: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2 and "nonsense" in done.stderr and exists in done.stderr


@pytest.mark.slow
def test_a_session_that_runs_out_of_time_is_gone_on_with(tmp_path: Path) -> None:
    arguments = ["-data", "phantom", "-profile", "trial", "-methods", "spd", "saliency", "stage1_raw"]
    first = run(tmp_path, *arguments, "-minutes", "0.5")
    assert first.returncode == 3 and "out of time" in first.stdout, first.stderr
    second = run(tmp_path, *arguments)
    assert second.returncode == 0, second.stderr
    records = {r.job.method: r for r in stored_records(tmp_path / "results")}
    assert set(records) == {"spd", "saliency", "stage1_raw"}
    for record in records.values():
        assert len(record.cases) == 2 and record.not_run is None
        assert record.seconds["train"] > 0 and record.seconds["predict"] > 0 and record.seconds["predict_slices"] > 20
        assert record.peak_mib is not None and record.peak_mib > 200
    assert records["spd"].cases != records["saliency"].cases
    assert records["spd"].seconds["train"] == records["saliency"].seconds["train"], "one model"
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "results").rglob("*.json")}
    third = run(tmp_path, *arguments)
    assert third.returncode == 0 and "0 of them missing" in third.stdout
    assert {f: f.stat().st_mtime_ns for f in files} == files
    assert all(RunRecord.load(f).job.path == f.relative_to(tmp_path / "results") for f in files)
