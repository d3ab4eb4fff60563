"""Figures for papers: qualitative panels of chosen slices, as PNG and PDF, with the command that drew them inside.

`comparison` has a row per case with the image, the reference and every prediction, after Figure 3 of the paper;
`prompts` the points as given, the saliency and what became of the points, after its Figure 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tqdm import tqdm

import spdnet
from spdnet.errors import ConfigurationError
from spdnet.files import make_folder, whole_file
from spdnet.geometry import nearest_index
from spdnet.prompts.fates import Fate
from spdnet.report.cases import CaseData, PredictionData, read_case
from spdnet.report.planes import GreyScale, choose_grey_scale
from spdnet.report.points import JudgedPoint
from spdnet.report.sources import ReportSource

# Okabe and Ito's colours, as in the page; markers differ in shape as well.
REFERENCE, PREDICTION, RAW = "#56B4E9", "#E69F00", "#F0E442"
_MARKERS: dict[str, tuple[str, str, str]] = {  # what is shown: marker, colour, legend
    "KEPT_LOCAL": ("o", "#009E73", "kept: in its own slice"),
    "KEPT_CONTEXT": ("D", "#0072B2", "kept: lent by a neighbouring slice"),
    "REJECTED_OWN": ("x", "#D55E00", "rejected"),
    "REJECTED_RANDOM": ("x", "#CC79A7", "rejected: the points of this volume look random"),
}
_ROWS = 4
_PANEL_INCHES, _TITLE_INCHES, _LEGEND_INCHES, _LEGEND_LINE_INCHES = 2.2, 0.3, 0.35, 0.16
_SYMBOL_INCHES, _LETTER_INCHES = 0.4, 0.05  # of the legend's entries
_DPI = 200


@dataclass(frozen=True)
class FigureRequest:
    """What to draw.

    Attributes:
        command: that asked for it; goes into the files' metadata.
        channel: of the image.
        slices: "CASE=SLICE" for each row; empty to choose.
    """

    command: str = ""
    channel: int = 0
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """A slice to draw."""

    data: CaseData
    slice_index: int
    scale: GreyScale


def write_figures(
    source: ReportSource, summaries: Sequence[dict[str, Any]], folder: Path, request: FigureRequest
) -> list[Path]:
    """Draw the figures and return their files.

    Args:
        source: cases and predictions.
        summaries: of the cases, in the same order, see `case_summary`.
        folder: is made; files in it are replaced.
        request: what to draw.

    Raises:
        ConfigurationError: a slice asked for does not exist.
        DatasetError, PromptFileError: a case cannot be read. StorageError: a figure cannot be written.
    """
    wanted = _parse(request.slices, source) or [(i, None) for i in _spread(summaries, _ROWS)]
    rows = []
    for index, chosen in tqdm(wanted, desc="figures"):
        data = read_case(source.cases[index], source, request.channel)
        normalization = source.normalization[request.channel] if source.normalization else None
        slice_index = _largest_target(data) if chosen is None else _checked(chosen, data)
        rows.append(_Row(data, slice_index, choose_grey_scale(data.image, normalization)))
    make_folder(folder)
    files = _save(draw_comparison(rows, source), folder / "comparison", request.command)
    judged = next((i for i in range(len(source.predictions)) if any(r.data.predictions[i].points for r in rows)), None)
    if judged is not None:
        files += _save(draw_prompts(rows, source, judged), folder / "prompts", request.command)
    return files


def draw_comparison(rows: Sequence[_Row], source: ReportSource) -> Figure:
    """Image with raw points, reference, and every prediction with its Dice, a row per case."""
    has_reference = any(row.data.reference is not None for row in rows)
    titles = ["image, points", *(["reference"] if has_reference else []), *source.predictions]
    figure, axes = _panels(rows, titles)
    for line, row in zip(axes, rows, strict=True):
        _note(line[0], f"{row.data.case}, slice {row.slice_index}")
        _mark_given(line[0], row)
        if has_reference:
            _outline(line[1], row.data.reference, row, source, REFERENCE, "dashed")
        for axis, prediction in zip(line[1 + has_reference :], row.data.predictions, strict=True):
            _outline(axis, prediction.label_map, row, source, PREDICTION, "solid")
            _outline(axis, row.data.reference, row, source, REFERENCE, "dashed")
            if prediction.dsc is not None and not np.isnan(prediction.dsc[:, row.slice_index]).all():
                _note(axis, f"DSC {np.nanmean(prediction.dsc[:, row.slice_index]):.2f}")
    _legend(
        figure, [_line(REFERENCE, "reference", "--"), _line(PREDICTION, "prediction"), _marker("o", RAW, "raw point")]
    )
    return figure


def draw_prompts(rows: Sequence[_Row], source: ReportSource, index: int) -> Figure:
    """Points as given, saliency, and judged points, a row per case, for one of the predictions."""
    figure, axes = _panels(rows, ["raw points", "saliency", "after distillation"])
    shown: set[str] = set()
    for line, row in zip(axes, rows, strict=True):
        prediction = row.data.predictions[index]
        _note(line[0], f"{row.data.case}, slice {row.slice_index}")
        _mark_given(line[0], row)
        _show_saliency(line[1], prediction, row)
        for axis in line:
            _outline(axis, row.data.reference, row, source, REFERENCE, "dashed")
        shown |= _mark_judged(line[2], prediction.points, row.slice_index)
    handles = [_line(REFERENCE, "reference", "--"), _marker("o", RAW, "raw point")]
    handles += [_marker(*_MARKERS[name]) for name in _MARKERS if name in shown]
    _legend(figure, handles)
    return figure


def _parse(slices: Sequence[str], source: ReportSource) -> list[tuple[int, int | None]]:
    names = [case.case for case in source.cases]
    parsed: list[tuple[int, int | None]] = []
    for text in slices:
        case, _, number = text.rpartition("=")
        if case not in names or not (number.isascii() and number.isdigit()):
            raise ConfigurationError(f"-figure_slices {text}: must be CASE=SLICE with one of the report's cases")
        parsed.append((names.index(case), int(number)))
    return parsed


def _spread(summaries: Sequence[dict[str, Any]], n: int) -> list[int]:
    """Cases from the lowest to the highest mean DSC of the first prediction, evenly spread."""

    def score(index: int) -> float:
        classes = summaries[index]["predictions"][0]["classes"]
        values = [c["dsc"] for c in classes or [] if c["dsc"] is not None]
        return float(np.mean(values)) if values else 0.0

    order = sorted(range(len(summaries)), key=score)
    places = np.linspace(0, len(order) - 1, min(n, len(order)))
    return [order[int(i)] for i in nearest_index(places)]


def _largest_target(data: CaseData) -> int:
    shown = data.predictions[0].label_map if data.reference is None else data.reference
    return int(np.count_nonzero(shown, axis=(1, 2)).argmax())


def _checked(slice_index: int, data: CaseData) -> int:
    if slice_index >= len(data.image):
        raise ConfigurationError(
            f"-figure_slices {data.case}={slice_index}: the case has slices 0 to {len(data.image) - 1}"
        )
    return slice_index


def _panels(rows: Sequence[_Row], titles: Sequence[str]) -> tuple[Figure, Any]:
    """A figure with the slice of a row in each of its panels."""
    heights = [_PANEL_INCHES * _height_over_width(row) for row in rows]
    height = sum(heights) + _TITLE_INCHES + _LEGEND_INCHES
    figure = Figure(figsize=(_PANEL_INCHES * len(titles), height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(0, _LEGEND_INCHES / height, 1, 1 - _TITLE_INCHES / height, wspace=0.02, hspace=0.02)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title.replace("$", r"\$"), fontsize=9, pad=4)
    for line, row in zip(axes, rows, strict=True):
        low, high = row.scale.shown
        for axis in line:
            image, (_, dy, dx) = row.data.image[row.slice_index], row.data.frame.spacing_mm
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", aspect=dy / dx)
            axis.set_autoscale_on(False)
            axis.set_axis_off()
    return figure, axes


def _height_over_width(row: _Row) -> float:
    _, rows, columns = row.data.image.shape
    _, dy, dx = row.data.frame.spacing_mm
    return (rows * dy) / (columns * dx)


def _outline(
    axis: Axes, label_map: np.ndarray | None, row: _Row, source: ReportSource, colour: str, style: str
) -> None:
    """Contours of all classes in a slice; padded, so that one that touches the border is closed."""
    if label_map is None:
        return
    for values in source.labels.values:
        mask = np.isin(label_map[row.slice_index], values)
        if mask.any():
            padded = np.pad(mask.astype(float), 1)
            y, x = (np.arange(size) - 1 for size in padded.shape)
            axis.contour(x, y, padded, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.2)


def _mark_given(axis: Axes, row: _Row) -> None:
    if row.data.given is not None:
        points = row.data.given.points_syx[row.data.given.slice_index == row.slice_index]
        axis.scatter(points[:, 2], points[:, 1], 14, color=RAW, edgecolors="black", linewidths=0.5, zorder=3)


def _show_saliency(axis: Axes, prediction: PredictionData, row: _Row) -> None:
    if prediction.saliency is None:
        _note(axis, "not saved")
        return
    shown = prediction.saliency[:, row.slice_index].max(axis=0)
    _, dy, dx = row.data.frame.spacing_mm
    axis.imshow(shown, cmap="cividis", vmin=0, vmax=100, alpha=0.65, interpolation="bilinear", aspect=dy / dx)


def _mark_judged(axis: Axes, points: Sequence[JudgedPoint], slice_index: int) -> set[str]:
    """Rejected points below kept ones; each on a white one, so that it shows on any ground. Returns the fates shown.

    What another slice could have lent, and was not trusted to, is not shown.
    """
    shown = set()
    for name in reversed(_MARKERS):
        marker, colour, _ = _MARKERS[name]
        chosen = [(p.x, p.y) for p in points if p.target_slice == slice_index and p.fate is Fate[name]]
        if not chosen:
            continue
        shown.add(name)
        x, y = np.array(chosen).T
        for edge, width in (("white", 3.2), (colour, 1.6)):
            style = {"color": edge} if marker == "x" else {"facecolors": "none", "edgecolors": edge}
            axis.scatter(x, y, 28, marker=marker, linewidths=width, zorder=3, **style)  # type: ignore[arg-type]
    return shown


def _note(axis: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.5, "pad": 1.5, "edgecolor": "none"}
    text = text.replace("$", r"\$")  # no mathematics in names
    axis.text(0.02, 0.98, text, transform=axis.transAxes, color="white", fontsize=7, va="top", bbox=box)


def _line(colour: str, label: str, style: Literal["-", "--"] = "-") -> Line2D:
    return Line2D([], [], color=colour, linestyle=style, label=label)


def _marker(shape: str, colour: str, label: str) -> Line2D:
    edge = "black" if colour == RAW else colour
    face = colour if colour == RAW else "none"
    return Line2D([], [], linestyle="", marker=shape, markeredgecolor=edge, markerfacecolor=face, label=label)


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    """Below the panels, in as many lines as the figure's width asks for; the figure grows by them."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / (_SYMBOL_INCHES + _LETTER_INCHES * longest))))
    more = (math.ceil(len(handles) / columns) - 1) * _LEGEND_LINE_INCHES
    height = figure.get_figheight() + more
    figure.set_figheight(height)
    figure.subplots_adjust(bottom=(_LEGEND_INCHES + more) / height, top=1 - _TITLE_INCHES / height)
    figure.legend(
        handles=handles, loc="lower center", ncol=columns, fontsize=7, frameon=False, borderaxespad=0.2,
        columnspacing=1.0, handletextpad=0.3,
    )  # fmt: skip


def _save(figure: Figure, stem: Path, command: str) -> list[Path]:
    """PNG and PDF, whole or not at all."""
    metadata = {
        "png": {"Software": f"spdnet {spdnet.__version__}", "Description": command},
        "pdf": {"Creator": f"spdnet {spdnet.__version__}", "Subject": command},
    }
    files = []
    for kind, told in metadata.items():
        files.append(stem.with_name(f"{stem.name}.{kind}"))
        with whole_file(files[-1]) as partial:
            figure.savefig(partial, dpi=_DPI, metadata=told)
    return files
