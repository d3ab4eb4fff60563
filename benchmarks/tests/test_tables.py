"""Tables read back from their Markdown, goals, and the report as a whole."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report
from made_up_records import collection, record
from scipy.stats import wilcoxon

from evidence import tables
from evidence.collection import Collection
from evidence.goals import GOALS, closed_distance, margin
from evidence.jobs import PROFILES, RunRecord
from evidence.methods.nnunet import progress

RNG = np.random.default_rng(2)
BASE = RNG.uniform(0.55, 0.75, 8)


def scored(method: str, points: float, seed: int = 0, **options: object) -> RunRecord:
    """So many points above the base in every case, give or take a little."""
    noise = np.random.default_rng([seed, *method.encode()]).normal(0, 0.01, len(BASE))
    return record(method, (BASE + points / 100 + noise - noise.mean()).tolist(), seed, **options)  # type: ignore[arg-type]


def cells(markdown: str) -> dict[str, list[str]]:
    """Rows by their first cell."""
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in markdown.splitlines()]
    return {row[0]: row[1:] for row in [rows[0], *rows[2:]]}


def rows_of(*records: RunRecord) -> list[tables.Runs]:
    made = collection(*records)
    return made.rows(made.conditions[0])


def outcomes(goal: int, *records: RunRecord) -> list[tuple[str, str]]:
    made = collection(*records)
    return [(o.against, o.verdict) for o in GOALS[goal].outcomes(made, made.conditions)]


def test_best_score_is_bold_but_never_that_of_true_points() -> None:
    told = scored("ceiling", 20), scored("frozen_true", 30), scored("right_points", 15)
    rows = rows_of(*told, scored("spd", 10), scored("unet", 5))
    table = cells(tables.score_table(rows, tables.SLICE_METRICS))
    assert list(table) == ["method", "SPD", "frozen SAM, true points", "U-Net", "without wrong points", "ceiling"]
    assert [name for name, row in table.items() if "**" in row[1]] == ["SPD"]
    assert table["SPD"][1].startswith(f"**{100 * BASE.mean() + 10:.1f}** [")
    assert table["SPD"][4].startswith("**") and table["SPD"][5].startswith("**")  # distances: the lowest


def test_scores_alike_in_print_are_all_bold() -> None:
    same = BASE + 0.00001
    records = [record(m, dsc.tolist()) for m, dsc in (("spd", BASE), ("unet", same), ("ceiling", BASE))]
    table = cells(tables.score_table(rows_of(*records), ["dsc"]))
    assert {name: row[1].startswith("**") for name, row in table.items() if name != "method"} == {
        "SPD": True, "U-Net": True, "ceiling": False
    }  # fmt: skip


def test_difference_to_spd_and_p_by_holm() -> None:
    records = [record("spd", (BASE + 0.1).tolist()), record("unet", BASE.tolist()), scored("sam_tuning", 9.5)]
    table = cells(tables.score_table(rows_of(*records), ["dsc"]))
    assert table["U-Net"][-2] == "-10.0 [-10.0, -10.0]"
    assert table["U-Net"][-1] == f"{2 * 2 / 2**8:.3f}"  # the smaller of two p values
    other = np.array([c["classes"][0]["dsc"] for c in records[2].cases])
    assert table["SAM-Tuning"][-1] == f"{wilcoxon(other - BASE - 0.1).pvalue:.3f}"
    assert table["SPD"][-2:] == ["", ""]


def test_few_cases_have_no_p_and_the_line_says_why() -> None:
    few = [record("spd", [0.8, 0.7, 0.9]), record("unet", [0.7, 0.6, 0.8])]
    assert cells(tables.score_table(rows_of(*few), ["dsc"]))["U-Net"][-1] == "n.a."
    assert "fewer than 6 cases" in tables.basis(few, tests=True)
    assert "fewer than 6 cases" not in tables.basis([scored("spd", 1)], tests=True)


def test_spread_between_seeds_has_a_column_if_there_are_several() -> None:
    two = [record("spd", [0.7, 0.7]), record("spd", [0.8, 0.8], seed=1)]
    table = cells(tables.score_table(rows_of(*two), ["dsc"]))
    assert table["method"][2] == "sd of seeds"
    assert table["SPD"][1:3] == ["**75.0** [75.0, 75.0]", "7.1"]
    assert "sd of seeds" not in tables.score_table(rows_of(two[0]), ["dsc"])


def test_method_that_was_not_run_says_why() -> None:
    rows = rows_of(scored("spd", 1), replace(scored("sam2", 0), cases=[], not_run="no checkpoint here"))
    table = cells(tables.score_table(rows, ["dsc"]))
    assert table["SAM 2"][1] == "not run: no checkpoint here"
    assert set(table["SAM 2"][2:]) == {tables.NONE}


def test_tables_hold_their_methods() -> None:
    names = ("spd", "spd_no_psc", "spd_context0", "saliency", "sam_tuning", "unet", "ceiling")
    rows = rows_of(*(scored(name, 1) for name in names))
    in_table = [
        [r.method.name for r in part(rows)] for part in (tables.method_rows, tables.ablation_rows, tables.main_rows)
    ]
    assert in_table[0] == ["spd", "sam_tuning", "unet", "ceiling"]
    assert in_table[1] == ["spd", "spd_no_psc", "saliency", "sam_tuning", "spd_context0", "ceiling"]
    assert in_table[2] == ["spd", "spd_no_psc", "saliency", "sam_tuning", "unet", "ceiling"]
    assert tables.ablation_rows(rows_of(scored("spd", 1), scored("sam_tuning", 0))) == []


def test_line_under_a_table_says_what_it_rests_on() -> None:
    line = tables.basis([scored("spd", 1), scored("spd", 1, seed=1, notes=["trained on boxes"])], distances=True)
    for words in (
        "8 cases, 80 slices; class target; seeds 0, 1;",
        "run small: lite at 56 px, 8 + 24 epochs",
        "commit abc1234; AMD EPYC, 2 cores.",
        "over the 40 slices",
        "spd: trained on boxes.",
    ):
        assert words in line


def test_methods_with_the_same_note_share_it() -> None:
    noted = [scored("frozen_all", 1, notes=["knows boxes"]), scored("frozen_consensus", 1, notes=["knows boxes"])]
    assert tables.basis([scored("spd", 1), *noted]).endswith(". frozen_all, frozen_consensus: knows boxes.")


def test_a_stored_record_gets_what_its_method_says_of_it() -> None:
    frozen = report.with_remarks(scored("frozen_all", 1))
    assert frozen.notes == ["lite was trained with boxes alone; untuned, it does not know points"]
    other = report.with_remarks(scored("frozen_all", 1, budget=PROFILES["full"]))
    assert other.notes == [] and report.with_remarks(scored("spd", 1)).notes == []
    notes = [progress(np.array([0.9, 0.9 + slope]), 2) for slope in (0.0002, 0.0052)]
    level, rising = (report.with_remarks(scored("nnunet", 1, notes=[note])).notes for note in notes)
    assert level == notes[:1] and len(rising) == 2 and "still rising" in rising[1]


def test_rows_that_are_alike_raise_no_warning() -> None:
    assert tables.warnings([scored("spd", 1), scored("unet", 0)]) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (scored("unet", 0, commit="def5678"), "different commits: abc1234; def5678"),
        (scored("unet", 0, commit="abc1234+"), "files had changed since the commit: abc1234+"),
        (scored("unet", 0, budget=PROFILES["trial"]), "different budgets"),
        (scored("unet", 0, seed=1), r"different seeds.*\(0: spd; 1: unet\)"),
        (record("unet", [0.5, 0.6]), "different cases"),
        (scored("unet", 0, hardware={"gpu": "H100"}), "different hardware: AMD EPYC, 2 cores; H100"),
        (replace(scored("spd", 0, seed=1), cases=[], not_run="out of memory"), "not run: spd .seed 1: out of memory"),
    ],
)
def test_rows_that_are_not_comparable_raise_a_warning(other: RunRecord, words: str) -> None:
    found = tables.warnings([scored("spd", 1), other], costs=True)
    assert any(re.search(words, warning) for warning in found)


def test_costs_are_means_over_seeds() -> None:
    slow = scored("spd", 1, seed=1, seconds={"train": 300.0, "predict": 12.0, "predict_slices": 40.0}, peak_mib=700.0)
    table = cells(tables.cost_table(rows_of(scored("spd", 1), slow)))
    assert table["SPD"] == ["200", "5.0", "700"]


def test_ladder_has_methods_that_follow_prompts_and_the_references() -> None:
    made = collection(
        scored("spd", 2),
        scored("spd", 5, test_noise="bad0"),
        scored("spd", 4, test_noise="bad100"),
        scored("saliency", 1),
        scored("unet", 1),
    )
    table = cells(tables.ladder_table(made, made.conditions[0], "bad"))
    base = 100 * BASE.mean()
    assert table["slice DSC, %"] == ["0 %", "100 %"]
    assert table["SPD"] == [f"{base + 5:.1f}", f"{base + 4:.1f}"]
    assert table["saliency alone"] == [f"{base + 1:.1f}"] * 2
    assert "U-Net" not in table


def test_ladder_is_of_the_seeds_that_spd_has_there() -> None:
    noisy = [scored("spd", p, test_noise=n) for n, p in (("bad0", 5), ("bad100", 4))]
    made = collection(scored("spd", 2), scored("spd", 9, seed=1), *noisy, scored("saliency", 1), scored("ceiling", 8))
    two_seeds = collection(*made.records, scored("saliency", 5, seed=1), scored("ceiling", 9, seed=1))
    one, two = (tables.ladder_table(c, c.conditions[0], "bad") for c in (made, two_seeds))
    assert one == two
    curves = tables.ladder_curves(two_seeds, two_seeds.conditions[0], "bad")
    assert {seed for curve in curves.values() for _, runs in curve for seed in runs.results} == {0}


def test_volumes_are_in_ascending_order_with_all_last() -> None:
    made = collection(*(scored("spd", n or 20, n_train=n) for n in (None, 12, 2)), scored("unet", 0))
    table = cells(tables.volumes_table(made, made.conditions[0]))
    base = 100 * BASE.mean()
    assert table["slice DSC, % (± sd of seeds)"] == ["2 volumes", "12 volumes", "all volumes"]
    assert table["SPD"] == [f"{base + n:.1f}" for n in (2, 12, 20)]
    assert "U-Net" not in table  # with one number of volumes


def test_largest_losses_are_of_single_cases_and_classes() -> None:
    spd = record("spd", {"left": [0.8, 0.5, 0.9], "right": [0.7, 0.7, 0.2]})
    rival = record("unet", {"left": [0.7, 0.6, 0.9], "right": [0.7, 0.6, 0.8]})
    table = tables.loss_table(*rows_of(spd, rival)).splitlines()[2:]
    assert table == ["| c2 | right | 20.0 | 80.0 | -60.0 |", "| c1 | left | 50.0 | 60.0 | -10.0 |"]


def test_best_other_method_is_no_variant_and_was_not_told_the_truth() -> None:
    made = collection(
        scored("spd", 10),
        scored("spd_no_psc", 9),
        scored("frozen_true", 15),
        scored("ceiling", 20),
        scored("unet", 1),
        scored("sam_tuning", 3),
    )
    found = margin(made, made.conditions[0])
    assert found.against == "SAM-Tuning"
    assert found.value is not None
    assert found.value.mean == pytest.approx(7)
    assert found.verdict.startswith("met")


def test_best_other_method_is_that_of_the_smallest_lead_over_common_seeds() -> None:
    made = collection(
        scored("spd", 10),
        scored("spd", 16, seed=1),
        scored("unet", 6),
        scored("unet", 10, seed=1),
        scored("sam_tuning", 7),
    )
    found = margin(made, made.conditions[0])
    assert found.against == "SAM-Tuning"  # whose mean of 7 is below the U-Net's 8
    assert found.value is not None
    assert found.value.mean == pytest.approx(3)


def test_margin_without_a_seed_in_common_is_not_measured() -> None:
    assert outcomes(0, scored("spd", 10), scored("unet", 1, seed=1)) == [("", "not run")]


def test_distance_is_measured_from_the_better_raw_decoder() -> None:
    made = collection(scored("spd", 10), scored("stage1_raw", 4), scored("sam_tuning", 1), scored("ceiling", 12))
    found = closed_distance(made, made.conditions[0])
    assert found.against == "raw points, stage-1 encoder"
    assert found.value is not None
    assert found.value.mean == pytest.approx(75)


def test_margin_goal_is_for_data_where_points_decide() -> None:
    assert outcomes(0, scored("spd", 10), scored("unet", 1)) == [("U-Net", "met")]
    assert outcomes(0, scored("spd", 6), scored("unet", 1)) == [("U-Net", "missed")]
    assert outcomes(0, scored("spd", 10, data="easy"), scored("unet", 1, data="easy")) == [("", "not run")]
    assert outcomes(0, scored("spd", 10)) == [("", "not run")]


def test_threshold_inside_the_interval_is_said() -> None:
    wide = record("unet", (BASE - np.linspace(-0.1, 0.22, 8)).tolist())
    assert outcomes(0, record("spd", BASE.tolist()), wide) == [("U-Net", "missed (within the interval)")]


def test_nowhere_below_needs_both_methods() -> None:
    records = [scored("spd", 5, data="easy"), scored("nnunet", 6, data="easy")]
    assert outcomes(2, *records) == [("nnU-Net", "missed"), ("saliency alone", "not run")]


def test_noise_goals() -> None:
    records = [scored("spd", p, test_noise=n) for n, p in (("bad0", 5), ("bad90", 4.5), ("bad100", 3))]
    assert outcomes(3, *records) == [("itself with 0 % bad points", "met")]
    assert outcomes(3, *records[:1], scored("spd", 2, test_noise="bad90"))[0][1] == "missed"
    assert outcomes(4, *records, scored("saliency", 4)) == [("saliency alone", "missed")]
    assert outcomes(4, *records, scored("saliency", 1)) == [("saliency alone", "met")]


def test_summary_is_of_the_test_part_with_all_volumes_and_names_the_lowest() -> None:
    made = collection(
        scored("spd", 10),
        scored("unet", 1),
        scored("spd", 0, part="fold0"),
        scored("unet", 1, part="fold0"),
        scored("spd", 0, n_train=2),
        scored("unet", 1, n_train=2),
        scored("spd", 8, data="ambiguous_union"),
        scored("unet", 1, data="ambiguous_union"),
    )
    summary = cells(tables.goal_summary(made, "small"))[GOALS[0].title]
    assert summary[:2] == ["met", "2 of 2"]
    assert summary[3].startswith("+7.0 [") and "Ambiguous_union, against U-Net" in summary[3]
    details = dict(tables.goal_details(made, "small"))[GOALS[0].title]
    assert len(details.splitlines()) == 2 + 4


def full_collection() -> Collection:
    records = [scored(m, p) for m, p in (("spd", 8), ("saliency", 2), ("sam_tuning", 4), ("nnunet", 3), ("ceiling", 9))]
    records += [scored("spd", p, test_noise=n) for n, p in (("bad0", 8), ("bad90", 7), ("bad100", 6))]
    records += [scored(m, 1, n_train=2) for m in ("spd", "nnunet")]
    return collection(*records)


def test_report_is_the_same_each_time_and_shows_every_figure(tmp_path: Path) -> None:
    first, second = (report.write_report(full_collection(), tmp_path / name, "nnunet") for name in "ab")
    files = sorted(f.name for f in first.parent.iterdir())
    assert files == sorted(f.name for f in second.parent.iterdir())
    assert first.read_bytes() == second.read_bytes()
    shown = re.findall(r"!\[.*?\]\((.*?)\)", first.read_text(encoding="utf-8"))
    assert sorted(shown) == [name for name in files if name.endswith(".png")]
    assert any("noise" in name for name in shown) and any("volumes" in name for name in shown)


def test_title_tells_how_many_volumes_all_are() -> None:
    few = record("spd", [0.5, 0.5], n_train=6)
    found = collection(record("spd", [0.8, 0.7]), record("unet", [0.8, 0.7], n_volumes=24), few)
    titles = [found.title(c) for c in found.conditions]
    assert [t.split("; ")[2] for t in titles] == ["all 24 training volumes", "6 training volumes"]


def test_report_says_which_figures_have_no_records(tmp_path: Path) -> None:
    text = report.write_report(full_collection(), tmp_path).read_text(encoding="utf-8")
    (line,) = [x for x in text.splitlines() if x.startswith("Figures without records") and "noise" not in x]
    for title in ("Figure 5", "Figure 6", "Figure 7", "SAM 2"):
        assert title in line


def test_command_reads_stored_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stored in full_collection().records:
        stored.save(tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "results"), "-o", str(tmp_path / "out")])
    assert report.main() == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Tube phantom; test part; all training volumes" in text
    base = 100 * BASE.mean()
    assert f"**{base + 8:.1f}**" in text


def test_command_wants_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        report.main()
