"""Runs that stand in the tables of several settings, as nothing that differs between these concerns their method.

Two data sets can differ in nothing but what stage 1 learns, which a method that does not use stage 1 does not see. Two
profiles can differ in nothing but the size of the networks' slices, which a method that sees voxels does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from evidence.datasets import DataSource
from evidence.jobs import PROFILES, RunRecord, Setting, other_sizes
from evidence.methods.base import Method
from evidence.methods.spd import STAGE1


def uses_stage1(method: Method) -> bool:
    """Whether a method depends on what SPD's stage 1 has learned."""
    return STAGE1 in method.training_steps()


def with_borrowed(
    records: Iterable[RunRecord], methods: Mapping[str, Method], sources: Mapping[str, DataSource]
) -> list[RunRecord]:
    """Records with those that other settings share, where these have records of their own.

    Args:
        records: stored ones.
        methods, sources: the registries; of a method that is not there nothing is shared.
    """
    found = list(records)
    own = {record.job.path for record in found}
    settings = {record.job.setting for record in found}
    for record in list(found):
        method = methods.get(record.job.method)
        if method is None or uses_stage1(method):
            continue
        for setting in _alike(record.job.setting, method, sources):
            job = replace(record.job, setting=setting)
            if _is_told(setting, settings) and job.path not in own:
                size = PROFILES[setting.profile].image_size
                found.append(replace(record, job=job, budget=replace(record.budget, image_size=size)))
    return found


def _alike(setting: Setting, method: Method, sources: Mapping[str, DataSource]) -> Iterator[Setting]:
    """Settings in which a method without stage 1 is the same."""
    for name, source in sources.items():
        if source.same_but_for_stage1 == setting.data:
            yield replace(setting, data=name)
        if source.same_but_for_stage1 is not None and name == setting.data:
            yield replace(setting, data=source.same_but_for_stage1)
    if method.sees_voxels:
        for profile in other_sizes(setting.profile):
            yield replace(setting, profile=profile)


def _is_told(setting: Setting, settings: set[Setting]) -> bool:
    return any(replace(other, seed=setting.seed) == setting for other in settings)
