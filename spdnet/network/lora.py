"""LoRA adapters on the encoder's attention, by peft, injected in place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# peft is imported where it is used: it takes seconds, and worker processes do without it


def add_lora(encoder: nn.Module, target_modules: str, rank: int, alpha: int, dropout: float) -> None:
    """Wrap the linear layers whose names match `target_modules`; all other weights are frozen.

    The adapters start as the identity, so the encoder's output does not change.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules, bias="none")
    inject_adapter_in_model(config, encoder)


def with_adapters_of_its_own(encoder: nn.Module) -> nn.Module:
    """A second encoder whose adapters begin as those of the first; all other weights it shares with it."""
    shared = [*encoder.named_parameters(), *encoder.named_buffers()]
    return copy.deepcopy(encoder, {id(tensor): tensor for name, tensor in shared if "lora_" not in name})


def merge_lora(encoder: nn.Module) -> None:
    """Add the adapters to the weights that they adapt. The adapters' own weights stay, and can still be stored."""
    for layer in _adapted_layers(encoder):
        layer.merge()


@contextmanager
def adapters_disabled(network: nn.Module) -> Iterator[None]:
    """Within the block all encoders of a network are the published one, to the last bit.

    Raises:
        RuntimeError: the adapters are merged.
    """
    layers = _adapted_layers(network)
    if any(layer.merged for layer in layers):
        raise RuntimeError("merged adapters cannot be switched off; load the model again")
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def set_lora_dropout(network: nn.Module, active: bool) -> None:
    """Switch the adapters' dropout on or off, leaving all other modules in their mode."""
    for layer in _adapted_layers(network):
        for dropout in layer.lora_dropout.values():
            dropout.train(active)


def _adapted_layers(network: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
