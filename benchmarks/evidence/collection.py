"""Stored records sorted for reading: by condition, method and test prompts, all seeds together, with titles and order.

What is computed of them is left to `statistics`, how it is shown to `tables` and `figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol

from evidence.jobs import RunRecord, Setting
from spdnet.evaluation import CaseScores, ClassScores, EvaluationResult

LADDERS = {  # title and unit
    "bad": ("share of bad points", "%"),
    "shift": ("displacement, each slice its own way", "mm"),
    "drift": ("displacement, slowly turning", "mm"),
}
SPD, CONSENSUS, CEILING, SALIENCY, NNUNET = "spd", "consensus", "ceiling", "saliency", "nnunet"
LABELS = "labels"
SAM_TUNING = "sam_tuning"
REFERENCES = (CEILING, SALIENCY, NNUNET)  # stand beside noise curves though they ignore prompts
RAW = (SAM_TUNING, "stage1_raw", "medsam_points", "sam_adapter")  # SAM tuned on raw points
OTHER_GROUPS = ("SAM", "frozen SAM", "refinement", "U-Net", "nnU-Net", "SAM 2", "other")  # the rest are SPD's variants


class MethodLike(Protocol):
    """What is read of a `Method`."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def uses_prompts(self) -> bool: ...


class NoiseLike(Protocol):
    """What is read of a noise."""

    @property
    def title(self) -> str: ...
    @property
    def ladder(self) -> str | None: ...
    @property
    def value(self) -> float | None: ...


