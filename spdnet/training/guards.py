"""What a training does when something goes wrong in a step: say what, where, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from spdnet.errors import ConfigurationError, SPDError

NONFINITE = "checkpoint_nonfinite.pth"
_SHOWN = 5  # slices of a batch that a message names; the file names all


class NonFiniteLossError(SPDError):
    """A loss or gradient is infinite or not a number; going on would destroy the weights."""


class HostCopy:
    """The value of a scalar on the device, fetched without waiting for what is queued after it.

    Made before the backward pass is queued and read after, it costs no idle time of the device.
    """

    def __init__(self, scalar: torch.Tensor) -> None:
        self._copy = scalar.detach()
        self._copied: torch.cuda.Event | None = None
        if scalar.is_cuda:
            self._copy = torch.empty((), dtype=scalar.dtype, pin_memory=True)
            self._copy.copy_(scalar.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(scalar.device))

    def value(self) -> float:
        """Wait for the value."""
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._copy)


def nonfinite_message(what: str, value: float, where: str, batch: Sequence[str], file: Path | None) -> str:
    """The text of a `NonFiniteLossError`.

    Args:
        what: "loss" or "gradient".
        value: of it.
        where: stage, epoch and iteration.
        batch: what the batch is made of; nothing if that is not known any more.
        file: where the state before the step, or of the epoch without it, is; None if it was not to be written.
    """
    shown = "; ".join(batch[:_SHOWN]) + ("; ..." if len(batch) > _SHOWN else "")
    held = "The state before the step and the whole batch are" if batch else "The weights, without that step, are"
    state = f"{held} in {file}." if file else "Checkpoints are disabled."
    return (
        f"{where}: the {what} is {value}, so the training has stopped; its batch is {shown or 'unknown'}. {state} "
        "The usual causes are a learning rate that is too high (spd.stage1.learning_rate and spd.stage2.learning_rate "
        "in the plans) and preprocessed slices that hold NaN (run spd_preprocess again). --c continues from the last "
        "complete epoch and comes to the same point, unless something is changed"
    )


@contextmanager
def memory_errors(stage: int, batch_size: int, image_size: int, n_processes: int) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into one that names the batch size and how to change it.

    Raises:
        ConfigurationError: instead of torch.cuda.OutOfMemoryError.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        shared = f", shared by {n_processes} GPUs" if n_processes > 1 else ""
        smaller = max(1, batch_size // 2)
        raise ConfigurationError(
            f"the GPU's memory does not hold a training step of stage {stage} with batch size {batch_size}{shared} at "
            f"{image_size} px. Give -batch_size {smaller} (with --c to continue), share the batch with -num_gpus, or "
            f"plan for less memory with spd_plan_and_preprocess -gpu_memory_target. CUDA says: "
            f"{str(error).splitlines()[0]}"
        ) from error
