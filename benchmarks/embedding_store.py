"""What stored embeddings save: stage 2 on stored embeddings against encoding every batch again.

    python benchmarks/embedding_store.py -d 504 -stage1_from fold_0/checkpoint_final.pth -epochs 5 -seeds 0 1 2

Both trainings have the same stage 1, batches, prompts and length; only `spd.augmentation.stored_embeddings` differs.
Told are the seconds of an epoch's training part (median, without the first epoch), the time to fill the store, and the
mean validation Dice of the last epoch for each seed. Nothing is left in nnUNet_results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.network.precision import get_device
from spdnet.paths import preprocessed_root, resolve_dataset_name
from spdnet.planning import SPDPlans
from spdnet.training.trainer import SPDTrainer


class TimedTrainer(SPDTrainer):
    """Notes when the training part of each epoch, and the encoding, begins and ends."""

    def on_stage_start(self) -> None:
        started = time.perf_counter()
        super().on_stage_start()
        self.encoding_s = time.perf_counter() - started
        self.training_s: list[float] = []

    def on_epoch_start(self) -> None:
        self._began = time.perf_counter()
        super().on_epoch_start()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)  # waits for the device
        self.training_s.append(time.perf_counter() - self._began)


def train(args: argparse.Namespace, stored: bool, seed: int) -> dict[str, Any]:
    """One training of stage 2."""
    folder = preprocessed_root() / resolve_dataset_name(args.d)
    plans = SPDPlans.load(folder / f"{args.p}.json")
    s = plans.settings
    iterations = args.iterations or s.stage2.iterations_per_epoch
    settings = replace(
        s,
        augmentation=replace(s.augmentation, stored_embeddings=stored),
        decoder_encoder="shared",  # what another encoder makes is never stored
        stage2=replace(s.stage2, epochs=args.epochs, iterations_per_epoch=iterations),
    )
    dataset_json = read_dataset_json(folder / "dataset.json")
    content = replace(plans, settings=settings).to_dict()
    trainer = TimedTrainer(content, "2d", args.fold, dataset_json, get_device(args.device), seed)
    trainer.disable_checkpointing = True
    trainer.initialize()
    trainer.start_from_stage1(args.stage1_from)
    trainer.run_training()
    return {
        "stored": stored,
        "seed": seed,
        "epoch_s": trainer.training_s,
        "encoding_s": trainer.encoding_s,
        "dice": float(np.nanmean(trainer.log.records[-1].dice)),
    }


def main() -> None:
    """Run all trainings and print and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set number or name, planned and preprocessed")
    parser.add_argument("-p", default="SPDPlans", help="name of the plans")
    parser.add_argument("-fold", type=int, default=0)
    parser.add_argument("-stage1_from", type=Path, required=True, help="checkpoint with a trained stage 1")
    parser.add_argument("-epochs", type=int, default=5)
    parser.add_argument("-iterations", type=int, help="per epoch (default: the plans')")
    parser.add_argument("-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-device")
    parser.add_argument("-o", type=Path, default=Path("embedding_store.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["nnUNet_results"] = folder
        runs = [train(args, stored, seed) for seed in args.seeds for stored in (True, False)]  # interleaved
    medians = {
        stored: float(np.median(np.concatenate([r["epoch_s"][1:] for r in runs if r["stored"] == stored])))
        for stored in (True, False)
    }
    dice = {stored: [r["dice"] for r in runs if r["stored"] == stored] for stored in (True, False)}
    device = get_device(args.device)
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    result = {
        "hardware": f"{hardware}, {os.cpu_count()} cores",
        "stored_epoch_s": medians[True],
        "recomputed_epoch_s": medians[False],
        "ratio": medians[False] / medians[True],
        "stored_dice": dice[True],
        "recomputed_dice": dice[False],
        "runs": runs,
    }
    args.o.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(
        f"epoch of stage 2: {medians[True]:.2f} s stored, {medians[False]:.2f} s encoded: {result['ratio']:.1f} times"
    )
    for stored, values in dice.items():
        print(f"validation Dice {'stored' if stored else 'encoded'}: {', '.join(f'{v:.4f}' for v in values)}")


if __name__ == "__main__":
    main()
