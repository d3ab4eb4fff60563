"""What a training promises beside its result: data workers, broken losses, memory, storage, curves elsewhere."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR

from spdnet.cli import train
from spdnet.dataset import Labels
from spdnet.errors import ConfigurationError, ModelError, PlansError, StorageError
from spdnet.inference import ModelFolder, SPDPredictor
from spdnet.network import build_network
from spdnet.network.checkpoint import read_checkpoint, write_checkpoint
from spdnet.planning.embedding_rule import choose_storage, stored_bytes
from spdnet.planning.plans import AugmentationSettings, SPDSettings
from spdnet.planning.trained import has_saliency
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_training import (
    interrupted_after,
    make_trainer,
    prompt_stage,
    raw_true_settings,
    records,
    run,
    train_epochs,
)
from spdnet.tests.tiny import tiny_settings
from spdnet.training import loading, trackers
from spdnet.training.guards import NONFINITE, HostCopy, NonFiniteLossError
from spdnet.training.loading import data_workers
from spdnet.training.log import EpochRecord, TrainingLog
from spdnet.training.trainer import SPDTrainer
from spdnet.training.variants.ablations import SPDTrainerRawPrompts
from spdnet.training.waiting import WaitClock

CPU = torch.device("cpu")


# ---- data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder_encoder", ["own", "shared"])
def test_the_model_does_not_depend_on_the_number_of_data_workers(
    decoder_encoder: str, planned: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, int] = {}

    class Watched(SPDTrainer):
        def train_step(self, batch: Any) -> dict[str, Any]:
            seen[self.stage_number] = len(multiprocessing.active_children())
            return super().train_step(batch)

    results = []
    for workers in (0, 1, 2):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
        trainer = run(
            make_trainer(planned, 0, (2, 2), Watched, change=lambda s: replace(s, decoder_encoder=decoder_encoder))
        )
        assert seen[2] == workers and seen[1] >= workers, "those of validation besides"
        results.append((trainer.network.own_state(), records(trainer)))
        assert multiprocessing.active_children() == [], "the data workers end with their stage"
    for weights, curve in results[1:]:
        assert all(torch.equal(w, results[0][0][n]) for n, w in weights.items())
        assert curve == results[0][1]


def test_a_forgotten_data_worker_outlives_sigterm_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_GRACE_S", 1)

    def work() -> None:
        loading._outlive_sigterm(0)
        ready.set()
        time.sleep(30)

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=work)
    worker.start()
    assert ready.wait(10)
    worker.terminate()
    worker.join(0.3)
    assert worker.is_alive()
    worker.join(10)
    assert not worker.is_alive()


def test_data_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    cuda = torch.device("cuda")
    assert data_workers(CPU) == 0
    assert data_workers(cuda) == 12
    assert data_workers(cuda, 4) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert data_workers(cuda, 4) == 8, "the other two are on another machine"
    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    assert data_workers(CPU) == data_workers(cuda) == 3
    monkeypatch.setenv("nnUNet_n_proc_DA", "x")
    with pytest.raises(ConfigurationError, match="variable nnUNet_n_proc_DA is 'x'; it must be a number of processes"):
        data_workers(CPU)


def test_waiting_for_data_is_measured_and_logged(planned: Workspace) -> None:
    clock = WaitClock()

    def slow() -> Iterator[int]:
        for i in range(3):
            time.sleep(0.02)
            yield i

    items = []
    for item in clock.watch(slow()):
        time.sleep(0.05)
        items.append(item)
    assert items == [0, 1, 2]
    assert 0.06 <= clock.seconds < 0.15
    trainer = run(make_trainer(planned, 0, (1, 1)))
    for record in trainer.log.records:
        assert 0 < record.waited < record.seconds
    assert trainer.log.file.read_text(encoding="utf-8").count(" % waiting for data") == 2


# ---- losses that are no numbers ---------------------------------------------------------------------------


def poisoned_trainer(planned: Workspace, value: float) -> SPDTrainer:
    """A trainer whose saliency head breaks before the second iteration of epoch 1."""
    trainer = make_trainer(planned, 0, (2, 1))
    original = trainer.train_step

    def step(batch: Any) -> dict[str, Any]:
        if (trainer.current_epoch, trainer._iteration) == (1, 1):
            next(iter(trainer.network.saliency_head.parameters())).data.fill_(value)
        return original(batch)

    trainer.train_step = step  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training_and_leaves_its_state(planned: Workspace, value: float) -> None:
    trainer = poisoned_trainer(planned, value)
    with pytest.raises(NonFiniteLossError, match=r"stage 1, epoch 1, iteration 1: the loss is nan.*blob_00\d, slice"):
        run(trainer)
    content = read_checkpoint(trainer.output_folder / NONFINITE)
    problem = content["spd"]["problem"]
    assert (problem["what"], problem["iteration"], content["spd"]["stage_epoch"]) == ("loss", 1, 1)
    assert len(problem["batch"]) == trainer.settings.stage1.batch_size
    assert content["optimizer_state"]["state"], "with the optimiser, so that the step can be repeated"
    finite = [n for n, w in content["network_weights"].items() if torch.isfinite(w).all()]
    assert len(finite) == len(content["network_weights"]) - 1, "the step was not made: all but the broken one are whole"
    latest = read_checkpoint(trainer.output_folder / "checkpoint_latest.pth")
    assert latest["current_epoch"] == 1
    assert all(torch.isfinite(w).all() for w in latest["network_weights"].values())
    assert "the loss is nan" in trainer.log.file.read_text(encoding="utf-8")


def test_a_gradient_that_is_no_number_does_too(planned: Workspace) -> None:
    trainer = make_trainer(planned, 0, (1, 1))
    trainer.initialize()
    before = trainer.network.own_state()
    trainer.network.saliency_head.register_full_backward_hook(lambda module, grads, _: (grads[0] * float("nan"),))
    with pytest.raises(NonFiniteLossError, match="the gradient is nan"):
        trainer.run_training()
    assert all(torch.equal(w, before[n]) for n, w in trainer.network.own_state().items())


def test_a_scalar_is_fetched_as_it_was() -> None:
    scalar = torch.tensor(3.5, requires_grad=True)
    assert HostCopy(scalar * 2).value() == 7.0


@pytest.mark.gpu
def test_a_scalar_is_fetched_from_the_gpu() -> None:
    scalar = torch.tensor(3.5, device="cuda") * 2
    copy = HostCopy(scalar)
    scalar.zero_()
    assert copy.value() == 7.0


def test_gpu_memory_that_does_not_do_is_told_with_the_batch_size(planned: Workspace) -> None:
    trainer = make_trainer(planned, 0, (1, 1))
    trainer.initialize()

    def full(batch: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    build = trainer.build_stage

    def build_full(number: int) -> Any:
        stage = build(number)
        stage.training_loss = full  # type: ignore[method-assign]
        return stage

    trainer.build_stage = build_full  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError) as caught:
        trainer.run_training()
    text = str(caught.value)
    for part in ("stage 1 with batch size 4", "56 px", "-batch_size 2", "-num_gpus", "Tried to allocate 2.00 GiB"):
        assert part in text
    assert "more" not in text.split("CUDA says")[1]


# ---- stored embeddings ------------------------------------------------------------------------------------


def test_encoding_every_batch_trains_the_same(
    planned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spdnet.network.precision._cpu_computes_bfloat16", lambda: False)  # coarse, it rounds too much
    losses = []
    for stored in (True, False):
        settings = raw_true_settings()
        augmentation = replace(AugmentationSettings(), stored_variants=2, stored_embeddings=stored)
        stage = prompt_stage(planned, replace(settings, augmentation=augmentation), tmp_path / str(stored), 3)
        losses.append(train_epochs(stage, 2))
        names = {f.name.split("_")[-1] for f in stage._store.folder.iterdir()}
        assert ("embeddings.npy" in names) == stored
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_is_stored_fits_half_of_the_disk() -> None:
    wanted = AugmentationSettings(stored_variants=2)
    settings = replace(tiny_settings(), image_size=56, augmentation=wanted)
    one = stored_bytes(1000, 7, 2, settings)
    assert one == 1000 * (2 * 256 * 7 * 7 + 2 * 2 * 28 * 28 + 2 * 56 * 56)
    chosen = [choose_storage(wanted, 1000, 7, 2, 56, factor * one)[0] for factor in (9, 4, 3.9, 2, 1.9)]
    assert [c.stored_variants for c in chosen] == [2, 2, 1, 1, 2]
    assert [c.stored_embeddings for c in chosen] == [True, True, True, True, False]
    without = replace(settings, augmentation=replace(wanted, stored_embeddings=False))
    assert stored_bytes(1000, 7, 2, without) < one / 3
    assert choose_storage(wanted, 1000, 7, 2, 56, 9 * one)[1].startswith("2 variants stored: a variant of all 1000")
    assert choose_storage(wanted, 1000, 7, 2, 56, one)[1].startswith("not stored, encoded in every batch")
    small = stored_bytes(1000, 7, 2, without)
    own = [choose_storage(wanted, 1000, 7, 2, 56, factor * small, False)[0] for factor in (4, 3.9, 0.1)]
    assert [c.stored_variants for c in own] == [2, 1, 1]
    assert stored_bytes(1000, 7, 2, replace(settings, decoder_encoder="own")) == small


@pytest.mark.parametrize(("encoder", "instead"), [("shared", "stored_embeddings in"), ("own", "stored_variants in")])
def test_a_disk_without_room_is_found_before_encoding(
    encoder: str, instead: str, planned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = prompt_stage(planned, raw_true_settings(decoder_encoder=encoder), tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=rf"stage 2 stores .* slices in .*{instead} the plans to"):
        stage.prepare()


# ---- a new training over an old one -----------------------------------------------------------------------


def test_a_new_training_removes_what_the_old_one_left(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, 0, (1, 1)))
    left = trainer.output_folder / "stage2_embeddings_0123"
    left.mkdir()
    (trainer.output_folder / NONFINITE).touch()
    again = make_trainer(planned, 0, (1, 1))
    seen: list[set[str]] = []
    start = again.on_stage_start

    def look() -> None:
        seen.append({f.name for f in again.output_folder.glob("*") if f.suffix == ".pth" or f.is_dir()})
        start()

    again.on_stage_start = look  # type: ignore[method-assign]
    run(again)
    assert seen[0] == {"checkpoint_latest.pth"}


def test_a_trial_leaves_the_fold_as_it_is(planned: Workspace) -> None:
    trainer = run(make_trainer(planned, 0, (1, 1)))
    trainer.perform_actual_validation()
    (trainer.output_folder / "checkpoint_latest.pth").touch()  # of a training that was interrupted
    (trainer.output_folder / "stage2_embeddings_0123").mkdir()

    def contents() -> dict[str, bytes | None]:
        files = (f for f in trainer.model_folder.rglob("*") if "trial" not in f.parts)
        return {str(f): f.read_bytes() if f.is_file() else None for f in files}

    before = contents()
    trial = make_trainer(planned, 0, (1, 1))
    trial.disable_checkpointing = True
    run(trial).perform_actual_validation()
    assert contents() == before
    written = {f.relative_to(trainer.output_folder).as_posix() for f in trial.output_folder.rglob("*.json")}
    assert {"trial/debug.json", "trial/validation/summary.json"} <= written
    assert not list(trial.output_folder.rglob("*.pth"))


# ---- curves -----------------------------------------------------------------------------------------------

RECORD = EpochRecord(2, 3, 0.5, 0.4, [0.7, float("nan")], 0.6, 1e-3, 100.0, 110.0, 1.5)


def test_an_epoch_is_told_as_named_numbers() -> None:
    values = trackers.scalars(RECORD, ("a", "b"))
    assert values["loss/train"] == 0.5
    assert values["dice/a"] == 0.7
    assert np.isnan(values["dice/b"])
    assert values["seconds/epoch"] == 10.0
    assert values["seconds/waiting_for_data"] == 1.5
    bare = trackers.scalars(replace(RECORD, val_loss=None, dice=[], smoothed_dice=None), ("a", "b"))
    assert bare.keys() == values.keys() - {"loss/val", "dice/a", "dice/b", "dice/smoothed"}


def test_a_service_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match=r"--tensorboard needs a package.*pip install 'spdnet\[tensorboard\]'"):
        trackers.TensorBoardTracker(tmp_path, 0)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigurationError, match=r"--wandb needs a package.*pip install 'spdnet\[wandb\]'"):
        trackers.WandbTracker(tmp_path, "spdnet", "name", {}, False)


def test_the_trainer_tells_every_epoch_and_the_end(planned: Workspace) -> None:
    told: list[Any] = []

    class Told:
        def add(self, record: EpochRecord, step: int, class_names: tuple[str, ...]) -> None:
            told.append((record.stage, record.epoch, step, class_names))

        def close(self) -> None:
            told.append("closed")

    trainer = make_trainer(planned, 0, (2, 1))
    trainer.trackers = [Told()]
    run(trainer)
    names = ("bright", "half")
    assert told == [(1, 0, 0, names), (1, 1, 1, names), (2, 0, 2, names), "closed"]


def test_tensorboard_files_continue_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 5), (3, 7)):  # killed after epoch 4, of which two were not complete
        tracker = trackers.TensorBoardTracker(tmp_path, first)
        for step in range(first, last):
            tracker.add(replace(RECORD, train_loss=10.0 * first + step), step, ("a", "b"))
        tracker.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/train")
    assert {e.step: e.value for e in events} == {0: 0, 1: 1, 2: 2, 3: 33, 4: 34, 5: 35, 6: 36}
    assert len(events) == 7


def test_wandb_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    script = (
        "import sys, pathlib; from spdnet.tests.test_training_safety import RECORD\n"
        "from spdnet.training.trackers import WandbTracker\n"
        "t = WandbTracker(pathlib.Path(sys.argv[1]), 'spdnet', 'a name', {'x': 1}, sys.argv[2] == 'resumed')\n"
        "t.add(RECORD, 0, ('a', 'b')); t.close()"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    identities = []
    for start in ("new", "resumed", "new"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path), start], check=True, capture_output=True)
        identities.append((tmp_path / "wandb_run_id.txt").read_text(encoding="utf-8"))
    assert identities[0] == identities[1] != identities[2]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) >= 2


def test_curves_are_not_drawn_after_every_short_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TrainingLog(tmp_path)
    drawn = []
    original = TrainingLog.draw
    monkeypatch.setattr(TrainingLog, "draw", lambda self: (drawn.append(len(self.records)), original(self)))
    for epoch in range(3):
        log.add(replace(RECORD, epoch=epoch), ("a", "b"))
    assert drawn == [1]
    log._drawn -= 20
    log.add(RECORD, ("a", "b"))
    assert drawn == [1, 4]
    silent = TrainingLog(tmp_path / "other", is_main=False)
    silent.add(RECORD, ("a", "b"))
    silent.write("text")
    assert not (tmp_path / "other").exists()


# ---- determinism on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_deterministic_option_repeats_itself_on_a_gpu(planned: Workspace) -> None:
    script = (
        "import sys; from spdnet.tests.tiny import register_tiny; register_tiny()\n"
        "from spdnet.cli.train import main; main(sys.argv[1:])"
    )
    arguments = ["507", "0", "-epochs", "2", "2", "-device", "cuda", "--deterministic", "--overwrite"]
    states = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, *arguments], check=True)
        states.append(read_checkpoint(planned.model() / "fold_0" / "checkpoint_final.pth")["network_weights"])
    assert all(torch.equal(w, states[1][n]) for n, w in states[0].items())


# ---- gradients that are no numbers ------------------------------------------------------------------------


def test_a_step_that_is_marked_is_not_made() -> None:
    """As on a GPU, where the norm of the gradients is not waited for."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    for gradient, is_made in ((float("inf"), False), (1.0, True)):
        weight.grad = torch.tensor([1.0, gradient, 1.0])
        norm = torch.nn.utils.clip_grad_norm_([weight], 12.0)
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        before = weight.detach().clone()
        optimizer.step()
        assert torch.equal(before, weight.detach()) != is_made and bool(torch.isfinite(weight).all())


