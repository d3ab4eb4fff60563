"""Figures: what they plot is read back from them and compared with the scores."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from made_up_records import METHODS, collection, record
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from evidence import figures
from evidence.collection import Collection
from evidence.plotting import STYLE, label_ends, new_figure, save_png, styles

CASES = np.array([-0.06, -0.01, 0.0, 0.03, 0.04, 0.02, -0.02])


def level(method: str, mean: float, seed: int = 0, **options: object):  # type: ignore[no-untyped-def]
    """All cases round a mean, per cent."""
    return record(method, (mean / 100 + CASES).tolist(), seed, **options)  # type: ignore[arg-type]


def lines(axis: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Plotted data by label."""
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axis.lines
        if not str(line.get_label()).startswith("_")
    }


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def noisy() -> Collection:
    return collection(
        level("spd", 80),
        level("saliency", 60),
        *(level("spd", y, test_noise=n) for n, y in (("bad0", 82), ("bad90", 79), ("bad100", 77))),
        level("spd", 78, seed=1, test_noise="bad100"),
        *(level("sam_tuning", y, test_noise=n) for n, y in (("bad0", 75), ("bad90", 50))),
        *(level("spd", y, test_noise=n) for n, y in (("shift2", 81), ("shift10", 76))),
        level("unet", 55),
    )


def test_noise_curves_hold_the_means_of_each_ladder() -> None:
    made = noisy()
    bad, shift = drawn(figures.noise_curves(made, made.conditions[0])).axes
    assert bad.get_xlabel() == "share of bad points, %"
    assert lines(bad)["SPD"] == ([0, 90, 100], pytest.approx([82, 79, 77.5]))
    assert lines(bad)["SAM-Tuning"] == ([0, 90], pytest.approx([75, 50]))
    assert lines(shift)["SPD"] == ([2, 10], pytest.approx([81, 76]))
    assert "U-Net" not in lines(bad)


def test_noise_curve_of_a_method_without_prompts_is_level_and_dashed() -> None:
    made = noisy()
    for axis in drawn(figures.noise_curves(made, made.conditions[0])).axes:
        (line,) = [x for x in axis.lines if x.get_label() == "saliency alone"]
        assert set(np.round(np.asarray(line.get_ydata()), 9)) == {60}
        assert line.is_dashed()


def test_noise_curves_show_single_seeds_and_bands() -> None:
    made = noisy()
    bad = drawn(figures.noise_curves(made, made.conditions[0])).axes[0]
    (seeds,) = [line for line in bad.lines if line.get_label() == "_seeds"]
    assert (list(seeds.get_xdata()), list(seeds.get_ydata())) == ([100, 100], pytest.approx([77, 78]))
    band = bad.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() < 77.5 < band[:, 1].max()


def test_label_efficiency_has_all_volumes_last() -> None:
    made = collection(*(level("spd", 60 + (n or 20), n_train=n) for n in (None, 2, 12)), level("unet", 50))
    (axis,) = drawn(figures.label_efficiency(made, made.conditions[0])).axes
    assert lines(axis) == {"SPD": ([0, 1, 2], pytest.approx([62, 72, 80]))}
    assert [t.get_text() for t in axis.get_xticklabels()] == ["2", "12", "all"]


def test_curves_beyond_what_can_be_told_apart_are_counted() -> None:
    many = [f"other{i}" for i in range(figures.MOST_CURVES + 1)]
    made = collection(*(level(m, 50, test_noise=n) for m in [*many, "spd"] for n in ("bad0", "bad90")))
    figure = drawn(figures.noise_curves(made, made.conditions[0]))
    assert len(lines(figure.axes[0])) == figures.MOST_CURVES
    assert "SPD" in lines(figure.axes[0])
    assert figure.get_suptitle() == "Tube phantom (2 more in the table only)"


def test_of_many_curves_the_highest_are_drawn_and_what_is_compared_with() -> None:
    scores = {"spd": 80, "sam_tuning": 20, **{f"other{i}": 40 + i for i in range(figures.MOST_CURVES)}}
    noises = "bad0", "bad50", "bad90"
    made = collection(
        *(level(m, s, test_noise=n) for m, s in scores.items() for n in noises),
        *(level("of_two_places", 79, test_noise=n) for n in noises[:2]),
        level("ceiling", 30),
    )
    found = set(lines(drawn(figures.noise_curves(made, made.conditions[0])).axes[0]))
    highest = {f"other{i}" for i in range(3, figures.MOST_CURVES)}
    assert found == {"SPD", "SAM-Tuning", "ceiling", *highest}


