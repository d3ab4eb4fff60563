"""Writing a report: every case to a part, the parts into one page or beside it, whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import spdnet
from spdnet.errors import ConfigurationError
from spdnet.evaluation import EvaluationResult
from spdnet.evaluation.evaluate import METRICS, CaseScores
from spdnet.files import make_folder, whole_file, write_text
from spdnet.parallel import map_cases
from spdnet.report.cases import case_payload, case_summary, read_case
from spdnet.report.page import case_script, inline_case, render_page
from spdnet.report.sources import ReportCase, ReportSource
from spdnet.report.training_facts import plans_in_words

INLINE_BYTES = 20_000_000


@dataclass(frozen=True)
class ReportOptions:
    """How a report is written.

    Attributes:
        command: that asked for it, shown at its end.
        channel: of the image to show, from 0.
        n_processes: cases prepared at a time.
        inline_bytes: up to this size of all cases together they are inside the page, else in files beside it.
    """

    command: str = ""
    channel: int = 0
    n_processes: int = 1
    inline_bytes: int = INLINE_BYTES


@dataclass(frozen=True)
class WrittenReport:
    """What was written.

    Attributes:
        page: the HTML file.
        folder: with a file for each case, or None if they are inside the page.
        summaries: of each case, see `case_summary`.
        case_bytes: size of each case.
    """

    page: Path
    folder: Path | None
    summaries: list[dict[str, Any]]
    case_bytes: list[int]


def write_report(source: ReportSource, page: Path, options: ReportOptions = ReportOptions()) -> WrittenReport:
    """Write the report; an older one at its place is replaced when the new one is complete.

    Args:
        source: what it is about.
        page: the file, NAME.html; large reports put their cases into the folder NAME_files beside it.
        options: see there.

    Raises:
        ConfigurationError: the place is not one for a report, or `NAME_files` holds other files.
        DatasetError, PromptFileError: see `read_case`. StorageError: it cannot be written.
    """
    folder = page.with_name(f"{page.stem}_files")
    check_place(page)
    partial = page.with_name(f".partial_{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    make_folder(partial)
    try:
        work = functools.partial(_write_case, source=source, channel=options.channel, folder=partial)
        results = map_cases(work, list(enumerate(source.cases)), options.n_processes, "report")
        sizes = [(partial / _case_file(i)).stat().st_size for i in range(len(results))]
        inline = sum(sizes) <= options.inline_bytes
        overview = _overview(source, results, options, None if inline else folder.name)
        cases = "".join(inline_case(i, _read(partial / _case_file(i))) for i in range(len(results))) if inline else ""
        with whole_file(page) as partial_page:
            partial_page.write_text(render_page(source.title, overview, cases), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            if not inline:
                partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return WrittenReport(page, None if inline else folder, [r.summary for r in results], sizes)


def check_place(page: Path) -> None:
    """Check that a report can be written at a place.

    Raises:
        ConfigurationError: see `write_report`.
    """
    if page.suffix != ".html":
        raise ConfigurationError(f"the report {page} must end in .html")
    if not page.absolute().parent.is_dir():
        raise ConfigurationError(f"the folder of the report {page} does not exist; mend -o")
    folder = page.with_name(f"{page.stem}_files")
    others = (
        [f.name for f in folder.iterdir() if not (f.name.startswith("case_") and f.suffix == ".js")]
        if folder.is_dir()
        else []
    )
    if others or folder.is_file():
        raise ConfigurationError(
            f"{folder} holds files that are not of a report ({', '.join(others[:5]) or 'it is a file'}), and a report "
            "would replace it; choose another name with -o"
        )


@dataclass(frozen=True)
class _CaseResult:
    """What is kept of a case in memory."""

    summary: dict[str, Any]
    scores: list[CaseScores | None]


def _write_case(numbered: tuple[int, ReportCase], source: ReportSource, channel: int, folder: Path) -> _CaseResult:
    index, files = numbered
    data = read_case(files, source, channel)
    write_text(folder / _case_file(index), case_script(index, case_payload(data, source, channel)))
    return _CaseResult(case_summary(data, source), [p.scores for p in data.predictions])


def _case_file(index: int) -> str:
    return f"case_{index:04d}.js"


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _overview(
    source: ReportSource, results: list[_CaseResult], options: ReportOptions, folder: str | None
) -> dict[str, Any]:
    labels = source.labels
    values = sorted(labels.declared_values | set(labels.regions_class_order))
    return {
        "title": source.title,
        "version": spdnet.__version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "command": options.command,
        "predictions": list(source.predictions),
        "classes": [
            {"name": name, "indices": [values.index(v) for v in own]}
            for name, own in zip(labels.names, labels.values, strict=True)
        ],
        "plans": plans_in_words(source.facts["plans"]),
        "training": source.facts["training"],
        "curves": source.facts["curves"],
        "prompts": _prompt_counts(source, results),
        "estimates": [_estimates(source, results, i) for i in range(len(source.predictions))],
        "cases": [r.summary for r in results],
        "case_files": None if folder is None else [f"{folder}/{_case_file(i)}" for i in range(len(results))],
    }


def _prompt_counts(source: ReportSource, results: list[_CaseResult]) -> list[dict[str, Any] | None]:
    """Counts before and after distillation for each prediction: the validation's own, else those of the cases."""
    counts: list[dict[str, Any] | None] = []
    for i in range(len(source.predictions)):
        own = [c for r in results if (c := r.summary["predictions"][i]["prompts"]) is not None]
        total = (
            {kind: {key: sum(c[kind][key] for c in own) for key in own[0][kind]} for kind in ("raw", "distilled")}
            if own
            else None
        )
        counts.append(total)
    validated = source.facts["prompts"]
    if validated is not None:
        counts[0] = {
            kind: {k: v for k, v in validated["all_cases"][kind].items() if isinstance(v, int)}
            for kind in ("raw", "distilled")
        }
    return counts


def _estimates(source: ReportSource, results: list[_CaseResult], index: int) -> dict[str, Any] | None:
    """Means over all cases with their intervals: of the mean of classes, then of each class."""
    scores = [s for r in results if (s := r.scores[index]) is not None]
    if not scores:
        return None
    evaluation = EvaluationResult(source.labels.names, tuple(scores))
    rows = [None, *range(len(source.labels))]
    return {m: [_plain(dataclasses.asdict(evaluation.estimate(m, row))) for row in rows] for m in METRICS}


def _plain(estimate: dict[str, float]) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else value for key, value in estimate.items()}
