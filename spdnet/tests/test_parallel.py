"""Many cases in processes: how many of these, and progress bars that leave messages their own lines."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from spdnet.cli import evaluate, plan_and_preprocess
from spdnet.cli.common import entry_point
from spdnet.errors import ConfigurationError, DatasetError
from spdnet.parallel import default_processes, map_cases, progress_bar


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert default_processes() == 8
    for text, number in (("3", 3), ("0", 1), ("99", 8)):
        monkeypatch.setenv("nnUNet_def_n_proc", text)
        assert default_processes() == number


@pytest.mark.parametrize("text", ["x", "", "-1", "2.5"])
def test_a_variable_without_number_is_an_error_where_it_is_needed(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_def_n_proc", text)
    with pytest.raises(ConfigurationError, match=f"variable nnUNet_def_n_proc is '{text}'; it must be a number of"):
        default_processes()
    for main in (plan_and_preprocess.main, plan_and_preprocess.preprocess_main, evaluate.main):
        with pytest.raises(SystemExit) as caught:
            main(["-h"])
        assert caught.value.code == 0
    with pytest.raises(SystemExit):
        plan_and_preprocess.main(["-d", "507"])
    assert "error: the environment variable nnUNet_def_n_proc is" in capsys.readouterr().err


def fail_on_second(item: int) -> int:
    if item == 2:
        raise DatasetError("case 2 is bad")
    return item


def test_a_bar_is_closed_before_the_error_of_its_case_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    @entry_point
    def main(argv: list[str] | None = None) -> None:
        map_cases(fail_on_second, [1, 2, 3], 1, "measuring")

    with pytest.raises(SystemExit):
        main([])
    shown = capsys.readouterr().err
    assert shown.endswith("\nerror: case 2 is bad\n"), repr(shown)
    assert "measuring" in shown


def test_a_bar_that_an_error_has_left_open_is_closed_too(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm import tqdm

    @entry_point
    def main(argv: list[str] | None = None) -> None:
        kept.append(tqdm([1, 2, 3], desc="encoding"))
        for item in kept[0]:
            fail_on_second(item)

    kept: list[tqdm[int]] = []
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.endswith("\nerror: case 2 is bad\n")


def test_messages_of_the_log_have_lines_of_their_own_above_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(sys.stderr)])  # as an entry point's
    with progress_bar([1, 2], "predicting") as bar:
        for item in bar:
            root.warning("case %d: a warning", item)
    shown = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert [line for line in shown if "a warning" in line] == ["case 1: a warning", "case 2: a warning"]
    assert len(root.handlers) == 1 and root.handlers[0].stream is sys.stderr  # type: ignore[attr-defined]
