"""Trainings that are killed, stopped or started twice: what is on disk, and how they end when continued."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - so that forked trainings need not import it, which takes longer than they do
import pytest
import torch

from spdnet.cli import train
from spdnet.errors import ConfigurationError
from spdnet.network.checkpoint import read_checkpoint
from spdnet.tests.conftest import Workspace
from spdnet.training.embedding_store import EmbeddingStore
from spdnet.training.lock import LOCK_FILE, FolderLock

ARGUMENTS = ["507", "0", "-epochs", "2", "2", "-device", "cpu", "-batch_size", "8"]


def quiet(planned: Workspace) -> None:
    """Short epochs with dropout, and a saliency that two epochs can reach."""
    file = planned.preprocessed / "SPDPlans.json"
    plans = json.loads(file.read_text(encoding="utf-8"))
    for stage in ("stage1", "stage2"):
        plans["spd"][stage]["iterations_per_epoch"] = 3
    plans["spd"]["stage1"]["learning_rate"] = 1e-2
    plans["spd"]["lora"]["dropout"] = 0.1
    plans["spd"]["selection"]["held_out_share"] = 0.3
    plans["spd"]["distillation"]["tau"] = 0.3
    file.write_text(json.dumps(plans), encoding="utf-8")


class Attempt:
    """A training in a forked process, which has all modules loaded."""

    def __init__(self, arguments: list[str], before: Callable[[], None] = lambda: None) -> None:
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._train, args=(arguments, before))
        self.process.start()

    @staticmethod
    def _train(arguments: list[str], before: Callable[[], None]) -> None:
        os.setsid()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        torch.set_num_threads(1)
        before()
        train.main(arguments)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 120) -> int | None:
        self.process.join(seconds)
        return self.process.exitcode


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    """Weights, curve and scores of a finished training."""
    content = read_checkpoint(folder / "checkpoint_final.pth")
    curve = [{k: v for k, v in r.items() if k not in ("started", "ended", "waited")} for r in content["spd"]["records"]]
    best = read_checkpoint(folder / "checkpoint_best.pth")
    scores = {"best": content["_best_ema"], "best_epoch": best["current_epoch"]}
    weights = {**content["network_weights"], **{f"best {n}": w for n, w in best["network_weights"].items()}}
    return weights, curve, scores


def assert_same(folder: Path, expected: tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]) -> None:
    weights, curve, scores = outcome(folder)
    assert weights.keys() == expected[0].keys()
    different = [n for n, w in weights.items() if not torch.equal(w, expected[0][n])]
    assert not different
    assert (curve, scores) == expected[1:]
    names = {f.name for f in folder.iterdir() if not f.name.startswith("training_log_")}
    assert names == {
        "checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "debug.json", "validation",
    }, "nothing unfinished is left"  # fmt: skip


def die_while_writing(call: int) -> Callable[[], None]:
    """A patch: the process is killed in the middle of its n-th checkpoint."""

    def patch() -> None:
        original, calls = torch.save, [0]

        def save(content: Any, stream: Any) -> None:
            calls[0] += 1
            if calls[0] == call:
                stream.write(b"half of it")
                stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            original(content, stream)

        torch.save = save  # type: ignore[assignment]

    return patch


def die_while_encoding() -> None:
    original = EmbeddingStore._save

    def save(self: EmbeddingStore, name: str, array: Any) -> None:
        if name.endswith("_1_saliency.npy"):
            (self.folder / f".partial_0123abcd_{name}").write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, name, array)

    EmbeddingStore._save = save  # type: ignore[method-assign]


@pytest.fixture
def straight(planned: Workspace) -> tuple[Workspace, Any]:
    """A training that was never interrupted, moved aside; what came of it."""
    quiet(planned)
    assert Attempt(ARGUMENTS).end() == 0
    folder = planned.model() / "fold_0"
    expected = outcome(folder)
    assert len(expected[1]) == 4
    planned.model().rename(planned.root / "straight")
    return planned, expected


def test_killed_while_writing_and_encoding_it_ends_the_same(straight: tuple[Workspace, Any]) -> None:
    planned, expected = straight
    folder = planned.model() / "fold_0"
    assert Attempt(ARGUMENTS, die_while_writing(3)).end() == -signal.SIGKILL
    assert read_checkpoint(folder / "checkpoint_latest.pth")["current_epoch"] == 1
    assert Attempt([*ARGUMENTS, "--c"], die_while_encoding).end() == -signal.SIGKILL
    assert read_checkpoint(folder / "checkpoint_latest.pth")["current_epoch"] == 2
    assert Attempt([*ARGUMENTS, "--c"], die_while_writing(2)).end() == -signal.SIGKILL
    assert Attempt([*ARGUMENTS, "--c"]).end() == 0
    assert_same(folder, expected)


@pytest.mark.parametrize("trainer", ["SPDTrainer", "SPDTrainerSharedEncoder"])
def test_killed_in_the_midst_of_stage_2_it_ends_the_same(trainer: str, planned: Workspace) -> None:
    """Also where the decoder has an encoder of its own, which is not stage 1's any more when it goes on."""
    quiet(planned)
    arguments = [*ARGUMENTS, "-tr", trainer]
    folder = planned.model(trainer) / "fold_0"
    assert Attempt(arguments).end() == 0
    expected = outcome(folder)
    assert any(n.startswith("decoder_encoder.") for n in expected[0]) == (trainer == "SPDTrainer")
    planned.model(trainer).rename(planned.root / "straight")
    assert Attempt(arguments, die_while_writing(6)).end() == -signal.SIGKILL
    assert read_checkpoint(folder / "checkpoint_latest.pth")["current_epoch"] == 3
    assert Attempt([*arguments, "--c"]).end() == 0
    assert_same(folder, expected)


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(straight: tuple[Workspace, Any]) -> None:
    planned, expected = straight
    folder = planned.model() / "fold_0"
    moments = random.Random(5)
    kills = finished = 0
    started = time.monotonic()
    assert Attempt([*ARGUMENTS, "--overwrite"]).end() == 0
    seconds = time.monotonic() - started
    planned.model().rename(planned.root / "timed")
    while kills < 50 or finished == 0:
        attempt = Attempt([*ARGUMENTS, "--c"])
        attempt.process.join(moments.uniform(0.02, 0.9) * seconds)
        if attempt.process.is_alive() and kills < 50:
            attempt.kill()
            kills += 1
            attempt.end()
            continue
        assert attempt.end() == 0
        assert_same(folder, expected)
        finished += 1
        planned.model().rename(planned.root / f"finished_{finished}")
    print(f"{kills} kills, {finished} trainings")


