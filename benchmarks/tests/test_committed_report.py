"""The evidence in the documentation is what the command makes of the stored records."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import report

REPOSITORY = Path(__file__).parents[2]


def test_the_documented_evidence_is_made_of_the_stored_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, documented = REPOSITORY / "benchmarks" / "results" / "evidence", REPOSITORY / "docs" / "evidence"
    monkeypatch.setattr(sys, "argv", ["report.py", str(records), "-o", str(tmp_path)])
    assert report.main() == 0
    assert {f.name for f in tmp_path.iterdir()} == {f.name for f in documented.iterdir()}
    made, shown = ((folder / "report.md").read_text(encoding="utf-8") for folder in (tmp_path, documented))
    assert made == shown, "run: python benchmarks/report.py benchmarks/results/evidence -o docs/evidence"
