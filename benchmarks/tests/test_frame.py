"""Jobs, records, workspaces and the commands run in them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evidence.experiments import EXPERIMENTS, jobs_of
from evidence.jobs import Job, RunRecord, Setting, stored_records
from evidence.methods import METHODS
from evidence.methods.base import Method
from evidence.workspace import CommandFailed, Deadline, OutOfTime, Workspace

SETTING = Setting("phantom", "native", seed=3, n_train=6, part="fold1", profile="trial")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty one."""
    return Workspace(SETTING, tmp_path)


def python(code: str) -> list[str]:
    """A command line."""
    return [sys.executable, "-c", code]


def test_a_record_is_read_as_it_was_stored(tmp_path: Path) -> None:
    job = Job(SETTING, "spd", "bad50")
    cases = [{"case": "a", "slicing_axis": "S", "classes": [{"class": "tube", "dsc": 0.5, "hd95_mm": None}]}]
    record = RunRecord(job, SETTING.budget, cases, {"train": 1.5}, 10.0, notes=["small"])
    file = record.save(tmp_path)
    assert file == tmp_path / "trial/phantom/fold1/native/n_6/seed_3/spd@bad50.json"
    assert RunRecord.load(file) == record == stored_records(tmp_path)[0]
    assert {"python", "spdnet", "torch", "commit"} <= set(record.versions) and record.hardware["cores"] > 0
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "format": 0}), encoding="utf-8")
    with pytest.raises(ValueError, match="not format 1"):
        RunRecord.load(file)


def test_paths_tell_all_settings_apart() -> None:
    other = {"data": "hippocampus", "noise": "recipe", "seed": 1, "n_train": None, "part": "final", "profile": "small"}
    settings = [SETTING, *(replace(SETTING, **{key: value}) for key, value in other.items())]  # type: ignore[arg-type]
    assert len({s.path for s in settings}) == 7


def test_a_command_runs_in_the_workspace_and_is_measured(workspace: Workspace) -> None:
    write = "open(os.environ['nnUNet_results'] + '/out', 'w').write('x')"
    code = f"import os, time, evidence; b = b'x' * (300 << 20); time.sleep(0.5); {write}"
    workspace.run(python(code), "log", "m/train")
    first = workspace.measurements()["m/train"]
    assert (workspace.root / "nnUNet_results" / "out").read_text(encoding="utf-8") == "x"
    assert 300 < first.peak_mib < 400 and 0 < first.seconds < 60
    workspace.run(python("print('again')"), "log", "m/train")
    second = workspace.measurements()["m/train"]
    assert second.seconds > first.seconds and second.peak_mib == first.peak_mib
    assert "again" in (workspace.root / "logs" / "log.txt").read_text(encoding="utf-8")


def test_a_failed_command_tells_its_end_and_is_measured_too(workspace: Workspace) -> None:
    with pytest.raises(CommandFailed, match="ended with status 7:\n(.|\n)*the reason"):
        workspace.run(python("import sys; print('the reason'); sys.exit(7)"), "log", "m/train")
    assert workspace.measurements()["m/train"].seconds > 0


def test_at_the_deadline_a_command_is_told_to_stop_and_may_save(workspace: Workspace, tmp_path: Path) -> None:
    saves = f"""
import signal, sys, time
def stop(*_):
    open({str(tmp_path / "saved")!r}, "w").write("all")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open({str(tmp_path / "ready")!r}, "w").close()
time.sleep(60)
"""
    workspace.deadline = Deadline(3 / 60)
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        workspace.run(python(saves), "log", "m/train")
    assert (tmp_path / "ready").exists() and (tmp_path / "saved").read_text(encoding="utf-8") == "all"
    assert 3 <= time.monotonic() - started < 30
    assert workspace.measurements()["m/train"].seconds >= 3
    with pytest.raises(OutOfTime):
        workspace.run(python("print('never')"), "log")
    assert "never" not in (workspace.root / "logs" / "log.txt").read_text(encoding="utf-8")


def test_methods_have_the_names_they_are_listed_by() -> None:
    assert all(name == method.name for name, method in METHODS.items())
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    assert all(isinstance(method, Method) for method in METHODS.values())


def test_what_ignores_prompts_is_tested_once() -> None:
    jobs = jobs_of(["spd", "saliency"], SETTING, ["bad0", "bad50"])
    assert [(j.method, j.test_noise) for j in jobs] == [("spd", "bad0"), ("spd", "bad50"), ("saliency", "native")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_spd_and_no_job_twice(name: str) -> None:
    jobs = EXPERIMENTS[name](Setting("phantom", "native"))
    assert "spd" in {j.method for j in jobs}
    assert len({j.path for j in jobs}) == len(jobs)
