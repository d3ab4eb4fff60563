"""The tables of the single measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import table


def write_scores(folder: Path, method: str, dsc: list[float]) -> None:
    """Scores of cases with one class, as `spd_evaluate` writes them."""
    scores = [{"classes": {"1": {"dsc": d, "volume_dice": d, "n_slices": 10}}} for d in dsc]
    (folder / f"{method}.json").write_text(json.dumps({"cases": scores}), encoding="utf-8")


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The table's lines."""
    monkeypatch.setattr(sys, "argv", ["table.py", str(folder)])
    table.main()
    return capsys.readouterr().out.splitlines()


def test_the_first_row_is_what_the_others_are_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(tmp_path, "raw_box", [0.5, 0.6])
    write_scores(tmp_path, "distilled_box", [0.6, 0.7])
    lines = printed(tmp_path, monkeypatch, capsys)
    assert lines[0].count("difference to SPD") == 2
    assert lines[2].startswith("| (a) SPD with a distilled box") and "-10.0 [-10.0, -10.0]" in lines[3]


def test_a_folder_without_first_row_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scores(tmp_path, "raw_box", [0.5])
    monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="no scores of SPD"):
        table.main()
