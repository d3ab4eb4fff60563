"""Rows on equal labels: where stage 1 learns from labels of its own, and where it does not.

Two data sets can differ in nothing but what stage 1 learns. A method that does not use stage 1 is then the same in
both, so its runs in the one stand in the tables of the other too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from evidence.datasets import DataSource
from evidence.jobs import RunRecord, Setting
from evidence.methods.base import Method
from evidence.methods.spd import STAGE1


def uses_stage1(method: Method) -> bool:
    """Whether a method depends on what SPD's stage 1 has learned."""
    return STAGE1 in method.training_steps()


def with_borrowed(
    records: Iterable[RunRecord], methods: Mapping[str, Method], sources: Mapping[str, DataSource]
) -> list[RunRecord]:
    """Records with those that other data sets share, where these have records of their own in the same setting.

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
        for name, source in sources.items():
            if source.same_but_for_stage1 == record.job.setting.data:
                job = replace(record.job, setting=replace(record.job.setting, data=name))
                if _is_told(job.setting, settings) and job.path not in own:
                    found.append(replace(record, job=job))
    return found


def _is_told(setting: Setting, settings: set[Setting]) -> bool:
    return any(replace(other, seed=setting.seed) == setting for other in settings)