@dataclass(frozen=True)
class UnknownMethod:
    """A method of a record that the registry does not have; shown by its name."""

    name: str
    group: str = "other"
    uses_prompts: bool = True

    @property
    def title(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class Condition:
    """A `Setting` without its seed: what the rows of one table have in common."""

    profile: str
    data: str
    part: str
    noise: str
    n_train: int | None

    @staticmethod
    def of(setting: Setting) -> Condition:
        """The condition of a setting."""
        return Condition(**{f.name: getattr(setting, f.name) for f in fields(Condition)})

    @property
    def slug(self) -> str:
        """For file names."""
        volumes = "all" if self.n_train is None else str(self.n_train)
        return f"{self.profile}_{self.data}_{self.part}_{self.noise}_{volumes}"


@dataclass(frozen=True)
class Runs:
    """All seeds of one method in one condition, tested with prompts of one noise.

    Attributes:
        method: its entry in the registry.
        records: one per seed, ascending.
    """

    method: MethodLike
    records: tuple[RunRecord, ...]

    @cached_property
    def results(self) -> dict[int, EvaluationResult]:
        """Scores by seed, of the seeds that have some."""
        return {r.job.setting.seed: evaluation_of(r) for r in self.records if r.cases}

    def of_seeds(self, seeds: AbstractSet[int]) -> Runs:
        """Those of some seeds."""
        return Runs(self.method, tuple(r for r in self.records if r.job.setting.seed in seeds))

    @property
    def not_run(self) -> str | None:
        """Why seeds have no scores; None if all have."""
        reasons = [r.not_run or "no scores stored" for r in self.records if not r.cases]
        return "; ".join(dict.fromkeys(reasons)) or None


@dataclass(frozen=True)
class Collection:
    """Records with the registries that name and order them.

    Attributes:
        records: of `stored_records`.
        methods, noises: `METHODS` and `NOISES`; what they lack is shown by its name.
        data_titles: title of each data set, in order.
    """

    records: Sequence[RunRecord]
    methods: Mapping[str, MethodLike] = field(default_factory=dict)
    noises: Mapping[str, NoiseLike] = field(default_factory=dict)
    data_titles: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def conditions(self) -> list[Condition]:
        """All conditions: by profile and data set, test part first, all volumes before fewer."""
        found = {Condition.of(r.job.setting) for r in self.records}
        data = list(self.data_titles)

        def order(c: Condition) -> tuple[Any, ...]:
            known = data.index(c.data) if c.data in data else len(data)
            return c.profile, known, c.data, c.part != "final", c.part, c.noise, -(c.n_train or math.inf)

        return sorted(found, key=order)

    def title(self, condition: Condition) -> str:
        """A condition in words."""
        data = self.data_titles.get(condition.data, condition.data)
        part = {"final": "test part", "development": "development test volumes"}.get(
            condition.part, f"{condition.part} of the training part"
        )
        volumes = str(condition.n_train)
        if condition.n_train is None:
            known = {r.n_volumes for r in self.records if Condition.of(r.job.setting) == condition} - {None}
            volumes = " ".join(["all", *(str(n) for n in sorted(known, key=str))])
        return f"{data}; {part}; {volumes} training volumes; prompts: {self.noise_title(condition.noise)}"

    def short_title(self, condition: Condition, volumes: bool = True) -> str:
        """Data set, with fold, volumes and prompts where they are not the test part, all, and the only ones."""
        words = [self.data_titles.get(condition.data, condition.data)]
        words[0] = words[0][0].upper() + words[0][1:]
        if condition.part != "final":
            words.append(condition.part)
        if volumes and condition.n_train is not None:
            words.append(f"{condition.n_train} training volumes")
        if any(c != condition and replace(c, noise=condition.noise) == condition for c in self.conditions):
            words.append(self.noise_title(condition.noise))
        return ", ".join(words)

    def noise_title(self, noise: str) -> str:
        """A noise in words."""
        return self.noises[noise].title if noise in self.noises else noise

    def rows(self, condition: Condition) -> list[Runs]:
        """Every method tested as it was trained, by group, in the registry's order; the ceiling's group last."""
        found = (self.runs(condition, name) for name in self.names(condition))
        return [runs for runs in found if runs is not None]

    def names(self, condition: Condition) -> list[str]:
        """The methods of a condition with any test prompts, in the order of `rows`."""
        there = {method for c, method, _ in self._index if c == condition}
        ordered = [*self.methods, *sorted(there - set(self.methods))]
        groups = list(dict.fromkeys(self.method(m).group for m in ordered))
        told = self.method(CEILING).group
        ordered.sort(key=lambda m: (self.method(m).group == told, m == CEILING, groups.index(self.method(m).group)))
        return [m for m in ordered if m in there]

    def runs(self, condition: Condition, method: str, test_noise: str | None = None) -> Runs | None:
        """One method; by default tested with the training prompts' noise.

        A method that ignores prompts has the same scores with all of them.
        """
        wanted = test_noise or condition.noise
        found = self._index.get((condition, method, wanted))
        if found is None and not self.method(method).uses_prompts:
            found = next((r for (c, m, _), r in self._index.items() if (c, m) == (condition, method)), None)
        return found

    def by_volumes(self, condition: Condition) -> list[Condition]:
        """The conditions that differ from one in the number of training volumes at most, fewest first."""
        alike = (c for c in self.conditions if replace(c, n_train=condition.n_train) == condition)
        return sorted(alike, key=lambda c: c.n_train or math.inf)

    def volume_curves(self, condition: Condition) -> dict[str, list[Runs | None]]:
        """Methods with scores for two numbers of training volumes or more, in the order of `by_volumes`."""
        conditions = self.by_volumes(condition)
        names = self.names(max(conditions, key=lambda c: len(self.names(c))))
        curves = {name: [self.runs(c, name) for c in conditions] for name in names}
        scored = {name: [r if r and r.results else None for r in curve] for name, curve in curves.items()}
        return {name: curve for name, curve in scored.items() if len(curve) - curve.count(None) > 1}

    def method(self, name: str) -> MethodLike:
        """The registry's entry, or one made of the name."""
        return self.methods.get(name) or UnknownMethod(name)

    def ladder(self, name: str) -> list[tuple[float, str]]:
        """Values and keys of the noises of a ladder, ascending."""
        return sorted((n.value, key) for key, n in self.noises.items() if n.ladder == name and n.value is not None)

    def ladders(self, condition: Condition) -> dict[str, list[tuple[float, str]]]:
        """The ladders that a condition was tested on at two levels at least, with those levels."""
        tested = {noise for c, _, noise in self._index if c == condition}
        names = dict.fromkeys(n.ladder for n in self.noises.values() if n.ladder)
        levels = {name: [(v, key) for v, key in self.ladder(name) if key in tested] for name in names if name}
        return {name: found for name, found in levels.items() if len(found) > 1}

    def curve(self, condition: Condition, method: str, ladder: str) -> list[tuple[float, Runs]]:
        """A method that has scores on a ladder, by value; the same scores everywhere if it ignores prompts.

        Of the seeds that SPD has on the ladder, if any, so that curves beside each other are of the same trainings.
        """
        levels = self.ladders(condition).get(ladder, [])
        own = [self.runs(condition, SPD, key) for _, key in levels]
        seeds = {seed for runs in own if runs is not None for seed in runs.results}
        found = [(value, self.runs(condition, method, key)) for value, key in levels]
        there = [(value, runs.of_seeds(seeds) if seeds else runs) for value, runs in found if runs is not None]
        return [(value, runs) for value, runs in there if runs.results]

    @cached_property
    def _index(self) -> dict[tuple[Condition, str, str], Runs]:
        groups: dict[tuple[Condition, str, str], list[RunRecord]] = {}
        for record in sorted(self.records, key=lambda r: r.job.setting.seed):
            key = Condition.of(record.job.setting), record.job.method, record.job.test_noise
            groups.setdefault(key, []).append(record)
        return {key: Runs(self.method(key[1]), tuple(records)) for key, records in groups.items()}


def is_variant(runs: Runs) -> bool:
    """Whether a method is SPD, one of its variants or its ceiling."""
    return runs.method.group not in OTHER_GROUPS


def is_rival(runs: Runs) -> bool:
    """Whether it is another method than SPD, with scores, and was not told where the target is."""
    return not is_variant(runs) and bool(runs.results) and not has_true_points(runs)


def has_true_points(runs: Runs) -> bool:
    """Whether a method was told by the labels which points to use: true ones, as the ceiling, or the right ones."""
    told = any(getattr(runs.method, name, False) for name in ("true_prompts", "only_right"))
    return told or runs.method.name == CEILING


def evaluation_of(record: RunRecord) -> EvaluationResult:
    """The scores of a record as `spdnet.evaluation` has them, cases in the order of their names; null is NaN."""
    names = tuple(str(scores.get("class", i)) for i, scores in enumerate(record.cases[0]["classes"]))
    cases = (
        CaseScores(case["case"], case["slicing_axis"], tuple(_class_scores(scores) for scores in case["classes"]))
        for case in sorted(record.cases, key=lambda case: str(case["case"]))
    )
    return EvaluationResult(names, tuple(cases))


def _class_scores(scores: Mapping[str, Any]) -> ClassScores:
    older = {"n_target_slices": 0, "n_false_slices": 0, "target_dsc": None}  # what records did not have at first
    values = {f.name: {**older, **scores}[f.name] for f in fields(ClassScores)}
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    return ClassScores(**known)