def test_forest_has_paired_differences_and_arrows_for_far_ones() -> None:
    made = collection(level("spd", 80), level("unet", 70), level("frozen_all", 20), level("ceiling", 85))
    (axis,) = drawn(figures.forest(made, made.conditions[0])).axes
    found = {label: x[0] for label, (x, _) in lines(axis).items()}
    assert found["U-Net"] == pytest.approx(-10)
    assert found["ceiling"] == pytest.approx(5)
    assert axis.get_xlim()[0] < found["frozen SAM, all points"] < -10
    texts = [t.get_text() for t in axis.texts]
    assert texts == ["-60.0 [-60.0, -60.0]", "-10.0 [-10.0, -10.0]", "+5.0 [+5.0, +5.0]"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["frozen SAM, all points", "U-Net", "ceiling"]


def test_sweeps_have_their_numbers_and_the_default() -> None:
    variants = level("spd_context0", 74), level("spd_context4", 81), level("spd_tau30", 79)
    made = collection(level("spd", 85), level("consensus", 80), *variants)
    context, threshold = drawn(figures.sweeps(made, made.conditions[0])).axes
    usual = {"SPD": (pytest.approx([0, 1]), pytest.approx([85, 85]))}
    assert lines(context) == usual | {
        "variants": ([0, 4], pytest.approx([74, 81])), "consensus": ([2], pytest.approx([80]))
    }  # fmt: skip
    assert lines(threshold) == usual | {
        "variants": ([0.3], pytest.approx([79])), "consensus": ([0.5], pytest.approx([80]))
    }  # fmt: skip
    without = collection(level("spd", 85), *variants)
    assert figures.sweeps(without, without.conditions[0]) is None


def test_consistency_and_frozen_prompts() -> None:
    made = collection(level("spd", 80), level("spd_no_psc", 78), level("frozen_all", 10), level("frozen_consensus", 50))
    (axis,) = drawn(figures.consistency(made, made.conditions[0])).axes
    assert {label: x for label, (x, _) in lines(axis).items()} == {
        "SPD": pytest.approx([80]), "SPD without PSC": pytest.approx([78])
    }  # fmt: skip
    dsc, iou = drawn(figures.frozen_prompts(made, made.conditions[0])).axes
    assert [bar.get_width() for bar in dsc.patches] == pytest.approx([10, 50])
    assert iou.get_xlabel() == "slice IoU, %"


def test_volume_models_need_one_that_was_run() -> None:
    made = collection(level("spd", 80), level("sam2", 60))
    dsc, volume = drawn(figures.volume_models(made, made.conditions[0])).axes
    assert [bar.get_width() for bar in dsc.patches] == pytest.approx([80, 60])
    assert [bar.get_width() for bar in volume.patches] == pytest.approx([75, 55])
    without = collection(level("spd", 80))
    assert figures.volume_models(without, without.conditions[0]) is None


def test_cases_are_in_the_order_of_the_best_other_method() -> None:
    made = collection(record("spd", [0.9, 0.5, 0.7]), record("unet", [0.6, 0.8, 0.4]), record("spd_no_psc", [0.9] * 3))
    (axis,) = drawn(figures.cases(made, made.conditions[0])).axes
    assert lines(axis) == {
        "U-Net": ([0, 1, 2], pytest.approx([40, 60, 80])), "SPD": ([0, 1, 2], pytest.approx([70, 90, 50]))
    }  # fmt: skip
    assert [t.get_text() for t in axis.get_xticklabels()] == ["c2", "c0", "c1"]
    assert axis.get_xlabel().endswith("SPD is better in 2")


def test_costs_are_seconds_and_slices_a_second() -> None:
    seconds = {"train": 50.0, "predict": 2.0, "predict_slices": 60.0}
    made = collection(level("spd", 80), level("unet", 70, seconds=seconds), level("frozen_all", 9, seconds={}))
    train, predict = drawn(figures.costs(made, made.conditions[0])).axes
    assert lines(train) == {"SPD": ([100], pytest.approx([80])), "U-Net": ([50], pytest.approx([70]))}
    assert lines(predict)["U-Net"][0] == [30]


def test_overview_has_leads_on_the_test_part() -> None:
    made = collection(
        level("spd", 80), level("unet", 74), level("nnunet", 71), level("spd", 80, part="fold0"),
        level("nnunet", 60, part="fold0"), level("spd", 70, data="easy"), level("saliency", 71, data="easy"),
    )  # fmt: skip
    (axis,) = drawn(figures.overview(made, "small")).axes
    found = lines(axis)
    assert found["best other method"][0] == pytest.approx([6])
    assert found["nnU-Net"][0] == pytest.approx([9])
    assert found["saliency alone"][0] == pytest.approx([-1])
    assert [t.get_text() for t in axis.get_yticklabels()] == ["Tube phantom", "Easy target"]


def test_no_figure_without_records() -> None:
    made = collection(level("unet", 50))
    condition = made.conditions[0]
    draw = (figures.noise_curves, figures.label_efficiency, figures.forest, figures.sweeps, figures.consistency,
            figures.frozen_prompts, figures.volume_models, figures.cases, figures.costs)  # fmt: skip
    assert [f(made, condition) for f in draw] == [None] * len(draw)
    assert figures.overview(made, "small") is None


def test_labels_at_line_ends_do_not_overlap_and_keep_their_order() -> None:
    with mpl.rc_context(STYLE):
        figure = new_figure(2.5)
        axis = figure.subplots()
        axis.set_ylim(0, 100)
        label_ends(axis, [(y, f"a method with a long name, number {y}", "k") for y in (50, 51, 52, 53, 90)])
        figure.draw_without_rendering()
    texts = sorted((t for t in axis.texts if isinstance(t, Annotation)), key=lambda t: int(t.get_text().split()[-1]))
    boxes = [mpl.text.Text.get_window_extent(t) for t in texts]
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0


def test_no_two_methods_look_alike() -> None:
    names = [*METHODS, *(f"other{i}" for i in range(25))]
    look = styles(names)
    assert len(set(look.values())) == len(names)


def test_png_has_the_width_of_a_page(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = noisy()
    save_png(drawn(figures.noise_curves(made, made.conditions[0])), tmp_path / "curves.png")
    assert mpl.image.imread(tmp_path / "curves.png").shape[1] == 1440