def test_sigterm_says_how_to_go_on_and_the_end_is_the_same(straight: tuple[Workspace, Any]) -> None:
    planned, expected = straight
    folder = planned.model() / "fold_0"

    def slowly() -> None:
        from spdnet.training.trainer import SPDTrainer

        original = SPDTrainer.train_step

        def step(self: SPDTrainer, batch: Any) -> dict[str, Any]:
            if (self.stage_number, self.current_epoch, self._iteration) == (2, 0, 1):
                os.kill(os.getpid(), signal.SIGTERM)  # while it computes
            return original(self, batch)

        SPDTrainer.train_step = step  # type: ignore[method-assign]

    assert Attempt(ARGUMENTS, slowly).end() == 143
    (log,) = folder.glob("training_log_*")
    last = log.read_text(encoding="utf-8").splitlines()[-1]
    assert "stopped by SIGTERM in stage 2, epoch 0: checkpoint_latest.pth holds the state at the start" in last
    assert "--c" in last
    assert not (folder / LOCK_FILE).exists()
    assert Attempt([*ARGUMENTS, "--c"]).end() == 0
    assert_same(folder, expected)


@pytest.mark.slow
def test_a_killed_start_from_other_weights_is_continued_from_them(planned: Workspace) -> None:
    quiet(planned)
    assert Attempt(ARGUMENTS).end() == 0
    given = planned.root / "stage1.pth"
    (planned.model() / "fold_0" / "checkpoint_final.pth").rename(given)
    starts = [[*ARGUMENTS, "--overwrite", "-stage1_from", str(given)], [*ARGUMENTS, "--seed", "0"]]
    starts[1] = [*ARGUMENTS, "--overwrite", "-pretrained_weights", str(given)]
    folder = planned.model() / "fold_0"
    for start in starts:
        assert Attempt(start).end() == 0
        expected = outcome(folder)
        assert Attempt(start, die_while_writing(2)).end() == -signal.SIGKILL  # the first epoch is not complete
        assert not (folder / "checkpoint_final.pth").exists(), "what is overwritten is not taken for finished"
        assert Attempt([*ARGUMENTS, "--c"]).end() == 0
        assert_same(folder, expected)


# ---- two trainings in one folder --------------------------------------------------------------------------


def test_a_folder_is_trained_in_once_at_a_time(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from spdnet.training.lock import FolderLock\n"
        "with FolderLock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigurationError, match=rf"another training is writing to .*\(process {holder.pid} on "):
        FolderLock(tmp_path).__enter__()
    holder.kill()
    holder.wait()
    with FolderLock(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
        with pytest.raises(ConfigurationError, match="this one"):
            FolderLock(tmp_path).__enter__()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_second_training_is_refused_and_the_first_goes_on(planned: Workspace) -> None:
    quiet(planned)
    first = Attempt(["507", "0", "-epochs", "500", "2", "-device", "cpu"])
    folder = planned.model() / "fold_0"
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint_latest.pth").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = Attempt([*ARGUMENTS, "--c"])
    assert second.end() == 1
    assert first.process.is_alive()
    first.kill()
    first.end()
    assert Attempt([*ARGUMENTS, "--c", "--overwrite"]).end() == 0


# ---- what the command refuses -----------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        train.main(arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_an_interrupted_training_is_not_overwritten_unasked(
    planned: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet(planned)
    assert Attempt(ARGUMENTS, die_while_writing(3)).end() == -signal.SIGKILL
    latest = planned.model() / "fold_0" / "checkpoint_latest.pth"
    before = latest.read_bytes()
    assert "interrupted after 1 epochs. Give --c to continue it, or --overwrite" in refused(capsys, ARGUMENTS)
    assert "--seed 4: the training to continue was begun with seed 0" in refused(
        capsys, [*ARGUMENTS, "--c", "--seed", "4"]
    )
    assert latest.read_bytes() == before


def test_the_seed_and_the_settings_of_a_continued_training_are_told(planned: Workspace) -> None:
    quiet(planned)
    start = [*ARGUMENTS, "--seed", "4"]
    assert Attempt(start, die_while_writing(3)).end() == -signal.SIGKILL
    more = ["507", "0", "-epochs", "3", "2", "-device", "cpu", "-batch_size", "8", "--c"]
    assert Attempt(more).end() == 0
    folder = planned.model() / "fold_0"
    content = read_checkpoint(folder / "checkpoint_final.pth")
    assert content["spd"]["seed"] == 4
    assert len(content["spd"]["records"]) == 5
    text = sorted(folder.glob("training_log_*"))[-1].read_text(encoding="utf-8")
    assert "continuing with another stage1: {'epochs': 2" in text
