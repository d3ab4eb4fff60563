"""Figures for papers: what they show, and the command inside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spdnet.cli.report import main
from spdnet.report import FigureRequest, prediction_source
from spdnet.report.cases import case_summary, read_case
from spdnet.report.figures import _MARKERS, PREDICTION, _Row, draw_prompts, write_figures
from spdnet.report.planes import choose_grey_scale
from spdnet.tests.report_data import ReportFolders, write_report_data


@pytest.fixture
def folders(tmp_path: Path) -> ReportFolders:
    """Two cases."""
    return write_report_data(tmp_path / "data")


def test_png_and_pdf_hold_the_command(folders: ReportFolders, tmp_path: Path) -> None:
    main([*folders.arguments(), "-o", str(tmp_path / "r.html"), "--figures"])
    made = tmp_path / "r_figures"
    assert sorted(f.name for f in made.iterdir()) == [
        "comparison.pdf", "comparison.png", "prompts.pdf", "prompts.png",
    ]  # fmt: skip
    with Image.open(made / "comparison.png") as picture:
        assert picture.text["Description"].startswith("spd_report -i")  # type: ignore[attr-defined]
        assert picture.text["Description"].endswith("--figures")  # type: ignore[attr-defined]
    assert b"spd_report -i" in (made / "prompts.pdf").read_bytes()


def test_predictions_are_drawn_in_their_colour(folders: ReportFolders, tmp_path: Path) -> None:
    source = prediction_source(folders.images, [folders.predictions()], references=folders.references)
    summaries = [case_summary(read_case(case, source), source) for case in source.cases]
    write_figures(source, summaries, tmp_path / "f", FigureRequest("command"))
    with Image.open(tmp_path / "f" / "comparison.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    colour = [int(PREDICTION[i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(pixels - colour).max(axis=1) < 20).sum() > 200


def test_the_legend_lies_within_the_figure_and_names_what_is_shown(folders: ReportFolders) -> None:
    source = prediction_source(folders.images, [folders.predictions()], references=folders.references)
    data = [read_case(case, source) for case in source.cases]
    rows = [_Row(d, s, choose_grey_scale(d.image, None)) for d in data for s in range(len(d.image))]
    figure = draw_prompts(rows, source, 0)
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    assert box.y1 <= min(axis.get_window_extent().y0 for axis in figure.axes)
    shown = {point.fate.name for d in data for point in d.predictions[0].points} & set(_MARKERS)
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["reference", "raw point", *(_MARKERS[name][2] for name in _MARKERS if name in shown)]


def test_without_fates_there_is_one_figure(tmp_path: Path) -> None:
    folders = write_report_data(tmp_path / "data", with_fates=False)
    main([*folders.arguments(), "-o", str(tmp_path / "r.html"), "--figures", "-figure_slices", "case_b=2"])
    assert sorted(f.name for f in (tmp_path / "r_figures").iterdir()) == ["comparison.pdf", "comparison.png"]


@pytest.mark.parametrize(
    ("wanted", "message"), [("case_a=7", "slices 0 to 6"), ("case_z=1", "CASE=SLICE"), ("case_a", "CASE=SLICE")]
)
def test_slices_that_do_not_exist_are_refused(
    folders: ReportFolders, tmp_path: Path, wanted: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*folders.arguments(), "-o", str(tmp_path / "r.html"), "--figures", "-figure_slices", wanted])
    assert message in capsys.readouterr().err


def test_names_are_no_formulas(folders: ReportFolders, tmp_path: Path) -> None:
    main([*folders.arguments(), "-o", str(tmp_path / "r.html"), "--figures", "-names", r"lr $\x$"])
    assert list((tmp_path / "r_figures").glob("*.png"))
