"""Which weights stage 1 ends with: the held-out cases, the running average, and what a training makes of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spdnet.errors import PlansError
from spdnet.network.checkpoint import read_checkpoint
from spdnet.planning import SPDSettings
from spdnet.planning.plans import SelectionSettings
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_training import interrupted_after, make_trainer, run
from spdnet.training.case_shares import CaseShares
from spdnet.training.embedding_store import StoredVariant
from spdnet.training.selection import TOLERANCE, Checked, WeightSelection, hold_out
from spdnet.training.trainer import SPDTrainer


@pytest.mark.parametrize(
    ("n", "share", "held"), [(24, 0.2, 5), (10, 0.25, 3), (2, 0.9, 1), (1, 0.9, 0), (8, 0.0, 0), (0, 0.5, 0)]
)
def test_a_share_of_the_cases_is_held_out_by_the_seed(n: int, share: float, held: int) -> None:
    cases = [f"case_{i}" for i in range(n)]
    kept, out = hold_out(cases, [True] * n, share, 3)
    assert len(out) == held and sorted(kept + out) == sorted(cases)
    assert kept == [c for c in cases if c in kept] and out == [c for c in cases if c in out]
    assert (kept, out) == hold_out(cases, [True] * n, share, 3)
    if n == 24:
        assert any(hold_out(cases, [True] * n, share, seed)[1] != out for seed in range(5))


def test_cases_without_target_are_never_held_out() -> None:
    has_target = [i % 3 == 0 for i in range(12)]
    for seed in range(5):
        kept, out = hold_out(range(12), has_target, 0.9, seed)
        assert len(out) == 3 and all(has_target[i] for i in out), "one with target stays"
        assert sorted([*kept, *out]) == list(range(12))
    assert hold_out(range(3), [False] * 3, 0.9, 0)[1] == []


def selection_of(value: float = 0.0, decay: float = 0.5) -> tuple[torch.nn.Parameter, WeightSelection]:
    weight = torch.nn.Parameter(torch.full((2,), value))
    return weight, WeightSelection({"w": weight}, decay)


def test_the_average_forgets_what_it_began_with_and_is_lent_to_the_network() -> None:
    weight, selection = selection_of(100.0, decay=0.9)
    expected = 100.0
    for step in range(1, 200):
        with torch.no_grad():
            weight.fill_(step % 7)
        selection.update()
        decay = min(0.9, step / (step + 9))
        expected = decay * expected + (1 - decay) * (step % 7)
    with selection.averaged():
        assert weight.tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert weight.tolist() == [199 % 7] * 2
    assert abs(expected - 3) < 1


def offered(checks: list[tuple[float, float]]) -> tuple[torch.nn.Parameter, WeightSelection]:
    """A weight that is 0, 1, ... in the epochs, whose held-out cases fare so."""
    weight, selection = selection_of(decay=0.0)
    for epoch, (cross_entropy, loss) in enumerate(checks):
        with torch.no_grad():
            weight.fill_(epoch)
        selection.update()
        selection.offer(Checked(cross_entropy, loss), epoch)
    return weight, selection


@pytest.mark.parametrize(
    ("checks", "best"),
    [
        ([(0.5, 0.5), (0.3, 0.3), (0.4, 0.4), (0.3, 0.3)], 1),  # the first of equals
        ([(0.30, 0.6), (0.20, 0.5), (0.21, 0.4), (0.30, 0.2)], 2),  # the last is sure of what it misses
        ([(0.21, 0.1), (0.25, 0.2), (0.20, 0.9)], 0),  # within the tolerance of what came later
        ([(0.24, 0.1), (0.21, 0.2), (0.20, 0.9)], 1),  # beyond it, but for the second
        ([(0.2, 0.1)], 0),
    ],
)
def test_the_lowest_loss_is_kept_where_cross_entropy_is_about_the_lowest(
    checks: list[tuple[float, float]], best: int
) -> None:
    weight, selection = offered(checks)
    assert selection.best_epoch == best
    selection.restore()
    assert weight.tolist() == [best] * 2
    assert WeightSelection.best_of(selection.state())["w"].tolist() == [best] * 2


def test_any_course_is_judged_as_if_all_epochs_were_kept() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        checks = rng.uniform(0.2, 0.3, (30, 2)).round(2).tolist()
        lowest = min(c for c, _ in checks)
        allowed = [(loss, e) for e, (c, loss) in enumerate(checks) if c <= TOLERANCE * lowest]
        _, selection = offered([(c, loss) for c, loss in checks])
        assert selection.best_epoch == min(allowed)[1]
        assert len(selection.state()["candidates"]) < 12, "what can never be chosen is not kept"


def test_it_goes_on_from_its_state() -> None:
    weight, selection = selection_of(decay=0.9)
    again, other = selection_of(decay=0.9)
    rng = np.random.default_rng(1)
    for step in range(20):
        checked = Checked(*rng.uniform(0.2, 0.25, 2).tolist())
        with torch.no_grad():
            weight.fill_(float(step**2 % 11))
        selection.update()
        selection.offer(checked, step)
        if step == 9:
            other.load_state(selection.state())
        elif step > 9:
            with torch.no_grad():
                again.copy_(weight)
            other.update()
            other.offer(checked, step)
    first, second = selection.state(), other.state()
    assert torch.equal(first["average"]["w"], second["average"]["w"]) and first["steps"] == second["steps"]
    for one, two in zip(first["candidates"], second["candidates"], strict=True):
        assert (one["epoch"], one["checked"]) == (two["epoch"], two["checked"])
        assert torch.equal(one["weights"]["w"], two["weights"]["w"])


@pytest.mark.parametrize(("name", "value"), [("held_out_share", 1.0), ("held_out_share", -0.1), ("decay", 1.0)])
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(PlansError, match=rf"selection\.{name} is {value}"):
        SelectionSettings(**{name: value})


def holding_out(settings: SPDSettings) -> SPDSettings:
    """Half of the cases, and a learning rate at which a late epoch is not the best."""
    stage1 = replace(settings.stage1, learning_rate=0.05)
    return replace(settings, stage1=stage1, selection=SelectionSettings(0.5, 0.5))


class Watched(SPDTrainer):
    """Keeps what stage 1 trains on, the losses and averages of its epochs, and the weights that it ends with."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.averages: list[dict[str, torch.Tensor]] = []
        self.checked: list[Checked] = []
        self.ended_with: dict[str, torch.Tensor] = {}

    def on_epoch_end(self) -> None:
        if self.stage_number == 1:
            assert self._selection is not None
            with self._selection.averaged(), torch.no_grad():
                weights = self.network.stage1_parameters()
                self.averages.append({n: p.detach().clone() for n, p in weights.items()})
                found = [self.stage.check_held_out(b) for b in self.stage.held_out_batches()]
            self.checked.append(Checked(*np.mean(found, axis=0).tolist()))
        super().on_epoch_end()
        if self.stage_number == 1:
            self.ended_with = {n: p.detach().clone() for n, p in self.network.stage1_parameters().items()}


