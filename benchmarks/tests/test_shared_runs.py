"""Runs that two settings share."""

from __future__ import annotations

from dataclasses import replace

from made_up_records import record

from evidence.datasets import DATASETS
from evidence.jobs import other_sizes
from evidence.methods import METHODS
from evidence.shared_runs import uses_stage1, with_borrowed

UNION, CHOSEN = "ambiguous_union", "ambiguous_chosen"


def test_methods_without_stage_1_are_told_from_those_with() -> None:
    assert {
        name for name in ("spd", "saliency", "ceiling", "unet_consensus") if not uses_stage1(METHODS[name])
    } == set()
    assert not any(
        uses_stage1(METHODS[n]) for n in ("nnunet", "nnunet_raw_points", "sam_tuning", "medsam_points", "unet")
    )


def test_only_they_are_shared_and_only_in_settings_that_have_records() -> None:
    stored = [record(m, [0.5, 0.6], data=UNION) for m in ("spd", "sam_tuning", "unknown")]
    assert with_borrowed(stored, METHODS, DATASETS) == stored, "nothing of the other data set is there"
    own = record("spd", [0.4, 0.5], data=CHOSEN)
    found = with_borrowed([*stored, own], METHODS, DATASETS)
    assert found[:-1] == [*stored, own]
    assert found[-1].cases == stored[1].cases
    assert found[-1].job == replace(stored[1].job, setting=own.job.setting)


def test_it_does_not_matter_which_of_the_two_was_run() -> None:
    stored, own = record("sam_tuning", [0.5, 0.6], data=CHOSEN), record("spd", [0.4, 0.5], data=UNION)
    found = with_borrowed([stored, own], METHODS, DATASETS)
    assert found[:-1] == [stored, own] and found[-1].job == replace(stored.job, setting=own.job.setting)


def test_a_run_of_its_own_is_not_replaced() -> None:
    stored = [record("sam_tuning", [0.5, 0.6], data=UNION), record("sam_tuning", [0.7, 0.7], data=CHOSEN)]
    assert with_borrowed(stored, METHODS, DATASETS) == stored


def test_the_data_sets_differ_in_stage_1_alone() -> None:
    for source in DATASETS.values():
        if source.same_but_for_stage1 is not None:
            other = DATASETS[source.same_but_for_stage1]
            assert (source.family, source.dataset, source.needs, source.target) == (
                other.family,
                other.dataset,
                other.needs,
                other.target,
            )
            assert source.prior != other.prior


def test_what_sees_voxels_is_shared_by_profiles_that_differ_in_the_size_of_slices() -> None:
    stored = [record(m, [0.5, 0.6]) for m in ("spd", "unet", "nnunet", "nnunet_consensus_points")]
    own = record("spd", [0.4, 0.5], profile="small_64")
    found = with_borrowed([*stored, own], METHODS, DATASETS)
    assert found[:-1] == [*stored, own], "nnU-Net alone, unless it is given what stage 1 finds"
    assert found[-1].job == replace(stored[2].job, setting=own.job.setting)
    assert (found[-1].cases, found[-1].budget.image_size) == (stored[2].cases, 64)


def test_profiles_of_other_sizes_have_the_same_budgets_else() -> None:
    assert other_sizes("small") == ["small_64", "small_112"] and other_sizes("small_64") == ["small", "small_112"]
    assert not other_sizes("long") and not other_sizes("nnunet_20")
