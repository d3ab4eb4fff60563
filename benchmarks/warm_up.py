"""Whether the decoder ends in empty masks: the first epochs of stage 2, with and without a rising learning rate.

    python benchmarks/warm_up.py -d 504 -stage1_from fold_all/checkpoint_final.pth -seeds 0 1 2 3 -o out.json

For each seed and warm-up: the mean training loss of the last epoch. Where every mask is empty it
stays near the weight of the Dice loss, 0.7, and elsewhere it is below 0.5. Nothing is left in nnU-Net's folders.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from evidence.jobs import hardware, versions
from spdnet.dataset.raw_dataset import read_dataset_json
from spdnet.network.precision import get_device
from spdnet.paths import preprocessed_root, resolve_dataset_name
from spdnet.planning import SPDPlans
from spdnet.training.embedding_store import STORE_PREFIX
from spdnet.training.trainer import SPDTrainer

EMPTY = 0.5  # a mean loss above this


def loss_of(args: argparse.Namespace, warmup_iterations: int, seed: int) -> float:
    """Mean training loss of the last of the first epochs of stage 2."""
    folder = preprocessed_root() / resolve_dataset_name(args.d)
    plans = SPDPlans.load(folder / f"{args.p}.json")
    stage2 = replace(plans.settings.stage2, warmup_iterations=warmup_iterations)
    content = replace(plans, settings=replace(plans.settings, stage2=stage2)).to_dict()
    dataset_json, device = read_dataset_json(folder / "dataset.json"), get_device(args.device)
    trainer = FirstEpochs(content, "2d", "all", dataset_json, device, seed, keep_embeddings=True)
    trainer.n_epochs = args.epochs
    trainer.disable_checkpointing = True
    trainer.initialize()
    trainer.start_from_stage1(args.stage1_from)
    trainer.run_training()
    return trainer.log.records[-1].train_loss


def stored_embeddings(args: argparse.Namespace) -> list[Path]:
    """Folders of encoded slices that trainings of the data set share."""
    return list((preprocessed_root() / resolve_dataset_name(args.d)).glob(f"{STORE_PREFIX}*"))


class FirstEpochs(SPDTrainer):
    """Ends after some epochs, with the schedule of the whole stage."""

    n_epochs: int

    def _run_stage(self) -> None:
        try:
            self.on_stage_start()
            for _ in range(self.n_epochs):
                self._run_epoch()
        finally:
            self.on_stage_end()


def main() -> None:
    """Run all trainings and print and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set number or name, planned and preprocessed")
    parser.add_argument("-p", default="SPDPlans", help="name of the plans")
    parser.add_argument("-stage1_from", type=Path, required=True, help="checkpoint of a finished stage 1")
    parser.add_argument("-epochs", type=int, default=2, help="that are run")
    parser.add_argument("-warmup_iterations", type=int, nargs="+", default=[0, 50], help="that are compared")
    parser.add_argument("-seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("-device", help="cuda, cpu, ... (default: CUDA where present)")
    parser.add_argument("-o", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    before = set(stored_embeddings(args))
    losses: dict[int, list[float]] = {n: [] for n in args.warmup_iterations}
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        for seed in args.seeds:
            try:
                for n_steps, found in losses.items():
                    found.append(loss_of(args, n_steps, seed))
            finally:
                for folder in set(stored_embeddings(args)) - before:  # those of this seed
                    shutil.rmtree(folder)
    runs = []
    for n_steps, found in losses.items():
        runs.append({"warmup_iterations": n_steps, "seeds": args.seeds, "losses": found})
        empty = sum(loss > EMPTY for loss in found)
        print(f"{n_steps} warm-up iterations: {empty} of {len(found)} end in empty masks")
    content = {
        "dataset": resolve_dataset_name(args.d),
        "epochs": args.epochs,
        "runs": runs,
        "versions": versions(),
        "hardware": hardware(),
    }
    args.o.parent.mkdir(parents=True, exist_ok=True)
    args.o.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
