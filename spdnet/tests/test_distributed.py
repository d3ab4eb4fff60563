"""Several processes train as one: shares of batches, sums over processes, the same training, failures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from spdnet.errors import ConfigurationError
from spdnet.network.checkpoint import read_checkpoint
from spdnet.network.spd_network import MEASURED
from spdnet.planning.plans import LossSettings, SelectionSettings
from spdnet.tests.conftest import Workspace
from spdnet.tests.test_case_shares import ELSEWHERE, N_SLICES, ON_TARGET, a_variant, from_files, tiny_network
from spdnet.tests.test_training import make_trainer, records
from spdnet.training.batch_shares import balanced_shares, share_batches
from spdnet.training.case_shares import CaseShares, Share
from spdnet.training.distributed import Team, check_processes, current_team
from spdnet.training.losses import consistency_loss, segmentation_loss
from spdnet.training.prompt_stage import PromptStage
from spdnet.training.sampling import BatchRequest, SliceBatches
from spdnet.training.trainer import SPDTrainer

CPU = torch.device("cpu")


def in_processes(n: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` in a gloo team of `n` forked processes; what each returned, by rank."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_work, args=(rank, n, folder, function, arguments)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [p.exitcode for p in processes] == [0] * n
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(n)]


def _work(rank: int, n: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=n)
    torch.save(function(*arguments), folder / f"result_{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)


# ---- shares -----------------------------------------------------------------------------------------------


def test_shares_are_collected_in_their_order(tmp_path: Path) -> None:
    def work() -> tuple[list[int], list[int], bool, bool]:
        team = current_team()
        shared = team.share(list(range(7)))
        return shared, team.collect(shared), team.any(team.rank == 2), team.any(False)

    results = in_processes(3, tmp_path, work)
    assert [r[0] for r in results] == [[0, 3, 6], [1, 4], [2, 5]]
    assert all(r[1:] == (list(range(7)), True, False) for r in results)


def test_alone_everything_is_one_s_own() -> None:
    team = Team()
    value = torch.ones(2, requires_grad=True)
    assert team.share([1, 2]) == team.collect([1, 2]) == [1, 2]
    assert team.total(value) is value
    assert team.is_main
    assert not Team(1, 2).is_main


@dataclass(frozen=True)
class _Rows:
    indices: np.ndarray
    name: str = ""


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_runs_stay_whole_where_there_are_enough_and_shares_are_even(n: int) -> None:
    lengths = [4, 4, 3, 4, 2, 4, 1]
    starts = np.cumsum([0, *lengths])
    runs = [_Rows(np.arange(a, a + length)) for a, length in zip(starts, lengths, strict=False)]
    shares = balanced_shares(runs, n)
    sizes = [sum(len(r.indices) for r in share) for share in shares]
    assert sorted(np.concatenate([r.indices for share in shares for r in share]).tolist()) == list(range(22))
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 4
    whole = {r.indices.tobytes() for r in runs}
    kept = [r.indices.tobytes() in whole for share in shares for r in share]
    assert all(kept) if n <= len(runs) else sum(kept) == 6


def test_every_process_gets_as_many_batches() -> None:
    batches = [[_Rows(np.arange(6))], [_Rows(np.arange(2))]]
    shares = [share_batches(batches, Team(rank, 3)) for rank in range(3)]
    assert [len(s) for s in shares] == [1, 1, 1], "two rows cannot be shared by three"
    assert share_batches(batches, Team()) == batches


def test_a_share_of_slices_is_augmented_as_in_the_whole_batch(planned: Workspace) -> None:
    trainer = make_trainer(planned)
    trainer.initialize()
    trainer.stage = trainer.build_stage(1)
    trainer.stage.prepare()
    data: Any = trainer.stage.training_batches(3)
    dataset, request = data.dataset, data.sampler.requests[1]
    assert isinstance(dataset, SliceBatches)
    whole = dataset[request]
    for rank in range(3):
        part = dataset[BatchRequest.share(request, rank, 3)]
        assert torch.equal(part.images, whole.images[rank::3])
        assert torch.equal(part.masks, whole.masks[rank::3])
        assert part.names == whole.names[rank::3]


# ---- losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("ignore", [True, False])
def test_the_shared_loss_is_that_of_the_whole_batch_and_its_gradient_too(
    tmp_path: Path, batch_dice: bool, ignore: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 2, 6, 6, generator=generator)
    target = (torch.rand(7, 2, 6, 6, generator=generator) > 0.6).float()
    valid = (torch.rand(7, 1, 6, 6, generator=generator) > 0.3).float() if ignore else None
    settings = LossSettings(batch_dice=batch_dice)

    def loss(part: slice, total: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        own = logits[part].clone().requires_grad_()
        own_valid = None if valid is None else valid[part]
        value = segmentation_loss(own, target[part], settings, 0.7, own_valid, total)
        pairs = torch.tensor([[0, 1], [1, 2]])[: len(own) - 2]
        value = value + 0.1 * consistency_loss(own[:, 0], pairs, 1.0, total)
        value.backward()
        assert own.grad is not None
        return value.detach(), own.grad

    def work() -> tuple[torch.Tensor, torch.Tensor]:
        team = current_team()
        return loss(slice(0, 4) if team.is_main else slice(4, 7), team.total)

    results = in_processes(2, tmp_path, work)
    own = logits.clone().requires_grad_()
    expected = segmentation_loss(own, target, settings, 0.7, valid)
    pairs = torch.tensor([[0, 1], [1, 2], [4, 5]])
    expected = expected + 0.1 * consistency_loss(own[:, 0], pairs, 1.0)
    expected.backward()
    assert own.grad is not None
    for value, _ in results:
        assert float(value) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(torch.cat([g for _, g in results]), own.grad, rtol=1e-4, atol=1e-8)


# ---- what the training cases decide -----------------------------------------------------------------------


def test_what_the_main_process_measures_holds_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*arguments: Any) -> CaseShares:
        """3 of 4 in the main process, and 1 of 4 in another."""
        found = CaseShares(Share(1), Share(1), Share(1))
        for share in (found.salient, found.seen, found.confirmed):
            share.add(0, 3 if current_team().is_main else 1, 4)
        return found

    def work() -> dict[str, torch.Tensor]:
        network = tiny_network(n_classes=1)
        stage = PromptStage(network, settings, [case], [], CPU, 0, tmp_path)
        stage.prepare()
        stage.decide(["bowel"])
        return {name: network.get_buffer(name).clone() for name in MEASURED}

    monkeypatch.setattr(CaseShares, "of", count)
    settings = from_files(random_points="refuse", tau=0.0)
    case = a_variant(tmp_path, "a", [ON_TARGET] * N_SLICES, [[0, *ON_TARGET], [0, *ELSEWHERE]]).case
    main, other = in_processes(2, tmp_path, work)
    assert main["salient_share"].tolist() == main["confirmed_share"].tolist() == [0.75]
    for name in MEASURED:
        assert torch.equal(main[name], other[name]), name


# ---- a whole training -------------------------------------------------------------------------------------


class SGDTrainer(SPDTrainer):
    """Adam makes a step of the rounding errors of gradients that are all but zero; this does not."""

    def configure_optimizers(self) -> Any:
        _, scheduler = super().configure_optimizers()
        optimizer = torch.optim.SGD(self.stage.parameters(), lr=0.1)
        return optimizer, type(scheduler)(optimizer, total_iters=10)  # type: ignore[call-arg]


SGDTrainer.__name__ = "SPDTrainer"


def trained_alone_or_together(planned: Workspace, batch_size: int) -> tuple[Any, ...]:
    def doubled(settings: Any) -> Any:
        return replace(
            settings,
            stage1=replace(settings.stage1, batch_size=batch_size, iterations_per_epoch=3),
            stage2=replace(settings.stage2, batch_size=batch_size, iterations_per_epoch=3),
            lora=replace(settings.lora, dropout=0.0),
            selection=SelectionSettings(0.3),
        )

    trainer = make_trainer(planned, epochs=(3, 3), trainer_class=SGDTrainer, change=doubled)
    trainer.initialize()
    trainer.run_training()
    summary = trainer.perform_actual_validation()
    return records(trainer), trainer.network.own_state(), summary


def test_two_processes_train_as_one_with_the_doubled_batch(
    planned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spdnet.network.precision._cpu_computes_bfloat16", lambda: False)  # coarse, it rounds too much
    batch = 4  # of each process
    results = in_processes(2, tmp_path, trained_alone_or_together, planned, 2 * batch)
    folder = planned.model() / "fold_0"
    together = read_checkpoint(folder / "checkpoint_final.pth")
    names = {f.name.split("_20")[0] for f in folder.iterdir()}
    assert names == {
        "checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "debug.json", "training_log", "validation",
    }  # fmt: skip
    assert len(list(folder.glob("training_log_*"))) == 1, "one process writes"
    alone, weights, summary = trained_alone_or_together(planned, 2 * batch)
    assert len(alone) == 6
    for curve, state, _ in results:
        for record, expected in zip(curve, alone, strict=True):
            for key in ("train_loss", "val_loss", "learning_rate"):
                assert record[key] == pytest.approx(expected[key], rel=1e-4), f"{key} of {expected}"
            np.testing.assert_allclose(record["dice"], expected["dice"], atol=2e-3)
        for name, value in state.items():
            torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(value, together["network_weights"][name]), "both processes have the same weights"
    assert results[1][2] == {}
    shared = results[0][2]
    assert [c["prediction_file"] for c in shared["metric_per_case"]] == [
        c["prediction_file"] for c in summary["metric_per_case"]
    ]
    assert shared["foreground_mean"]["Dice"] == pytest.approx(summary["foreground_mean"]["Dice"], rel=1e-3)


def test_a_batch_that_cannot_be_shared_is_refused(planned: Workspace) -> None:
    trainer = make_trainer(planned, change=lambda s: replace(s, stage2=replace(s.stage2, batch_size=3)))
    trainer.team = Team(0, 4)
    with pytest.raises(ConfigurationError, match=r"a batch of 3 slices cannot be shared by 4 processes.*-batch_size"):
        trainer._check_batch_size()


def test_devices_that_cannot_be_shared_are_refused() -> None:
    check_processes(3, CPU)
    with pytest.raises(ConfigurationError, match="-num_gpus 0: give 1 or more"):
        check_processes(0, CPU)
    with pytest.raises(ConfigurationError, match="cuda or cpu, not on mps"):
        check_processes(2, torch.device("mps"))
    with pytest.raises(ConfigurationError, match="-device cuda:1: give -device cuda without a number"):
        check_processes(2, torch.device("cuda:1"))
    with pytest.raises(ConfigurationError, match=r"-num_gpus 99: this machine offers \d+ CUDA devices"):
        check_processes(99, torch.device("cuda"))


# ---- the commands -----------------------------------------------------------------------------------------

TRAINER_FILE = """
import os
from spdnet.tests.tiny import register_tiny
from spdnet.training.trainer import SPDTrainer