def test_a_gradient_that_was_no_number_stops_the_training_before_anything_is_saved(planned: Workspace) -> None:
    trainer = make_trainer(planned, 0, (2, 1))
    step = trainer.train_step

    def unseen(batch: object) -> dict[str, object]:
        output = step(batch)
        is_second = trainer.current_epoch == 1 and trainer._iteration == 1
        return {**output, "norm": torch.tensor(float("nan"))} if is_second else output

    trainer.train_step = unseen  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLossError, match=r"stage 1, epoch 1, iteration 0: the gradient is nan.*its batch is"):
        run(trainer)
    assert read_checkpoint(trainer.output_folder / "checkpoint_latest.pth")["current_epoch"] == 1
    assert (trainer.output_folder / NONFINITE).exists()


class OnDevice(torch.Tensor):
    """A number that says it is on a GPU, so that nothing waits for it unless it is read."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


def infinite_gradient(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Norms as from a GPU; the gradient of iteration `at` of the training is infinite."""
    clip, iterations = torch.nn.utils.clip_grad_norm_, itertools.count()

    def clipped(parameters: Iterable[torch.nn.Parameter], largest: float) -> torch.Tensor:
        all_of_them = list(parameters)
        if next(iterations) == at:
            next(p.grad for p in all_of_them if p.grad is not None).fill_(float("inf"))
        return clip(all_of_them, largest).as_subclass(OnDevice)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)


