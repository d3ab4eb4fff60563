"""The evidence in the documentation, its pages' main table and their numbers, is what the stored records give."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import report

from evidence.collection import SPD, Runs
from evidence.datasets import DATASETS
from evidence.jobs import RunRecord, Setting, stored_records
from evidence.methods import METHODS
from evidence.shared_runs import with_borrowed
from evidence.statistics import difference, seed_means
from evidence.summary import SHOWN

REPOSITORY = Path(__file__).parents[2]
RECORDS = REPOSITORY / "benchmarks" / "results" / "evidence"
SHARED_ENCODER = REPOSITORY / "benchmarks" / "results" / "choices" / "shared_encoder"
LONGER = "nnunet_20"  # the profile of a longer nnU-Net, and its folder
PAGES = {  # with the headings between which they report the evidence
    "README.md": ("## Results", "## Limits"),
    "docs/results.md": ("## The evidence", "## Beside nnU-Net v2"),
}
COMMAND = (
    "run: python benchmarks/report.py benchmarks/results/evidence -o docs/evidence --main_table docs/results.md "
    "--short_table README.md"
)


def test_the_documented_evidence_is_made_of_the_stored_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documented, made = REPOSITORY / "docs" / "evidence", tmp_path / "report"
    pages = [Path(shutil.copy(REPOSITORY / page, tmp_path)) for page in PAGES]
    short, long = map(str, pages)
    options = ["-o", str(made), "--main_table", long, "--short_table", short]
    monkeypatch.setattr(sys, "argv", ["report.py", str(RECORDS), *options])
    assert report.main() == 0
    assert {f.name for f in made.iterdir()} == {f.name for f in documented.iterdir()}
    for shown, again in [(documented / "report.md", made / "report.md"), *zip(PAGES, pages, strict=True)]:
        assert again.read_bytes() == (REPOSITORY / shown).read_bytes(), COMMAND


@pytest.mark.parametrize("page", PAGES)
def test_scores_in_the_pages_are_means_of_stored_records(page: str) -> None:
    told = re.findall(r"\d+\.\d / \d+\.\d / \d+\.\d", evidence_in(page))
    assert len(told) > 5
    made = {
        " / ".join(f"{np.mean([means(run, metric)[s] for s in seeds]):.1f}" for metric in SHOWN)
        for run in all_runs()
        for seeds in (list(run.results), *([seed] for seed in run.results))
    }
    missing = set(told) - made
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_differences_in_the_pages_follow_from_stored_records(page: str) -> None:
    told = set(re.findall(r"-?\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]", evidence_in(page)))
    assert len(told) > 5
    assert not {text for text in told if not any(text == shown(*pair) for pair in pairs_near(text))}


def evidence_in(page: str) -> str:
    """The part of a page that reports the evidence, with single spaces."""
    begin, end = PAGES[page]
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return " ".join(text[text.index(f"\n{begin}\n") : text.index(f"\n{end}\n")].split())


@cache
def all_runs() -> list[Runs]:
    """Scored runs: of the evidence, and what it is compared with: one encoder for both stages, a longer nnU-Net."""
    found = []
    for folder in (RECORDS, SHARED_ENCODER, SHARED_ENCODER.with_name(LONGER)):
        groups: dict[tuple[object, ...], list[RunRecord]] = {}
        for record in with_borrowed(stored_records(folder), METHODS, DATASETS):
            groups.setdefault((setting_of(record), record.job.method, record.job.test_noise), []).append(record)
        found += [Runs(METHODS[records[0].job.method], tuple(records)) for records in groups.values()]
    return [run for run in found if run.results]


def setting_of(record: RunRecord) -> Setting:
    """Where it ran, whatever the seed."""
    return replace(record.job.setting, seed=0)


def data_of(record: RunRecord) -> Setting:
    """The same, whether nnU-Net trained longer or not."""
    setting = setting_of(record)
    return replace(setting, profile="small") if setting.profile == LONGER else setting


_MEANS: dict[tuple[int, str], dict[int, float]] = {}


def means(run: Runs, metric: str) -> dict[int, float]:
    """Of each seed, computed once."""
    if (id(run), metric) not in _MEANS:
        _MEANS[id(run), metric] = seed_means(run.results, metric)
    return _MEANS[id(run), metric]


@cache
def pairs() -> list[tuple[float, Runs, Runs, str]]:
    """SPD, whole or with one encoder, or a longer nnU-Net, beside all else in its setting, in every metric shown.

    All else is everything with the same test prompts or with none, and SPD with others.
    """
    found = []
    firsts = [run for run in all_runs() if run.method.name == SPD or setting_of(run.records[0]).profile == LONGER]
    for spd, other in product(firsts, all_runs()):
        ours, theirs = spd.records[0], other.records[0]
        alike = theirs.job.test_noise == ours.job.test_noise or other.method.name == SPD
        seeds = spd.results.keys() & other.results.keys()
        if seeds and data_of(theirs) == data_of(ours) and (alike or not other.method.uses_prompts):
            for metric in SHOWN:
                value = float(np.mean([means(spd, metric)[s] - means(other, metric)[s] for s in seeds]))
                found += [(value, spd, other, metric), (-value, other, spd, metric)]
    return found


def pairs_near(text: str) -> list[tuple[Runs, Runs, str]]:
    """Those whose difference is about the number that a text begins with."""
    told = float(text.split()[0])
    return [pair for value, *pair in pairs() if abs(value - told) < 0.06]


def shown(first: Runs, second: Runs, metric: str) -> str:
    """A difference with its interval as it is written."""
    found = difference(first.results, second.results, metric)
    assert found is not None
    value = found.estimate
    return f"{value.mean:.1f} [{value.low:.1f}, {value.high:.1f}]"