register_tiny()


class TinyTrainer(SPDTrainer):
    def on_epoch_start(self):
        super().on_epoch_start()
        fails = os.environ.get("TEST_FAILS")
        if fails == "error" and self.team.rank == 1 and self.current_epoch == 1:
            raise ValueError("broken on purpose")
        if fails == "kill" and self.team.rank == 1 and self.current_epoch == 1:
            os.kill(os.getpid(), 9)
"""


def command(
    planned: Workspace, folder: Path, *start: str, fails: str = "", epochs: int = 2, device: str = "cpu"
) -> subprocess.Popen[str]:
    """Start a training of two processes by a command."""
    trainers = folder / "trainers"
    trainers.mkdir(exist_ok=True)
    (trainers / "tiny_trainer.py").write_text(TRAINER_FILE, encoding="utf-8")
    script = folder / "spd_train.py"  # what the installed command is
    script.write_text("from spdnet.cli.train import main\n\nif __name__ == '__main__':\n    main()\n", encoding="utf-8")
    environment = {**os.environ, "SPD_extTrainer": str(trainers), "OMP_NUM_THREADS": "1", "TEST_FAILS": fails}
    arguments = ["507", "0", "-tr", "TinyTrainer", "-epochs", str(epochs), "2", "-device", device]
    own = [] if "torch.distributed.run" in start else ["-num_gpus", "2"]
    return subprocess.Popen(
        [sys.executable, *start, str(script), *arguments, *own],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
@pytest.mark.parametrize("start", [(), TORCHRUN], ids=["num_gpus", "torchrun"])
def test_the_commands_train_with_two_processes(planned: Workspace, tmp_path: Path, start: tuple[str, ...]) -> None:
    process = command(planned, tmp_path, *start)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert output.count("training done") == 1
    folder = planned.model("TinyTrainer") / "fold_0"
    assert read_checkpoint(folder / "checkpoint_final.pth")["current_epoch"] == 4
    assert (folder / "validation" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("start", [(), TORCHRUN], ids=["num_gpus", "torchrun"])
@pytest.mark.parametrize(("fails", "said"), [("error", "broken on purpose"), ("kill", "")])
def test_all_processes_end_when_one_fails(
    planned: Workspace, tmp_path: Path, start: tuple[str, ...], fails: str, said: str
) -> None:
    process = command(planned, tmp_path, *start, fails=fails)
    output, _ = process.communicate(timeout=180)
    assert process.returncode not in (0, None)
    assert said in output
    left = subprocess.run(["pgrep", "-f", str(planned.root)], capture_output=True, text=True, check=False).stdout
    assert not left
    assert read_checkpoint(planned.model("TinyTrainer") / "fold_0" / "checkpoint_latest.pth")["current_epoch"] == 1


@pytest.mark.slow
def test_sigterm_stops_all_processes(planned: Workspace, tmp_path: Path) -> None:
    process = command(planned, tmp_path, epochs=2000)
    latest = planned.model("TinyTrainer") / "fold_0" / "checkpoint_latest.pth"
    deadline = time.monotonic() + 120
    while not latest.exists() or read_checkpoint(latest)["current_epoch"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "stopped by SIGTERM" in output


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_together(planned: Workspace, tmp_path: Path) -> None:
    process = command(planned, tmp_path, device="cuda")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    folder = planned.model("TinyTrainer") / "fold_0"
    assert read_checkpoint(folder / "checkpoint_final.pth")["current_epoch"] == 4