def best_epoch(trainer: Watched) -> int:
    lowest = min(c.cross_entropy for c in trainer.checked)
    allowed = [(c.loss, e) for e, c in enumerate(trainer.checked) if c.cross_entropy <= TOLERANCE * lowest]
    return min(allowed)[1]


def test_stage_1_ends_with_the_average_that_the_held_out_cases_like_best(planned: Workspace) -> None:
    trainer = make_trainer(planned, "all", (5, 1), Watched, holding_out)
    run(trainer)
    assert isinstance(trainer, Watched)
    held_out = {c.case for c in trainer.held_out_cases}
    assert held_out and held_out.isdisjoint(c.case for c in trainer.stage1_cases)
    assert held_out < {c.case for c in trainer.train_cases}, "stage 2 has them all"
    best = best_epoch(trainer)
    assert len(set(trainer.checked)) == 5
    assert all(torch.equal(p, trainer.averages[best][n]) for n, p in trainer.ended_with.items())
    final = trainer.network.stage1_parameters()
    assert all(torch.equal(p, trainer.ended_with[n]) for n, p in final.items()), "stage 2 leaves it alone"
    (log,) = trainer.output_folder.glob("training_log_*.txt")
    text = log.read_text(encoding="utf-8")
    told = re.findall(r"\d+ held-out cases: cross-entropy ([\d.]+), loss ([\d.]+)", text)
    told = [(float(c), float(loss)) for c, loss in told]
    np.testing.assert_allclose(told, trainer.checked, atol=1e-4)
    assert f"ends with its weights of epoch {best}" in text
    debug = json.loads((trainer.output_folder / "debug.json").read_text(encoding="utf-8"))
    assert set(debug["held_out_in_stage_1"]) == held_out


