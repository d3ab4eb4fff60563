"""The main table: its rows and cells, and how it gets into a page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import report
from made_up_records import collection, record

from evidence.methods import METHODS
from evidence.summary import BEGIN, END, FEW, summary_table, write_into

PLACE = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"


def test_table_has_trained_methods_on_the_test_part_and_how_many_trainings_there_were() -> None:
    table = summary_table(
        collection(
            record("spd", [0.5, 0.6]),
            record("spd", [0.7, 0.8], seed=1),
            record("saliency", [0.3, 0.3], data="easy"),
            record("unet", [0.2, 0.2], data="easy", part="development"),
            record("ceiling", [0.9, 0.9]),
            record("frozen_all", [0.1, 0.1]),
            record("right_points", [0.9, 0.9]),
            record("spd_tau30", [0.5, 0.5]),
            record("nnunet", [0.1, 0.1], part="development"),
            record("sam_tuning", [0.1, 0.1], n_train=2),
        ),
        "small",
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["SPD", "saliency alone", "ceiling"], "also what one setting alone has"
    assert rows[0][1].startswith("65.0 / ") and rows[0][1].endswith(" (2)") and not rows[0][2]
    assert not rows[1][1] and rows[1][2].startswith("30.0 / ")
    assert rows[2][1].startswith("90.0 / ") and "(" not in rows[2][1]


def test_other_sizes_of_slices_are_further_columns() -> None:
    table = summary_table(collection(record("spd", [0.5, 0.6]), record("spd", [0.7, 0.8], profile="small_64")), "small")
    heading, row = (line.strip("| ").split(" | ") for line in table.splitlines()[::2])
    assert heading[1:] == ["Tube phantom", "Tube phantom, slices of 64 px"]
    assert [cell.split(" / ")[0] for cell in row[1:]] == ["55.0", "75.0"]


def test_a_short_table_has_the_named_rows_alone() -> None:
    records = collection(record("spd", [0.5, 0.6]), record("unet", [0.7, 0.8]), record("nnunet", [0.7, 0.9]))
    whole, short = summary_table(records, "small"), summary_table(records, "small", ["nnunet", "spd", "ceiling"])
    assert short.splitlines() == [line for line in whole.splitlines() if not line.startswith("| U-Net")]


def test_rows_of_the_short_table_are_methods() -> None:
    assert set(FEW) <= set(METHODS)


def test_no_table_without_records_of_the_test_part() -> None:
    assert summary_table(collection(record("spd", [0.5], part="fold0")), "small") == ""


def test_only_what_stands_between_the_comments_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PLACE, encoding="utf-8")
    assert write_into(page, "| new |")
    assert page.read_text(encoding="utf-8") == PLACE.replace("old", "| new |")
    assert not write_into(page, "| new |")


@pytest.mark.parametrize("text", ["no place\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", PLACE + PLACE])
def test_page_needs_one_place(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md: needs one line"):
        write_into(page, "| new |")
    assert page.read_text(encoding="utf-8") == text


def test_command_puts_the_table_into_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record("spd", [0.5, 0.6]).save(tmp_path / "records")
    page = tmp_path / "page.md"
    page.write_text(PLACE, encoding="utf-8")
    arguments = [str(tmp_path / "records"), "-o", str(tmp_path / "report"), "--main_table", str(page)]
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    assert report.main() == 0
    assert "| SPD | 55.0 / " in page.read_text(encoding="utf-8")


def test_command_wants_records_for_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record("spd", [0.5, 0.6], part="fold0").save(tmp_path / "records")
    page = tmp_path / "page.md"
    page.write_text(PLACE, encoding="utf-8")
    arguments = [str(tmp_path / "records"), "-o", str(tmp_path / "report"), "--main_table", str(page)]
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    with pytest.raises(SystemExit):
        report.main()
    assert page.read_text(encoding="utf-8") == PLACE