class DecayingTrainer(SPDTrainer):
    """An optimiser that is not fused, with a weight decay of its own and two groups."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        s = self.stage.stage_settings
        first, *rest = self.stage.parameters()
        groups = [{"params": [first], "lr": s.learning_rate / 10}, {"params": rest}]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, weight_decay=1e-2)
        return optimizer, self.schedule(optimizer, s.epochs)

    @staticmethod
    def schedule(optimizer: torch.optim.Optimizer, epochs: int) -> Any:
        return PolynomialLR(optimizer, total_iters=epochs, power=2.0)


class CosineTrainer(DecayingTrainer):
    @staticmethod
    def schedule(optimizer: torch.optim.Optimizer, epochs: int) -> Any:
        return CosineAnnealingLR(optimizer, epochs)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("trainer", [SPDTrainer, DecayingTrainer])
def test_no_step_is_made_on_an_infinite_gradient_of_a_gpu(
    planned: Workspace, monkeypatch: pytest.MonkeyPatch, trainer: type[SPDTrainer], at: int
) -> None:
    made = make_trainer(planned, 0, (1, 1), trainer)
    infinite_gradient(monkeypatch, at)
    with pytest.raises(NonFiniteLossError, match=f"stage 1, epoch 0, iteration {at}: the gradient is"):
        run(made)
    weights = read_checkpoint(made.output_folder / NONFINITE)["network_weights"]
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_an_optimiser_of_another_machine_runs_as_this_one_s(
    planned: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(planned, 0, (2, 0), interrupted_after(1)))
    again = make_trainer(planned, 0, (2, 0))
    file = again.output_folder / "checkpoint_latest.pth"
    content = read_checkpoint(file)
    for group in content["optimizer_state"]["param_groups"]:
        group["fused"] = False  # as on Apple's GPUs
    write_checkpoint(file, content)
    again.initialize()
    again.load_checkpoint(file)
    infinite_gradient(monkeypatch, -1)
    again.run_training()
    assert len(again.log.records) == 2


# ---- settings that change while a training lies ----------------------------------------------------------


def continued(planned: Workspace, trainer: type[SPDTrainer]) -> tuple[SPDTrainer, list[list[tuple[float, float]]]]:
    """A training of two epochs that was interrupted after the first and made four long; rates and decays per epoch."""
    seen: list[list[tuple[float, float]]] = []

    class Watched(trainer):  # type: ignore[valid-type, misc]
        def on_epoch_start(self) -> None:
            seen.append([(group["lr"], group["weight_decay"]) for group in self.optimizer.param_groups])
            super().on_epoch_start()

    def settings(s: SPDSettings) -> SPDSettings:
        return replace(s, stage1=replace(s.stage1, learning_rate=1e-3, weight_decay=0.0, warmup_iterations=0))

    Watched.__name__ = "SPDTrainer"
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(planned, 0, (2, 0), interrupted_after(1, Watched), settings))
    seen.clear()
    again = make_trainer(planned, 0, (4, 0), Watched, settings)
    again.initialize()
    again.load_checkpoint(again.output_folder / "checkpoint_latest.pth")
    again.run_training()
    return again, seen


def test_a_continued_training_keeps_the_optimiser_of_its_trainer(planned: Workspace) -> None:
    _, seen = continued(planned, DecayingTrainer)
    for epoch, groups in zip((1, 2, 3), seen, strict=True):
        factor = (1 - epoch / 4) ** 2
        assert [rate for rate, _ in groups] == pytest.approx([1e-4 * factor, 1e-3 * factor])
        assert [decay for _, decay in groups] == [1e-2, 1e-2]


def test_a_schedule_that_is_not_known_goes_on_as_it_was(planned: Workspace) -> None:
    trainer, seen = continued(planned, CosineTrainer)
    assert [rate for rate, _ in seen[0]] == pytest.approx([5e-5, 5e-4])
    log = sorted(trainer.output_folder.glob("training_log_*"))[-1].read_text(encoding="utf-8")
    assert "the rates stay as they were: how CosineAnnealingLR changes is not known" in log


def test_another_number_of_groups_is_an_error(planned: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(planned, 0, (2, 0), interrupted_after(1)))
    again = make_trainer(planned, 0, (2, 0), DecayingTrainer)
    again.initialize()
    content = read_checkpoint(planned.model() / "fold_0" / "checkpoint_latest.pth")
    content["spd"]["trainer_name"] = "DecayingTrainer"
    again.load_checkpoint(content)
    with pytest.raises(ModelError, match="has 1 groups of parameters, the trainer's now 2"):
        again.run_training()


# ---- a saliency that nothing has trained ------------------------------------------------------------------


def test_what_nothing_has_trained_is_not_said_to_be_trained(planned: Workspace) -> None:
    raw = make_trainer(planned, 0, (0, 1), SPDTrainerRawPrompts)
    final = run(raw).output_folder / "checkpoint_final.pth"
    assert not has_saliency(read_checkpoint(final))
    other = make_trainer(planned, 1, (0, 1), SPDTrainerRawPrompts)
    other.initialize()
    with pytest.raises(ModelError, match="holds no trained stage 1"):
        other.start_from_stage1(final)
    other.load_pretrained_weights(final)
    assert not other.has_saliency
    whole = make_trainer(planned, 2, (1, 1))
    seen: list[bool] = []
    save = whole.save_checkpoint

    def saved(filename: str, problem: dict[str, Any] | None = None) -> None:
        save(filename, problem)
        seen.append(has_saliency(read_checkpoint(whole.output_folder / filename)))

    whole.save_checkpoint = saved  # type: ignore[method-assign]
    run(whole)
    assert seen[0] is False and all(seen[1:])
    other.load_pretrained_weights(whole.output_folder / "checkpoint_final.pth")
    assert other.has_saliency
    other.network = build_network("tiny", 1, 3, 56, 16, 16, 0.0)
    other.load_pretrained_weights(whole.output_folder / "checkpoint_final.pth")
    assert not other.has_saliency, "the head is of other classes"


def test_points_are_not_judged_by_what_nothing_has_trained(
    planned: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_trainer(planned, 0, (0, 1), SPDTrainerRawPrompts))
    source = planned.model("SPDTrainerRawPrompts") / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(SystemExit):
        train.main(["507", "1", "-epochs", "0", "1", "-device", "cpu", "-pretrained_weights", str(source)])
    assert "has no saliency to judge points by" in capsys.readouterr().err


# ---- labels that change while a training lies -------------------------------------------------------------


@pytest.mark.parametrize("settings", [None, {}, {"stage1": None}])
@pytest.mark.parametrize("is_older", [False, True])
def test_a_checkpoint_whose_settings_are_none_is_refused(trained: Workspace, settings: Any, is_older: bool) -> None:
    file = trained.model() / "fold_0" / "checkpoint_final.pth"
    content = read_checkpoint(file)
    own = {**content["spd"], "settings": settings}
    if is_older:
        del own["has_saliency"]
    write_checkpoint(file, {**content, "spd": own})
    if settings is None and not is_older:  # it contradicts nothing
        assert ModelFolder(trained.model()).training_facts("0", file.name).has_saliency
        return
    with pytest.raises((ModelError, PlansError), match="checkpoint: settings"):
        SPDPredictor(device="cpu").initialize_from_trained_model_folder(trained.model(), 0)


@pytest.mark.parametrize("said", [{}, None, {"dataset_json": {"labels": 3}}])
def test_a_checkpoint_that_does_not_say_its_classes_is_named(trained: Workspace, said: Any) -> None:
    file = trained.model() / "fold_0" / "checkpoint_final.pth"
    write_checkpoint(file, {**read_checkpoint(file), "init_args": said})
    with pytest.raises(ModelError, match=r"fold_0.checkpoint_final\.pth"):
        ModelFolder(trained.model()).load_networks(["0"], file.name, torch.device("cpu"))


@pytest.mark.parametrize("scheduler", ["poly", "plateau"])
def test_a_continued_training_takes_the_rates_of_now(planned: Workspace, scheduler: str) -> None:
    def settings(rate: float, decay: float) -> Callable[[SPDSettings], SPDSettings]:
        def change(s: SPDSettings) -> SPDSettings:
            stage = replace(s.stage1, learning_rate=rate, weight_decay=decay, scheduler=scheduler, warmup_iterations=0)
            return replace(s, stage1=stage)

        return change

    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(planned, 0, (2, 0), interrupted_after(1), settings(1e-3, 0.0)))
    again = make_trainer(planned, 0, (4, 0), SPDTrainer, settings(1e-4, 0.01))
    again.initialize()
    again.load_checkpoint(again.output_folder / "checkpoint_latest.pth")
    again.run_training()
    rates = [record.learning_rate for record in again.log.records]
    expected = [1e-3] + [1e-4 * ((1 - epoch / 4) ** 0.9 if scheduler == "poly" else 1) for epoch in (1, 2, 3)]
    assert rates == pytest.approx(expected)


def test_a_fold_of_other_labels_is_neither_continued_nor_used(trained: Workspace) -> None:
    file = trained.model() / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    plans = json.loads((trained.model() / "plans.json").read_text(encoding="utf-8"))
    trainer = SPDTrainer(plans, "2d", 0, content, torch.device("cpu"))
    trainer.initialize()
    content["labels"] = {"background": 0, "half": 1, "bright": 2}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="was trained on other labels than"):
        ModelFolder(trained.model()).load_networks(["0"], "checkpoint_final.pth", torch.device("cpu"))
    trainer.labels = Labels.from_dataset_json(content)
    with pytest.raises(ModelError, match="was trained on other labels than"):
        trainer.load_checkpoint(trained.model() / "fold_0" / "checkpoint_final.pth")


def test_another_distillation_than_in_training_is_told(trained: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    file = trained.model() / "plans.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    before = content["spd"]["distillation"]["tau"]
    content["spd"]["distillation"]["tau"] = 0.9
    file.write_text(json.dumps(content), encoding="utf-8")
    ModelFolder(trained.model()).load_networks(["0"], "checkpoint_final.pth", torch.device("cpu"))
    assert f"was trained with distillation tau {before!r}" in caplog.text and "says 0.9" in caplog.text


def test_a_model_whose_stage_1_is_of_another_training_has_a_saliency(trained: Workspace, tmp_path: Path) -> None:
    train.main([
        "507", "1", "-p", "SPDPlans", "-tr", "SPDTrainerKeepPieces", "-epochs", "0", "1", "-device", "cpu",
        "-stage1_from", str(trained.model() / "fold_1" / "checkpoint_final.pth"),
    ])  # fmt: skip
    predictor = SPDPredictor(device="cpu", allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trained.model("SPDTrainerKeepPieces"), 1)
    predictor.predict_from_files(trained.raw / "imagesTs", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
