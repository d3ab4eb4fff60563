"""How figures look: colours that any colour vision tells apart, markers, labels that do not overlap, PNG files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy.optimize import isotonic_regression

from spdnet.files import whole_file

DPI = 200
WIDTH = 7.2  # inches, of a page
DASHES = (0, (5, 2))
INK, MUTED, GRID = "#222222", "#6b6b6b", "#e3e3e3"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.fontsize": 8,
    "legend.frameon": False,
}

# Okabe and Ito's colours (no yellow: it is lost on white); the main methods always have the same one.
SPD_COLOUR, OTHER_COLOUR = "#D55E00", "#0072B2"
_FIXED = {
    "spd": (SPD_COLOUR, "o"),
    "sam_tuning": ("#0072B2", "s"),
    "stage1_raw": ("#56B4E9", "D"),
    "nnunet": ("#009E73", "^"),
    "unet": ("#CC79A7", "v"),
    "saliency": ("#E69F00", "P"),
    "ceiling": (INK, "*"),
}
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", MUTED)
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h")


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, no two alike."""
    chosen = {name: _FIXED[name] for name in names if name in _FIXED}
    free = [(c, m) for m in _MARKERS for c in _COLOURS if (c, m) not in chosen.values()]
    for name in names:
        if name not in chosen:
            chosen[name] = free.pop(0)
    return chosen


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty white figure, inches, whose parts make room for each other."""
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def title_above(figure: Figure, title: str) -> None:
    """A title for all panels, at the left as those of single panels."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])


def wrapped(text: str, width: int) -> str:
    """In lines of at most so many letters."""
    return "\n".join(textwrap.wrap(text, width))


def log_ticks(axis: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2, 5, 10, 20, ..."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())


def label_ends(axis: Axes, labels: Sequence[tuple[float, str, str]], width: int = 24) -> None:
    """Write labels (y in data, text, colour) at the right of an axis, moved apart where they would overlap.

    Call it when all else is drawn and the limits are final; lines of more than `width` letters are wrapped.
    """
    if not labels:
        return
    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout, so that heights are known
    height_pt = axis.get_window_extent().height * 72 / figure.dpi
    line = 1.3 * mpl.rcParams["font.size"] / height_pt
    low, high = axis.get_ylim()
    ordered = [(y, wrapped(text, width), colour) for y, text, colour in sorted(labels)]
    heights = np.array([line * (1 + text.count("\n")) for _, text, _ in ordered])
    wanted = np.array([(y - low) / (high - low) for y, _, _ in ordered])
    steps = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])  # the least distances from the first
    places = isotonic_regression(wanted - steps).x + steps
    for y, place, (_, text, colour) in zip(wanted, places, ordered, strict=True):
        moved_pt = (place - y) * height_pt
        axis.annotate(
            text,
            (1.0, y),
            (14, moved_pt),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            va="center",
            ha="left",
            linespacing=1.0,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 1,
                "relpos": (0, 0.5),
            },
        )


def save_png(figure: Figure, file: Path) -> None:
    """Write it whole or not at all, without a date or version in it."""
    with mpl.rc_context(STYLE), whole_file(file) as partial:
        figure.savefig(partial, dpi=DPI, metadata={"Software": None}, format="png")
