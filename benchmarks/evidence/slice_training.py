"""The one loop that trains all models of single slices: AdamW with nnU-Net's polynomial decay, for a number of steps.

Number format and memory layout are those in which spdnet trains on the same device.

A training that is stopped (SIGTERM) or killed goes on from its last checkpoint and, on a CPU, ends with the same
weights, bit for bit: what a step draws depends on the seed and the step alone.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR

from evidence.slice_models import SliceModel
from evidence.slices import PromptedBatch, PromptedSlices
from spdnet.errors import ConfigurationError
from spdnet.files import make_folder, whole_file
from spdnet.network.precision import autocast, place
from spdnet.training.guards import NonFiniteLossError
from spdnet.training.loading import RequestList, data_loader
from spdnet.training.stopping import StopRequest, TrainingStoppedError
from spdnet.training.trainer import MAX_GRADIENT_NORM

logger = logging.getLogger(__name__)

LATEST, FINAL = "latest.pth", "final.pth"
STEPS_BETWEEN_CHECKPOINTS = 500
STEPS_BETWEEN_REPORTS = 50


def train_slices(model: SliceModel, data: PromptedSlices, n_steps: int, folder: Path, device: torch.device) -> None:
    """Train a model, going on where an earlier call stopped, and write `final.pth`.

    Args:
        model: as it was drawn by the seed; moved to the device.
        data: batches by step.
        n_steps: of the optimiser, all in all.
        folder: of the checkpoints.
        device: where to train.

    Raises:
        TrainingStoppedError: SIGTERM came; the state is in `latest.pth`.
        NonFiniteLossError: the loss is not a number. ConfigurationError: the checkpoint is of another training.
    """
    make_folder(folder)
    place(model, device)
    optimizer = torch.optim.AdamW(model.trained().values(), lr=model.learning_rate, weight_decay=model.weight_decay)
    schedule = PolynomialLR(optimizer, total_iters=n_steps, power=0.9)
    run = _Run(model, optimizer, schedule, {"n_steps": n_steps, "seed": data.seed}, folder / LATEST)
    first = run.resume()
    model.train()
    with StopRequest() as stop:
        started, losses = time.monotonic(), []
        batches = data_loader(data, RequestList(list(range(first, n_steps))), device)
        for step, batch in enumerate(batches, first):
            if stop.requested:
                run.save(step)
                raise TrainingStoppedError
            torch.manual_seed(data.seed + (step << 32))  # of dropout, where a model has any
            losses.append(_train_step(model, optimizer, batch, device))
            schedule.step()
            if (step + 1) % STEPS_BETWEEN_REPORTS == 0:
                _report(step + 1, float(torch.stack(losses).mean()), time.monotonic() - started)
                losses.clear()
            if (step + 1) % STEPS_BETWEEN_CHECKPOINTS == 0:
                run.save(step + 1)
    _write(folder / FINAL, {"weights": _own_state(model)})
    (folder / LATEST).unlink(missing_ok=True)


def load_trained(model: SliceModel, folder: Path, device: torch.device) -> None:
    """Bring a model to what `train_slices` has made of it, on a device and in evaluation mode."""
    _load_own_state(model, torch.load(folder / FINAL, map_location="cpu", weights_only=True)["weights"])
    place(model, device)
    model.eval()


def _train_step(
    model: SliceModel, optimizer: torch.optim.Optimizer, batch: PromptedBatch, device: torch.device
) -> torch.Tensor:
    """One step, gradients clipped; the loss, detached."""
    batch = PromptedBatch(batch.slices.to(device), batch.prompts)
    optimizer.zero_grad(set_to_none=True)
    with autocast(device):
        logits = model(batch.slices.images, batch.prompts)
    loss = model.loss(logits, batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.trained().values(), MAX_GRADIENT_NORM)
    optimizer.step()
    return loss.detach()


def _report(n_done: int, mean_loss: float, seconds: float) -> None:
    logger.info("step %d: loss %.4f, %.0f s", n_done, mean_loss, seconds)
    if not math.isfinite(mean_loss):
        raise NonFiniteLossError(f"the loss of the steps up to {n_done} is {mean_loss}")


class _Run:
    """A training's state on disk."""

    def __init__(
        self,
        model: SliceModel,
        optimizer: torch.optim.Optimizer,
        schedule: PolynomialLR,
        made_with: dict[str, int],
        file: Path,
    ) -> None:
        self._model, self._optimizer, self._schedule = model, optimizer, schedule
        self._made_with, self._file = made_with, file

    def save(self, n_done: int) -> None:
        """Write the state after some steps."""
        states = {"optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict()}
        _write(self._file, {"made_with": self._made_with, "step": n_done, "weights": _own_state(self._model), **states})

    def resume(self) -> int:
        """Take up the last state, if there is one; returns how many steps are done."""
        if not self._file.exists():
            return 0
        content = torch.load(self._file, map_location="cpu", weights_only=True)
        if content["made_with"] != self._made_with:
            raise ConfigurationError(
                f"{self._file} is of a training with {content['made_with']}, not {self._made_with}; remove it"
            )
        _load_own_state(self._model, content["weights"])
        self._optimizer.load_state_dict(content["optimizer"])
        self._schedule.load_state_dict(content["schedule"])
        return int(content["step"])


def _own_state(model: SliceModel) -> dict[str, torch.Tensor]:
    """All that training may have changed: what is trained, and buffers."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if name not in frozen}


def _load_own_state(model: SliceModel, state: dict[str, torch.Tensor]) -> None:
    if state.keys() != _own_state(model).keys():
        raise ConfigurationError("the checkpoint's weights are not those of this model")
    model.load_state_dict(state, strict=False)


def _write(file: Path, content: dict[str, Any]) -> None:
    with whole_file(file) as partial:
        torch.save(content, partial)
