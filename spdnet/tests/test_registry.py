"""Trainers by name, and those in the user's own folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spdnet.errors import ConfigurationError
from spdnet.tests.tiny import tiny_settings
from spdnet.training.registry import get_trainer

OWN = """
from dataclasses import replace
from helper_of_mine import TAU
from spdnet.training.trainer import SPDTrainer

class SPDTrainerMine(SPDTrainer):
    @staticmethod
    def adapt_settings(settings):
        return replace(settings, distillation=replace(settings.distillation, tau=TAU))

class NotATrainer:
    pass
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made = [tmp_path / name for name in ("a", "b")]
    for folder in made:
        (folder / "deeper").mkdir(parents=True)
    monkeypatch.setenv("SPD_extTrainer", os.pathsep.join(map(str, made)))
    return made


def test_a_user_s_trainer_is_found_and_nothing_else_is_run(folders: list[Path]) -> None:
    marker = folders[0] / "was_run"
    (folders[0] / "other.py").write_text(f"open({str(marker)!r}, 'w')\nclass Other: pass\n", encoding="utf-8")
    (folders[0] / "broken.py").write_text("def (:", encoding="utf-8")
    (folders[1] / "deeper" / "mine.py").write_text(OWN, encoding="utf-8")
    (folders[1] / "deeper" / "helper_of_mine.py").write_text("TAU = 0.25\n", encoding="utf-8")
    trainer = get_trainer("SPDTrainerMine")
    assert trainer.__name__ == "SPDTrainerMine"
    assert trainer.adapt_settings(tiny_settings()).distillation.tau == 0.25
    assert not marker.exists()
    with pytest.raises(ConfigurationError, match="NotATrainer in .*mine.py is not a subclass of SPDTrainer"):
        get_trainer("NotATrainer")
    with pytest.raises(ConfigurationError, match=rf"SPD_extTrainer lists \({folders[0]}, {folders[1]}\)"):
        get_trainer("SPDTrainerX")


def test_what_goes_wrong_is_named(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (folders[0] / "fails.py").write_text("class SPDTrainerFails: pass\nraise ValueError('no')\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"SPDTrainerFails: importing .*fails\.py failed: ValueError: no"):
        get_trainer("SPDTrainerFails")
    (folders[1] / "again.py").write_text("class SPDTrainerFails: pass\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"defined in several files: .*fails\.py, .*again\.py"):
        get_trainer("SPDTrainerFails")
    monkeypatch.setenv("SPD_extTrainer", str(folders[0] / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"SPD_extTrainer names .*nowhere, which is not a folder"):
        get_trainer("SPDTrainerX")
    monkeypatch.delenv("SPD_extTrainer")
    assert get_trainer("SPDTrainer").__name__ == "SPDTrainer"