def test_without_a_share_nothing_is_held_out(planned: Workspace) -> None:
    trainer = make_trainer(planned, "all", (1, 0))
    run(trainer)
    assert trainer.held_out_cases == [] and trainer._selection is None
    assert trainer.stage1_cases == trainer.train_cases


def test_stage_2_measures_on_the_cases_that_stage_1_held_out(
    planned: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[str]] = []
    of = CaseShares.of

    def count(variants: list[StoredVariant], *arguments: Any) -> CaseShares:
        measured.append([v.case.case for v in variants])
        return of(variants, *arguments)

    monkeypatch.setattr(CaseShares, "of", count)
    first = run(make_trainer(planned, "all", (1, 1), change=holding_out))
    held_out = [c.case for c in first.held_out_cases]
    file = first.output_folder / "checkpoint_final.pth"
    other = make_trainer(planned, "all", (1, 1))  # its own plans hold out none
    other.initialize()
    other.start_from_stage1(file)
    other.run_training()
    assert measured == [held_out] * 2
    run(make_trainer(planned, "all", (1, 1)))
    assert len(measured[-1]) == len(first.train_cases), "without any, all count"


def test_the_held_out_cases_are_scored_by_weighted_cross_entropy(planned: Workspace) -> None:
    trainer = make_trainer(planned, "all", (1, 0), change=holding_out)
    trainer.initialize()
    trainer.network.eval()
    stage = trainer.build_stage(1)
    stage.prepare()
    batches = list(stage.held_out_batches())
    assert sum(len(b.names) for b in batches) <= sum(len(c.slices) for c in trainer.held_out_cases)
    for batch in batches:
        with torch.no_grad():
            logits = trainer.network.saliency_logits(trainer.network.encode(batch.images)).float()
            logits = torch.nn.functional.interpolate(logits, batch.masks.shape[-2:], mode="bilinear")
            alpha = torch.where(
                batch.masks > 0.5, stage.stage_settings.focal_alpha, 1 - stage.stage_settings.focal_alpha
            )
            each = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.masks, alpha)
            checked = stage.check_held_out(batch)
            assert checked.cross_entropy == pytest.approx(float(each), rel=1e-4)
            assert checked.loss == pytest.approx(float(stage.validation_scores(batch)["loss"]), rel=1e-4)
    stage.finish()


class OwnStep(Watched):
    """A variant that makes its steps itself."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        self.optimizer.zero_grad()
        loss = self.loss_of_batch(batch)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}


def test_a_variant_that_makes_its_own_steps_is_averaged_too(planned: Workspace) -> None:
    trainer = make_trainer(planned, "all", (2, 0), OwnStep, holding_out)
    trainer.initialize()
    before = {n: p.detach().clone() for n, p in trainer.network.stage1_parameters().items()}
    trainer.run_training()
    assert isinstance(trainer, OwnStep)
    assert any(not torch.equal(p, before[n]) for n, p in trainer.ended_with.items())
    best = best_epoch(trainer)
    assert all(torch.equal(p, trainer.averages[best][n]) for n, p in trainer.ended_with.items())


def test_a_stage_1_that_is_cut_short_or_taken_over_ends_with_its_best_too(planned: Workspace) -> None:
    Interrupted = interrupted_after(3)  # noqa: N806 - a class
    first = make_trainer(planned, "all", (5, 1), Interrupted, holding_out)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    file = first.output_folder / "checkpoint_latest.pth"
    state = read_checkpoint(file)["spd"]["selection_state"]
    continued = make_trainer(planned, "all", (3, 1), change=holding_out)
    continued.initialize()
    continued.load_checkpoint(file)
    taken = make_trainer(planned, "all", (5, 1), change=holding_out)
    taken.initialize()
    taken.start_from_stage1(file)
    best = state["candidates"][0]
    assert 0 <= best["epoch"] < 3
    for trainer in (continued, taken):
        weights = trainer.network.stage1_parameters()
        assert all(torch.equal(p, best["weights"][n]) for n, p in weights.items())
    assert any(not torch.equal(p, state["average"][n]) for n, p in first.network.stage1_parameters().items())
