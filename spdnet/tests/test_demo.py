"""The demo, from an empty folder to table and picture, at a size that proves that it runs and nothing more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spdnet.cli import demo


@pytest.mark.slow
def test_the_demo_runs_every_command_and_draws_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", "/nowhere")  # the demo must not touch the user's folders
    folder = tmp_path / "demo"
    demo.main(["-o", str(folder), "-n_train", "2", "-n_test", "2", "-epochs", "1", "1", "-device", "cpu"])
    printed = capsys.readouterr().out
    for command in ("spd_plan_and_preprocess", "spd_train", "spd_predict", "spd_evaluate"):
        assert f"$ {command}" in printed
    assert "saliency alone" in printed
    assert (folder / "demo.png").stat().st_size > 10_000
    scores = json.loads((folder / "predictions_SPDTrainer" / "spd_evaluation.json").read_text(encoding="utf-8"))
    assert scores["n_cases"] == 2


def test_the_demo_refuses_a_folder_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("data", encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        demo.main(["-o", str(tmp_path)])
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "data"


def test_the_default_folder_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", "/nowhere")
    demo.main(["--data_only", "-n_train", "1", "-n_test", "1"])
    demo.main(["--data_only", "-n_train", "1", "-n_test", "1"])
    for name in ("spd_demo", "spd_demo_2"):
        assert (tmp_path / name / "nnUNet_raw" / "Dataset501_TubePhantom" / "dataset.json").exists()
